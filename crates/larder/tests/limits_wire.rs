//! docs/wire-format.md is true of limits: a second reader, written from the page, finds in the records what was
//! charged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{Larder, Quota};

use larder::limit::PermitBatch;
use larder_testkit::Server;

/// A track as the page defines it: kind, width, and the counts with their places or times.
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
    let (tracks, latest) = (record[0] as usize, number(&record[1..8]));
    let mut body = &record[15 + 14 * tracks..];
    let mut take = |bytes: usize| {
        let (taken, rest) = body.split_at(bytes);
        body = rest;
        number(taken)
    };
    let tracks = (0..tracks).map(|track| {
        let head = &record[15 + 14 * track..];
        let (unit, sum, rest) = (number(&head[..6]), number(&head[6..10]), number(&head[10..14]));
        let (kind, width) = (unit >> 45, unit % (1 << 45));
        let counted: Vec<(u64, u64)> = match kind {
            0 | 1 => {
                let (size, current) = if kind == 0 { (2, rest >> 16) } else { (4, rest) };
                let (ahead, before) =
                    if kind == 0 { (rest >> 8 & 255, rest & 255) } else { (take(1), take(1)) };
                let bucket = latest / width;
                let around = (bucket - before..bucket).chain(bucket + 1..=bucket + ahead);
                let mut counted: Vec<_> = around.map(|bucket| (bucket, take(size))).collect();
                counted.push((bucket, current));
                counted.retain(|(_, count)| *count > 0);
                counted.sort_unstable();
                counted
            }
            3 => vec![(sum << 32 | rest, 0)],
            4..=6 => (0..sum).map(|_| (take(kind as usize), 1)).collect(),
            other => panic!("{other}"),
        };
        Track { kind, width, sum, counted }
    });
    let tracks = tracks.collect();
    assert!(body.is_empty());
    (latest, tracks)
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
    assert_eq!(kinds, [(0, 60_000_000), (1, 1_440_000_000), (5, 7_200_000_000), (3, 10_000_000)]);
    for track in &tracks[..2] {
        assert_eq!((track.sum, track.counted.iter().map(|(_, count)| count).sum()), (7, 7));
        assert_eq!(track.counted.last().unwrap().0, latest / track.width);
    }
    assert_eq!((tracks[2].sum, tracks[2].counted[6].0), (7, latest % (1 << 40)));
    let ahead = tracks[3].counted[0].0 - latest;
    assert!(ahead <= 70_000_000 && ahead > 60_000_000, "{ahead}");
}

#[tokio::test]
async fn what_is_charged_ahead_is_stored_in_a_later_bucket() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let batch = PermitBatch::batch(40).span(Duration::from_secs(1800));
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().batched(batch).unwrap();
    assert!(limiter.allow("ann").await.unwrap());
    let (latest, tracks) = stored(&server, "~limit.1:{shop/api:ann}");
    let expected = (latest + 1_800_000_000) / 60_000_000;
    assert_eq!(tracks, [Track { kind: 0, width: 60_000_000, sum: 40, counted: vec![(expected, 40)] }]);
}

#[tokio::test]
async fn a_record_of_other_quotas_is_read_for_what_it_counts() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    // A log that another program wrote: three permits of this minute.
    let mut record = vec![1];
    record.extend(&now.to_be_bytes()[1..]);
    record.extend(&(now - 2_000_000).to_be_bytes()[1..]);
    record.extend(&(4 << 45 | 600_000_000u64).to_be_bytes()[2..]);
    record.extend(3u32.to_be_bytes());
    record.extend([0; 4]);
    for age in [2_000_000, 1_000_000, 0] {
        record.extend(&(now - age).to_be_bytes()[4..]);
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
