//! Which server the tests run on.
//!
//! In this order: `LARDER_TEST_SERVER`, `valkey-server` or `redis-server` on the PATH, and Debian's redis-server, which
//! is installed if the tests run as root on a machine with apt-get. Tests are never skipped, because a green run
//! without a server would be misleading: without a server, the error says what to type.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const LOCK: &str = "/run/lock/larder-testkit";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Why no server was found, and what to type to change that.
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
/// `redis-server`, else Debian's package, which is installed if that is possible (root, apt-get). The result is kept
/// for the life of the process.
///
/// # Errors
///
/// [`NoServer`], with the line to type, if there is no server and none can be installed.
pub fn resolve() -> Result<PathBuf, NoServer> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    // Held during the installation, so that the tests of one process do not all call apt-get.
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*found {
        return Ok(path.clone());
    }
    let asked = env::var_os("LARDER_TEST_SERVER");
    let folders = env::var_os("PATH").unwrap_or_default();
    let path = find(asked, &folders, is_root, install)?;
    Ok(found.insert(path).clone())
}

/// `asked` is the value of LARDER_TEST_SERVER, `folders` the PATH.
fn find(
    asked: Option<OsString>,
    folders: &OsStr,
    is_root: impl FnOnce() -> bool,
    install: impl FnOnce() -> Result<(), NoServer>,
) -> Result<PathBuf, NoServer> {
    if let Some(asked) = asked.filter(|value| !value.is_empty()) {
        let path = PathBuf::from(asked);
        let found = if path.components().count() > 1 {
            is_program(&path).then(|| path.clone())
        } else {
            on_path(&path, folders)
        };
        // Servers are started in their own folder, where a relative path would not work.
        return found.and_then(|path| std::path::absolute(path).ok()).ok_or_else(|| {
            NoServer(format!("LARDER_TEST_SERVER is {}, which is no program that can be run", path.display()))
        });
    }
    if let Some(path) = installed(folders) {
        return Ok(path);
    }
    if on_path(Path::new("apt-get"), folders).is_none() {
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
    installed(folders)
        .ok_or_else(|| NoServer("apt-get installed redis-server, yet it is not on the PATH".to_owned()))
}

fn installed(folders: &OsStr) -> Option<PathBuf> {
    ["valkey-server", "redis-server"].iter().find_map(|name| on_path(Path::new(name), folders))
}

fn on_path(name: &Path, folders: &OsStr) -> Option<PathBuf> {
    env::split_paths(folders).map(|folder| folder.join(name)).find(|path| is_program(path))
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
    // Another test process may be installing at this moment. apt's own lock, which other programs may hold, does not
    // cover everything: an install next to an update finds "the package cache file is corrupted".
    let output = Command::new("flock")
        .args([LOCK, "apt-get", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // With policy-rc.d, which keeps the package's scripts from starting a system service.
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

/// Debian starts a service as soon as it is installed, unless /usr/sbin/policy-rc.d refuses. An existing policy belongs
/// to the machine's owner, and stays.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn deny() -> Self {
        Self { ours: write_policy(Path::new(POLICY)) }
    }
}

/// Writes a policy that refuses, unless there is one; returns whether it was written. A shell writes it, as `exec`
/// refuses a file that is open for writing: a child that another thread starts meanwhile would have a copy of our
/// descriptor. `set -C` lets the shell create the file only.
fn write_policy(path: &Path) -> bool {
    let program = "set -C; umask 022; printf '#!/bin/sh\\nexit 101\\n' >\"$1\" || exit 1; chmod 755 \"$1\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", program, "sh"]).arg(path).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    /// A machine with two folders on its PATH.
    struct Machine {
        root: tempfile::TempDir,
        path: OsString,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let folders = ["first", "second"].map(|name| root.path().join(name));
            folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
            Self { path: env::join_paths(folders).unwrap(), root }
        }

        fn with(self, program: &str) -> Self {
            self.add(program, 0o755);
            self
        }

        fn add(&self, program: &str, mode: u32) {
            let path = self.root.path().join(program);
            fs::write(&path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }

        /// The server that is found without any installation, below the machine's root.
        fn finds(&self, asked: &str) -> PathBuf {
            let asked = (asked != "unset").then(|| asked.into());
            let found = find(asked, &self.path, || false, || panic!("it installs")).unwrap();
            found.strip_prefix(self.root.path()).unwrap().to_owned()
        }

        fn refuses(&self, asked: Option<OsString>) -> String {
            find(asked, &self.path, || false, || panic!("it installs")).unwrap_err().to_string()
        }
    }

    #[test]
    fn what_was_asked_for_goes_before_valkey_and_valkey_before_redis() {
        let machine = Machine::new().with("first/redis-server");
        assert_eq!(machine.finds("unset"), Path::new("first/redis-server"));
        let machine = machine.with("second/valkey-server");
        assert_eq!(machine.finds("unset"), Path::new("second/valkey-server"));
        let machine = machine.with("second/keydb").with("elsewhere");
        assert_eq!(machine.finds("keydb"), Path::new("second/keydb"));
        let elsewhere = machine.root.path().join("elsewhere");
        assert_eq!(machine.finds(elsewhere.to_str().unwrap()), Path::new("elsewhere"));
        assert_eq!(machine.finds(""), Path::new("second/valkey-server"), "empty is as good as unset");
    }

    #[test]
    fn the_first_folder_on_the_path_wins_and_what_cannot_be_run_does_not_count() {
        let machine = Machine::new().with("first/redis-server").with("second/redis-server");
        machine.add("first/valkey-server", 0o644);
        fs::create_dir(machine.root.path().join("second/valkey-server")).unwrap();
        assert_eq!(machine.finds("unset"), Path::new("first/redis-server"));
    }

    #[test]
    fn a_server_that_was_asked_for_and_is_not_there_is_never_replaced_by_another() {
        let machine = Machine::new().with("first/redis-server");
        machine.add("plain", 0o644);
        for asked in ["no-such-server".into(), machine.root.path().join("plain").into_os_string()] {
            let said = machine.refuses(Some(asked.clone()));
            let expected = format!("LARDER_TEST_SERVER is {}, which is no program", asked.display());
            assert!(said.starts_with(&expected), "{said}");
        }
    }

    #[test]
    fn a_relative_path_is_found_from_any_folder() {
        // The test's own program, relative to the folder in which the test runs.
        let here = env::current_dir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let program = env::current_exe().unwrap();
        let relative = up.join(program.strip_prefix("/").unwrap());
        let found = find(Some(relative.into()), OsStr::new(""), || false, || panic!("it installs")).unwrap();
        assert!(found.is_absolute() && found.canonicalize().unwrap() == program.canonicalize().unwrap());
    }

    #[test]
    fn where_nothing_can_be_installed_the_line_to_type_is_said() {
        let machine = Machine::new();
        let said = machine.refuses(None);
        assert!(said.contains("LARDER_TEST_SERVER=/path/to/redis-server"), "{said}");
        assert!(!said.contains("apt-get"), "{said}");

        let said = machine.with("first/apt-get").refuses(None);
        let line = "`sudo apt-get update && sudo apt-get install -y --no-install-recommends redis-server`";
        assert!(said.contains(line), "{said}");
    }

    #[test]
    fn a_policy_is_written_unless_the_machine_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy");
        assert!(write_policy(&policy));
        assert_eq!(Command::new(&policy).status().unwrap().code(), Some(101));
        fs::write(&policy, "the owner's").unwrap();
        assert!(!write_policy(&policy));
        assert_eq!(fs::read_to_string(&policy).unwrap(), "the owner's");
    }

    #[test]
    fn root_with_apt_get_installs_one_and_finds_it() {
        let machine = Machine::new().with("first/apt-get");
        let install = || {
            machine.add("second/redis-server", 0o755);
            Ok(())
        };
        let found = find(None, &machine.path, || true, install).unwrap();
        assert_eq!(found, machine.root.path().join("second/redis-server"));
    }

    #[test]
    fn an_installation_that_fails_or_brings_nothing_is_said() {
        let machine = Machine::new().with("first/apt-get");
        let failed = find(None, &machine.path, || true, || Err(NoServer::new("no network".to_owned())));
        assert_eq!(failed.unwrap_err().to_string(), "no network");
        let nothing = find(None, &machine.path, || true, || Ok(())).unwrap_err().to_string();
        assert!(nothing.contains("not on the PATH"), "{nothing}");
    }
}
