//! `cargo xtask faults`: locks under faults, for as long as one likes, and attempts that are dropped, more than in the short run.

use crate::run::{Failure, cargo, finish};

const USAGE: &str = "usage: cargo xtask faults [--minutes N] [--seed N]";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (mut minutes, mut seed) = (10, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let number = words.next().and_then(|number| number.parse::<u64>().ok());
        match (word.as_str(), number) {
            ("--minutes", Some(number)) => minutes = number,
            ("--seed", Some(number)) => seed = Some(number),
            _ => return Err(Failure::usage(USAGE)),
        }
    }
    let mut command =
        cargo(&["test", "--locked", "--all-features", "-p", "larder", "--test", "lock_history"]);
    command.args(["--", "--nocapture"]).env("LARDER_FAULTS_SECONDS", minutes.saturating_mul(60).to_string());
    if let Some(seed) = seed {
        command.env("LARDER_FAULTS_SEED", seed.to_string());
    }
    finish(&mut command)?;
    let mut command = cargo(&["test", "--locked", "--all-features", "-p", "larder", "--test", "lock_line"]);
    command.args(["--", "--exact", "cancelled_attempts_leave_no_lock_and_no_place_behind"]);
    finish(command.env("LARDER_TEST_CANCELS", "100000"))
}
