//! Each example runs, on the embedded store and on a server, and says what it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/built.rs"]
mod built;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use built::built;
use larder_testkit::Server;

fn run(example: &str, url: &str) -> Output {
    Command::new(built().join(example)).env("LARDER_URL", url).output().unwrap()
}

fn says(example: &str, url: &str, lines: &[&str]) {
    let output = run(example, url);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{example}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in lines {
        assert!(text.contains(line), "{example} at {url} does not say {line:?}:\n{text}");
    }
}

/// A line with `#` for each number and time, which differ from run to run.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut rest = line.trim_end();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let after = number.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | ','));
        let units = ["ms", "µs", "ns", "s"].iter().filter_map(|unit| after.trim_start().strip_prefix(unit));
        let without_unit = units.clone().find(|after| !after.starts_with(char::is_alphanumeric));
        shape += before;
        shape.push('#');
        rest = without_unit.unwrap_or(after);
    }
    shape + rest
}

/// The documentation at the beginning of an example.
fn opening(path: &str) -> String {
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(path));
    let source = source.unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

#[test]
fn every_example_opens_with_what_it_shows_and_prints_what_it_says_there_within_seconds() {
    let programs = [
        ("basic", "basic.rs"),
        ("cache_aside", "cache_aside.rs"),
        ("lock", "lock.rs"),
        ("rate_limit", "rate_limit.rs"),
        ("tour", "tour/main.rs"),
    ];
    for (example, path) in programs {
        let opening = opening(path);
        let promised =
            opening.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
        let began = Instant::now();
        let output = run(example, "memory:");
        assert!(output.status.success(), "{example}: {output:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "{example} took {:?}", began.elapsed());
        let printed = String::from_utf8(output.stdout).unwrap();
        let shapes = |text: &str| text.lines().map(shape).collect::<Vec<_>>();
        assert_eq!(
            shapes(promised),
            shapes(&printed),
            "{example} promised:\n{promised}\nand printed:\n{printed}"
        );
    }
    // Those two serve and send, and have tests of their own: service.rs and otlp.rs.
    let driven = programs.map(|(_, path)| path).into_iter().chain(["service.rs", "otlp.rs"]);
    let mut driven: Vec<String> = driven.map(|path| path.replace("/main.rs", "")).collect();
    driven.sort_unstable();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let entries =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<String> = entries.filter(|name| name != "Cargo.toml").collect();
    there.sort_unstable();
    assert_eq!(there, driven, "an example that no test drives");
    for path in programs.map(|(_, path)| path).into_iter().chain(["service.rs", "otlp.rs"]) {
        let opening = opening(path);
        let first = opening.split("\n\n").next().unwrap_or_default();
        assert!(
            first.ends_with('.') && opening.contains("```sh\n"),
            "{path} does not say what it shows: {opening}"
        );
    }
}

#[test]
fn numbers_and_times_have_one_shape() {
    assert_eq!(shape("77.5 % in 1.4 µs, 1,000 at 9.1ms"), "# % in #, # at #");
    assert_eq!(shape("wait 1.0s"), shape("wait 999.8ms"));
    assert_ne!(shape("3 seconds"), shape("3 s"));
}

#[test]
fn the_tour_shows_what_it_promises() {
    let server = Server::builder().tcp().start();
    // Twice on the server: the second finds what the first has left.
    for url in ["memory:", &server.url(), &server.url()] {
        says(
            "tour",
            url,
            &[
                "It came back as it was stored; after the delete it is gone.",
                "Without larder 1000 queries reach SQLite. With get_or_load 1 does.",
                "% are served from the cache",
                "and are told that it is stale",
                "An error: the loader failed: the database is down",
                "One loader is asked for the other 7; the answers are in order: yes",
                "500 are left, after one command.",
                "0 are left, after one more.",
                "Its fence is higher: yes",
                "It is charged 1 time; both callers get receipt 1.",
                "The second is refused: yes",
                "It runs 1 time.",
                "The watcher saw no leader, and then: process A leads",
                "The writer may not enter: yes. When both have left it may: yes",
                "The other gets neither: yes",
                "5 pass and 5 are refused",
                "The last is sent after ",
                "In all: ",
            ],
        );
    }
    let lines = String::from_utf8(run("tour", "memory:").stdout).unwrap().lines().count();
    assert!(lines <= 48, "{lines} lines are more than two screens");
}

#[test]
fn the_example_of_rate_limits_runs_on_each_store() {
    let server = Server::builder().tcp().start();
    for url in ["memory:", &server.url(), &server.url()] {
        says(
            "rate_limit",
            url,
            &[
                "request 3: allowed, 0 left",
                "request 4: refused by 1s",
                "mail 6: sent",
                "reserved 4000, used 1200, 2800 came back",
                "8800 left",
                "true true false",
                "decided by store",
            ],
        );
    }
}

#[test]
fn the_example_of_cache_aside_asks_the_database_as_rarely_as_it_says() {
    let server = Server::builder().tcp().start();
    // Twice on the server: the second finds what the first has left.
    for url in ["memory:", &server.url(), &server.url()] {
        says(
            "cache_aside",
            url,
            &[
                "the first read loads:\n    SQLite: SELECT author 1\nauthor 1: Ursula\n",
                "the second does not:\nauthor 1: Ursula\n",
                "SELECT author 9\nauthor 9: no such author\nauthor 9: no such author\n",
                "SQLite: UPDATE author 1\n    SQLite: SELECT author 1\nauthor 1: Ursula K.\n",
                "every author of a genre:\n    SQLite: SELECT author 1\nauthor 1: Ursula K.\n",
            ],
        );
    }
}

#[test]
fn a_late_holder_learns_it_and_the_database_refuses_it() {
    let server = Server::builder().tcp().start();
    for url in ["memory:", &server.url()] {
        says(
            "lock",
            url,
            &[
                "A is notified that it has lost the lock; its guard is valid: false",
                "its fence is higher: true",
                "B writes 20        → true",
                "A, late, writes 10 → false",
                "the total is 20",
                "A cannot extend the lock that it lost: true",
                "run: writes 30     → true",
            ],
        );
    }
}

#[test]
fn the_basic_example_runs_and_says_what_to_do_without_a_server() {
    let server = Server::builder().tcp().start();
    for url in ["memory:", &server.url()] {
        says(
            "basic",
            url,
            &["exists 123   true", "delete 123   true", "get 123      None", "150 ms later None"],
        );
    }
    server.kill();
    let output = run("basic", &server.url());
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("./redis-management.sh start"));
}
