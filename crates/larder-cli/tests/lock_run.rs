//! `larder lock run`: its exit codes, signals and streams, and that a command is dead before another can hold the lock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]

#[path = "lock_run/faults.rs"]
mod faults;
#[path = "lock_run/groups.rs"]
mod groups;
mod support;
#[path = "lock_run/terminal.rs"]
mod terminal;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use larder::Larder;
use larder_testkit::{Server, eventually};
use nix::sys::signal::Signal;

use support::{LONG, Ran, Running, is_alive, larder, number_in, on, processes_with, run};

/// `lock run` with settings under which a lost lock ends a command soon: the lease is 6 s.
fn short(url: &str, lock: &str, command: &[&str]) -> Command {
    let mut larder = on(url);
    larder.args(["lock", "run", lock, "--ttl", "6s", "--grace", "0s", "--"]);
    larder.args(command);
    larder
}

fn sh(url: &str, script: &str) -> Ran {
    run(on(url), ["lock", "run", "job", "--", "sh", "-c", script])
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let server = Server::start();
    let url = server.url();
    for (script, code) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        assert_eq!(sh(&url, script).code, code, "{script}");
    }
    let missing = run(on(&url), ["lock", "run", "job", "--", "no-such-command"]);
    assert_eq!((missing.code, missing.out.as_str()), (127, ""));
    assert!(missing.err.contains("no-such-command"), "{missing:?}");
    assert_eq!(run(on(&url), ["lock", "run", "job", "--", "/"]).code, 126);
    assert_eq!(server.query::<u64>(&["EXISTS", "~lock.2:{/job}"]), 0);
}

#[test]
fn a_command_has_the_streams_and_the_environment_of_its_lock() {
    let server = Server::start();
    let script = "cat; printf '%s %s' \"$LARDER_LOCK\" \"$LARDER_FENCE\"; printf err >&2; exit 4";
    let mut running = Running::start(on(&server.url()), ["lock", "run", "job", "--", "sh", "-c", script]);
    running.write(b"in\x00put ");
    let ran = running.ended();
    let fence = ran.out.strip_prefix("in\0put job ").unwrap_or_else(|| panic!("{ran:?}"));
    assert!(fence.parse::<u64>().unwrap() > 0);
    assert_eq!((ran.code, ran.err.as_str()), (4, "err"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_is_75_or_what_was_asked_for() {
    let server = Server::start();
    let url = server.url();
    let holder = Larder::connect(&url).await.unwrap();
    let guard = holder.lock("job").acquire().await.unwrap();
    let attempt = |options: &[&str]| {
        let mut arguments = vec!["lock", "run", "job"];
        arguments.extend(options);
        arguments.extend(["--", "echo", "ran"]);
        run(on(&url), arguments)
    };
    let ran = attempt(&["--no-wait"]);
    assert_eq!((ran.code, ran.out.as_str()), (75, ""));
    let (begin, fence) = ("larder: job is held by ", format!(", fence {}, ", guard.fence()));
    assert!(ran.err.starts_with(begin) && ran.err.contains(&fence), "{ran:?}");
    assert_eq!(attempt(&["--wait", "100ms", "--conflict-exit", "3"]).code, 3);
    assert_eq!(attempt(&["--no-wait", "--quiet"]), Ran { code: 75, out: String::new(), err: String::new() });
    guard.release().await.unwrap();
    assert_eq!(attempt(&["--no-wait"]), Ran { code: 0, out: "ran\n".to_owned(), err: String::new() });
}

#[test]
fn a_mistake_is_64_and_a_server_that_is_away_is_69() {
    let away = run(on("redis://127.0.0.1:1"), ["lock", "run", "job", "--", "echo", "ran"]);
    assert_eq!((away.code, away.out.as_str()), (69, ""));
    assert!(
        away.err.contains("cannot connect to 127.0.0.1:1") && away.err.contains("LARDER_URL"),
        "{away:?}"
    );
    for arguments in [
        &["lock", "run", "job", "--ttl", "20s", "--", "true"][..],
        &["lock", "run", "job", "true"],
        &["lock", "run", "job", "--"],
        &["lock", "run", "--", "true"],
        &["lock", "run", "job", "--no-wait", "--wait", "1s", "--", "true"],
        &["lock", "run", "job", "--ttl", "soon", "--", "true"],
        &["lock", "run", "job", "--max-holders", "0", "--", "true"],
    ] {
        let ran = run(on("memory:"), arguments);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{arguments:?}: {ran:?}");
    }
    assert_eq!(run(larder(), ["lock", "run", "job", "--", "true"]).code, 64);
    let mut forbidden = on("memory:");
    forbidden.env("LARDER_READ_ONLY", "1");
    assert_eq!(run(forbidden, ["lock", "run", "job", "--", "true"]).code, 77);
}

#[test]
fn the_help_names_what_lock_run_cannot_prevent() {
    let help = run(larder(), ["lock", "run", "--help"]);
    assert_eq!(help.code, 0);
    for hole in ["lock break", "FLUSHALL", "SIGSTOP", "setsid", "SIGKILL", "setuid", "sudo", "LARDER_FENCE"] {
        assert!(help.out.contains(hole), "{hole}");
    }
}

#[test]
fn signals_reach_the_command_and_its_group() {
    let server = Server::start();
    for (signal, name) in [
        (Signal::SIGINT, "INT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        let mut running = Running::start(on(&server.url()), ["lock", "run", name, "--", "sh", "-c", &script]);
        running.until_line("ready");
        running.signal(signal);
        let ran = running.ended();
        assert_eq!((ran.code, ran.out.as_str()), (7, format!("got {name}\n").as_str()), "{ran:?}");
    }
    // Without a trap, the signal ends the command and what it started.
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    let script = format!("sleep 1000 & echo $! > {}; echo ready; wait", inner.display());
    let mut running = Running::start(on(&server.url()), ["lock", "run", "group", "--", "sh", "-c", &script]);
    running.until_line("ready");
    let pid = number_in(&inner);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ended().code, 143);
    eventually("the command's own child to end", LONG, || (!is_alive(pid)).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_during_the_wait_ends_larder_and_leaves_no_place_in_the_queue() {
    let server = Server::start();
    let holder = Larder::connect(&server.url()).await.unwrap();
    let guard = holder.lock("job").acquire().await.unwrap();
    let running = Running::start(on(&server.url()), ["lock", "run", "job", "--", "echo", "ran"]);
    let waiting = async || holder.lock("job").holder().await.unwrap().unwrap().waiting;
    while waiting().await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.signal(Signal::SIGTERM);
    let ran = running.ended();
    assert_eq!((ran.code, ran.out.as_str()), (143, ""));
    assert_eq!(waiting().await, 0);
    guard.release().await.unwrap();
}

#[test]
fn so_many_holders_run_at_the_same_time() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["lock", "run", "pool", "--max-holders", "2", "--no-wait", "--"];
    let start = || {
        let mut running =
            Running::start(on(&url), arguments.into_iter().chain(["sh", "-c", "echo ready; read line"]));
        running.until_line("ready");
        running
    };
    let (first, second) = (start(), start());
    let third = run(on(&url), arguments.into_iter().chain(["true"]));
    assert_eq!(third.code, 75, "{third:?}");
    assert!(third.err.contains("2 of 2 permits"), "{third:?}");
    // The end of the input ends `read`, and with it the shell.
    assert_eq!((first.ended().code, second.ended().code), (1, 1));
    let alone = run(on(&url), arguments.into_iter().chain(["sh", "-c", "echo \"fence:$LARDER_FENCE\""]));
    assert_eq!((alone.code, alone.out.as_str()), (0, "fence:\n"));
}

#[test]
fn fifty_runs_leave_no_key_and_no_process() {
    leave_nothing(50);
}

#[test]
#[ignore = "a minute: cargo test -p larder-cli --test lock_run -- --ignored a_thousand"]
fn a_thousand_runs_leave_no_key_and_no_process() {
    leave_nothing(1000);
}

fn leave_nothing(times: usize) {
    let server = Server::start();
    let name = format!("unique-{}", std::process::id());
    for _ in 0..times {
        // A busy machine may take long to answer.
        let ran =
            run(on(&server.url()), ["--timeout", "10s", "lock", "run", &name, "--ttl", "60s", "--", "true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(processes_with(&name), 0);
    let keys: Vec<String> = server.query(&["KEYS", "*"]);
    // The highest fence is remembered, so that fences grow also after a lock was free.
    let kept = format!("~lock.2:{{/{name}}}:fence");
    assert!(keys.iter().all(|key| *key == kept), "{keys:?}");
    assert!(keys.iter().all(|key| server.query::<i64>(&["PTTL", key]) > 0), "{keys:?}");
}

#[test]
fn a_command_is_dead_before_the_lock_of_a_silent_server_expires() {
    let server = Server::builder().tcp().start();
    // One that ends at SIGTERM, and one that does not.
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut soft =
        Running::start(short(&server.url(), "soft", &["sh", "-c", "echo ready; exec sleep 1000"]), [""; 0]);
    let mut hard = Running::start(short(&server.url(), "hard", &["sh", "-c", script]), [""; 0]);
    soft.until_line("ready");
    hard.until_line("ready");
    server.pause();
    let (soft, hard) = (soft.ended(), hard.ended());
    // The locks are on the server still: it had no time to expire them.
    server.resume();
    for ran in [soft, hard] {
        assert_eq!(ran.code, 70, "{ran:?}");
        assert!(ran.err.contains("ending the command") && ran.err.contains("could not be kept"), "{ran:?}");
    }
}

#[test]
fn a_command_is_dead_before_its_lock_expires_even_if_its_messages_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let server = Server::builder().tcp().start();
    // Fills the pipe of standard error, and then waits for a reader.
    let script = format!("echo $$ > {}; echo ready; exec yes >&2", file.display());
    let mut running = Running::start(short(&server.url(), "job", &["sh", "-c", &script]), [""; 0]);
    running.until_line("ready");
    let pid = number_in(&file);
    std::thread::sleep(Duration::from_millis(500));
    // No renewal succeeds after this, so the lease ends 6 s after it at the latest.
    let until = std::time::Instant::now() + Duration::from_secs(6);
    server.pause();
    while is_alive(pid) {
        assert!(std::time::Instant::now() < until, "the command has outlived its lock");
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = eventually("larder to end", LONG, || running.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(70));
    server.resume();
}

#[test]
fn the_group_of_a_command_has_the_grace_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cleaned");
    let server = Server::builder().tcp().start();
    // The command ends at SIGTERM at once, what it started 0.4 s later.
    let inner = format!(
        "trap 'sleep 0.4; echo done > {}; exit' TERM; echo ready; while :; do sleep 0.05; done",
        file.display()
    );
    let script = format!("sh -c \"{inner}\" & exec sleep 1000");
    let mut running = Running::start(short(&server.url(), "job", &["sh", "-c", &script]), [""; 0]);
    running.until_line("ready");
    server.pause();
    let ran = running.ended();
    server.resume();
    assert_eq!(ran.code, 70, "{ran:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "done\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_cut_holder_is_dead_before_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder().tcp().start();
    let proxy = larder_testkit::Proxy::start(server.addr().unwrap()).await;
    let child = faults::Watched::new(folder.path());
    let first = Running::start(child.under(short(&proxy.url(), "job", &[])), [""; 0]);
    child.until_runs(1);
    let second = Running::start(child.under(short(&server.url(), "job", &[])), [""; 0]);
    proxy.cut();
    child.until_runs(2);
    child.assert_never_two();
    assert_eq!(first.ended().code, 70);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().code, 143);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_broken_kills_the_command_at_the_next_renewal() {
    let server = Server::start();
    let mut running =
        Running::start(short(&server.url(), "job", &["sh", "-c", "echo ready; exec sleep 1000"]), [""; 0]);
    running.until_line("ready");
    let larder = Larder::connect(&server.url()).await.unwrap();
    let holder = larder.lock("job").holder().await.unwrap().unwrap();
    assert!(larder.lock("job").break_if(holder.fence).await.unwrap());
    let ran = running.ended();
    assert_eq!(ran.code, 70, "{ran:?}");
    assert!(ran.err.contains("the lock is lost: killing the command"), "{ran:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_command_dies_with_a_larder_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let server = Server::start();
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let mut running = Running::start(on(&server.url()), ["lock", "run", "job", "--", "sh", "-c", &script]);
    let pid = number_in(&file);
    assert!(is_alive(pid));
    running.0.kill().unwrap();
    eventually("the command to die", LONG, || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_signal_that_larder_was_started_to_ignore_stays_ignored() {
    let server = Server::start();
    let script = format!(
        "trap '' HUP; {} lock run job -- sh -c 'kill -HUP $PPID; kill -HUP $$; echo survived'",
        env!("CARGO_BIN_EXE_larder")
    );
    let mut command = Command::new("sh");
    command.env("LARDER_URL", server.url());
    let ran = run(command, ["-c", &script]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "survived\n"), "{ran:?}");
}

/// Not a test of its own: the command of the tests above, which notes when two of it are alive.
#[test]
fn the_watched_command() {
    faults::watched();
}

#[test]
fn two_watched_commands_at_once_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let child = faults::Watched::new(folder.path());
    let first = Running::start(child.alone(), [""; 0]);
    child.until_runs(1);
    let second = Running::start(child.alone(), [""; 0]);
    child.until_runs(2);
    assert_eq!(child.twos(), 1);
    drop((first, second));
    // Its lock went with the first, so the next is alone again.
    let third = Running::start(child.alone(), [""; 0]);
    child.until_runs(3);
    assert_eq!(child.twos(), 1);
    drop(third);
    fs::File::options().append(true).open(child.runs()).unwrap().flush().unwrap();
}
