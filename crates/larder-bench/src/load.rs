//! What `get_or_load` costs compared with `get`, counted: allocations, commands, round trips.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use larder::{Cache, Larder};
use larder_testkit::Server;
use tokio::runtime::Runtime;

use crate::allocations::{self, Allocations};
use crate::commands::{TIMES, commands_a_call};
use crate::figures::{Bar, Findings, Limit};
use crate::item::Item;
use crate::lane::Outcome;
use crate::ours::TTL;
use crate::rounds::Flavour;
use crate::table::Table;

/// How often each count is repeated; the least one is used, because the driver's buffers grow and heartbeats run now
/// and then.
const REPEATS: usize = 5;
/// Absent keys, for one load each.
const COLD: std::ops::Range<u64> = 100_000..100_050;

pub(crate) fn run() -> Outcome<Findings> {
    eprintln!("load: counting");
    let server = Arc::new(Server::builder().tcp().start());
    let runtime = Flavour::CurrentThread.build()?;
    let cache = runtime.block_on(async {
        let cache = Larder::connect(&server.url()).await?.cache::<Item>("item").ttl(TTL).build()?;
        cache.set_many((0u64..).zip(&Item::all())).await?;
        // The first call fetches the cache's versions and loads the scripts.
        cache.get_or_load(u64::MAX, || async { Ok::<_, io::Error>(Item::new(1)) }).await?;
        Outcome::Ok(cache)
    })?;
    let hits = |which: Call| hits_of(&runtime, &cache, which);

    let mut table = Table::new(&["server hit", "allocations", "bytes", "commands"]);
    let mut taken = Vec::new();
    for which in [Call::Get, Call::GetOrLoad] {
        let count = least_allocations(|| hits(which))?;
        server.reset_stats();
        hits(which)?;
        let commands = commands_a_call(&server);
        taken.push(count.count);
        table.row(&[which.name(), &each(count.count), &(count.bytes / TIMES).to_string(), &commands]);
    }
    let mut findings = Findings::default();
    findings.add("load", table.finish());

    let mut table = Table::new(&["cold load", "round trips before the loader", "after it", "commands"]);
    let (before, after) = round_trips(&server, &runtime, &cache)?;
    server.reset_stats();
    runtime.block_on(async {
        for id in 0..TIMES {
            let load = || async { Ok::<_, io::Error>(Item::new(1)) };
            cache.get_or_load(COLD.end + id, load).await?;
        }
        Outcome::Ok(())
    })?;
    table.row(&["`get_or_load`", &before.to_string(), &after.to_string(), &commands_a_call(&server)]);
    findings.add("load-cold", table.finish());

    let counted = |what, most, found| Bar::over(what, Limit::AtMost(most), [(found, "counted".to_owned())]);
    let [get, get_or_load] = taken.as_slice() else { return Err("two counts were expected".into()) };
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let (share, before, after) = (*get_or_load as f64 / *get as f64, before as f64, after as f64);
    findings.bars.push(counted("allocations of a server hit, `get_or_load` / `get`", 1.0, share));
    findings.bars.push(counted("round trips of a cold load before its loader", 2.0, before));
    findings.bars.push(counted("round trips of a cold load after its loader", 1.0, after));
    Ok(findings)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Get,
    GetOrLoad,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "`get`",
            Self::GetOrLoad => "`get_or_load`",
        }
    }
}

fn hits_of(runtime: &Runtime, cache: &Cache<Item>, which: Call) -> Outcome<()> {
    runtime.block_on(async {
        for id in 0..TIMES {
            match which {
                Call::Get => drop(cache.get(id).await?.ok_or("a stored item is gone")?),
                Call::GetOrLoad => {
                    let gone = || async { Err(io::Error::other("a stored item is gone")) };
                    drop(cache.get_or_load(id, gone).await?);
                }
            }
        }
        Ok(())
    })
}

fn least_allocations(hits: impl Fn() -> Outcome<()>) -> Outcome<Allocations> {
    hits()?;
    let mut least: Option<Allocations> = None;
    for _ in 0..REPEATS {
        allocations::start();
        let done = hits();
        let taken = allocations::stop();
        done?;
        least = least.filter(|least| least.count <= taken.count).or(Some(taken));
    }
    Ok(least.ok_or("nothing was counted")?)
}

/// Rounds to one decimal.
fn each(count: u64) -> String {
    let tenths = (count * 10 + TIMES / 2) / TIMES;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Round trips of one cold load, before and after its loader. Counts how often the server read from its clients (a read
/// may contain several requests), before the call, in the loader, and after the call. The median, because heartbeats
/// run in between.
fn round_trips(server: &Arc<Server>, runtime: &Runtime, cache: &Cache<Item>) -> Outcome<(u64, u64)> {
    // Asking for the count is a read of the server, too.
    let looking = reads(server)?.abs_diff(reads(server)?);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for id in COLD {
        let seen = Arc::new(AtomicU64::new(0));
        let started = reads(server)?;
        let load = {
            let (seen, server) = (seen.clone(), server.clone());
            move || async move {
                seen.store(reads(&server).map_err(io::Error::other)?, Relaxed);
                Ok::<_, io::Error>(Item::new(1))
            }
        };
        runtime.block_on(async {
            cache.get_or_load(id, load).await?;
            // Requests that the load still sends after the call has returned count as its own.
            tokio::time::sleep(Duration::from_millis(5)).await;
            Outcome::Ok(())
        })?;
        let ended = reads(server)?;
        let during = seen.load(Relaxed);
        before.push(during.saturating_sub(started).saturating_sub(looking));
        after.push(ended.saturating_sub(during).saturating_sub(looking));
    }
    Ok((median(before), median(after)))
}

/// How often the server has read from a connection so far.
fn reads(server: &Server) -> Outcome<u64> {
    let stats = server.info("stats");
    Ok(stats.get("total_reads_processed").ok_or("the server does not count its reads")?.parse()?)
}

fn median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or_default()
}
