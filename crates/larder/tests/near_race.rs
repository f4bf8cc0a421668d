//! The race that leaves stale copies in an unprotected near cache: one client reads a key and misses, while another
//! client writes the same key. The push for the write may arrive before the reply to the read is stored as a copy, and
//! then nothing drops that copy. (In the driver's own cache 70–100 % of the copies are stale in this test.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use larder::{Cache, Larder, Near, Source};
use larder_testkit::{Direction, Proxy, Server, eventually};
use support::{connect_as, until};

const HOUR: Duration = Duration::from_secs(3600);
const KEYS: u32 = 500;

fn near(larder: &Larder) -> Cache<u64> {
    larder.cache("v").ttl(HOUR).near(Near::bytes(4 << 20)).build().unwrap()
}

fn far(larder: &Larder) -> Cache<u64> {
    larder.cache("v").ttl(HOUR).build().unwrap()
}

/// Yields up to this many times to the scheduler, and works for some microseconds.
async fn some_moment(random: &RandomState, what: (u64, u32, bool)) {
    let random = random.hash_one(what);
    for _ in 0..random % 4 {
        tokio::task::yield_now().await;
    }
    for _ in 0..(random >> 8) % 2000 {
        std::hint::spin_loop();
    }
}

/// Waits until the reader has received the pushes for everything written so far.
async fn all_is_notified(reader: &Cache<u64>) {
    until("the reader is connected", async || {
        // The reply to a read arrives on the tracked connection after the pushes for all earlier writes.
        reader
            .get_entry("marker")
            .await
            .is_ok_and(|entry| entry.is_some_and(|entry| entry.source() == Source::Near))
            && reader.fresh().get("marker").await.is_ok()
    })
    .await;
}

struct Round {
    stale: Vec<(u32, Option<u64>)>,
    near: u64,
    raced: u64,
}

/// The keys of a round.
fn keys(number: u64) -> Range<u32> {
    let first = u32::try_from(number).unwrap() * 1000;
    first..first + KEYS
}

/// How reads and writes are interleaved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Race {
    /// Each at a random moment.
    AtRandom,
    /// The same, and the tracked connection is lost twice.
    Reconnecting,
    /// The replies to the reads, and the pushes for the writes after them, reach the reader in one piece.
    Together,
}

/// The server between a reader behind a proxy and a writer.
struct Place {
    server: Server,
    proxy: Proxy,
    reader: Larder,
    writer: Larder,
}

impl Place {
    async fn new() -> Self {
        let server = Server::builder().tcp().start();
        let proxy = Proxy::start(server.addr().unwrap()).await;
        let (reader, writer) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
        Self { server, proxy, reader, writer }
    }

    /// Reads and writes every key at the same time, and then looks for copies that differ from the server's value.
    async fn round(&self, number: u64, race: Race) -> Round {
        let (cache, writes) = (near(&self.reader), far(&self.writer));
        writes.set("marker", &number).await.unwrap();
        all_is_notified(&cache).await;
        let mut raced = 0;
        for first in keys(number).step_by(50) {
            if race == Race::Reconnecting && matches!(first % 1000, 250 | 350) {
                all_is_notified(&cache).await;
            }
            raced += match race {
                Race::Together => self.meet_together(first..first + 50, number).await,
                _ => self.meet_at_random(first..first + 50, number, race).await,
            };
        }
        all_is_notified(&cache).await;
        let hits = self.reader.stats().caches["v"].near_hits;
        let mut stale = Vec::new();
        for key in keys(number) {
            let seen = cache.get(key).await.unwrap();
            let stored = writes.get(key).await.unwrap();
            assert_eq!(stored, Some(number));
            if seen != stored {
                stale.push((key, seen));
            }
        }
        let near = self.reader.stats().caches["v"].near_hits - hits;
        Round { stale, near, raced }
    }

    /// How many reads were executed before their write.
    async fn meet_at_random(&self, keys: Range<u32>, number: u64, race: Race) -> u64 {
        let (cache, writes, random) = (near(&self.reader), far(&self.writer), RandomState::new());
        let first = keys.start;
        let pairs: Vec<_> = keys
            .map(|key| {
                let read = tokio::spawn({
                    let (cache, random) = (cache.clone(), random.clone());
                    async move {
                        some_moment(&random, (number, key, true)).await;
                        cache.get(key).await.unwrap()
                    }
                });
                let write = tokio::spawn({
                    let (writes, random) = (writes.clone(), random.clone());
                    async move {
                        some_moment(&random, (number, key, false)).await;
                        writes.set(key, &number).await.unwrap();
                    }
                });
                (read, write)
            })
            .collect();
        // These are in flight when the connection is lost; the next ones are sent while it is away and while it comes
        // back.
        if race == Race::Reconnecting && matches!(first % 1000, 150 | 300) {
            self.proxy.only_tracked().drop_connections();
        }
        let mut raced = 0;
        for (read, write) in pairs {
            write.await.unwrap();
            raced += u64::from(read.await.unwrap() == (number > 1).then(|| number - 1));
        }
        raced
    }

    async fn meet_together(&self, keys: Range<u32>, number: u64) -> u64 {
        let (cache, writes) = (near(&self.reader), far(&self.writer));
        self.server.reset_stats();
        self.proxy.only_tracked().silence(Direction::ToClient);
        let reads: Vec<_> = keys
            .clone()
            .map(|key| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.get(key).await.unwrap() })
            })
            .collect();
        until("the server has read them", async || self.server.calls("get") == 50).await;
        let answer = |key: u32| self.server.query::<usize>(&["STRLEN", &format!("n/v:{key}")]).max(1) + 2;
        let answers: usize = keys.clone().map(answer).sum();
        for key in keys.clone() {
            writes.set(key, &number).await.unwrap();
        }
        let push = |key: u32| format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n$8\r\nn/v:{key}\r\n").len();
        let all = answers + keys.map(push).sum::<usize>();
        let before = self.proxy.bytes(Direction::ToClient);
        self.proxy.restore();
        // Blocks this thread, and with it the reader, until everything has arrived.
        eventually("all has passed the proxy", Duration::from_secs(10), || {
            (self.proxy.bytes(Direction::ToClient) - before >= all as u64).then_some(())
        });
        let mut raced = 0;
        for read in reads {
            raced += u64::from(read.await.unwrap() == (number > 1).then(|| number - 1));
        }
        raced
    }
}

async fn race(what: &str, race: Race) {
    let place = Place::new().await;
    for number in 1..=3 {
        // In the first round the keys do not exist. In the other rounds they hold a value of which the reader has no
        // copy.
        let old: Vec<(u32, u64)> = keys(number).map(|key| (key, number - 1)).collect();
        if number > 1 {
            far(&place.writer).set_many(old.iter().map(|(key, old)| (*key, old))).await.unwrap();
        }
        let Round { stale, near, raced } = place.round(number, race).await;
        eprintln!(
            "{what}, round {number}: {} stale of {KEYS}; {raced} reads came before their write; {near} of the reads that \
             looked for it were near",
            stale.len()
        );
        assert!(stale.is_empty(), "{what}, round {number}: {} stale: {stale:?}", stale.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_races_with_a_write_leaves_nothing_stale() {
    race("at random", Race::AtRandom).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_where_the_tracked_connection_is_lost_in_the_middle() {
    race("reconnecting", Race::Reconnecting).await;
}

/// On one thread all pushes are processed before any of the readers continues, which makes the window for storing a
/// copy too late as wide as possible.
#[tokio::test]
async fn nor_does_it_where_the_answer_and_the_push_arrive_together() {
    race("arriving together", Race::Together).await;
}
