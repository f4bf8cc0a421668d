//! The race that leaves stale copies in a near cache without a guard: a read of a key that misses, and another client's write of
//! the same key, at the same time. The push for the write may come before the answer of the read has been kept, and nothing
//! drops it afterwards. (Of the driver's own cache 70–100 % of the copies are stale then.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use larder::{Cache, Larder, Near, Source};
use larder_testkit::{Proxy, Server};
use support::{connect_as, until};

const HOUR: Duration = Duration::from_secs(3600);
const KEYS: u32 = 500;

fn near(larder: &Larder) -> Cache<u64> {
    larder.cache("v").ttl(HOUR).near(Near::bytes(4 << 20)).build().unwrap()
}

fn far(larder: &Larder) -> Cache<u64> {
    larder.cache("v").ttl(HOUR).build().unwrap()
}

/// Up to so many turns of the scheduler, and a moment of work: some microseconds.
async fn some_moment(random: &RandomState, what: (u64, u32, bool)) {
    let random = random.hash_one(what);
    for _ in 0..random % 4 {
        tokio::task::yield_now().await;
    }
    for _ in 0..(random >> 8) % 2000 {
        std::hint::spin_loop();
    }
}

/// Waits until the reader has been told of all that was written so far.
async fn all_is_told(reader: &Cache<u64>) {
    until("the reader is connected", async || {
        // The answer to a read comes down the tracked connection after the pushes for what was written before it.
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

/// Reads and writes every key at the same time, and then looks for copies that are not what the server holds.
async fn round(reader: &Larder, writer: &Larder, number: u64, midway: Option<&Proxy>) -> Round {
    let (cache, writes) = (near(reader), far(writer));
    writes.set("marker", &number).await.unwrap();
    let random = RandomState::new();
    let mut raced = 0;
    for first in (0..KEYS).step_by(50) {
        if midway.is_some() && matches!(first, 250 | 350) {
            all_is_told(&cache).await;
        }
        let pairs: Vec<_> = (first..first + 50)
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
        // These are under way as the connection goes; what follows is read while it is away, and as it comes back.
        if let Some(proxy) = midway
            && matches!(first, 150 | 300)
        {
            proxy.only_tracked().drop_connections();
        }
        for (read, write) in pairs {
            write.await.unwrap();
            // The read came before the write.
            raced += u64::from(read.await.unwrap() != Some(number));
        }
    }
    all_is_told(&cache).await;
    let hits = reader.stats().caches["v"].near_hits;
    let mut stale = Vec::new();
    for key in 0..KEYS {
        let seen = cache.get(key).await.unwrap();
        let stored = writes.get(key).await.unwrap();
        assert_eq!(stored, Some(number));
        if seen != stored {
            stale.push((key, seen));
        }
    }
    let near = reader.stats().caches["v"].near_hits - hits;
    Round { stale, near, raced }
}

async fn race(what: &str, reconnect: bool) {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (reader, writer) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
    for number in 1..=3 {
        // The first round races for keys that are not there, the others for keys that hold the last round's number, of
        // which there are no copies: the near tier has just been emptied.
        if number > 1 {
            server.command(&["FLUSHALL"]);
            let old: Vec<(u32, u64)> = (0..KEYS).map(|key| (key, number - 1)).collect();
            far(&writer).set_many(old.iter().map(|(key, old)| (*key, old))).await.unwrap();
            let emptied = async || reader.stats().caches.get("v").is_none_or(|stats| stats.near_entries == 0);
            until("the near tier is empty", emptied).await;
        }
        let Round { stale, near, raced } = round(&reader, &writer, number, reconnect.then_some(&proxy)).await;
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
    race("undisturbed", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_where_the_tracked_connection_is_lost_in_the_middle() {
    race("reconnecting", true).await;
}
