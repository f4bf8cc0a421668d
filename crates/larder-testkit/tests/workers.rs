//! Worker processes, under plain `cargo test`.
#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use larder_testkit::history::{Event, Kind, Recorder, now, read_files, read_your_writes};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Server, eventually};

const LIMIT: Duration = Duration::from_secs(20);

/// Sends back what it is sent, until `end`.
fn echo() {
    while let Some(line) = worker::read_line().filter(|line| line != "end") {
        worker::send_line(&format!("echo {line}"));
    }
}

#[test]
fn lines_pass_both_ways_beside_what_else_is_printed() {
    if let Some(role) = worker::role() {
        print!("{role} at {}, without a line break", env::var("LEVEL").unwrap());
        eprintln!("and an error");
        return echo();
    }
    let worker = Worker::spawn(
        "lines_pass_both_ways_beside_what_else_is_printed",
        "parrot",
        &[("LEVEL", &3.to_string())],
    );
    for line in ["one", "", "@@ three", "vier: äöü"] {
        worker.send_line(line).unwrap();
        assert_eq!(worker.read_line(LIMIT).unwrap(), format!("echo {line}"));
    }
    worker.send_line("end").unwrap();
    assert!(worker.wait(LIMIT).unwrap().success());
    assert!(worker.wait(LIMIT).unwrap().success(), "as often as one likes");
    assert_eq!(worker.read_line(LIMIT).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(worker.send_line("late").is_err());
    let log = worker.log();
    assert!(log.contains("parrot at 3") && log.contains("and an error") && !log.contains("echo"), "{log}");
}

#[test]
fn a_stopped_worker_is_silent_until_it_resumes() {
    if worker::role().is_some() {
        return echo();
    }
    let worker = Worker::spawn("a_stopped_worker_is_silent_until_it_resumes", "echo", &[]);
    worker.send_line("ready?").unwrap();
    worker.read_line(LIMIT).unwrap();
    worker.stop();
    worker.send_line("anybody?").unwrap();
    let silence = worker.read_line(Duration::from_millis(200)).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::TimedOut, "{silence}");
    assert_eq!(worker.wait(Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);
    worker.resume();
    assert_eq!(worker.read_line(LIMIT).unwrap(), "echo anybody?");
}

#[test]
fn a_killed_worker_says_what_it_had_said() {
    if worker::role().is_some() {
        worker::send_line("before");
        return thread::park();
    }
    let worker = Worker::spawn("a_killed_worker_says_what_it_had_said", "victim", &[]);
    assert_eq!(worker.read_line(LIMIT).unwrap(), "before");
    // Stopped, it still dies.
    worker.stop();
    worker.kill();
    assert_eq!(worker.wait(LIMIT).unwrap().signal(), Some(9));
    assert_eq!(worker.read_line(LIMIT).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    worker.kill();
}

#[test]
fn a_failing_worker_shows_its_panic() {
    if worker::role().is_some() {
        env::var("NO_SUCH_VARIABLE").unwrap();
    }
    let worker = Worker::spawn("a_failing_worker_shows_its_panic", "clumsy", &[]);
    let ended = worker.read_line(LIMIT).unwrap_err().to_string();
    assert!(ended.contains("called `Result::unwrap()` on an `Err` value: NotPresent"), "{ended}");
    assert_eq!(worker.wait(LIMIT).unwrap().code(), Some(101));
}

#[test]
fn a_worker_for_a_test_that_does_not_exist_is_noticed() {
    let worker = Worker::spawn("there_is_no_such_test", "none", &[]);
    let ended = worker.read_line(LIMIT).unwrap_err().to_string();
    assert!(ended.contains("running 0 tests"), "{ended}");
}

fn runs(pid: &str) -> bool {
    // An orphan that was killed stays as a zombie where the container's first process reaps late, or never.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
    // The shell's own kill, as a minimal Debian has no program of that name.
    let alive = || {
        Command::new("/bin/sh").args(["-c", "kill -0 \"$1\"", "sh", pid]).output().unwrap().status.success()
    };
    !zombie && alive()
}

#[test]
fn workers_end_with_their_owner() {
    if let Some(role) = worker::role() {
        let pid = std::process::id();
        if role == "child" {
            worker::send_line(&pid.to_string());
            return thread::park();
        }
        let child = Worker::spawn("workers_end_with_their_owner", "child", &[]);
        worker::send_line(&format!("{pid} {}", child.read_line(LIMIT).unwrap()));
        return thread::park();
    }
    let parent = Worker::spawn("workers_end_with_their_owner", "parent", &[]);
    let line = parent.read_line(LIMIT).unwrap();
    let (parent_pid, child_pid) = line.split_once(' ').unwrap();
    assert!(runs(parent_pid) && runs(child_pid));
    drop(parent);
    assert!(!runs(parent_pid));
    // A killed parent drops nothing.
    eventually("the child is gone", LIMIT, || (!runs(child_pid)).then_some(()));
}

#[test]
fn what_workers_record_is_judged_together() {
    if let Some(role) = worker::role() {
        let process: u32 = role.parse().unwrap();
        let recorder = Recorder::create(Path::new(&env::var("HISTORY").unwrap()), process).unwrap();
        let client = redis::Client::open(env::var("SERVER").unwrap()).unwrap();
        let mut connection = client.get_connection().unwrap();
        for version in 1..=100_u64 {
            let start = now();
            redis::cmd("SET").arg(process).arg(version).exec(&mut connection).unwrap();
            let kind = Kind::Write(version);
            recorder.record(&Event { process, task: 0, key: process, start, end: now(), kind }).unwrap();
            for key in 0..3 {
                let start = now();
                let kind = Kind::Read(redis::cmd("GET").arg(key).query(&mut connection).unwrap());
                recorder.record(&Event { process, task: 0, key, start, end: now(), kind }).unwrap();
            }
        }
        worker::send_line("done");
        return thread::park();
    }
    let (server, folder) = (Server::builder().tcp().start(), tempfile::tempdir().unwrap());
    let (url, history) = (server.url(), folder.path().to_str().unwrap());
    let envs = [("SERVER", url.as_str()), ("HISTORY", history)];
    let spawn = |role| Worker::spawn("what_workers_record_is_judged_together", role, &envs);
    let workers = ["0", "1", "2"].map(spawn);
    for worker in &workers {
        assert_eq!(worker.read_line(LIMIT).unwrap(), "done");
        worker.kill();
    }
    let events = read_files(folder.path()).unwrap();
    let summary = read_your_writes(&events).unwrap();
    assert_eq!((summary.reads, summary.writes, summary.keys), (900, 300, 3));
    assert_eq!(summary.judged, 300);
    assert_eq!(summary.largest_staleness, Duration::ZERO);
}
