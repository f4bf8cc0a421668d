//! `cargo xtask test`: all tests, on a real server.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use larder_testkit::{Version, resolve};

use crate::run::{Failure, cargo, describe};

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

/// Takes `--server PATH` or `--server=PATH` out of what comes before `--`.
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

fn test(server: &OsStr, arguments: &[&str]) -> Result<(), Failure> {
    let own = arguments.iter().take_while(|word| **word != "--");
    let chooses = own.clone().any(|word| word.starts_with("-p") || word.starts_with("--package"));
    let mut words = vec!["test", "--all-features", "--locked"];
    if !chooses {
        // The bench needs the rivals, which nobody who runs the tests should have to build.
        words.extend(["--workspace", "--exclude", "larder-bench"]);
    }
    words.extend(arguments);

    let began = Instant::now();
    let mut command = cargo(&words);
    command.env("LARDER_TEST_SERVER", server).stdout(Stdio::piped());
    let name = describe(&command);
    let mut child = command.spawn().map_err(|error| Failure::new(format!("{name}: {error}")))?;
    let counts = child.stdout.take().map(|output| pass_on(BufReader::new(output))).transpose();
    let status = child.wait().map_err(Failure::new)?;
    let Counts { passed, failed, ignored } = counts.map_err(Failure::new)?.unwrap_or_default();

    let ignored = if ignored == 0 { String::new() } else { format!(", {ignored} ignored") };
    let seconds = began.elapsed().as_secs_f64();
    println!("{} tests: {passed} passed, {failed} failed{ignored}, in {seconds:.0} s", passed + failed);
    if status.success() { Ok(()) } else { Err(Failure::new(format!("`{name}` failed: {status}"))) }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds what a line like `test result: ok. 5 passed; 0 failed; 1 ignored; …` says; other lines say nothing.
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

/// Copies the output as it comes, and counts what it says.
fn pass_on(mut output: impl BufRead) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut line = Vec::new();
    let mut screen = io::stdout().lock();
    while output.read_until(b'\n', &mut line)? > 0 {
        counts.add(&String::from_utf8_lossy(&line));
        screen.write_all(&line)?;
        screen.flush()?;
        line.clear();
    }
    Ok(counts)
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
}
