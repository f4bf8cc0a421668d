//! The test's own binary, run again as further processes.
//!
//! The problem: promises between processes have to be tested with processes that can be killed and stopped, but an
//! extra program for each test would have to be built, found and kept in step with the test.
//!
//! The mechanism: a [`Worker`] runs the test's own binary again, with only the test that started it, and with a role in
//! the variable `LARDER_WORKER`. The test asks for its [`role`] first. If it has one, it does the role's work instead.
//! Both sides exchange lines. The parent writes to the worker's standard input. The worker writes to its standard
//! output, behind a prefix, because libtest and the code under test print there, too. Everything else that the worker
//! prints is kept as its log.
//!
//! Invariants: a worker ends when its [`Worker`] is dropped and when the parent ends, even if either was killed or
//! stopped. A wait for a line or for the end is a wait on a channel, with a time limit.
//!
//! Not guaranteed: that a line that is sent is read. A pipe holds about 64 KiB: a sender waits if the worker does not
//! read. Processes that the worker itself starts are not ended with it.
//!
//! ```no_run
//! use std::time::Duration;
//! use larder_testkit::worker::{self, Worker};
//!
//! #[test]
//! fn a_worker_answers() {
//!     if let Some(role) = worker::role() {
//!         let line = worker::read_line().unwrap();
//!         return worker::send_line(&format!("{role} heard {line}"));
//!     }
//!     let worker = Worker::spawn("a_worker_answers", "echo", &[("LEVEL", "3")]);
//!     worker.send_line("hello").unwrap();
//!     assert_eq!(worker.read_line(Duration::from_secs(10)).unwrap(), "echo heard hello");
//!     assert!(worker.wait(Duration::from_secs(10)).unwrap().success());
//! }
//! ```

use std::convert::Infallible;
use std::env;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, Write};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::process::Process;

const ROLE: &str = "LARDER_WORKER";
const PREFIX: &str = "@@ ";

// ---- In the worker --------------------------------------------------------------------------------------------------

/// Returns the role of this process if a [`Worker`] started it, and `None` in the parent.
#[must_use]
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Waits for the next line from the parent, and returns `None` when the parent sends no more. Blocks its thread, so
/// asynchronous code calls it through `spawn_blocking`.
#[must_use]
pub fn read_line() -> Option<String> {
    io::stdin().lines().next()?.ok()
}

/// Sends a line to the parent.
///
/// # Panics
///
/// If it contains a line break.
pub fn send_line(line: &str) {
    assert!(!line.contains('\n'), "a line with a line break: {line:?}");
    // The line break first: libtest or the code under test may have printed a part of a line. Writing to `stdout`
    // directly bypasses libtest's capture, which `println!` does not.
    let message = format!("\n{PREFIX}{line}\n");
    let mut stdout = io::stdout().lock();
    // An error means that the parent has ended: then this process ends in a moment, too.
    let _ = stdout.write_all(message.as_bytes()).and_then(|()| stdout.flush());
}

// ---- In the parent --------------------------------------------------------------------------------------------------

/// A process that runs the test's own binary, killed on drop.
///
/// All methods take `&self`, and those that wait block their thread.
pub struct Worker {
    name: String,
    process: Mutex<Process>,
    stdin: Mutex<ChildStdin>,
    lines: Mutex<Receiver<String>>,
    ended: Mutex<Receiver<Infallible>>,
    log: Arc<Mutex<String>>,
}

impl Worker {
    /// Runs `test` (its whole name, as libtest prints it: `room::a_test`) in a new process, in which [`role`] returns
    /// `role`, with these further environment variables. The test runs there even if it is ignored.
    ///
    /// # Panics
    ///
    /// If this binary cannot be run again. If there is no test of this name, the worker ends without a line.
    #[must_use]
    pub fn spawn(test: &str, role: &str, envs: &[(&str, &str)]) -> Self {
        let spawned = Self::try_spawn(test, role, envs);
        spawned.unwrap_or_else(|error| panic!("no worker {role} for {test}: {error}"))
    }

    /// As [`Worker::spawn`], but the worker's clocks are `seconds` ahead: the clock of `Instant` and the one that
    /// continues while the machine sleeps, but not the wall clock. The worker runs in a Linux time namespace, which
    /// only root may create. Returns `None` if that is refused, or if `unshare` is missing.
    ///
    /// # Panics
    ///
    /// As [`Worker::spawn`].
    #[must_use]
    pub fn spawn_ahead(test: &str, role: &str, envs: &[(&str, &str)], seconds: i64) -> Option<Self> {
        let by = seconds.to_string();
        let unshare = ["unshare", "--time", "--monotonic", &by, "--boottime", &by, "--"];
        let mut attempt = Command::new("unshare");
        attempt.args(&unshare[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        if !attempt.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let spawned = Self::run(&unshare, test, role, envs);
        Some(spawned.unwrap_or_else(|error| panic!("no worker {role} for {test}: {error}")))
    }

    /// As [`Worker::spawn`], but the worker runs as another user, without any privileges. Only root may start one:
    /// returns `None` if that is refused, or if `setpriv` is missing. Every user must be able to read the program.
    ///
    /// # Panics
    ///
    /// As [`Worker::spawn`].
    #[must_use]
    pub fn spawn_as(test: &str, role: &str, envs: &[(&str, &str)], user: u32) -> Option<Self> {
        let id = user.to_string();
        let setpriv = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"];
        let mut attempt = Command::new("setpriv");
        attempt.args(&setpriv[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        if !attempt.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let spawned = Self::run(&setpriv, test, role, envs);
        Some(spawned.unwrap_or_else(|error| panic!("no worker {role} for {test}: {error}")))
    }

    fn try_spawn(test: &str, role: &str, envs: &[(&str, &str)]) -> io::Result<Self> {
        Self::run(&[], test, role, envs)
    }

    /// By a program, if any, that becomes this one.
    fn run(by: &[&str], test: &str, role: &str, envs: &[(&str, &str)]) -> io::Result<Self> {
        let (output, input) = io::pipe()?;
        let mut command = match by.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(env::current_exe()?);
                command
            }
            None => Command::new(env::current_exe()?),
        };
        command.args(["--exact", test, "--nocapture", "--include-ignored"]);
        command.env(ROLE, role).envs(envs.iter().copied());
        command.stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input);
        let mut process = Process::spawn(command, None)?;
        let stdin = process.take_stdin().ok_or(ErrorKind::BrokenPipe)?;

        let (sender, lines) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        thread::Builder::new().spawn(move || sort(output, &sender, &kept))?;
        let (ends, ended) = mpsc::channel();
        let pid = process.rustix_pid();
        thread::Builder::new().spawn(move || await_end(pid, ends))?;
        Ok(Self {
            name: format!("worker {role} of {test}"),
            process: Mutex::new(process),
            stdin: Mutex::new(stdin),
            lines: Mutex::new(lines),
            ended: Mutex::new(ended),
            log,
        })
    }

    /// A line for the worker, which gets it from [`read_line`].
    ///
    /// # Errors
    ///
    /// If the worker has ended: [`ErrorKind::BrokenPipe`].
    pub fn send_line(&self, line: &str) -> io::Result<()> {
        lock(&self.stdin).write_all(format!("{line}\n").as_bytes())
    }

    /// The next line that the worker gave to [`send_line`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if none arrives in time, [`ErrorKind::UnexpectedEof`] if none can arrive because the
    /// worker has ended; both with its log.
    pub fn read_line(&self, timeout: Duration) -> io::Result<String> {
        lock(&self.lines).recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => self.fails(ErrorKind::TimedOut, "sends no line", timeout),
            RecvTimeoutError::Disconnected => self.fails(ErrorKind::UnexpectedEof, "has ended", timeout),
        })
    }

    /// Waits until the worker ends. The status is a success if the test in it has passed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`], with its log, if it still runs then or is stopped.
    pub fn wait(&self, timeout: Duration) -> io::Result<ExitStatus> {
        let runs = || self.fails(ErrorKind::TimedOut, "does not end", timeout);
        if lock(&self.ended).recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            return Err(runs());
        }
        let mut process = lock(&self.process);
        // It has ended: this reaps it.
        process.kill();
        process.exited().ok_or_else(runs)
    }

    /// SIGKILL, as a crash; returns once the process is gone. What it sent before can still be read.
    pub fn kill(&self) {
        lock(&self.process).kill();
    }

    /// Stops the process with SIGSTOP; its connections stay open. Returns once it has stopped.
    ///
    /// # Panics
    ///
    /// On a worker that has ended.
    pub fn stop(&self) {
        lock(&self.process).pause();
    }

    /// SIGCONT: undoes [`Worker::stop`].
    ///
    /// # Panics
    ///
    /// On a worker that has ended.
    pub fn resume(&self) {
        let mut process = lock(&self.process);
        assert!(process.exited().is_none(), "the {} to resume has ended", self.name);
        process.resume();
    }

    /// What it has printed so far, to standard output and to standard error, beside the lines for
    /// [`Worker::read_line`].
    #[must_use]
    pub fn log(&self) -> String {
        lock(&self.log).clone()
    }

    fn fails(&self, kind: ErrorKind, what: &str, timeout: Duration) -> io::Error {
        let Self { name, .. } = self;
        io::Error::new(kind, format!("the {name} {what} (limit {timeout:?}); its log:\n{}", self.log()))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Tells the worker's lines from its log, until it has closed its output.
fn sort(output: PipeReader, lines: &Sender<String>, log: &Mutex<String>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&bytes);
        match text.strip_prefix(PREFIX) {
            // The parent no longer listens: the pipe is emptied all the same, or the worker would have to wait.
            Some(line) => drop(lines.send(line.trim_end_matches('\n').to_owned())),
            None => lock(log).push_str(&text),
        }
        bytes.clear();
    }
}

/// Drops `ends` when the process has ended; reaping it is left to its owner.
fn await_end(pid: Pid, ends: Sender<Infallible>) {
    let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    while ended().is_err_and(|error| error == Errno::INTR) {}
    drop(ends);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
