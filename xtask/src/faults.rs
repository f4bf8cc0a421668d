//! `cargo xtask faults`: tests larder's promises under faults, for a chosen time.

use std::process::Command;

use crate::run::{Failure, cargo, finish};

pub(crate) const HELP: &str = "\
cargo xtask faults [--what WHAT] [--on ON] [--minutes N] [--seed N] [--release]
    Everything that larder promises, in processes under faults drawn from a seed. Says every 15 s how far it is, after
    each round what was done so far, and at the end, as tables: operations by kind, faults by kind, what was judged and
    violated of each promise, times, and what a long run has to reach. Ends with an error where anything was violated,
    or where a run of the default length did not reach that.

    --what  all         (the default) all parts below in five processes, 12 minutes: 1,000,000 operations, 500 faults
            cache, locks, limits, semaphores
                        one of them alone, 10 minutes
            jobs        10 jobs with periods of 2 s in eight processes, 10 minutes: 2,000 periods, 500 faults
            elections   4 elections in five processes, 12 minutes: 1,000 faults; measures how soon another leads
                        after kill -9 and after `resign`
            rw          64 readers and 8 writers in eight processes, 5 minutes
            groups      sets of locks that overlap, in five processes, few faults, 10 minutes: 100,000 sets
            soak        all parts in processes that live as long as the run, 10 minutes; memory, threads, tasks and
                        descriptors are recorded and must stay as they are
            cancelled   100,000 attempts at a lock, dropped at any moment (also part of `locks` and `all`)
            failover    200 failovers under Sentinel that lose a lock, with quarantine, and 56 without, as a control
            lock-run    200 faults of servers and links on which two `larder lock run` contend: two commands are never
                        alive at once; 6 minutes; --seed only
    --on    kept        a server that keeps its data when it is killed
            lossy       one that loses them
            cluster     three masters, three replicas: slots move, masters are killed and replaced
            sentinel    a master and its replica: failovers, also such as lose acknowledged writes
            single      the first two in turn
            all         (the default) all four in turn; `elections` takes `single`
    --minutes   another length; then nothing has to be reached but no violation
    --seed      draws the same faults again; the moments at which they meet the calls are not the same

        cargo xtask faults --release
        cargo xtask faults --what locks --on sentinel --minutes 4 --seed 6739601423967792150
";

/// The parts of larder that the harness can use, and for how many minutes by default.
const RUNS: [(&str, u64); 10] = [
    ("all", 12),
    ("cache", 10),
    ("locks", 10),
    ("limits", 10),
    ("semaphores", 10),
    ("jobs", 10),
    ("elections", 12),
    ("rw", 5),
    ("groups", 10),
    ("soak", 10),
];
const SERVERS: [&str; 6] = ["kept", "lossy", "cluster", "sentinel", "single", "all"];

struct Options {
    what: String,
    on: Option<String>,
    minutes: Option<u64>,
    seed: Option<u64>,
    release: bool,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let options = Options::parse(arguments).ok_or_else(|| Failure::usage(HELP))?;
    let commands = commands(&options).ok_or_else(|| Failure::usage(HELP))?;
    commands.into_iter().try_for_each(|mut command| finish(&mut command))
}

/// The programs that a kind runs, in turn; `None` if there is no such kind.
fn commands(options: &Options) -> Option<Vec<Command>> {
    Some(match options.what.as_str() {
        "failover" => vec![failover(options)],
        "lock-run" => vec![lock_run(options)],
        "cancelled" => vec![cancelled(options)],
        what => {
            let (_, minutes) = RUNS.iter().find(|(name, _)| *name == what)?;
            let cancelled = matches!(what, "locks" | "all").then(|| cancelled(options));
            [harness(options, *minutes)].into_iter().chain(cancelled).collect()
        }
    })
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut options =
            Self { what: "all".to_owned(), on: None, minutes: None, seed: None, release: false };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if word == "--release" {
                options.release = true;
                continue;
            }
            let value = words.next()?;
            match word {
                "--minutes" => options.minutes = Some(value.parse().ok()?),
                "--seed" => options.seed = Some(value.parse().ok()?),
                "--what" => value.clone_into(&mut options.what),
                "--on" if SERVERS.contains(&value) => options.on = Some(value.to_owned()),
                _ => return None,
            }
        }
        Some(options)
    }

    fn test(&self, program: &str, test: &str) -> Command {
        self.test_of("larder", program, test)
    }

    fn test_of(&self, package: &str, program: &str, test: &str) -> Command {
        let mut command = cargo(&["test", "--locked", "--all-features", "-p", package, "--test", program]);
        command.args(self.release.then_some("--release"));
        command.args(["--", "--exact", "--nocapture", test]);
        command
    }
}

fn harness(options: &Options, default: u64) -> Command {
    let mut command = options.test("faults", "nothing_that_is_promised_is_broken_whatever_fails");
    let minutes = options.minutes.unwrap_or(default);
    command.env("LARDER_FAULTS_SECONDS", minutes.saturating_mul(60).to_string());
    command.env("LARDER_FAULTS_WHAT", &options.what);
    // Times are measured behind proxies, which single servers have.
    let on = if options.what == "elections" { "single" } else { "all" };
    command.env("LARDER_FAULTS_ON", options.on.as_deref().unwrap_or(on));
    command.env("LARDER_FAULTS_BAR", if options.minutes.is_none() { "1" } else { "0" });
    if let Some(seed) = options.seed {
        command.env("LARDER_FAULTS_SEED", seed.to_string());
    }
    command
}

fn cancelled(options: &Options) -> Command {
    let mut command = options.test("lock_queue", "cancelled_attempts_leave_no_lock_and_no_place_behind");
    command.env("LARDER_TEST_CANCELS", "100000");
    command
}

fn lock_run(options: &Options) -> Command {
    let name = "faults::two_commands_are_never_alive_at_once_whatever_fails";
    let mut command = options.test_of("larder-cli", "lock_run", name);
    command.arg("--ignored");
    if let Some(seed) = options.seed {
        command.env("LARDER_FAULTS_SEED", seed.to_string());
    }
    command
}

fn failover(options: &Options) -> Command {
    let name = "a_failover_that_loses_a_lock_makes_two_holders_without_quarantine_and_none_with_it";
    let mut command = options.test("lock_quarantine", name);
    command.env("LARDER_TEST_FAILOVERS", "200");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(what: &str) -> Option<Vec<String>> {
        let options = Options::parse(&["--what".to_owned(), what.to_owned()])?;
        let text = |command: &Command| {
            command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        Some(commands(&options)?.iter().map(text).collect())
    }

    #[test]
    fn lock_run_is_that_of_the_command_line_and_cancelled_that_of_the_library() {
        let one = |what: &str| runs(what).filter(|all| all.len() == 1).and_then(|mut all| all.pop());
        let lock_run = one("lock-run").unwrap_or_default();
        assert!(lock_run.contains("-p larder-cli --test lock_run"), "{lock_run}");
        let cancelled = one("cancelled").unwrap_or_default();
        assert!(cancelled.contains("-p larder --test lock_queue"), "{cancelled}");
        for what in ["locks", "all"] {
            assert_eq!(runs(what).unwrap_or_default().get(1), Some(&cancelled), "{what}");
        }
        assert_eq!(runs("cli-lock-run"), None);
    }

    #[test]
    fn help_names_every_kind() {
        for what in RUNS.map(|(what, _)| what).into_iter().chain(["failover", "lock-run", "cancelled"]) {
            assert!(HELP.contains(what) && runs(what).is_some(), "{what}");
        }
    }
}
