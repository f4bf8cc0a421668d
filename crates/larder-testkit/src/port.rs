//! Free ports on 127.0.0.1.
//!
//! The kernel's own choice (bind to port 0) comes from the range of outgoing connections. A server that is killed and
//! restarted there can find its port taken by a client, and a client that keeps reconnecting to such a port while it is
//! free can even connect to itself. So ports are drawn below that range. Each stays reserved until it is dropped, even
//! while its server is down: by a lock on a file that every test process of this user respects. If a program that does
//! not know these files takes the port meanwhile, the server fails to start, and another port is drawn.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::getuid;

/// A Cluster's bus takes the port 10000 above: no port is another's bus, and all lie below Linux's 32768.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;
const BUS: u16 = 10_000;

/// A free port of 127.0.0.1, and the Cluster bus port that belongs to it. No other `Port` of this user's processes has
/// the same number until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The lock on this file ends when the file is closed, also when the process is killed. The file stays: if it were
    /// deleted, a process that had just opened it would lock a file that no other process sees.
    _reserved: File,
}

impl Port {
    /// Reserves a random port on which nothing listens.
    ///
    /// # Panics
    ///
    /// If none is free, or the temporary folder cannot be written to.
    #[must_use]
    pub fn pick() -> Self {
        let folder = folder();
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        for attempt in 0..10_000_u32 {
            // A new RandomState is the random source that std has.
            let random = RandomState::new().hash_one(attempt) % u64::from(COUNT);
            let number = FIRST + u16::try_from(random).expect("less than COUNT");
            let reserved = reserve(&folder, number).expect("a file of the temporary folder can be locked");
            // The lock comes first: while this looks, no other test's server can start there.
            if let Some(reserved) = reserved
                && is_free(number)
                && is_free(number + BUS)
            {
                return Self { number, _reserved: reserved };
            }
        }
        panic!("no free port on 127.0.0.1 between {FIRST} and {}", FIRST + COUNT);
    }

    /// Returns its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

/// Another user's files cannot be opened, so each user has a folder.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("larder-ports-{}", getuid().as_raw()))
}

/// Locks the file of this port; `None` if it is locked, by this process or another.
fn reserve(folder: &Path, number: u16) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(number.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_port_is_reserved_until_it_is_dropped() {
        let port = Port::pick();
        let number = port.number();
        assert!(reserve(&folder(), number).unwrap().is_none());
        drop(port);
        // A child that another test starts at this moment holds a copy of the descriptor until its exec.
        while reserve(&folder(), number).unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    /// The child is this test program, and draws 300 ports while this process holds some.
    #[test]
    fn two_processes_never_draw_the_same_port() {
        let ours: Vec<Port> = (0..300).map(|_| Port::pick()).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "port::tests::draws_three_hundred", "--ignored", "--nocapture"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let theirs: Vec<u16> =
            text.lines().filter_map(|line| line.strip_prefix("drew ")?.parse().ok()).collect();
        assert_eq!(theirs.len(), 300);
        let twice: Vec<u16> =
            ours.iter().map(Port::number).filter(|number| theirs.contains(number)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    #[ignore = "a part of two_processes_never_draw_the_same_port"]
    fn draws_three_hundred() {
        println!();
        let ports: Vec<Port> = (0..300).map(|_| Port::pick()).collect();
        for port in &ports {
            println!("drew {}", port.number());
        }
    }
}
