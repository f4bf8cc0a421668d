//! Which server the tests run on.
//!
//! In this order: `LARDER_TEST_SERVER`, `valkey-server` or `redis-server` on the PATH, and, as root on a machine with
//! apt-get, Debian's redis-server, which is then installed. A test run without a server would be a green lie, so there
//! is no skipping: else the answer is the line to type.

use std::env;
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const LOCK: &str = "/run/lock/larder-testkit";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Why no server could be found, and what to type to change that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoServer(String);

impl NoServer {
    pub(crate) fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoServer {}

/// The server program that tests run: `LARDER_TEST_SERVER` (a path, or a name on the PATH), else `valkey-server`, else
/// `redis-server`, else Debian's package, which is installed when that is possible (root, apt-get). The answer is kept
/// for the life of the process.
///
/// # Errors
///
/// [`NoServer`] with the line to type where there is no server and none can be installed.
pub fn resolve() -> Result<PathBuf, NoServer> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    // Held while installing, so that the tests of one process do not all call apt-get.
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*found {
        return Ok(path.clone());
    }
    let path = find()?;
    Ok(found.insert(path).clone())
}

fn find() -> Result<PathBuf, NoServer> {
    if let Some(asked) = env::var_os("LARDER_TEST_SERVER").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(asked);
        let found = if path.components().count() > 1 {
            is_program(&path).then(|| path.clone())
        } else {
            on_path(&path)
        };
        // Servers are started in their own folder, where a relative path would lead nowhere.
        return found.and_then(|path| std::path::absolute(path).ok()).ok_or_else(|| {
            NoServer(format!("LARDER_TEST_SERVER is {}, which is no program that can be run", path.display()))
        });
    }
    if let Some(path) = installed() {
        return Ok(path);
    }
    if on_path(Path::new("apt-get")).is_none() {
        return Err(NoServer(
            "no valkey-server or redis-server on the PATH: install one (macOS: `brew install valkey`), or set \
             LARDER_TEST_SERVER=/path/to/redis-server"
                .to_owned(),
        ));
    }
    if !is_root() {
        return Err(NoServer(
            "no valkey-server or redis-server on the PATH: type `sudo apt-get update && sudo apt-get install -y \
             --no-install-recommends redis-server`, or set LARDER_TEST_SERVER=/path/to/redis-server"
                .to_owned(),
        ));
    }
    install()?;
    installed()
        .ok_or_else(|| NoServer("apt-get installed redis-server, yet it is not on the PATH".to_owned()))
}

fn installed() -> Option<PathBuf> {
    ["valkey-server", "redis-server"].iter().find_map(|name| on_path(Path::new(name)))
}

fn on_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install() -> Result<(), NoServer> {
    eprintln!(
        "larder-testkit: no valkey-server or redis-server on the PATH; installing Debian's redis-server"
    );
    let _policy = ServicePolicy::deny();
    apt_get(&["update", "-qq"])?;
    apt_get(&["install", "-y", "-qq", "--no-install-recommends", "redis-server"])
}

fn apt_get(arguments: &[&str]) -> Result<(), NoServer> {
    eprintln!("larder-testkit: apt-get {}", arguments.join(" "));
    // Another test process may be installing at this moment. apt's own lock, which others may hold, does not cover all:
    // an install beside an update finds "the package cache file is corrupted".
    let output = Command::new("flock")
        .args([LOCK, "apt-get", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // With policy-rc.d, what keeps the package's scripts from starting a system service.
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| NoServer(format!("apt-get does not run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(NoServer(format!(
        "`apt-get {}` failed: {}\nInstall valkey-server or redis-server, or set LARDER_TEST_SERVER=/path/to/redis-server",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Debian starts a service as soon as it is installed, unless /usr/sbin/policy-rc.d refuses. An existing policy is the
/// owner's and stays.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn deny() -> Self {
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"));
        Self { ours: written.is_ok() }
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
