//! What one operation costs the client, counted: allocations, and instructions if valgrind is installed.

use larder_testkit::Server;

use crate::allocations::{self, Allocations};
use crate::figures::Findings;
use crate::floor;
use crate::instructions;
use crate::item::ITEMS;
use crate::lane::Outcome;
use crate::probe::{Probe, Side};
use crate::table::Table;

const TIMES: u64 = ITEMS / 2;
const MEMORY: &str = "memory:";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    Count,
    LeaveOut,
}

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
    for probe in Probe::ALL {
        eprintln!("count: {}", probe.name());
        let sides = [(Side::Larder, url.as_str()), (Side::Bare, &url), (Side::Larder, MEMORY)];
        let mut taken = Vec::new();
        let mut executed = Vec::new();
        for (side, url) in sides {
            taken.push(taken_by(side, url, probe)?);
            executed.push(if counted { Some(instructions::per_operation(side, url, probe)?) } else { None });
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

/// Rounds to one decimal, because the driver's buffers grow now and then.
fn each(count: u64) -> String {
    let tenths = (count * 10 + TIMES / 2) / TIMES;
    format!("{}.{}", tenths / 10, tenths % 10)
}
