//! What one operation costs the client, counted: allocations, and instructions if valgrind is installed.

use std::hint::black_box;

use larder_testkit::Server;

use crate::allocations::{self, Allocations};
use crate::figures::{Bar, Findings, Limit};
use crate::floor;
use crate::instructions;
use crate::item::{ITEMS, Item};
use crate::lane::Outcome;
use crate::probe::{Probe, Side};
use crate::table::Table;

const TIMES: u64 = ITEMS / 2;
const MEMORY: &str = "memory:";

const BEYOND_DECODING: Limit = Limit::AtMost(3.0);
const FEWER_THAN_BARE: Limit = Limit::AtMost(1.0);
const MISS: Limit = Limit::AtMost(6_500.0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    Count,
    LeaveOut,
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
pub(crate) fn run(instructions: Instructions) -> Outcome<Findings> {
    let server = Server::builder().tcp().start();
    let url = server.url();
    let mut table = Table::new(&[
        "operation",
        "allocations: larder",
        "bare",
        "`memory:`",
        "bytes: larder",
        "bare",
        "`memory:`",
        "instructions: larder",
        "bare",
        "`memory:`",
    ]);
    let counted = instructions == Instructions::Count && instructions::available();
    let (mut beyond_decoding, mut shares, mut misses) = (Vec::new(), Vec::new(), Vec::new());
    for probe in Probe::ALL {
        eprintln!("count: {}", probe.name());
        let sides = [(Side::Larder, url.as_str()), (Side::Bare, &url), (Side::Larder, MEMORY)];
        let mut taken = Vec::new();
        let mut executed = Vec::new();
        for (side, url) in sides {
            taken.push(taken_by(side, url, probe)?);
            executed.push(if counted { Some(instructions::per_operation(side, url, probe)?) } else { None });
        }
        // What the bars need of this operation.
        if let (Probe::GetHit, [ours, ..]) = (probe, taken.as_slice()) {
            let beyond = ours.count as f64 / TIMES as f64 - decoding()?;
            beyond_decoding.push((beyond, "counted".to_owned()));
        }
        if let [Some(ours), Some(bare), ..] = executed.as_slice() {
            let (ours, bare) = (*ours as f64, *bare as f64);
            match probe {
                Probe::GetHit | Probe::Set => shares.push((ours / bare, probe.name().to_owned())),
                Probe::GetMiss => misses.push((ours, "counted".to_owned())),
                _ => {}
            }
        }
        let mut cells = vec![probe.name().to_owned()];
        cells.extend(taken.iter().map(|taken| each(taken.count)));
        cells.extend(taken.iter().map(|taken| (taken.bytes / TIMES).to_string()));
        cells.extend(executed.iter().map(|count| count.map_or("–".to_owned(), |count| count.to_string())));
        table.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut text = table.finish();
    if counted {
        text.push_str(&floor::count(&url)?);
    } else {
        text.push_str("\nInstructions were not counted: that takes valgrind and `--instructions`.\n");
    }
    let mut findings = Findings::default();
    findings.add("count", text);
    findings.bars.push(Bar::over(
        "allocations of a server hit beyond decoding",
        BEYOND_DECODING,
        beyond_decoding,
    ));
    #[cfg(feature = "rivals")]
    if counted {
        let formats = crate::formats::count()?;
        findings.add(formats.name, formats.text);
    }
    if counted {
        let share = "instructions of `get` and `set` of 1 KiB / bare driver, 1 task";
        findings.bars.push(Bar::over(share, FEWER_THAN_BARE, shares));
        findings.bars.push(Bar::over("instructions of a `get` that misses", MISS, misses));
    }
    Ok(findings)
}

fn taken_by(side: Side, url: &str, probe: Probe) -> Outcome<Allocations> {
    side.run(url, probe, TIMES, |work| {
        allocations::start();
        let done = work();
        let taken = allocations::stop();
        done.map(|()| taken)
    })
}

/// Allocations of decoding one item.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
fn decoding() -> Outcome<f64> {
    let encoded: Vec<Vec<u8>> = Item::all().iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
    allocations::start();
    for item in &encoded {
        black_box(serde_json::from_slice::<Item>(item)?);
    }
    Ok(allocations::stop().count as f64 / ITEMS as f64)
}

/// Rounds to one decimal, because the driver's buffers grow now and then.
fn each(count: u64) -> String {
    let tenths = (count * 10 + TIMES / 2) / TIMES;
    format!("{}.{}", tenths / 10, tenths % 10)
}
