//! Test programs that cargo has built, run several at a time.
//!
//! The problem: `cargo test` runs one program after the other. Each takes as long as its longest test, and most tests
//! wait, for a server or for a time, so the processors idle. The mechanism: cargo builds the programs and says where
//! they are; each runs in a process of its own, as with cargo, and starts its own servers, so programs do not see each
//! other. A program's output is printed in one piece when it has ended.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::run::{Failure, beside_each_other, describe, forget_package, root};

/// A test program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The target, such as `near` for `tests/near.rs`, or the crate.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The folder of the package, in which the program runs.
    folder: PathBuf,
}

/// One run of a program, with its arguments and its environment.
pub(crate) struct Job {
    name: String,
    command: Mutex<Command>,
}

/// How a run ended.
pub(crate) struct Ended {
    /// What the program printed.
    pub(crate) output: String,
    /// Why the run counts as failed.
    pub(crate) failure: Option<String>,
}

impl Program {
    /// The test program in a line of cargo's JSON; `None` if the line is about something else.
    pub(crate) fn of(line: &str) -> Option<Self> {
        let after = |text: &str| Some(line.split_once(text)?.1.split_once('"')?.0.to_owned());
        let path = PathBuf::from(after("\"executable\":\"")?);
        let is_test = line.contains("\"test\":true},\"features\"");
        let (_, target) = line.split_once("\"target\":{")?;
        let name = target.split_once("\"name\":\"")?.1.split_once('"')?.0.to_owned();
        let manifest = PathBuf::from(after("\"manifest_path\":\"")?);
        is_test.then(|| Self { name, path, folder: manifest.parent().unwrap_or(root()).to_owned() })
    }

    /// A run with the environment that cargo gives to a test, and with `variables`.
    pub(crate) fn job<'a>(
        &self,
        arguments: &[&str],
        variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) -> Job {
        let mut command = Command::new(&self.path);
        forget_package(&mut command);
        command.args(arguments).current_dir(&self.folder);
        command.env("CARGO_MANIFEST_DIR", &self.folder).envs(variables);
        let package = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{package}, {}", self.name);
        Job { name, command: Mutex::new(command) }
    }
}

impl Job {
    fn run(&self) -> io::Result<Ended> {
        let mut command = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut output, input) = io::pipe()?;
        let mut child = command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).spawn()?;
        // The output ends when all copies of the pipe's end are closed; the command holds some.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes)?;
        let status = child.wait()?;
        let failure = (!status.success()).then(|| format!("{}: {status}", self.name));
        Ok(Ended { output: String::from_utf8_lossy(&bytes).into_owned(), failure })
    }
}

/// Builds the test programs of a `cargo test` command.
pub(crate) fn build(command: &mut Command) -> Result<Vec<Program>, Failure> {
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let child = command.stdout(Stdio::piped()).spawn().map_err(Failure::new)?;
    let output = child.wait_with_output().map_err(Failure::new)?;
    if !output.status.success() {
        return Err(Failure::new(format!("`{}` failed: {}", describe(command), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(Program::of).collect())
}

/// Does the runs, `at_once` at a time, and prints the output of each when it has ended.
pub(crate) fn run(jobs: &[Job], at_once: usize) -> Result<Vec<Ended>, Failure> {
    beside_each_other(jobs, at_once, |job| {
        println!("── {}", job.name);
        let began = Instant::now();
        let ended = job.run().map_err(Failure::new)?;
        let verdict = if ended.failure.is_none() { "ok" } else { "FAILED" };
        let seconds = began.elapsed().as_secs_f64();
        println!("── {}: {verdict}, {seconds:.1} s\n{}", job.name, ended.output);
        Ok(ended)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_found_in_what_cargo_says_and_a_program_of_another_kind_is_not() {
        let line = |test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"a","manifest_path":"/w/crates/a/Cargo.toml",
                "target":{{"kind":["test"],"name":"near","doc":1}},"profile":{{"opt_level":"0","test":{test}}},
                "features":[],"executable":"/a/b-1","fresh":true}}"#
            )
            .replace(['\n', ' '], "")
        };
        let near = Program { name: "near".into(), path: "/a/b-1".into(), folder: "/w/crates/a".into() };
        assert_eq!(Program::of(&line(true)), Some(near));
        assert_eq!(Program::of(&line(false)), None);
        assert_eq!(Program::of(r#"{"reason":"compiler-artifact","executable":null}"#), None);
    }

    #[test]
    fn a_failed_program_is_recognised_and_its_output_is_complete() -> io::Result<()> {
        let shell = Program { name: "near".into(), path: "/bin/sh".into(), folder: "/tmp".into() };
        let run = |script| shell.job(&["-c", script], [("A", OsStr::new("a"))]).run();
        let ended = run("echo out; echo err >&2; echo $A; exit 3")?;
        assert_eq!(ended.output, "out\nerr\na\n");
        assert!(ended.failure.is_some_and(|failure| failure.contains("near")));
        assert_eq!(run("pwd")?.output, "/tmp\n");
        assert!(run("true")?.failure.is_none());
        Ok(())
    }
}
