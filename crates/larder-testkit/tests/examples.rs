//! Each example runs, on the embedded store and on a server, and says what it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use larder_testkit::Server;

/// As `cargo xtask test` builds them, so that nothing is built twice.
const BUILD: [&str; 8] = [
    "build",
    "--quiet",
    "--locked",
    "--workspace",
    "--exclude",
    "larder-bench",
    "--all-features",
    "--examples",
];

/// Builds the examples beside these tests, and gives their folder.
fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        // What cargo told this test about its package would make it build again what depends on such variables: ring
        // and all that stands on it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                build.env_remove(name);
            }
        }
        assert!(build.args(BUILD).status().unwrap().success(), "the examples do not build");
        let tests = std::env::current_exe().unwrap();
        tests.parent().unwrap().parent().unwrap().join("examples")
    })
}

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

#[test]
fn the_tour_shows_what_it_promises() {
    let server = Server::builder().tcp().start();
    // Twice on the server: the second finds what the first has left.
    for url in ["memory:", &server.url(), &server.url()] {
        says(
            "tour",
            url,
            &[
                "exists 123          → yes",
                "exists 123          → no",
                "without larder   1000 queries reached SQLite",
                "get_or_load         1 queries reached SQLite",
                "% were hits",
                "worker B tries     → taken",
                "the fence grew     → yes",
                "request  5: allowed, 0 left",
                "request  6: refused",
                "request 10: refused",
                "refused in this process, without asking the store: ",
                "after it, pushed          → process A leads",
                "the writer enters: no",
                "another set with one of them: no",
                "12 turns at 5 in 200 ms",
            ],
        );
    }
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
fn a_late_holder_is_told_and_the_database_refuses_it() {
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
