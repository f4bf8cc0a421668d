//! Free ports on 127.0.0.1.
//!
//! The kernel's own choice (bind to port 0) comes from the range of outgoing connections. A server that is killed and
//! restarted there can find its port taken by a client, and a client that keeps reconnecting to such a port while it is
//! free can even connect to itself. So ports are drawn below that range. Each stays reserved until it is dropped, even
//! while its server is down: by a lock on a file that every test process of this user respects. If a program that does
//! not know these files takes the port meanwhile, the server fails to start, and another port is drawn.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Uid, geteuid};

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
    /// If none is free, the temporary folder cannot be written to, or its folder `larder-ports-UID` belongs to another
    /// user or can be written to by one.
    #[must_use]
    pub fn pick() -> Self {
        let folder = folder();
        if let Err(problem) = make_private(&folder, geteuid()) {
            panic!("ports cannot be reserved in {}: {problem}", folder.display());
        }
        for attempt in 0..10_000_u32 {
            // A new RandomState is the random source that std has.
            let random = RandomState::new().hash_one(attempt) % u64::from(COUNT);
            let number = FIRST + u16::try_from(random).expect("less than COUNT");
            let reserved = reserve(&folder, number).unwrap_or_else(|error| {
                panic!("{} cannot be locked: {error}", folder.join(number.to_string()).display())
            });
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
    std::env::temp_dir().join(format!("larder-ports-{}", geteuid().as_raw()))
}

/// Makes the folder, or checks the one that is there. Its name can be guessed, so another user may have made it first,
/// or a link to a folder in which files of this user would be opened.
fn make_private(folder: &Path, owner: Uid) -> Result<(), String> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| error.to_string())?;
    let found = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    if !found.is_dir() {
        return Err("it is not a folder: remove it, or set TMPDIR".to_owned());
    }
    if found.uid() != owner.as_raw() {
        return Err(format!("it belongs to user {}: set TMPDIR to another folder", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("others may write to it (mode {:o}): chmod 700 it", found.mode() & 0o7777));
    }
    Ok(())
}

/// Locks the file of this port; `None` if it is locked, by this process or another.
fn reserve(folder: &Path, number: u16) -> io::Result<Option<File>> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_link)
        .open(folder.join(number.to_string()))?;
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
    use std::os::unix::fs::{PermissionsExt, symlink};
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

    /// The child is this test program. It draws often enough that it would meet a port of ours by chance, and neither
    /// process holds more descriptors than a test may have.
    #[test]
    fn two_processes_never_draw_the_same_port() {
        let ours: Vec<Port> = (0..60).map(|_| Port::pick()).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "port::tests::draws_ports", "--ignored", "--nocapture"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let theirs: Vec<u16> =
            text.lines().filter_map(|line| line.strip_prefix("drew ")?.parse().ok()).collect();
        assert_eq!(theirs.len(), 1500);
        let twice: Vec<u16> =
            ours.iter().map(Port::number).filter(|number| theirs.contains(number)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    #[ignore = "a part of two_processes_never_draw_the_same_port"]
    fn draws_ports() {
        println!();
        for _ in 0..25 {
            let ports: Vec<Port> = (0..60).map(|_| Port::pick()).collect();
            for port in &ports {
                println!("drew {}", port.number());
            }
        }
    }

    #[test]
    fn the_folder_is_made_for_this_user_alone_and_is_not_used_otherwise() {
        let temporary = tempfile::tempdir().unwrap();
        let (folder, me) = (temporary.path().join("ports"), geteuid());
        make_private(&folder, me).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
        make_private(&folder, me).unwrap();
        // Another user made it.
        let other = Uid::from_raw(me.as_raw() + 1);
        assert!(make_private(&folder, other).unwrap_err().contains("belongs to user"));
        // A link to a folder of this user, and a file.
        let link = temporary.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(make_private(&link, me).unwrap_err().contains("not a folder"));
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        make_private(&file, me).unwrap_err();
        // One that others may write to.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(make_private(&folder, me).unwrap_err().contains("others may write to it (mode 770)"));
    }

    #[test]
    fn a_ports_file_is_not_opened_through_a_link() {
        let temporary = tempfile::tempdir().unwrap();
        let target = temporary.path().join("target");
        symlink(&target, temporary.path().join("10000")).unwrap();
        reserve(temporary.path(), 10_000).unwrap_err();
        assert!(!target.exists());
    }

    /// The child is this test program, with a TMPDIR that is a file, in which not even root can make a folder.
    #[test]
    fn a_temporary_folder_that_cannot_be_written_to_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "port::tests::draws_ports", "--ignored", "--nocapture"]);
        let output = command.env("TMPDIR", file.path()).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let path = file.path().join("larder-ports-");
        let wanted = format!("ports cannot be reserved in {}", path.display());
        assert!(!output.status.success() && text.contains(&wanted), "{text}");
    }
}
