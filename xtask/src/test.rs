//! `cargo xtask test`: all tests, on a real server.
//!
//! The parts of a run: the workspace's test programs with all features, several at a time; the documentation's tests;
//! larder-bench without its rivals, the many crates that it compares with; larder's interleaving tests, which are
//! built with other locks in a folder of their own; and the tests that need Docker Compose, and those that need
//! Prometheus, if these are installed or can be fetched. If not, the last lines say so. Every part runs, also after
//! one that failed; the last lines list those that failed.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use larder_testkit::{Version, resolve};

use crate::programs::{self, Ended, Program};
use crate::run::{Failure, cargo, describe, finish, root, step};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (server, arguments) = take_server(arguments)?;
    let server = match server {
        Some(path) => std::path::absolute(path).map_err(Failure::new)?,
        None => resolve().map_err(Failure::new)?,
    };
    let version = Version::of(&server).map_err(Failure::new)?;
    println!("testing on {version}: {}", server.display());
    test(&server.into_os_string(), &arguments)
}

/// Takes `--server PATH` or `--server=PATH` out of the arguments before `--`.
fn take_server(arguments: &[String]) -> Result<(Option<PathBuf>, Vec<&str>), Failure> {
    let mut server = None;
    let mut rest = Vec::new();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word.strip_prefix("--server") {
            Some("") => {
                server = Some(words.next().ok_or_else(|| Failure::new("--server needs a path"))?.into())
            }
            Some(value) if value.starts_with('=') => server = Some(value.trim_start_matches('=').into()),
            _ => rest.push(word),
        }
        if word == "--" {
            rest.extend(words.by_ref());
        }
    }
    Ok((server, rest))
}

/// With one set of features, so that no crate is built twice.
const WORKSPACE: [&str; 6] =
    ["test", "--all-features", "--locked", "--workspace", "--exclude", "larder-bench"];
const BENCH: [&str; 6] = ["test", "--locked", "-p", "larder-bench", "--features", "trace"];
const INTERLEAVINGS: [&str; 9] = [
    "test",
    "--locked",
    "-p",
    "larder",
    "--lib",
    "--no-default-features",
    "--profile=interleavings",
    "--target-dir=target/interleavings",
    // The other tests cannot run with these locks.
    "interleavings",
];
/// Tests that need a tool, which the programs leave out otherwise: each program, and its tests.
type WithTool = [(&'static str, &'static [&'static str])];

const COMPOSE: &WithTool = &[
    (
        "management",
        &[
            "docker_compose_accepts_compose_yaml_with_and_without_password_and_profile",
            "docker_compose_and_a_local_server_read_the_same_password_from_the_file_env",
        ],
    ),
    ("ops", &["docker_compose_accepts_the_compose_file_of_ops"]),
];

/// The rules' own tests, and a Prometheus that watches services for a minute.
const PROMETHEUS: &WithTool = &[(
    "ops",
    &[
        "promtool_accepts_the_rules_and_each_alert_fires_and_clears",
        "every_panel_has_data_and_the_right_alerts_fire_and_clear",
    ],
)];

/// How many test programs run at a time. Most tests wait; with more, those that measure times get too little of two
/// processors.
const PROGRAMS_AT_ONCE: usize = 4;

fn test(server: &OsStr, arguments: &[&str]) -> Result<(), Failure> {
    let began = Instant::now();
    let mut run = Run { server, counts: Counts::default(), failures: Vec::new() };
    // The tests that need a tool: how many run, and those that were left out.
    let (mut with_tools, mut left_out) = (0, Vec::new());
    // Arguments before `--` choose packages or targets. Arguments after it choose tests, of any package.
    if arguments.first().is_some_and(|word| *word != "--") {
        let chooses = |word: &&str| word.starts_with("-p") || word.starts_with("--package");
        let own = arguments.iter().take_while(|word| **word != "--");
        let base = if own.copied().any(|word| chooses(&word)) { &WORKSPACE[..3] } else { &WORKSPACE };
        run.command("tests", cargo(base).args(arguments));
    } else {
        let mut tools = Vec::new();
        if arguments.is_empty() {
            match compose() {
                Ok(program) => tools.push((COMPOSE, "LARDER_TEST_COMPOSE", program)),
                Err(why) => left_out.push(format!(
                    "that Docker Compose accepts the compose files, as there is no Docker Compose: {why}"
                )),
            }
            match fetched("prometheus.sh") {
                Ok(folder) => tools.push((PROMETHEUS, "LARDER_TEST_PROMETHEUS", folder)),
                Err(why) => left_out
                    .push(format!("the rules, alerts and panels of ops/, as there is no Prometheus: {why}")),
            }
        }
        with_tools = tools.iter().flat_map(|(tests, ..)| *tests).map(|(_, tests)| tests.len() as u64).sum();
        run.programs(arguments, &tools);
        run.command("documentation's tests", cargo(&WORKSPACE).arg("--doc").args(arguments));
        run.command("bench", cargo(&BENCH).args(arguments));
        let interleavings = |base: &[&str]| {
            let mut command = cargo(base);
            command.env("RUSTFLAGS", "--cfg larder_interleavings");
            command
        };
        match INTERLEAVINGS.split_last() {
            _ if arguments.is_empty() => run.command("interleavings", &mut interleavings(&INTERLEAVINGS)),
            // A filter of the caller's replaces ours: with both, a test would run that matches one of them.
            Some((filter, base)) if arguments.iter().any(|word| word.contains(filter)) => {
                run.command("interleavings", interleavings(base).args(arguments));
            }
            _ => {}
        }
    }

    let Counts { passed, failed, ignored } = run.counts;
    // Each program, run without its tools, has counted the tests that need them as ignored.
    let ignored = ignored.saturating_sub(with_tools);
    let ignored = if ignored == 0 { String::new() } else { format!(", {ignored} ignored") };
    let seconds = began.elapsed().as_secs_f64();
    println!("{} tests: {passed} passed, {failed} failed{ignored}, in {seconds:.0} s", passed + failed);
    for what in left_out {
        println!("NOT TESTED: {what}");
    }
    run.outcome()
}

/// The parts of a run. A part that fails does not keep the others from running.
struct Run<'a> {
    server: &'a OsStr,
    counts: Counts,
    failures: Vec<String>,
}

impl Run<'_> {
    /// Runs the test programs of the workspace, several at a time. `arguments` is empty or begins with `--`.
    fn programs(&mut self, arguments: &[&str], tools: &[(&WithTool, &str, PathBuf)]) {
        match programs::build(&mut cargo(&WORKSPACE)).and_then(|built| self.jobs(&built, arguments, tools)) {
            Ok(ended) => {
                for Ended { output, failure } in ended {
                    output.lines().for_each(|line| self.counts.add(line));
                    self.failures.extend(failure);
                }
            }
            Err(failure) => self.failures.push(failure.to_string()),
        }
    }

    fn jobs(
        &self,
        built: &[Program],
        arguments: &[&str],
        tools: &[(&WithTool, &str, PathBuf)],
    ) -> Result<Vec<Ended>, Failure> {
        let server = ("LARDER_TEST_SERVER", self.server);
        let mut jobs = Vec::new();
        // Prometheus, which takes longest, comes first.
        for (tests, variable, tool) in tools.iter().rev() {
            for (name, tests) in *tests {
                let program = built.iter().find(|program| program.name == *name);
                let program = program.ok_or_else(|| Failure::new(format!("cargo did not build {name}")))?;
                let arguments = [&["--ignored", "--exact"], *tests].concat();
                jobs.push(program.job(&arguments, [server, (*variable, tool.as_os_str())]));
            }
        }
        let own = arguments.get(1..).unwrap_or_default();
        jobs.extend(built.iter().map(|program| program.job(own, [server])));
        programs::run(&jobs, PROGRAMS_AT_ONCE)
    }

    /// Runs one command of cargo.
    fn command(&mut self, name: &str, command: &mut Command) {
        command.env("LARDER_TEST_SERVER", self.server);
        if let Err(failure) = step(name, || counted(command, &mut self.counts)) {
            self.failures.push(failure.to_string());
        }
    }

    fn outcome(self) -> Result<(), Failure> {
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(format!("these failed:\n  {}", self.failures.join("\n  "))))
        }
    }
}

/// The program of Docker Compose; empty if Compose is a plugin of docker.
fn compose() -> Result<PathBuf, Failure> {
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    if plugin.is_ok_and(|output| output.status.success()) {
        return Ok(PathBuf::new());
    }
    fetched("compose.sh").map(|tools| tools.join("docker-compose"))
}

/// The folder of tools, after a script has put its tool there.
fn fetched(script: &str) -> Result<PathBuf, Failure> {
    let tools = root().join("target/tools");
    finish(Command::new(root().join("xtask").join(script)).arg(&tools))?;
    Ok(tools)
}

/// Runs it to its end, copies its output, and counts its tests.
fn counted(command: &mut Command, counts: &mut Counts) -> Result<(), Failure> {
    let name = describe(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| Failure::new(format!("{name}: {error}")))?;
    let passed_on = child.stdout.take().map(|output| pass_on(BufReader::new(output), counts)).transpose();
    let status = child.wait().map_err(Failure::new)?;
    passed_on.map_err(Failure::new)?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("`{name}` failed: {status}"))) }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds the counts of a line like `test result: ok. 5 passed; 0 failed; 1 ignored; …`; ignores other lines.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let mut words = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            let Ok(count) = word.parse::<u64>() else { continue };
            match words.peek() {
                Some(&"passed") => self.passed += count,
                Some(&"failed") => self.failed += count,
                Some(&"ignored") => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Copies the output as it arrives, and counts the tests in it.
fn pass_on(mut output: impl BufRead, counts: &mut Counts) -> io::Result<()> {
    let mut line = Vec::new();
    let mut screen = io::stdout().lock();
    while output.read_until(b'\n', &mut line)? > 0 {
        counts.add(&String::from_utf8_lossy(&line));
        screen.write_all(&line)?;
        screen.flush()?;
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_test_programs() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.02s\n",
        );
        counts.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.1s\n");
        counts.add("test limits::ten ... ok\n");
        assert_eq!(counts, Counts { passed: 7, failed: 3, ignored: 1 });
    }

    #[test]
    fn the_server_is_taken_out_of_the_arguments_before_the_dashes() -> Result<(), Failure> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let arguments = words("-p larder --server a/b --test cache -- --server x");
        let (server, rest) = take_server(&arguments)?;
        assert_eq!(
            (server, rest.join(" ").as_str()),
            (Some("a/b".into()), "-p larder --test cache -- --server x")
        );
        assert_eq!(take_server(&words("--server=c"))?.0, Some("c".into()));
        assert!(take_server(&words("--server")).is_err());
        Ok(())
    }

    #[test]
    fn every_part_runs_and_the_outcome_names_those_that_failed() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        let mut run = Run { server: OsStr::new("x"), counts: Counts::default(), failures: Vec::new() };
        let (folder, mark) = (std::env::temp_dir(), format!("larder-xtask-{}", std::process::id()));
        run.command("first", &mut shell("exit 101"));
        run.command("second", shell(&format!("touch {mark}")).current_dir(&folder));
        run.command("third", &mut shell("exit 9"));
        assert!(
            std::fs::remove_file(folder.join(mark)).is_ok(),
            "the part after one that failed has not run"
        );
        let why = run.outcome().map_err(|failure| failure.to_string());
        assert!(why.as_ref().is_err_and(|why| why.contains("exit 101") && why.contains("exit 9")), "{why:?}");
        assert!(why.is_err_and(|why| !why.contains("touch")));
    }
}
