//! What the tests of the command line share: the program, and its output.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod screen;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::time::Duration;

use larder_testkit::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::SignalKind;

/// How long a wait for a condition may take on an overloaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The program, without any setting of the machine that the test runs on.
pub(crate) fn larder() -> Command {
    default_signals();
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").env("NO_COLOR", "1");
    command
}

/// Makes signals that this process was started to ignore, as by a shell in the background, the default for the programs
/// that it starts: those whose signals are handled here have the default after `exec`.
pub(crate) fn default_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
        // On a thread of its own, because a test may be async, and no runtime may end there.
        let handle = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _context = runtime.enter();
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
                if ignored & (1 << (signal as i32 - 1)) != 0 {
                    let _installed =
                        tokio::signal::unix::signal(SignalKind::from_raw(signal as i32)).unwrap();
                }
            }
        };
        std::thread::spawn(handle).join().unwrap();
    });
}

/// The program with a server.
pub(crate) fn on(url: &str) -> Command {
    let mut command = larder();
    command.env("LARDER_URL", url);
    command
}

/// Runs the program to its end, with nothing on its standard input.
pub(crate) fn run<S: AsRef<OsStr>>(mut command: Command, arguments: impl IntoIterator<Item = S>) -> Ran {
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    Ran::of(&output)
}

/// How a program ended, and what it printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: code(output.status),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The exit code, or what a shell reports of a signal.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A program that runs, and is killed when the test ends.
pub(crate) struct Running(pub Child);

impl Running {
    pub(crate) fn start<S: AsRef<OsStr>>(
        mut command: Command,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.args(arguments).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Reads standard output until this line.
    pub(crate) fn until_line(&mut self, line: &str) -> String {
        let mut out = self.0.stdout.take().unwrap();
        let (mut read, mut byte) = (String::new(), [0]);
        while !read.lines().any(|read| read == line) || !read.ends_with('\n') {
            assert_eq!(out.read(&mut byte).unwrap(), 1, "no line {line:?} in {read:?}");
            read.push(char::from(byte[0]));
        }
        self.0.stdout = Some(out);
        read
    }

    /// Writes to standard input, and closes it.
    pub(crate) fn write(&mut self, text: &[u8]) {
        self.0.stdin.take().unwrap().write_all(text).unwrap();
    }

    /// Waits until it ends, and returns what it has printed since.
    pub(crate) fn ended(mut self) -> Ran {
        drop(self.0.stdin.take());
        let status = eventually("the program to end", LONG, || self.0.try_wait().unwrap());
        let mut text = [String::new(), String::new()];
        self.0.stdout.take().unwrap().read_to_string(&mut text[0]).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut text[1]).unwrap();
        let [out, err] = text;
        Ran { code: code(status), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a process is there, and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    state == Some(false)
}

/// How many processes have a text in their environment or their arguments.
pub(crate) fn processes_with(text: &str) -> usize {
    let has = |path: std::path::PathBuf| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let id: Option<u32> = entry.file_name().to_string_lossy().parse().ok();
        id.is_some_and(|id| id != std::process::id())
    });
    processes.filter(|entry| has(entry.path().join("environ")) || has(entry.path().join("cmdline"))).count()
}

/// Reads a number that a process writes to a file.
pub(crate) fn number_in(path: &Path) -> i32 {
    eventually("a number in the file", LONG, || {
        let text = fs::read_to_string(path).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}
