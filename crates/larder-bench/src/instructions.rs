//! Instructions of the client for one operation, by valgrind's callgrind: exact to about one in a hundred.
//!
//! This program runs itself under valgrind twice, with N and with 2 N operations, and takes the difference. So the
//! costs of starting, connecting and filling cancel out. The driver's own task is part of the count; the kernel is not.

use std::env;
use std::process::Command;

use crate::floor;
#[cfg(feature = "rivals")]
use crate::formats;
use crate::lane::Outcome;
use crate::lock_cost;
use crate::miss;
use crate::near_hits;
use crate::probe::{Probe, Side};

fn times(probe: Probe) -> u64 {
    if probe == Probe::GetMany { 20 } else { 400 }
}

/// Whether valgrind is installed.
pub(crate) fn available() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

pub(crate) fn per_operation(side: Side, url: &str, probe: Probe) -> Outcome<u64> {
    let times = times(probe);
    per_turn(&[side.name(), url, probe.name()], times)
}

/// Instructions of `spin WHAT… TIMES`: the difference between `times` and twice as many.
pub(crate) fn per_turn(what: &[&str], times: u64) -> Outcome<u64> {
    let once = total(what, times)?;
    let twice = total(what, 2 * times)?;
    Ok(twice.saturating_sub(once) / times)
}

/// The hidden subcommand: runs the operations, and prints nothing about them.
pub(crate) fn spin(arguments: &[String]) -> Outcome<()> {
    if let [first, which, url, times] = arguments
        && first == near_hits::SPIN
    {
        return near_hits::spin(which, url, times.parse()?);
    }
    if let [first, which, url, times] = arguments
        && first == miss::SPIN
    {
        return miss::spin(which, url, times.parse()?);
    }
    if let [first, which, url, times] = arguments
        && first == lock_cost::SPIN
    {
        return lock_cost::spin(which, url, times.parse()?);
    }
    #[cfg(feature = "rivals")]
    if let [first, what, name, times] = arguments
        && first == formats::SPIN
    {
        return formats::spin(what, name, times.parse()?);
    }
    if let [first, url, times] = arguments
        && first == floor::SPIN
    {
        return floor::spin(url, times.parse()?);
    }
    let [side, url, probe, times] = arguments else { return Err("spin SIDE URL PROBE TIMES".into()) };
    let side = Side::parse(side).ok_or("no such side")?;
    let probe = Probe::parse(probe).ok_or("no such operation")?;
    side.run(url, probe, times.parse()?, |work| work())
}

fn total(what: &[&str], times: u64) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .arg("spin")
        .args(what)
        .arg(times.to_string())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    match collected.map(str::parse) {
        Some(Ok(count)) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind: {said}").into()),
    }
}
