//! `larder doctor`, `larder top` and `larder bench` on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod bench;
mod checks;
mod deployments;
mod doctor;
mod relay;
#[cfg(unix)]
mod top;
#[cfg(unix)]
mod watch;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The command line with these variables and no others of larder's.
fn larder(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    // Not the configuration file of the developer.
    command.env("XDG_CONFIG_HOME", "/nonexistent").env("HOME", "/nonexistent");
    command.envs(variables.iter().copied());
    command
}

fn run(url: &str, arguments: &[&str]) -> Output {
    larder(&[("LARDER_URL", url)]).args(arguments).output().expect("larder runs")
}

/// What `larder doctor --json` found on one server.
struct Findings {
    document: Value,
    code: Option<i32>,
}

impl Findings {
    fn of(output: &Output) -> Self {
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{error}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        });
        Self { document, code: output.status.code() }
    }

    fn finding(&self, id: &str) -> &Value {
        let findings = self.document.pointer("/servers/0/findings").unwrap().as_array().unwrap();
        findings
            .iter()
            .find(|finding| finding["id"] == id)
            .unwrap_or_else(|| panic!("no {id}: {:#}", self.document))
    }

    fn verdict(&self, id: &str) -> &str {
        self.finding(id)["verdict"].as_str().unwrap()
    }

    /// Fails unless all of these checks have this verdict.
    #[track_caller]
    fn expect(&self, verdict: &str, ids: &[&str]) {
        for id in ids {
            assert_eq!(self.verdict(id), verdict, "{:#}", self.finding(id));
        }
    }

    /// Fails unless the check has this verdict and says this.
    #[track_caller]
    fn says(&self, id: &str, verdict: &str, text: &str) {
        self.expect(verdict, &[id]);
        let measured = self.finding(id)["measured"].as_str().unwrap();
        assert!(measured.contains(text), "{id} says {measured:?}");
    }
}

/// Runs `larder doctor --json`.
fn doctor(url: &str, arguments: &[&str]) -> Findings {
    Findings::of(&run(url, &[&["doctor", "--json"], arguments].concat()))
}

/// A page of the documentation.
fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
