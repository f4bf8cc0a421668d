//! `cargo xtask faults`: everything larder promises, under faults, for as long as one likes.

use crate::run::{Failure, cargo, finish};

const USAGE: &str = "usage: cargo xtask faults [--minutes N] [--seed N] [--release]
           [--what cache|locks|limits|semaphores|jobs|elections|rw|lock-run|failover|all]";
const PARTS: [&str; 8] = ["cache", "locks", "limits", "semaphores", "jobs", "elections", "rw", "all"];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (mut minutes, mut seed, mut what, mut release) = (10, None, "all", false);
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "--release" {
            release = true;
            continue;
        }
        let value = words.next().ok_or_else(|| Failure::usage(USAGE))?;
        let number = || value.parse::<u64>().map_err(|_| Failure::usage(USAGE));
        match word {
            "--minutes" => minutes = number()?,
            "--seed" => seed = Some(number()?),
            "--what" if PARTS.contains(&value) || ["lock-run", "failover"].contains(&value) => what = value,
            _ => return Err(Failure::usage(USAGE)),
        }
    }
    let test = |name| {
        let mut command = cargo(&["test", "--locked", "--all-features", "-p", "larder", "--test", name]);
        command.args(release.then_some("--release"));
        command
    };
    if what == "failover" {
        let mut command = test("lock_quarantine");
        let name = "a_failover_that_loses_a_lock_makes_two_holders_without_quarantine_and_none_with_it";
        command.args(["--", "--exact", "--nocapture", name]);
        return finish(command.env("LARDER_TEST_FAILOVERS", "200"));
    }
    if what != "lock-run" {
        let mut command = test("faults");
        command.args(["--", "--exact", "--nocapture", "nothing_that_is_promised_is_broken_whatever_fails"]);
        command.env("LARDER_FAULTS_SECONDS", minutes.saturating_mul(60).to_string());
        command.env("LARDER_FAULTS_WHAT", what);
        if let Some(seed) = seed {
            command.env("LARDER_FAULTS_SEED", seed.to_string());
        }
        finish(&mut command)?;
    }
    if matches!(what, "lock-run" | "locks" | "all") {
        let mut command = test("lock_line");
        command.args(["--", "--exact", "cancelled_attempts_leave_no_lock_and_no_place_behind"]);
        finish(command.env("LARDER_TEST_CANCELS", "100000"))?;
    }
    Ok(())
}
