//! When and on which machine something was measured, and how busy other programs kept the machine meanwhile.

use std::fs;
use std::process::Command;

use larder_testkit::Server;

use crate::item::Item;
use crate::lane::Outcome;
use crate::table::Table;

/// The versions in `Cargo.lock` when this was built.
const LOCK: &str = include_str!("../../../Cargo.lock");
const CRATES: [&str; 9] = [
    "larder",
    "redis",
    "tokio",
    "serde_json",
    "quick_cache",
    "cached",
    "multi-tier-cache",
    "rustis",
    "rslock",
];

/// The processor time so far, in ticks of all processors together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    busy: u64,
    stolen: u64,
    total: u64,
}

impl Ticks {
    /// Ticks of the whole machine since it started; `None` without /proc/stat.
    pub(crate) fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> =
            stat.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
        let [user, nice, system, idle, waiting, hard, soft, stolen, ..] = ticks.as_slice() else {
            return None;
        };
        let busy = user + nice + system + hard + soft;
        Some(Self { busy, stolen: *stolen, total: busy + idle + waiting + stolen })
    }
}

/// When something was measured, and the load of the machine: a paragraph below the figures, in lines of 120 columns.
pub(crate) fn note(began: Option<Ticks>, rounds: &str) -> String {
    let broken = |busy: String| format!(";\nmeanwhile {}", busy.replace(", and ", ",\nand "));
    let busy = meanwhile(began).map(broken).unwrap_or_default();
    format!("\nMeasured {} UTC, {rounds}{busy}.\n", utc())
}

/// `2026-11-26 01:02`.
pub(crate) fn utc() -> String {
    said("date", &["-u", "+%F %H:%M"])
}

fn meanwhile(began: Option<Ticks>) -> Option<String> {
    let (began, now) = (began?, Ticks::now()?);
    let share = |ticks: u64| 100 * ticks / (now.total - began.total).max(1);
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = loads.split(' ').next().unwrap_or_default();
    Some(format!(
        "the processors were busy {} % of the time, other machines on the same host took {} % (steal), and the load \
         average at the end was {load}",
        share(now.busy - began.busy),
        share(now.stolen - began.stolen)
    ))
}

/// A table of the machine, the date and the versions.
pub(crate) fn describe(began: Option<Ticks>, rounds: usize) -> Outcome<String> {
    let server = Server::start().version();
    let json = serde_json::to_vec(&Item::new(500))?.len();
    let mut table = Table::new(&["what", "value"]);
    table.row(&["date", &format!("{} UTC", utc())]);
    table.row(&["machine", &format!("{}, {} cores, Linux {}", processor(), cores(), said("uname", &["-r"]))]);
    table.row(&["server", &format!("{server}, without persistence, on TCP loopback of the same machine")]);
    table.row(&["compiler", &format!("{}, release profile", said("rustc", &["--version"]))]);
    table.row(&["crates", &CRATES.map(|name| format!("{name} {}", locked(name))).join(", ")]);
    table.row(&["value", &format!("a struct of 15 fields, {json} bytes as JSON; 1,000 keys")]);
    table.row(&["rounds", &format!("{rounds} a configuration")]);
    if let Some(busy) = meanwhile(began) {
        table.row(&["meanwhile", &busy]);
    }
    Ok(table.finish())
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("an unnamed processor".to_owned(), |(_, model)| model.trim().to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn locked(name: &str) -> String {
    let wanted = format!("name = \"{name}\"\nversion = \"");
    let version = LOCK.split_once(&wanted).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("not locked".to_owned(), |(version, _)| version.to_owned())
}
