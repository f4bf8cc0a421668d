//! A near hit compared with a bare `quick_cache`, and the parts of its cost.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use larder_testkit::Server;
use rustix::time::{ClockId, clock_gettime};

use crate::figures::{Bar, Findings, Limit};
use crate::instructions;
use crate::lane::{Ids, Lane, Outcome};
use crate::machine::{self, Ticks};
use crate::near_hits::{self, BareNear, Hit, NearCache, SPIN, named};
use crate::rounds::{Flavour, Standing, compare};
use crate::table::{Table, interval, ratio, spread};
use crate::zipf::{Draws, KEYS};

const GET: Limit = Limit::AtMost(1.35);
const GET_OR_LOAD: Limit = Limit::AtMost(1.45);
/// Hits for the count of allocations.
const COUNTED: u64 = 10_000;
/// Hits of a run under valgrind.
const SPUN: u64 = 20_000;

const BARE: &str = "bare `quick_cache`, the names made before";
const NAMING: &str = "bare `quick_cache`, a name made for each";
const LARDER_GET: &str = "larder, `get` by integer";
const LARDER_TEXT: &str = "larder, `get` by text";
const LARDER_LOAD: &str = "larder, `get_or_load`";

pub(crate) fn run(rounds: usize, instructions: bool) -> Outcome<Findings> {
    let began = Ticks::now();
    let mut table = Table::new(&["near hit", "threads", "ns of a processor", "time / bare", "95 % interval"]);
    let mut parts = Table::new(&["part", "ns of a processor", "of a bare hit"]);
    let (mut gets, mut loads) = (Vec::new(), Vec::new());
    for (flavour, threads) in [(Flavour::CurrentThread, 1), (Flavour::MultiThread, 2)] {
        eprintln!("near: hits on {threads} threads");
        let draws = Draws::new();
        let standings = compare(flavour, rounds, async |url| {
            // What is measured side by side. The parts are only measured on one thread.
            let (bare, near) = (BareNear::filled(KEYS)?, NearCache::filled(url, KEYS).await?);
            let mut lanes = vec![
                bare.lane(BARE, &draws, threads),
                bare.naming_lane(NAMING, &draws, threads),
                near.get_lane(LARDER_GET, &draws, threads),
                near.text_lane(LARDER_TEXT, &draws, threads),
                near.get_or_load_lane(LARDER_LOAD, &draws, threads),
            ];
            if threads == 1 {
                lanes.extend(part_lanes());
            }
            Ok(lanes)
        })?;
        // Rows of the first table, except the parts, which have a table of their own.
        for standing in &standings {
            let time = standing.ratio.inverted(1.0);
            let place = format!("{threads} {}", if threads == 1 { "thread" } else { "threads" });
            match standing.name {
                LARDER_GET => gets.push((time.high, format!("integer, {place}"))),
                LARDER_TEXT => gets.push((time.high, format!("text, {place}"))),
                LARDER_LOAD => loads.push((time.high, place)),
                BARE | NAMING => {}
                name => {
                    parts.row(&[name, &nanos(standing), &ratio(time.median)]);
                    continue;
                }
            }
            table.row(&[
                standing.name,
                &threads.to_string(),
                &nanos(standing),
                &ratio(time.median),
                &interval(time),
            ]);
        }
    }
    let mut findings = Findings::default();
    findings.add("near", table.finish() + &machine::note(began, &format!("{rounds} rounds")));
    findings.add("near-parts", parts.finish());
    let (counts, allocated) = count(instructions)?;
    findings.add("near-count", counts);
    let none = (allocated, "counted".to_owned());
    findings.bars.push(Bar::over("allocations of 10,000 near hits", Limit::AtMost(0.0), [none]));
    findings.bars.push(Bar::over("time of a near hit of `get` / bare `quick_cache`, 10,000 keys", GET, gets));
    findings.bars.push(Bar::over(
        "time of a near hit of `get_or_load` / bare `quick_cache`, 10,000 keys",
        GET_OR_LOAD,
        loads,
    ));
    Ok(findings)
}

/// Processor time: with two threads, the time that each of them spends.
fn nanos(standing: &Standing) -> String {
    spread(standing.rate.inverted(1e9))
}

fn part_lanes() -> Vec<Lane> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    vec![
        part("reading a coarse clock, as larder does", |_| {
            black_box(clock_gettime(ClockId::MonotonicCoarse));
        }),
        part("reading CLOCK_MONOTONIC, for comparison", |_| {
            black_box(clock_gettime(ClockId::Monotonic));
        }),
        part("reading CLOCK_BOOTTIME, for comparison", |_| {
            black_box(clock_gettime(ClockId::Boottime));
        }),
        part("making a name, as larder does not", |id| {
            black_box(named(black_box(id)));
        }),
        part("an atomic addition, as larder does not", |_| {
            black_box(COUNTER.fetch_add(1, Relaxed));
        }),
    ]
}

fn part(name: &'static str, work: impl Fn(u64) + Copy + Send + 'static) -> Lane {
    Lane::new(name, 1, move |ids: Ids| {
        Box::pin(async move {
            ids.for_each(work);
            Ok(())
        })
    })
    .computing()
}

/// The table, and the largest number of allocations of larder.
fn count(instructions: bool) -> Outcome<(String, f64)> {
    eprintln!("near: counting");
    let server = Server::builder().tcp().start();
    let url = server.url();
    let counted = instructions && instructions::available();
    let mut most = 0;
    let mut table =
        Table::new(&["near hit", "allocations of 10,000", "instructions of one", "bytes of the call"]);
    let [get, text, get_or_load, cached] = near_hits::sizes()?.map(|size| size.to_string());
    for hit in Hit::ALL {
        let taken = hit.allocations(&url, COUNTED)?.count;
        most = most.max(taken);
        let executed = if counted {
            instructions::per_turn(&[SPIN, hit.name(), &url], SPUN)?.to_string()
        } else {
            "–".to_owned()
        };
        let (name, size) = match hit {
            // A bare lookup is not a future.
            Hit::Bare => (BARE, "0"),
            Hit::Get => (LARDER_GET, get.as_str()),
            Hit::Text => (LARDER_TEXT, text.as_str()),
            Hit::GetOrLoad => (LARDER_LOAD, get_or_load.as_str()),
            Hit::Cached => ("larder, `#[larder::cached]`", cached.as_str()),
        };
        table.row(&[name, &taken.to_string(), &executed, size]);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few at most")]
    Ok((table.finish(), most as f64))
}
