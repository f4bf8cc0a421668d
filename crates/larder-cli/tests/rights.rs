//! Users that lack one right of docs/security.md each: `doctor` names the right, and each command either works or says
//! what it may not do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

use larder_testkit::Server;
use serde_json::Value;

use support::{Ran, on, run};

/// What a user with all rights can do. `USER` is a name of its own, because a user that cannot release a lock keeps it.
const COMMANDS: &[&[&str]] = &[
    &["ls"],
    &["ls", "--sample", "2"],
    &["ls", "user", "--details"],
    &["get", "user", "1"],
    &["explain", "user", "1"],
    &["exists", "user", "1"],
    &["ttl", "user", "1"],
    &["ttl", "user", "1", "--set", "2h"],
    &["set", "user", "1", "2", "--tag", "team"],
    &["expire", "user", "1"],
    &["set", "user", "1", "1"],
    &["tag", "invalidate", "team", "--yes"],
    &["set", "user", "2", "2", "--ttl", "1h"],
    &["del", "user", "2"],
    &["clear", "page", "--yes"],
    &["lock", "ls"],
    &["lock", "run", "USER", "--no-wait", "--", "true"],
    &["lock", "run", "USER", "--max-holders", "2", "--no-wait", "--", "true"],
    &["limit", "check", "api", "ann", "--quota", "1000/1h", "--quota", "9000/1d:exact"],
    &["limit", "peek", "api", "ann", "--quota", "1000/1h"],
    &["limit", "reset", "api", "ann"],
    &["ps"],
];

/// The rights and the names of all blocks that concern this server.
fn words(server: &Server) -> (Vec<String>, BTreeSet<String>) {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (mut names, mut rights) = (BTreeSet::new(), BTreeSet::new());
    for block in page.split("```text ").skip(1) {
        let (block, lines) = block.split_once('\n').unwrap();
        let (lines, _) = lines.split_once("```").unwrap();
        if ["cluster", "sentinel", "database"].contains(&block)
            || (block == "coordination-6" && server.version().at_least(7, 0))
            || (block == "name" && !server.version().at_least(7, 2))
        {
            continue;
        }
        for word in lines.split_whitespace() {
            if word.starts_with('~') {
                names.insert(word.to_owned());
            } else if let Some(right) = word.strip_prefix('+') {
                // One that this server does not know.
                let known = server.try_query::<String>(&["ACL", "SETUSER", "probe", word]).is_ok();
                known.then(|| rights.insert(right.to_owned()));
            }
        }
    }
    (names.into_iter().collect(), rights)
}

/// A user with all of these rights but one, and its URL.
fn user_without(server: &Server, names: &[String], rights: &BTreeSet<String>, without: &str) -> String {
    let name = format!("no-{}", without.replace('|', "-"));
    let mut command = vec!["ACL", "SETUSER", &name, "reset", "on", ">p", "-@all"];
    command.extend(names.iter().map(String::as_str));
    let rights: Vec<String> =
        rights.iter().filter(|right| *right != without).map(|right| format!("+{right}")).collect();
    command.extend(rights.iter().map(String::as_str));
    server.command(&command);
    format!("redis://{name}:p@{}", server.addr().unwrap())
}

fn shop(url: &str) -> Command {
    let mut command = on(url);
    command.env("LARDER_NAMESPACE", "shop").env("LARDER_TIMEOUT", "2s");
    command
}

fn run_as(url: &str, user: &str, arguments: &[&str]) -> Ran {
    run(shop(url), arguments.iter().map(|word| if *word == "USER" { user } else { word }))
}

#[test]
fn a_user_that_lacks_one_right_learns_which_and_nothing_else_breaks() {
    let server = Server::builder().tcp().start();
    let (names, rights) = words(&server);
    assert!(rights.len() > 35, "{rights:?}");
    let complete = user_without(&server, &names, &rights, "nothing");
    let prepared = run(shop(&complete), ["set", "user", "1", "1", "--ttl", "1h", "--tag", "team"]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    for arguments in COMMANDS {
        let ran = run_as(&complete, "all", arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    }

    let wrong = Mutex::new(Vec::new());
    let left = Mutex::new(rights.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some(right) = next else { return };
                    let url = user_without(&server, &names, &rights, right);
                    let found = without(&url, right);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs everything as a user without a right, and returns what is wrong with that.
fn without(url: &str, right: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut denied = 0;
    for arguments in COMMANDS {
        let ran = run_as(url, right, arguments);
        match ran.code {
            0 => {}
            77 => {
                denied += 1;
                if !ran.err.contains("docs/security.md") || ran.err.lines().count() != 2 {
                    wrong.push(format!("without +{right}: {arguments:?} says {:?}", ran.err));
                }
            }
            // A value, a record or a list that an earlier command could not write.
            1 if ran.err.is_empty() || ran.err.starts_with("larder: ") => {}
            _ => wrong.push(format!("without +{right}: {arguments:?}: {ran:?}")),
        }
    }
    let examined = run(shop(url), ["doctor", "--json", "--only", "rights"]);
    let report: Value = serde_json::from_str(&examined.out).unwrap_or_default();
    let named = report.pointer("/servers/0/findings").and_then(Value::as_array).is_some_and(|findings| {
        findings.iter().any(|finding| {
            let measured = finding["measured"].as_str().unwrap_or_default();
            measured.split_whitespace().any(|word| word == format!("+{right}"))
        })
    });
    // Tools alone need the others: a command is refused, or shows less.
    if !named && denied == 0 && !SHOWS_LESS.contains(&right) {
        wrong.push(format!("without +{right}: neither doctor nor a command says so: {}", examined.out));
    }
    wrong
}

/// Rights of tools without which nothing fails: a figure is missing, or `doctor` does not measure something.
const SHOWS_LESS: &[&str] = &[
    "acl|dryrun",
    "acl|whoami",
    "client|trackinginfo",
    "cluster|info",
    "config|get",
    // Without them a lock is released by a script.
    "delex",
    "delifeq",
    "latency|latest",
    "memory|usage",
    "role",
    "slowlog|get",
    "strlen",
];
