//! docs/wire-format.md is true of limits: a second reader, made from the page, finds in the records what was charged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{Larder, Lease, Quota};
use larder_testkit::Server;

/// A track as the page has it: kind, width, and what it counted with its place or time.
#[derive(Debug, PartialEq)]
struct Track {
    kind: u64,
    width: u64,
    sum: u64,
    counted: Vec<(u64, u64)>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn read(record: &[u8]) -> (u64, Vec<Track>) {
    let (mut tracks, mut at) = (Vec::new(), 8);
    for _ in 0..record[0] {
        let (kind, width) = (number(&record[at..at + 1]), number(&record[at + 1..at + 7]));
        let body = &record[at + 7..];
        let (sum, counted, length): (u64, Vec<(u64, u64)>, usize) = match kind {
            2 | 4 | 66 | 68 => {
                let (size, slots) = ((kind % 64) as usize, if kind > 64 { 122 } else { 61 });
                let count = |slot: usize| number(&body[4 + slot * size..4 + (slot + 1) * size]);
                let counted =
                    (0..slots).filter(|slot| count(*slot) > 0).map(|slot| (slot as u64, count(slot)));
                (number(&body[..4]), counted.collect(), 4 + slots * size)
            }
            6 => {
                let count = number(&body[..4]) as usize;
                let times = (0..count).map(|n| (number(&body[4 + 6 * n..10 + 6 * n]), 1)).collect();
                (count as u64, times, 4 + 6 * count)
            }
            8 => (0, vec![(number(&body[..7]), 0)], 7),
            other => panic!("{other}"),
        };
        tracks.push(Track { kind, width, sum, counted });
        at += 7 + length;
    }
    assert_eq!(at, record.len());
    (number(&record[1..8]), tracks)
}

fn stored(server: &Server, name: &str) -> (u64, Vec<Track>) {
    read(&server.query::<Vec<u8>>(&["GET", name]))
}

#[tokio::test]
async fn records_hold_what_the_page_says() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let quotas = [
        Quota::per_hour(1000),
        Quota::per_day(100_000),
        Quota::new(9, Duration::from_secs(7200)),
        Quota::new(600, Duration::from_secs(6000)).gcra(20),
    ];
    let limiter = larder.rate_limiter("api", quotas).unwrap();
    for cost in [3, 4] {
        assert!(limiter.check_n("ann", cost).await.unwrap().is_allowed());
    }
    let (latest, tracks) = stored(&server, "~limit.1:{shop/api:ann}");
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    assert!(latest <= now && now - latest < 60_000_000);

    let kinds: Vec<(u64, u64)> = tracks.iter().map(|track| (track.kind, track.width)).collect();
    assert_eq!(kinds, [(2, 60_000_000), (4, 1_440_000_000), (6, 7_200_000_000), (8, 10_000_000)]);
    for track in &tracks[..2] {
        assert_eq!((track.sum, track.counted.iter().map(|(_, count)| count).sum()), (7, 7));
        assert_eq!(track.counted.last().unwrap().0, latest / track.width % 61);
    }
    assert_eq!((tracks[2].sum, tracks[2].counted[6].0), (7, latest % (1 << 48)));
    let ahead = tracks[3].counted[0].0 - latest;
    assert!(ahead <= 70_000_000 && ahead > 60_000_000, "{ahead}");
}

#[tokio::test]
async fn what_lies_ahead_has_its_place_in_a_longer_ring() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let lease = Lease::batch(40).span(Duration::from_secs(1800));
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().leased(lease).unwrap();
    assert!(limiter.allow("ann").await.unwrap());
    let (latest, tracks) = stored(&server, "~limit.1:{shop/api:ann}");
    let expected = (latest + 1_800_000_000) / 60_000_000 % 122;
    assert_eq!(tracks, [Track { kind: 66, width: 60_000_000, sum: 40, counted: vec![(expected, 40)] }]);
}

#[tokio::test]
async fn a_record_of_other_quotas_is_read_for_what_it_counts() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    // A log of another program: three permits of this minute.
    let mut record = vec![1];
    record.extend(&now.to_be_bytes()[1..]);
    record.push(6);
    record.extend(&600_000_000u64.to_be_bytes()[2..]);
    record.extend(3u32.to_be_bytes());
    for age in [2_000_000, 1_000_000, 0] {
        record.extend(&((now - age) % (1 << 48)).to_be_bytes()[2..]);
    }
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    redis::cmd("SET")
        .arg("~limit.1:{shop/api:ann}")
        .arg(&record)
        .arg("PX")
        .arg(600_000)
        .exec(&mut connection)
        .unwrap();
    for (quota, left) in [
        (Quota::new(5, Duration::from_secs(600)), 2),
        (Quota::new(50, Duration::from_secs(600)), 47),
        (Quota::per_day(100_000), 99_997),
        (Quota::per_hour(60).gcra(60), 57),
    ] {
        assert_eq!(
            larder.rate_limiter("api", quota).unwrap().remaining("ann").await.unwrap(),
            left,
            "{quota:?}"
        );
    }
}
