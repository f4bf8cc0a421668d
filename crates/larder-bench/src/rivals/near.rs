//! larder's near tier compared with those of others: how fast a hit is, and how stale a hit can be.
//!
//! Each is a cache in this process in front of one server, used as its documentation shows, with a way for one program
//! to notify the others of a write: larder and `rustis` use the server's own tracking, `multi-tier-cache` a message on
//! a channel.

mod coherence;
mod herd;
mod hits;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use larder_testkit::Server;

use super::multi_tier::TwoTiers;
use super::rustis_cache::Rustis;
use crate::figures::Findings;
use crate::item::Item;
use crate::lane::Outcome;
use crate::machine::{self, Ticks};
use crate::ours::OursNear;
use crate::table::Table;

pub(crate) use herd::herd;

/// How long a loader takes.
const LOADING: Duration = Duration::from_millis(100);

/// A cache with a tier in this process.
pub(crate) trait NearCache: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// How CLIENT LIST shows the connection that receives notifications.
    const TELLING: char;

    fn connect(url: &str) -> impl Future<Output = Outcome<Self>> + Send;
    fn get(&self, id: u64) -> impl Future<Output = Outcome<Option<Item>>> + Send;
    /// Writes in such a way that the other programs are notified.
    fn set(&self, id: u64, item: &Item) -> impl Future<Output = Outcome<()>> + Send;
    /// Gets, or loads with [`load`], which counts its calls.
    fn get_or_load(&self, id: u64, loads: &'static AtomicU64) -> impl Future<Output = Outcome<Item>> + Send;
}

/// How long the database takes for a row.
pub(crate) async fn load(id: u64, loads: &AtomicU64) -> Item {
    loads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(LOADING).await;
    Item::new(id)
}

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let began = Ticks::now();
    findings
        .add("near-rivals-hit", hits::table(rounds)? + &machine::note(began, &format!("{rounds} rounds")));

    let began = Ticks::now();
    let mut table = Table::new(&[
        "near cache",
        "loads of a cold key",
        "answered within, ms",
        "stale after CLIENT KILL",
        "stale after FLUSHALL",
        "write → copy gone, p50 µs",
        "p99 µs",
    ]);
    row::<OursNear>(&mut table)?;
    row::<Rustis>(&mut table)?;
    row::<TwoTiers>(&mut table)?;
    let note = format!(
        "{} tries of each, of {} tasks in each of 2 processes; {} keys; {} writes",
        herd::TRIES,
        herd::TASKS,
        coherence::KEYS,
        coherence::WRITES
    );
    findings.add("near-rivals", table.finish() + &machine::note(began, &note));
    Ok(findings)
}

fn row<N: NearCache>(table: &mut Table) -> Outcome<()> {
    eprintln!("near-rivals: {}", N::NAME);
    let (loads, slowest) = herd::of::<N>()?;
    let stale = |event: coherence::Event| {
        let (stale, near) = coherence::stale::<N>(event)?;
        Outcome::Ok(format!("{stale} of {near}"))
    };
    let (killed, flushed) = (stale(coherence::Event::Kill)?, stale(coherence::Event::Flush)?);
    let (half, most) = coherence::delay::<N>()?;
    table.row(&[N::NAME, &loads, &slowest, &killed, &flushed, &half, &most]);
    Ok(())
}

fn server() -> Server {
    Server::builder().tcp().start()
}
