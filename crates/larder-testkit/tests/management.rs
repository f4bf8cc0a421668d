//! `redis-management.sh`, verb by verb, on a real local server, and `compose.yaml`.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says so by panicking"
)]

// In a folder, so that it is no test program of its own.
#[path = "support/compose.rs"]
mod compose;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use larder_testkit::Port;

/// No command here waits for anything slower than a server that starts.
const LIMIT: Duration = Duration::from_secs(60);

// ---- start, stop, status --------------------------------------------------------------------------------------------

#[test]
fn start_and_stop_may_be_repeated_and_status_says_which_it_is() {
    let rig = Rig::new();
    rig.run(&["status"]).exits(3).says("stopped (cache, local)").says(rig.data());
    rig.run(&["cli", "PING"]).exits(3).complains("not running");

    let started = rig.run(&["start"]);
    started.exits(0).says("started: ").says(&rig.url()).says(rig.data());
    let pid = rig.pid("cache");
    rig.run(&["start"]).exits(0).says("already running: ").says(&rig.url()).says(&format!("pid {pid}"));
    let status = rig.run(&["status"]);
    status.exits(0).says("running (cache, local)").says(&rig.url()).says(rig.data());
    assert_eq!(status.row("pid"), pid);
    assert_eq!(status.row("policy"), "allkeys-lfu, limit 256.00M");
    assert!(status.row("uptime").ends_with('s'), "{}", status.out);

    rig.run(&["stop"]).exits(0).says("saved and stopped");
    rig.run(&["status"]).exits(3).says("stopped");
    rig.run(&["stop"]).exits(0).says("not running");
    assert!(is_free(rig.port));
}

#[test]
fn what_was_written_survives_a_stop_and_a_kill() {
    let rig = Rig::started();
    rig.run(&["cli", "SET", "one", "1"]).exits(0);
    rig.run(&["stop"]).exits(0);
    rig.run(&["start"]).exits(0);
    rig.run(&["cli", "GET", "one"]).prints("1");

    rig.run(&["cli", "SET", "two", "2"]).exits(0);
    let pid = rig.pid("cache");
    assert!(kill(&pid));
    // The kernel frees the port when the process is gone.
    let deadline = Instant::now() + LIMIT;
    while !is_free(rig.port) {
        assert!(Instant::now() < deadline, "process {pid} survived SIGKILL");
        thread::yield_now();
    }
    rig.run(&["status"]).exits(3);
    rig.run(&["start"]).exits(0).says("started");
    rig.run(&["cli", "MGET", "one", "two"]).prints("1\n2");
}

#[test]
fn a_pid_file_that_names_another_process_does_no_harm() {
    let rig = Rig::new();
    let mut bystander = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    fs::create_dir_all(rig.folder("cache")).unwrap();
    fs::write(rig.folder("cache").join("server.pid"), bystander.id().to_string()).unwrap();
    rig.run(&["status"]).exits(3);
    rig.run(&["stop"]).exits(0).says("not running");
    let alive = bystander.try_wait().unwrap().is_none();
    rig.run(&["start"]).exits(0).says("started");
    let still_alive = bystander.try_wait().unwrap().is_none();
    drop(bystander.stdin.take());
    bystander.wait().unwrap();
    assert!(alive && still_alive, "the script ended a process that it did not start");
}

#[test]
fn two_starts_at_once_end_in_one_server() {
    let rig = Rig::new();
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| rig.run(&["start"]))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let started = outcomes.iter().filter(|outcome| outcome.exits(0).out.starts_with("started")).count();
    assert_eq!(started, 1, "{outcomes:?}");
    let pid = rig.pid("cache");
    assert!(outcomes.iter().all(|outcome| outcome.out.contains(&format!("pid {pid}"))), "{outcomes:?}");
    rig.run(&["stop"]).exits(0);
    assert!(is_free(rig.port));
}

#[test]
fn a_start_that_died_midway_does_not_keep_the_next_one_waiting() {
    let rig = Rig::new();
    let mut dead = Command::new("/bin/sh").args(["-c", "exit"]).spawn().unwrap();
    dead.wait().unwrap();
    fs::create_dir_all(rig.folder("cache")).unwrap();
    fs::write(rig.folder("cache").join("start.lock"), dead.id().to_string()).unwrap();
    rig.run(&["start"]).exits(0).says("started");
    rig.run(&["stop"]).exits(0);
    // One that is under way does.
    fs::write(rig.folder("cache").join("start.lock"), std::process::id().to_string()).unwrap();
    let waited = rig.run_with(&["start"], &[("LARDER_WAIT", "1")]);
    waited.exits(1).complains("another start is under way").complains(&std::process::id().to_string());
}

#[test]
fn a_taken_port_is_refused_and_its_owner_named() {
    let rig = Rig::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, rig.port)).unwrap();
    let refused = rig.run(&["start"]);
    refused.exits(1).complains(&format!("port {} is taken", rig.port)).complains("REDIS_PORT=");
    rig.run(&["status"]).exits(3);
    drop(listener);
    rig.run(&["start"]).exits(0);

    let second = Rig::on_ports(rig.port, rig.coordination_port);
    second.run(&["start"]).exits(1).complains("a Redis or Valkey server, but not that of");
    second.run(&["stop"]).exits(0).says("not running");
    rig.run(&["status"]).exits(0);
}

#[test]
fn another_port_or_size_than_the_running_servers_is_pointed_out() {
    let rig = Rig::started();
    let port = rig.port.to_string();
    for verb in [&["start"][..], &["cli", "PING"], &["flush", "--yes"], &["info"]] {
        rig.run_with(verb, &[("REDIS_PORT", "9")]).exits(1).complains(&port).complains("REDIS_PORT=9");
    }
    rig.run_with(&["status"], &[("REDIS_PORT", "9")]).exits(0).says(&port);
    rig.run_with(&["start"], &[("REDIS_MAXMEMORY", "8mb")]).exits(0).says("settings have changed");
    rig.run(&["stop"]).exits(0);
    rig.run_with(&["start"], &[("REDIS_MAXMEMORY", "8mb")]).exits(0).says("started");
    rig.run(&["cli", "CONFIG", "GET", "maxmemory"]).prints("maxmemory\n8388608");
}

#[test]
fn the_coordination_server_runs_beside_the_cache_and_never_evicts() {
    let rig = Rig::started();
    rig.run(&["start", "--coordination"]).exits(0).says(&rig.coordination_port.to_string());
    rig.run(&["--coordination", "status"]).exits(0).says("noeviction").says("running (coordination, local)");
    let asked = |role: &[&str], name: &str| {
        let words: Vec<&str> = role.iter().copied().chain(["CONFIG", "GET", name]).collect();
        rig.run(&words).exits(0).out.lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(asked(&["cli"], "maxmemory-policy"), "allkeys-lfu");
    assert_eq!(asked(&["cli"], "appendfsync"), "everysec");
    assert_eq!(asked(&["cli"], "appendonly"), "yes");
    assert_eq!(asked(&["cli", "--coordination"], "maxmemory-policy"), "noeviction");
    assert_eq!(asked(&["--coordination", "cli"], "appendfsync"), "always");
    assert_eq!(asked(&["--coordination", "cli"], "appendonly"), "yes");

    rig.run(&["--coordination", "cli", "SET", "lock", "1"]).exits(0);
    rig.run(&["flush", "--yes"]).exits(0).says("deleted 0 keys");
    rig.run(&["--coordination", "cli", "GET", "lock"]).prints("1");
    rig.run(&["stop"]).exits(0);
    rig.run(&["--coordination", "status"]).exits(0);
    rig.run(&["stop", "--coordination"]).exits(0).says("saved and stopped");
    rig.run(&["--coordination", "status"]).exits(3);
}

// ---- cli, flush, logs, info -----------------------------------------------------------------------------------------

#[test]
fn cli_passes_its_arguments_through_and_reads_commands_from_a_pipe() {
    let rig = Rig::started();
    rig.run(&["cli", "SET", "a key", "with \"quotes\" and spaces"]).prints("OK");
    rig.run(&["cli", "GET", "a key"]).prints("with \"quotes\" and spaces");
    rig.run(&["cli", "--raw", "STRLEN", "a key"]).prints("24");
    let mut piped = rig.command(&["cli"]);
    let mut child =
        piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"SET n 41\nINCR n\n").unwrap();
    Outcome::of(child).prints("OK\n42");
}

#[test]
fn a_password_is_required_of_every_client_and_shown_to_none() {
    let secret = "s3cret \"\\ $HOME 'x";
    let rig = Rig::new().with_password(secret);
    rig.run(&["start"]).exits(0).says("redis://:$REDIS_PASSWORD@127.0.0.1:");
    rig.run(&["cli", "SET", "k", "v"]).prints("OK");
    rig.run(&["cli", "GET", "k"]).prints("v");
    for said in [rig.run(&["start"]), rig.run(&["status"]), rig.run(&["info"]), rig.run(&["logs"])] {
        assert!(!said.exits(0).out.contains(secret) && !said.err.contains(secret), "{said:?}");
    }
    let config = fs::metadata(rig.folder("cache").join("server.conf")).unwrap();
    assert_eq!(config.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(rig.folder("cache")).unwrap().permissions().mode() & 0o777, 0o700);
    let words = shown_by_ps(&rig.pid("cache"));
    assert!(words.contains("server") && !words.contains("s3cret"), "{words}");

    for other in ["wrong", ""] {
        for verb in [&["start"][..], &["cli", "GET", "k"], &["flush", "--yes"], &["info"]] {
            let refused = rig.run_with(verb, &[("REDIS_PASSWORD", other)]);
            refused.exits(4).complains("REDIS_PASSWORD is not").complains("stop, then start");
        }
        rig.run_with(&["status"], &[("REDIS_PASSWORD", other)]).exits(0).complains("REDIS_PASSWORD is not");
    }
    rig.run(&["cli", "GET", "k"]).prints("v");
    rig.run(&["flush", "--yes"]).exits(0).says("deleted 1 key");
    rig.run(&["cli", "DBSIZE"]).prints("0");
    rig.run_with(&["stop"], &[("REDIS_PASSWORD", "wrong")]).exits(0).says("saved and stopped");
}

#[test]
fn a_password_for_a_server_that_has_none_is_pointed_out() {
    let rig = Rig::started();
    for verb in [&["start"][..], &["cli", "PING"]] {
        let refused = rig.run_with(verb, &[("REDIS_PASSWORD", "surplus")]);
        refused.exits(4).complains("the running server has no password");
    }
    // One that was meant for another server does no harm.
    rig.run_with(&["cli", "PING"], &[("REDISCLI_AUTH", "surplus")]).prints("PONG");
}

#[test]
fn flush_counts_the_keys_and_deletes_none_without_a_yes() {
    let rig = Rig::started();
    rig.run(&["cli", "MSET", "a", "1", "b", "2"]).exits(0);
    rig.run(&["cli", "-n", "3", "SET", "c", "3"]).exits(0);
    rig.run(&["flush"]).exits(1).says("holds 3 keys").complains("--yes");
    rig.run(&["cli", "DBSIZE"]).prints("2");
    rig.run(&["flush", "--yes"]).exits(0).says("deleted 3 keys");
    rig.run(&["cli", "DBSIZE"]).prints("0");
    rig.run(&["cli", "-n", "3", "DBSIZE"]).prints("0");
}

#[test]
fn flush_asks_at_a_terminal_and_takes_no_answer_but_yes() {
    let rig = Rig::started();
    rig.run(&["cli", "MSET", "a", "1", "b", "2"]).exits(0);
    for typed in ["n\n", "\n", "yesterday\n", "\u{4}"] {
        let kept = rig.at_a_terminal(&["flush"], typed);
        kept.exits(1).says("holds 2 keys").says("delete 2 keys? [y/N]").says("nothing was deleted");
        rig.run(&["cli", "DBSIZE"]).prints("2");
    }
    for typed in ["y\n", "Yes\n"] {
        rig.run(&["cli", "MSET", "a", "1", "b", "2"]).exits(0);
        rig.at_a_terminal(&["flush"], typed).exits(0).says("delete 2 keys? [y/N]").says("deleted 2 keys");
        rig.run(&["cli", "DBSIZE"]).prints("0");
    }
}

#[test]
fn info_shows_the_figures_of_the_server() {
    let rig = Rig::started();
    let fresh = rig.run(&["info"]);
    assert_eq!(fresh.exits(0).row("hit ratio"), "no reads yet");
    assert_eq!(fresh.row("keys"), "0");

    rig.run(&["cli", "SET", "a", "1"]).exits(0);
    rig.run(&["cli", "SET", "b", "1", "EX", "1000"]).exits(0);
    rig.run(&["cli", "-n", "2", "SET", "c", "1"]).exits(0);
    rig.run(&["cli", "MGET", "a", "b", "absent", "missing"]).exits(0);
    rig.run(&["cli", "GET", "gone"]).exits(0);
    let info = rig.run(&["info"]);
    assert_eq!(info.exits(0).row("hit ratio"), "40.0% (2 of 5 reads)");
    assert_eq!(info.row("keys in db0"), "2, 1 with an expiry");
    assert_eq!(info.row("keys in db2"), "1, 0 with an expiry");
    assert_eq!(info.row("policy"), "allkeys-lfu");
    assert_eq!(info.row("memory limit"), "256.00M (0% used)");
    assert_eq!(info.row("evicted keys"), "0");
    assert_eq!(info.row("expired keys"), "0");
    assert_eq!(info.row("connected clients"), "1 (this one included)");
    for name in ["server", "uptime", "memory used", "memory peak"] {
        assert!(!info.row(name).is_empty(), "{name}");
    }
    let aligned = |line: &str| line.len() > 21 && &line[20..21] == " " && &line[21..22] != " ";
    assert!(info.out.lines().all(aligned), "{}", info.out);
}

#[test]
fn logs_shows_the_servers_log_and_follows_it_when_asked() {
    let rig = Rig::new();
    rig.run(&["logs"]).exits(1).complains("never started");
    rig.run(&["start"]).exits(0);
    rig.run(&["logs"]).exits(0).says("Ready to accept connections");

    let mut child = Ended(rig.command(&["logs", "-f"]).stderr(Stdio::null()).spawn().unwrap());
    let (lines, line) = mpsc::channel();
    let output = BufReader::new(child.0.stdout.take().unwrap());
    thread::spawn(move || output.lines().map_while(Result::ok).all(|text| lines.send(text).is_ok()));
    let awaited = |part: &str| {
        while let Ok(text) = line.recv_timeout(LIMIT) {
            if text.contains(part) {
                return true;
            }
        }
        false
    };
    let before = awaited("Ready to accept connections");
    rig.run(&["stop"]).exits(0);
    let after = awaited("ready to exit");
    assert!(before && after, "the log was not followed");
}

// ---- what may go wrong ----------------------------------------------------------------------------------------------

#[test]
fn a_server_that_hangs_is_reported_by_every_verb_that_talks_to_it() {
    let rig = Rig::new().with_password("s3cret");
    rig.run(&["start"]).exits(0);
    rig.run(&["cli", "SET", "a", "1"]).exits(0);
    let pid = rig.pid("cache");
    assert!(signal("STOP", &pid));
    let asked: &[&[&str]] =
        &[&["status"], &["info"], &["cli", "PING"], &["flush", "--yes"], &["flush"], &["start"]];
    for verb in asked {
        let began = Instant::now();
        let said = rig.run_with(verb, &[("LARDER_WAIT", "1")]);
        said.exits(1)
            .complains("hangs")
            .complains("within 1 seconds")
            .complains(&format!("kill -CONT {pid}"));
        // Far below what a client waits by itself, which is for ever.
        assert!(began.elapsed() < LIMIT / 2, "{verb:?}");
    }
    rig.run_with(&["status"], &[("LARDER_WAIT", "1")]).says("running (cache, local)").says(&pid);
    rig.run_with(&["stop"], &[("LARDER_WAIT", "1")]).exits(1).complains(&format!("kill -CONT {pid}"));
    assert!(signal("CONT", &pid));
    rig.run(&["stop"]).exits(0);
    rig.run(&["start"]).exits(0);
    rig.run(&["cli", "GET", "a"]).prints("1");
}

#[test]
fn a_local_server_takes_its_settings_from_the_file_env_too() {
    let mut rig = Rig::new();
    let (port, other) = (rig.port, rig.coordination_port);
    rig.write_env_file(&format!(
        "# ours\nexport REDIS_PASSWORD='s3cret $HOME'\nREDIS_PORT={port}\n\nREDIS_MAXMEMORY: \"32mb\" # small\n\
         SIZE=16mb\nREDIS_COORDINATION_PORT = {other}\nREDIS_COORDINATION_MAXMEMORY=${{SIZE}}\n\
         KEY=\"-----BEGIN\nREDIS_PORT=1\nEND\"\nREDIS_ONLY_HERE\n"
    ));
    let bare = |words: &[&str]| Outcome::of(rig.without_settings(words).spawn().unwrap());
    bare(&["start"]).exits(0).says(&format!("redis://:$REDIS_PASSWORD@127.0.0.1:{port}"));
    bare(&["cli", "CONFIG", "GET", "maxmemory"]).prints("maxmemory\n33554432");
    rig.run_with(&["cli", "PING"], &[("REDIS_PASSWORD", "s3cret $HOME")]).prints("PONG");
    // What the environment has counts, though it be empty.
    rig.run_with(&["cli", "PING"], &[("REDIS_PASSWORD", "")]).exits(4);
    bare(&["--coordination", "start"]).exits(0).says(&other.to_string());
    bare(&["--coordination", "cli", "CONFIG", "GET", "maxmemory"]).prints("maxmemory\n16777216");
    for (text, why) in [
        ("REDIS_PASSWORD='open", "line 1: the quote is not closed"),
        ("\nREDIS PORT=1", "line 2: neither NAME=value nor a comment"),
        ("REDIS_PASSWORD=${A:+b}", "REDIS_PASSWORD there is a form of $"),
        ("REDIS_PORT=x", "REDIS_PORT=x is not a port"),
    ] {
        rig.write_env_file(text);
        let refused = Outcome::of(rig.without_settings(&["status"]).spawn().unwrap());
        refused.exits(2).complains(why);
    }
    // A setting that is not taken from there does no harm.
    rig.write_env_file("OTHER=${A:+b}\nREDIS_PASSWORD='s3cret $HOME'");
    let status = rig.without_settings(&["status"]).env("REDIS_PORT", port.to_string()).spawn();
    Outcome::of(status.unwrap()).exits(0).says("running (cache, local)");
}

#[test]
fn a_full_disk_and_a_read_only_one_are_named() {
    let rig = Rig::new();
    let Some(full) =
        rig.on_a_disk_of("64k", "dd if=/dev/zero of=\"$LARDER_DATA/filler\" bs=1k 2>/dev/null; \"$S\" start")
    else {
        eprintln!("NOT TESTED: full and read-only disks, as no file system may be mounted here");
        return;
    };
    full.exits(1).complains("cannot write to the data folder").complains("No space left on device");
    let read_only = "mount -o remount,ro \"$LARDER_DATA\"; \"$S\" start";
    for prepare in ["", "mkdir \"$LARDER_DATA/cache\"; "] {
        let said = rig.on_a_disk_of("64k", &format!("{prepare}{read_only}")).unwrap();
        said.exits(1).complains("data folder").complains("Read-only file system");
    }
    // One that fills up while the server runs.
    let fill =
        "dd if=/dev/zero of=\"$LARDER_DATA/filler\" bs=1k 2>/dev/null; value=$(printf %20000s); tries=0";
    let said = rig
        .on_a_disk_of(
            "4m",
            &format!(
                "\"$S\" start && {fill}; until \"$S\" status | grep problem; do
                     \"$S\" cli SET k \"$value\" >/dev/null; tries=$((tries + 1)); [ $tries -lt 100 ] || break
                 done
                 \"$S\" info | grep problem; \"$S\" stop"
            ),
        )
        .unwrap();
    said.exits(1).says("the append-only file cannot be written: No space left on device");
    assert_eq!(said.out.matches("problem ").count(), 2, "{said:#?}");
    said.complains("its last writes may be lost");
    // The second server ends rather than lose a lock.
    let said = rig
        .on_a_disk_of(
            "4m",
            &format!(
                "export S; \"$S\" --coordination start && {fill}; while \"$S\" --coordination status >/dev/null; do
                     \"$S\" --coordination cli SET k \"$value\" >/dev/null 2>&1
                     tries=$((tries + 1)); [ $tries -lt 100 ] || break
                 done
                 \"$S\" --coordination status"
            ),
        )
        .unwrap();
    said.exits(3).says("it ended because the data folder could not be written to: No space left on device");
}

#[test]
fn under_another_shell_than_bash_it_works_or_says_what_it_needs() {
    let rig = Rig::new();
    let script = workspace().join("redis-management.sh");
    let run = |shell: &Path, path: Option<&Path>| {
        let plain = rig.command(&["status"]);
        let mut command = Command::new(shell);
        command.arg(&script).arg("status").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(path) = path {
            command.env("PATH", path);
        }
        Outcome::of(command.spawn().unwrap())
    };
    run(Path::new("/bin/sh"), None).exits(3).says("stopped (cache, local)");
    // As `sh` is bash on macOS.
    let tools = rig.root.join("bin");
    fs::create_dir_all(&tools).unwrap();
    symlink(on_path("bash").unwrap(), tools.join("sh")).unwrap();
    run(&tools.join("sh"), None).exits(3).says("stopped (cache, local)");
    if let Some(dash) = on_path("dash") {
        run(&dash, None).exits(3).says("stopped (cache, local)");
        run(&dash, Some(&rig.root)).exits(1).complains("needs bash, which is not installed");
        let piped = Command::new(dash).stdin(fs::File::open(&script).unwrap()).output().unwrap();
        assert_eq!(piped.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&piped.stderr).contains("bash redis-management.sh"), "{piped:?}");
    }
}

// ---- the command line -----------------------------------------------------------------------------------------------

#[test]
fn help_names_every_verb_and_wrong_usage_is_refused() {
    let rig = Rig::new();
    let help = rig.run(&["--help"]);
    help.exits(0);
    for word in
        ["start", "stop", "status", "cli", "flush", "logs", "info", "--coordination", "REDIS_PASSWORD"]
    {
        help.says(word);
    }
    // What is in the server is shown by another program.
    for command in ["larder ls", "larder doctor", "docs/cli.md"] {
        help.says(command);
    }
    rig.run(&["frobnicate"]).exits(2).complains("unknown verb: frobnicate");
    rig.run(&["--frobnicate"]).exits(2).complains("unknown option");
    rig.run(&["start", "now"]).exits(2).complains("no argument");
    rig.run(&["start", "--yes"]).exits(2).complains("no option --yes");
    rig.run(&[]).exits(2).complains("Usage");
    let nonsense = [
        ("REDIS_PORT", "x"),
        ("REDIS_PORT", "65536"),
        ("REDIS_MAXMEMORY", "lots"),
        ("REDIS_PASSWORD", "a\nb"),
    ];
    for (name, value) in nonsense {
        rig.run_with(&["start"], &[(name, value)]).exits(2);
    }
    rig.run_with(&["start"], &[("LARDER_SERVER", "/nowhere/server")]).exits(1).complains("/nowhere/server");
    assert!(!rig.folder("cache").exists());
}

#[test]
fn where_a_program_is_missing_the_line_to_install_it_is_said() {
    let rig = Rig::new();
    let tools = rig.root.join("bin");
    fs::create_dir_all(&tools).unwrap();
    let needed = "bash cat dirname basename sed awk id mkdir chmod rm mv wc tail grep readlink tr sleep head ps lsof apt-get";
    for tool in needed.split(' ') {
        if let Some(found) = on_path(tool) {
            symlink(found, tools.join(tool)).unwrap();
        }
    }
    let bare = |words: &[&str], server: Option<&Path>| {
        let mut command = rig.command(words);
        command.env("PATH", &tools).env_remove("LARDER_SERVER");
        if let Some(server) = server {
            command.env("LARDER_SERVER", server);
        }
        Outcome::of(command.spawn().unwrap())
    };
    let hint = if on_path("apt-get").is_some() { "apt-get install -y redis-server" } else { "Type:" };
    bare(&["start"], None).exits(1).complains("no server to start").complains(hint);
    bare(&["start"], Some(&rig.server)).exits(0).says("started").says("you also need redis-cli");
    bare(&["info"], None).exits(1).complains("needs redis-cli or valkey-cli");
    bare(&["status"], None).exits(0).says("running");
    bare(&["stop"], None).exits(0).says("saved and stopped");
}

/// An engine is nothing that these tests can count on, so this one is made of paper.
#[test]
fn where_a_docker_engine_answers_the_services_of_compose_yaml_are_used() {
    let rig = Rig::new().with_password("s3cret");
    let tools = rig.root.join("bin");
    fs::create_dir_all(&tools).unwrap();
    let calls = rig.root.join("calls");
    let docker = format!("#!/bin/sh\necho \"$@ [limit $REDIS_MEMORY_LIMIT]\" >>'{}'\n", calls.display());
    write_program(&tools.join("docker"), &docker);
    let path = env::join_paths([tools].into_iter().chain(env::split_paths(&rig.path))).unwrap();
    let with_engine = |words: &[&str]| {
        let mut command = rig.command(words);
        command
            .env("PATH", &path)
            .env_remove("LARDER_SERVER")
            .env_remove("LARDER_LOCAL")
            .env("REDIS_MAXMEMORY", "1gb");
        Outcome::of(command.spawn().unwrap())
    };
    with_engine(&["start"]).exits(0).says("started: redis://:$REDIS_PASSWORD@").says("container redis");
    with_engine(&["start", "--coordination"]).exits(0).says("container redis-coordination");
    with_engine(&["status"]).exits(3).says("stopped (cache, compose)").says("larder_redis-data");
    with_engine(&["cli", "PING"]).exits(3);
    let calls = fs::read_to_string(calls).unwrap();
    let called = |part: &str| assert!(calls.contains(part), "no {part} in\n{calls}");
    called("up --detach --wait --wait-timeout 20 redis [limit 2147483648]");
    called("--profile coordination up --detach --wait --wait-timeout 20 redis-coordination");
    assert!(!calls.contains("s3cret"), "{calls}");
    // A local server that runs is the one meant, engine or not.
    rig.run(&["start"]).exits(0);
    with_engine(&["status"]).exits(0).says("running (cache, local)");
}

/// `exec` refuses a file that any process has open for writing ("Text file busy"). A child that another thread starts
/// has a copy of each descriptor of this process until its own `exec`.
#[test]
fn a_copied_script_runs_at_once_while_other_threads_start_programs() {
    let mut rig = Rig::new();
    let done = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let mut refused = Vec::new();
        for _ in 0..200 {
            rig.write_env_file("");
            // A wrong usage, which ends at once.
            match rig.command(&["--frobnicate"]).spawn() {
                Ok(child) => drop(Outcome::of(child).exits(2)),
                Err(error) => refused.push(error.to_string()),
            }
            fs::remove_dir_all(rig.root.join("project")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        refused
    });
    assert!(refused.is_empty(), "{} of 200: {:?}", refused.len(), refused.first());
}

// ---- compose.yaml ---------------------------------------------------------------------------------------------------

#[test]
fn compose_yaml_has_both_services_with_their_ports_volumes_and_checks() {
    let file = read_compose_yaml();
    let entry = |path: &str| file.get(path).map_or_else(|| panic!("no {path} in {file:#?}"), String::as_str);
    for (service, port, volume) in [
        ("redis", "\"127.0.0.1:${REDIS_PORT:-6379}:6379\"", "redis-data"),
        (
            "redis-coordination",
            "\"127.0.0.1:${REDIS_COORDINATION_PORT:-6380}:6379\"",
            "redis-coordination-data",
        ),
    ] {
        let of = |name: &str| entry(&format!("services.{service}.{name}"));
        assert_eq!(of("ports.0"), port);
        assert_eq!(of("volumes.0"), format!("{volume}:/data"));
        assert!(file.contains_key(&format!("volumes.{volume}")));
        assert_eq!(of("restart"), "unless-stopped");
        assert_eq!(of("image"), "valkey/valkey:8");
        assert!(of("mem_limit").starts_with("${"));
        assert_eq!(of("environment.REDIS_PASSWORD"), "${REDIS_PASSWORD:-}");
        assert_eq!(of("healthcheck.test.0"), "CMD-SHELL");
        assert!(of("healthcheck.test.1").contains("REDISCLI_AUTH"));
        assert!(of("healthcheck.test.1").contains("valkey-cli ping"));
    }
    assert_eq!(entry("services.redis-coordination.profiles"), "[coordination]");
    assert!(!file.contains_key("services.redis.profiles"));
}

#[test]
#[ignore = "needs Docker Compose, which `cargo xtask test` finds or fetches"]
fn docker_compose_accepts_compose_yaml_with_and_without_password_and_profile() {
    for password in [None, Some(""), Some("a\"b\\c$d e")] {
        for (profile, services) in
            [(&[][..], "redis"), (&["--profile", "coordination"], "redis\nredis-coordination")]
        {
            let run = |last: &[&str]| {
                let words: Vec<&str> = profile.iter().chain(last).copied().collect();
                compose(&words, password)
            };
            let accepted = run(&["config", "--quiet"]);
            assert_eq!((accepted.exits(0).out.as_str(), accepted.err.as_str()), ("", ""), "warnings");
            let listed = run(&["config", "--services"]);
            let mut names: Vec<&str> = listed.exits(0).out.lines().collect();
            names.sort_unstable();
            assert_eq!(names.join("\n"), services);
        }
    }
}

#[test]
#[ignore = "needs Docker Compose, which `cargo xtask test` finds or fetches"]
fn docker_compose_and_a_local_server_read_the_same_password_from_the_file_env() {
    let mut rig = Rig::new();
    let lines = [
        "REDIS_PASSWORD=plain",
        "REDIS_PASSWORD=",
        "",
        "REDIS_PASSWORD = spaced out  ",
        "REDIS_PASSWORD: colon",
        "REDIS_PASSWORD=a:b=c",
        "export REDIS_PASSWORD=exported",
        "  REDIS_PASSWORD=indented",
        "\u{feff}REDIS_PASSWORD=marked",
        "REDIS_PASSWORD=windows\r\nREDIS_PORT=7000\r\n",
        "REDIS_PASSWORD=a#b",
        "REDIS_PASSWORD=a #b",
        "REDIS_PASSWORD= # c",
        "REDIS_PASSWORD=#c",
        "#REDIS_PASSWORD=a\n # REDIS_PASSWORD=b",
        "REDIS_PASSWORD='a b # c'",
        "REDIS_PASSWORD='a b' # c",
        "REDIS_PASSWORD='it\\'s'",
        r"REDIS_PASSWORD='a\n$HOME\\'",
        r#"REDIS_PASSWORD="a\"b\\c\q\$d$$e""#,
        r#"REDIS_PASSWORD="S\0123 \012""#,
        r#"REDIS_PASSWORD="a'b""#,
        r"REDIS_PASSWORD=a\n\$b",
        "REDIS_PASSWORD=a$",
        "REDIS_PASSWORD=a$1",
        "REDIS_PASSWORD=a$$b$$$$",
        "A=1\nREDIS_PASSWORD=$A-${A}-${A:-2}-${B:-3}-${B-4}-$B.",
        "A=\nREDIS_PASSWORD=${A:-2}${A-3}x",
        "A=1\nREDIS_PASSWORD=\"$A ${A}\"",
        "A=1\nREDIS_PASSWORD='$A'",
        "REDIS_PASSWORD=$LARDER_TEST_GIVEN",
        "LARDER_TEST_GIVEN=other\nREDIS_PASSWORD=$LARDER_TEST_GIVEN",
        "REDIS_PASSWORD=first\nREDIS_PASSWORD=second",
        "REDIS_PASSWORD=first\nREDIS_PASSWORD=$REDIS_PASSWORD-more",
        "A=\"x\nREDIS_PASSWORD=inside\n\"\nREDIS_PASSWORD=outside",
        "REDIS_PASSWORD\nA=1",
        "1A=b\nA.B=c\nA-B=d\nREDIS_PASSWORD=after",
        "value=1\nREDIS_PASSWORD=$value$name$text",
    ];
    for text in lines {
        rig.write_env_file(text);
        let folder = rig.script.parent().unwrap().to_owned();
        let words = ["--project-directory", folder.to_str().unwrap(), "config", "--format", "json"];
        let mut asked = compose::command(&words, &folder.join("compose.yaml"));
        asked.env("LARDER_TEST_GIVEN", "given").stdout(Stdio::piped()).stderr(Stdio::piped());
        let compose = Outcome::of(asked.spawn().unwrap());
        let theirs =
            compose.exits(0).out.lines().find_map(|line| line.trim().strip_prefix("\"REDIS_PASSWORD\": "));
        let theirs = theirs.unwrap().trim_end_matches(',');
        // Each dollar sign is doubled in it, because compose files are read so.
        let theirs =
            theirs[1..theirs.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\").replace("$$", "$");
        // It ends at once, after its settings were written.
        let mut ours = rig.without_settings(&["start"]);
        ours.env("LARDER_SERVER", "false")
            .env("LARDER_TEST_GIVEN", "given")
            .env("REDIS_PORT", rig.port.to_string());
        Outcome::of(ours.spawn().unwrap()).exits(1).complains("did not start");
        let config = fs::read_to_string(rig.folder("cache").join("server.conf")).unwrap();
        let word = config.lines().find_map(|line| line.strip_prefix("requirepass ")).unwrap();
        let word = word[1..word.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\");
        assert_eq!(word, theirs, "{text:?}");
    }
}

#[test]
fn the_container_and_the_local_server_have_the_same_settings() {
    let rig = Rig::started();
    rig.run(&["--coordination", "start"]).exits(0);
    let file = read_compose_yaml();
    for (service, role) in [("redis", "cache"), ("redis-coordination", "coordination")] {
        let command = &file[&format!("services.{service}.command.2")];
        let settings = command.split_once("<<CONFIG\n").unwrap().1.split_once("\nCONFIG").unwrap().0;
        let mut container: BTreeMap<String, String> = settings.lines().map(directive).collect();
        for value in container.values_mut() {
            if let Some(name) = value.strip_prefix("$$LARDER_") {
                let set = &file[&format!("services.{service}.environment.LARDER_{name}")];
                let default =
                    set.split_once(":-").map_or(set.as_str(), |(_, rest)| rest.trim_end_matches('}'));
                *value = default.to_owned();
            }
        }
        container.insert("requirepass".to_owned(), "\"\"".to_owned());
        let config = fs::read_to_string(rig.folder(role).join("server.conf")).unwrap();
        let mut local: BTreeMap<String, String> =
            config.lines().filter(|line| !line.starts_with('#')).map(directive).collect();
        // Where it stands and listens differs by nature.
        for name in ["bind", "port", "protected-mode", "dir", "daemonize", "pidfile", "logfile"] {
            local.remove(name);
            container.remove(name);
        }
        assert_eq!(container, local, "{service}");
        assert_eq!(local.len(), 6, "{local:?}");
    }
}

fn directive(line: &str) -> (String, String) {
    let (name, value) = line.split_once(' ').unwrap();
    (name.to_owned(), value.to_owned())
}

fn compose(words: &[&str], password: Option<&str>) -> Outcome {
    let mut command = compose::command(words, &workspace().join("compose.yaml"));
    command.envs(password.map(|value| ("REDIS_PASSWORD", value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Outcome::of(command.spawn().unwrap())
}

/// The values of compose.yaml by their path. Reads the part of YAML that the file is written in and panics on the rest.
fn read_compose_yaml() -> BTreeMap<String, String> {
    let text = fs::read_to_string(workspace().join("compose.yaml")).unwrap();
    let mut lines = text.lines().enumerate().peekable();
    let mut values = BTreeMap::new();
    let (mut anchors, mut merges) = (BTreeMap::new(), Vec::new());
    let mut above: Vec<(usize, String)> = Vec::new();
    while let Some((number, line)) = lines.next() {
        let rest = line.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        let indent = line.len() - rest.len();
        above.retain(|(outer, _)| *outer < indent);
        let inside = |name: &str| above.last().map_or(name.to_owned(), |(_, path)| format!("{path}.{name}"));
        let (path, mut value) = if let Some(item) = rest.strip_prefix("- ") {
            let free =
                (0..).map(|index: u32| inside(&index.to_string())).find(|path| !values.contains_key(path));
            (free.unwrap(), item.to_owned())
        } else {
            let (name, value) = rest
                .split_once(": ")
                .or_else(|| rest.strip_suffix(':').map(|name| (name, "")))
                .unwrap_or_else(|| panic!("line {} of compose.yaml: {line}", number + 1));
            (inside(name), value.to_owned())
        };
        if let Some(name) = value.strip_prefix('&') {
            anchors.insert(name.to_owned(), path.clone());
            value.clear();
        } else if let Some(name) = value.strip_prefix('*') {
            merges.push((path.trim_end_matches(".<<").to_owned(), name.to_owned()));
            continue;
        } else if value == "|" {
            value.clear();
            while let Some((_, line)) =
                lines.next_if(|(_, line)| line.len() - line.trim_start().len() > indent)
            {
                value += line.trim_start();
                value.push('\n');
            }
        }
        // Compose reads `$NAME` where the shell in the container is meant to; and a name without default warns.
        for (at, _) in value.match_indices('$') {
            let doubled = value[at..].starts_with("$$") || value[..at].ends_with('$');
            let defaulted = value[at..].starts_with("${") && value[at..].contains(":-");
            assert!(doubled || defaulted, "line {} of compose.yaml: {line}", number + 1);
        }
        assert!(values.insert(path.clone(), value).is_none(), "{path} twice in compose.yaml");
        above.push((indent, path));
    }
    for (into, anchor) in merges {
        let from = format!("{}.", anchors[&anchor]);
        let merged: Vec<_> = values
            .iter()
            .filter_map(|(path, value)| {
                Some((format!("{into}.{}", path.strip_prefix(&from)?), value.clone()))
            })
            .collect();
        for (path, value) in merged {
            values.entry(path).or_insert(value);
        }
    }
    values
}

// ---- the rig --------------------------------------------------------------------------------------------------------

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// By the shell's own `kill`, as the program of that name belongs to a package that may be missing.
fn kill(pid: &str) -> bool {
    signal("KILL", pid)
}

fn signal(name: &str, pid: &str) -> bool {
    Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "sh", name, pid]).status().unwrap().success()
}

/// The words that a process was started with, as everybody may see them.
fn shown_by_ps(pid: &str) -> String {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(words) => String::from_utf8_lossy(&words).replace('\0', " "),
        // No /proc on macOS, which has ps.
        Err(_) => {
            let words = Command::new("ps").args(["-p", pid, "-o", "args="]).output().unwrap();
            String::from_utf8_lossy(&words.stdout).into_owned()
        }
    }
}

/// Writes a program that is run afterwards. A child process writes it: a descriptor of this process would be copied to
/// the children that other threads start meanwhile, and `exec` refuses a file that is open for writing anywhere.
fn write_program(path: &Path, text: &str) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn on_path(tool: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(tool)).find(|path| path.is_file())
}

/// A data folder of its own and, but for [`Rig::on_ports`], two ports. Whatever was started there ends with it.
struct Rig {
    root: PathBuf,
    script: PathBuf,
    server: PathBuf,
    path: OsString,
    port: u16,
    coordination_port: u16,
    password: String,
    /// They stay reserved until `drop` has stopped the servers.
    reserved: Option<[Port; 2]>,
}

impl Rig {
    fn new() -> Self {
        let reserved = [Port::pick(), Port::pick()];
        let [port, coordination_port] = [&reserved[0], &reserved[1]].map(Port::number);
        let mut rig = Self::on_ports(port, coordination_port);
        rig.reserved = Some(reserved);
        rig
    }

    fn on_ports(port: u16, coordination_port: u16) -> Self {
        let server = larder_testkit::resolve().unwrap_or_else(|error| panic!("{error}"));
        // The client often stands beside the server.
        let path = env::var_os("PATH").unwrap();
        let folders = env::split_paths(&path).chain(server.parent().map(Path::to_path_buf));
        let path = env::join_paths(folders.collect::<Vec<_>>()).unwrap();
        // A space and quotes, as a home folder may have them.
        let root = env::temp_dir().join(format!("larder \"rig\" {:016x}", random()));
        fs::create_dir(&root).unwrap();
        let root = root.canonicalize().unwrap();
        let script = workspace().join("redis-management.sh");
        Self { root, script, server, path, port, coordination_port, password: String::new(), reserved: None }
    }

    fn started() -> Self {
        let rig = Self::new();
        rig.run(&["start"]).exits(0);
        rig
    }

    fn with_password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    fn data(&self) -> &str {
        self.root.to_str().unwrap()
    }

    fn folder(&self, role: &str) -> PathBuf {
        self.root.join(role)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn pid(&self, role: &str) -> String {
        fs::read_to_string(self.folder(role).join("server.pid")).unwrap().trim().to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["REDIS", "VALKEY", "LARDER_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(words).env("PATH", &self.path).env("LARDER_DATA", &self.root).env("LARDER_LOCAL", "1");
        command
            .env("LARDER_SERVER", &self.server)
            .env("LARDER_WAIT", "20")
            .env("REDIS_PASSWORD", &self.password);
        command.env("REDIS_PORT", self.port.to_string());
        command.env("REDIS_COORDINATION_PORT", self.coordination_port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.run_with(words, &[])
    }

    /// A copy of the script and of compose.yaml, with this file .env beside them.
    fn write_env_file(&mut self, text: &str) {
        let folder = self.root.join("project");
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            fs::copy(workspace().join("compose.yaml"), folder.join("compose.yaml")).unwrap();
            let script = fs::read_to_string(workspace().join("redis-management.sh")).unwrap();
            write_program(&folder.join("redis-management.sh"), &script);
        }
        fs::write(folder.join(".env"), text).unwrap();
        self.script = folder.join("redis-management.sh");
    }

    /// The verb with no setting of the server in its environment.
    fn without_settings(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        for name in ["REDIS_PASSWORD", "REDIS_PORT", "REDIS_COORDINATION_PORT"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs this shell program, where `$S` is the script, with a file system of this size for its data folder; nothing
    /// where none may be mounted.
    fn on_a_disk_of(&self, size: &str, program: &str) -> Option<Outcome> {
        let unshare = |program: &str| {
            let mut command = self.command(&[]);
            let settings: Vec<_> = command
                .get_envs()
                .map(|(name, value)| (name.to_owned(), value.map(OsString::from)))
                .collect();
            command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "/bin/sh", "-c", program]);
            for (name, value) in settings {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command.env("S", &self.script).env("SIZE", size);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().ok().map(Outcome::of)
        };
        let mount = "mount -t tmpfs -o \"size=$SIZE,mode=700\" tmpfs \"$LARDER_DATA\"";
        unshare(mount).filter(|outcome| outcome.code == Some(0))?;
        unshare(&format!("{mount} && {{ {program}\n}}"))
    }

    /// The verb at a terminal of its own, where this is typed. Both streams come out as one.
    fn at_a_terminal(&self, words: &[&str], typed: &str) -> Outcome {
        let plain = self.command(words);
        // util-linux's `script`, which every Debian has, makes the terminal.
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", "exec \"$LARDER_TEST_SCRIPT\" $LARDER_TEST_WORDS"]);
        command.arg("/dev/null").env("SHELL", "/bin/sh");
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("LARDER_TEST_SCRIPT", plain.get_program()).env("LARDER_TEST_WORDS", words.join(" "));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut keyboard = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut keyboard, typed.as_bytes()).unwrap();
        // The keyboard stays until the program has ended.
        let outcome = Outcome::of(child);
        drop(keyboard);
        outcome
    }

    fn run_with(&self, words: &[&str], variables: &[(&str, &str)]) -> Outcome {
        Outcome::of(self.command(words).envs(variables.iter().copied()).spawn().unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for role in ["cache", "coordination"] {
            let folder = self.folder(role);
            let Ok(pid) = fs::read_to_string(folder.join("server.pid")) else { continue };
            let pid = pid.trim();
            let flag = if role == "cache" { &["stop"][..] } else { &["stop", "--coordination"] };
            let _ = self.command(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
            // The script itself may be what fails. The number alone proves nothing, the folder it stands in does.
            if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|stands| stands == folder) {
                kill(pid);
            }
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A child that ends with its scope.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn of(mut child: Child) -> Self {
        fn read(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
            let (done, text) = mpsc::channel();
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                done.send(String::from_utf8_lossy(&bytes).into_owned())
            });
            text
        }
        let (out, err) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
        let texts = out.recv_timeout(LIMIT).and_then(|out| Ok((out, err.recv_timeout(LIMIT)?)));
        if texts.is_err() {
            let _ = child.kill();
        }
        let code = child.wait().unwrap().code();
        let (out, err) = texts.unwrap_or_else(|_| panic!("no end after {LIMIT:?}"));
        Self { code, out, err }
    }

    #[track_caller]
    fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    fn says(&self, part: &str) -> &Self {
        assert!(self.out.contains(part), "no {part:?} in {self:#?}");
        self
    }

    #[track_caller]
    fn complains(&self, part: &str) -> &Self {
        assert!(self.err.contains(part), "no {part:?} in the errors of {self:#?}");
        self
    }

    #[track_caller]
    fn prints(&self, text: &str) {
        assert_eq!((self.exits(0).out.trim_end(), self.err.as_str()), (text, ""));
    }

    /// The value of a line of `status` or `info`.
    #[track_caller]
    fn row(&self, name: &str) -> &str {
        let value = self.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name:?} in {self:#?}")).trim()
    }
}
