//! Commands that leave the process group that `lock run` made for them.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use larder_testkit::{Server, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getppid, setpgid};

use crate::short;
use crate::support::{LONG, Running, is_alive, number_in};

const FILE: &str = "LEAVES_ITS_GROUP";

/// The command itself: moves to the group of larder, as programs do that make groups of their own. Does nothing in a
/// run of all tests.
#[test]
fn the_command_that_leaves_its_group() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let this = Pid::from_raw(0);
    setpgid(this, getpgid(Some(getppid())).unwrap()).unwrap();
    assert_ne!(getpgid(None).unwrap(), Pid::this());
    writeln!(File::create(path).unwrap(), "{}", std::process::id()).unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

fn leaving(mut larder: Command, file: &std::path::Path) -> Command {
    let this = std::env::current_exe().unwrap();
    larder.arg(this).args(["--exact", "--nocapture", "groups::the_command_that_leaves_its_group"]);
    larder.env(FILE, file);
    larder
}

#[test]
fn a_command_that_changed_its_group_is_dead_before_its_lock_expires() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let server = Server::builder().tcp().start();
    let running = Running::start(leaving(short(&server.url(), "job", &[]), &file), [""; 0]);
    let pid = number_in(&file);
    // No renewal succeeds after this, so the lease ends 6 s after it at the latest.
    let until = Instant::now() + Duration::from_secs(6);
    server.pause();
    while is_alive(pid) {
        assert!(Instant::now() < until, "the command has outlived its lock");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = running.ended();
    server.resume();
    assert_eq!(ran.code, 70, "{ran:?}");

    // A signal that larder is sent reaches it too.
    fs::remove_file(&file).unwrap();
    let running = Running::start(leaving(short(&server.url(), "other", &[]), &file), [""; 0]);
    number_in(&file);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ended().code, 143);
}

#[test]
fn what_a_command_starts_in_a_session_of_its_own_lives_on_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let server = Server::builder().tcp().start();
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & echo ready; wait", file.display());
    let mut running = Running::start(short(&server.url(), "job", &["sh", "-c", &script]), [""; 0]);
    running.until_line("ready");
    let pid = number_in(&file);
    running.signal(Signal::SIGTERM);
    eventually("the command to end", LONG, || running.0.try_wait().unwrap());
    assert!(is_alive(pid));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the session to end", LONG, || (!is_alive(pid)).then_some(()));
}
