//! Which stale values are still served, and for how long.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use larder_testkit::Server;

use super::{NearCache, server};
use crate::item::Item;
use crate::lane::Outcome;
use crate::rounds::Flavour;
use crate::statistics::quantile;

pub(super) const KEYS: u64 = 500;
pub(super) const WRITES: u64 = 1000;
/// Counts loads; in the end there should be none.
static LOADS: AtomicU64 = AtomicU64::new(0);
/// The time after which stale values are counted.
const LATER: Duration = Duration::from_secs(1);
/// The only difference between the old value and the new one.
const NEWER: u64 = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The connection that receives notifications is killed, and then another client writes all keys.
    Kill,
    /// The server is emptied.
    Flush,
}

/// How many near keys still return the old value one second later, and how many were near.
pub(super) fn stale<N: NearCache>(event: Event) -> Outcome<(usize, u64)> {
    let server = server();
    Flavour::CurrentThread.build()?.block_on(async {
        let writer = N::connect(&server.url()).await?;
        for id in 0..KEYS {
            writer.set(id, &Item::new(id)).await?;
        }
        let others = telling::<N>(&server);
        let reader = N::connect(&server.url()).await?;
        // With `get_or_load`, though nothing needs to be loaded: a `get` of multi-tier-cache makes a near copy only one
        // time in ten.
        for id in 0..KEYS {
            reader.get_or_load(id, &LOADS).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        match event {
            Event::Flush => drop(server.command(&["FLUSHALL"])),
            Event::Kill => {
                let killed = telling::<N>(&server);
                let mut killed = killed.difference(&others).peekable();
                killed.peek().ok_or("no connection that tells of changes")?;
                for id in killed {
                    server.command(&["CLIENT", "KILL", "ID", id]);
                }
                for id in 0..KEYS {
                    writer.set(id, &Item::new(id + NEWER)).await?;
                }
            }
        }
        tokio::time::sleep(LATER).await;
        let mut stale = 0;
        for id in 0..KEYS {
            stale += usize::from(reader.get(id).await? == Some(Item::new(id)));
        }
        Ok((stale, KEYS))
    })
}

/// The connections to which the server sends notifications.
fn telling<N: NearCache>(server: &Server) -> BTreeSet<String> {
    let list: String = server.query(&["CLIENT", "LIST"]);
    let field = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    let tells = |line: &&str| field(line, "flags=").contains(N::TELLING);
    list.lines().filter(tells).map(|line| field(line, "id=")).collect()
}

/// The time from before a write is sent until a reader, reading over and over, no longer gets the old value from its
/// near copy. It ends when the last read begins, so that fetching the new value is not part of it.
pub(super) fn delay<N: NearCache>() -> Outcome<(String, String)> {
    let server = server();
    let delays = Flavour::CurrentThread.build()?.block_on(async {
        let (writer, reader) = (N::connect(&server.url()).await?, N::connect(&server.url()).await?);
        let mut delays = Vec::new();
        writer.set(0, &Item::new(0)).await?;
        for turn in 0..WRITES {
            let (old, new) = (Item::new(turn * NEWER), Item::new((turn + 1) * NEWER));
            let began = Instant::now();
            while reader.get(0).await?.as_ref() != Some(&old) {
                if began.elapsed() > Duration::from_secs(5) {
                    return Err("a reader does not come to see what was written".into());
                }
                tokio::task::yield_now().await;
            }
            let sent = Instant::now();
            let gone = async {
                loop {
                    let asked = Instant::now();
                    if reader.get(0).await?.as_ref() != Some(&old) {
                        return Outcome::Ok(asked - sent);
                    }
                    tokio::task::yield_now().await;
                }
            };
            let (written, gone) = tokio::join!(writer.set(0, &new), gone);
            written?;
            delays.push(gone?.as_secs_f64());
        }
        Outcome::Ok(delays)
    })?;
    let micros = |share| format!("{:.0}", quantile(&delays, share) * 1e6);
    Ok((micros(0.5), micros(0.99)))
}
