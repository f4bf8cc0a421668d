//! One server process.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::port::Port;
use crate::process::Process;
use crate::tls::Certificates;
use crate::{ServerBuilder, Version};

pub(crate) const SOCKET: &str = "redis.sock";
pub(crate) const CONFIG: &str = "redis.conf";
const LOG: &str = "server.log";

/// A running server of the test, killed on drop.
///
/// All methods take `&self`, so that a test can share it with the tasks that it drives.
pub struct Server {
    // Fields are dropped in this order: the process ends before its folder is removed.
    pub(crate) process: Mutex<Option<Process>>,
    pub(crate) admin: Admin,
    pub(crate) address: Mutex<Address>,
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) socket: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) version: Version,
    pub(crate) builder: ServerBuilder,
    pub(crate) folder: TempDir,
}

/// How clients reach it.
#[derive(Debug)]
pub(crate) enum Address {
    Unix,
    Tcp(Port),
    Tls(Port),
}

/// Why a server does not answer.
#[derive(Debug)]
pub(crate) enum Failed {
    PortTaken,
    Died,
    Silent,
}

impl Server {
    /// A server on a unix socket in a temporary folder, without persistence.
    ///
    /// # Panics
    ///
    /// As [`ServerBuilder::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Configures another kind of server: TCP, TLS, a password, persistence, other settings.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The URL for clients: `redis+unix:///folder/redis.sock`, `redis://127.0.0.1:port` or `rediss://127.0.0.1:port`;
    /// with a password `redis+unix://:password@/folder/redis.sock`, `redis://:password@127.0.0.1:port`,
    /// percent-encoded.
    #[must_use]
    pub fn url(&self) -> String {
        let user = self.password().map(userinfo).unwrap_or_default();
        match &*self.lock_address() {
            Address::Unix => format!("redis+unix://{user}{}", self.socket.display()),
            Address::Tcp(port) => format!("redis://{user}{}", port.addr()),
            Address::Tls(port) => format!("rediss://{user}{}", port.addr()),
        }
    }

    /// Its TCP address; `None` for a server on a unix socket.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match &*self.lock_address() {
            Address::Unix => None,
            Address::Tcp(port) | Address::Tls(port) => Some(port.addr()),
        }
    }

    /// Its unix socket; `None` for a server that clients reach over TCP.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        matches!(*self.lock_address(), Address::Unix).then_some(self.socket.as_path())
    }

    /// The authority that signed its certificate, as PEM.
    ///
    /// # Panics
    ///
    /// On a server without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.certificates.as_ref().expect("a server started with .tls()").ca
    }

    /// Its folder: configuration, log, data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder().join(LOG))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Product and version of the running program.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sends a command over the testkit's own connection, which authenticates itself and is reopened after it broke.
    ///
    /// # Panics
    ///
    /// If the server refuses the command, or does not answer within ten seconds.
    #[track_caller]
    pub fn command(&self, command: &[&str]) -> Value {
        self.query(command)
    }

    /// As [`Server::command`], with the reply converted: `server.query::<Vec<String>>(&["KEYS", "*"])`.
    ///
    /// # Panics
    ///
    /// As [`Server::command`], and if the reply has another type.
    #[track_caller]
    pub fn query<T: FromRedisValue>(&self, command: &[&str]) -> T {
        match self.try_query(command) {
            Ok(reply) => reply,
            Err(error) => panic!("{}: {error}", command.join(" ")),
        }
    }

    /// As [`Server::query`], but returns an error if the server refuses.
    ///
    /// # Errors
    ///
    /// The error of the server, of the connection or of the conversion of the reply.
    pub fn try_query<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        self.admin.query(command)
    }

    /// The fields of a section of INFO: `server.info("memory")["used_memory"]`.
    ///
    /// # Panics
    ///
    /// As [`Server::command`].
    #[track_caller]
    pub fn info(&self, section: &str) -> BTreeMap<String, String> {
        fields(&self.query::<String>(&["INFO", section]))
    }

    /// How often the command has run since the start or [`Server::reset_stats`], for any client. Calls by scripts and
    /// by the testkit count too. `calls("client")` sums all its subcommands, `calls("client|list")` is one of them.
    ///
    /// # Panics
    ///
    /// As [`Server::command`], and for a subcommand on a server before 7.0, which does not count subcommands
    /// separately.
    #[must_use]
    #[track_caller]
    pub fn calls(&self, command: &str) -> u64 {
        let subcommand = command.contains('|');
        assert!(
            !subcommand || self.version.at_least(7, 0),
            "{} does not count {command} apart",
            self.version
        );
        let wanted = format!("cmdstat_{}", command.to_ascii_lowercase());
        let matches = |name: &str| name.split_once('|').map_or(name, |(container, _)| container) == wanted;
        self.info("commandstats")
            .iter()
            .filter(|(name, _)| **name == wanted || matches(name))
            .filter_map(|(_, stats)| stats.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Sets the counts of [`Server::calls`] to zero.
    ///
    /// # Panics
    ///
    /// As [`Server::command`].
    #[track_caller]
    pub fn reset_stats(&self) {
        self.command(&["CONFIG", "RESETSTAT"]);
    }

    /// Whether its process runs (a paused one does).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock_process().as_mut().is_some_and(|process| process.exited().is_none())
    }

    /// Sends SIGKILL, as a crash; returns once the process is gone. Its port stays reserved for [`Server::restart`].
    pub fn kill(&self) {
        self.admin.close();
        *self.lock_process() = None;
    }

    /// Starts it again with the same folder, port and settings, after killing it if it runs; returns once it answers.
    ///
    /// # Panics
    ///
    /// If it does not answer within a minute, which reading its data may take on a busy machine; with its log.
    pub fn restart(&self) {
        self.kill();
        self.spawn();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.poll_ready(deadline) {
                Ok(()) => return,
                // A connection of the killed server may linger for a moment.
                Err(Failed::PortTaken) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                    self.spawn();
                }
                Err(failed) => self.give_up(&failed),
            }
        }
    }

    /// Sends SIGSTOP, and returns once the process is stopped. Its connections stay open.
    ///
    /// # Panics
    ///
    /// On a server that does not run.
    pub fn pause(&self) {
        self.lock_process().as_mut().expect("a running server").pause();
    }

    /// Sends SIGCONT, which undoes [`Server::pause`].
    ///
    /// # Panics
    ///
    /// On a server that does not run.
    pub fn resume(&self) {
        self.lock_process().as_ref().expect("a running server").resume();
    }
}

impl Server {
    /// Starts the process with the configuration in its folder, which a CONFIG REWRITE may have changed.
    pub(crate) fn spawn(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.folder().join(LOG));
        let log = log.expect("the server's folder can be written to");
        let mut command = Command::new(&self.program);
        command.arg(CONFIG).current_dir(self.folder());
        if self.is_sentinel() {
            command.arg("--sentinel");
        }
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let process = Process::spawn(command, Some(self.folder()))
            .unwrap_or_else(|error| panic!("{} does not run: {error}", self.program.display()));
        let mut slot = self.lock_process();
        // The old process ends first, if there is one.
        *slot = None;
        *slot = Some(process);
    }

    /// Waits until the process that was started answers.
    pub(crate) fn poll_ready(&self, deadline: Instant) -> Result<(), Failed> {
        while Instant::now() < deadline {
            if !self.is_running() {
                let log = self.log();
                let last = log.rsplit("oO0OoO0OoO0Oo").next().unwrap_or(&log);
                return Err(if last.contains("ddress already in use") {
                    Failed::PortTaken
                } else {
                    Failed::Died
                });
            }
            // Refused while the data is being loaded.
            if self.try_query::<String>(&["PING"]).is_ok() && self.is_ours() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(Failed::Silent)
    }

    fn is_ours(&self) -> bool {
        let pid = self.lock_process().as_ref().map(|process| process.pid().to_string());
        self.try_query::<String>(&["INFO", "server"])
            .is_ok_and(|info| fields(&info).get("process_id") == pid.as_ref())
    }

    pub(crate) fn give_up(&self, failed: &Failed) -> ! {
        let log = self.log();
        let why = match failed {
            Failed::Died if self.certificates.is_some() && log.contains("'tls-") => "was built without TLS",
            Failed::Died => "died",
            Failed::PortTaken => "did not get its port",
            Failed::Silent => "did not answer in time",
        };
        panic!("{} ({}) {why}; its log:\n{log}", self.program.display(), self.version);
    }

    /// The port of its address, for callers whose servers always listen on TCP.
    pub(crate) fn port(&self) -> u16 {
        self.addr().expect("a server on TCP").port()
    }

    pub(crate) fn lock_address(&self) -> MutexGuard<'_, Address> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// The lines `name:value` of INFO and CLUSTER INFO.
pub(crate) fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect()
}

/// `:password@`, with everything but RFC 3986's unreserved characters percent-encoded.
pub(crate) fn userinfo(password: &str) -> String {
    let encoded = password.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    format!(":{}@", encoded.collect::<String>())
}
