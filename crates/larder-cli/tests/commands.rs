//! The commands of `larder` on a real server: what they print, what they change, and what they say to people.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]

#[path = "commands/hard.rs"]
mod hard;
#[path = "commands/page.rs"]
mod page;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use larder::{Format, Larder};
use larder_testkit::Server;
use serde_json::{Value, json};

use support::screen::Screen;
use support::{Ran, larder, on, run};

const HOUR: Duration = Duration::from_secs(3600);

fn shop(url: &str) -> Command {
    let mut command = on(url);
    command.env("LARDER_NAMESPACE", "shop");
    command
}

async fn connect(url: &str) -> Larder {
    Larder::builder().url(url).namespace("shop").connect().await.unwrap()
}

/// Runs a command, and parses what it prints.
fn json_of(url: &str, arguments: &[&str]) -> (i32, Value) {
    let ran = run(shop(url), arguments.iter().chain(&["--format", "json"]));
    let value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran.code, value)
}

/// The names and kinds of the fields of a document: its shape, which programs rely on.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => Value::Array(items.first().map(shape).into_iter().collect()),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("bool"),
        Value::Null => Value::Null,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_read_and_written_in_every_format() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let ann = json!({ "name": "Ann", "likes": [1, 2.5, null, "ü"] });
    for (name, format, compressed) in
        [("j", Format::Json, false), ("m", Format::MessagePack, false), ("z", Format::MessagePack, true)]
    {
        let builder = library.cache::<Value>(name).ttl(HOUR).format(format);
        let builder = if compressed { builder.compress_above(1) } else { builder };
        let cache = builder.build().unwrap();
        cache.set(("a", 1), &ann).await.unwrap();
        let ran = run(shop(&url), ["get", name, "a:1"]);
        assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), ann, "{name}: {ran:?}");

        // What the command line stores, the program reads; time to live and format stay.
        let eve = r#"{"name":"Eve","likes":[]}"#;
        assert_eq!(run(shop(&url), ["set", name, "a:1", eve]).code, 0);
        assert_eq!(cache.get(("a", 1)).await.unwrap(), Some(serde_json::from_str(eve).unwrap()), "{name}");
        let (_, meta) = json_of(&url, &["get", name, "a:1", "--meta"]);
        assert_eq!(meta["meta"]["format"], if name == "j" { "json" } else { "msgpack" });
        assert!(meta["meta"]["ttl_ms"].as_u64().unwrap() > 3_000_000, "{meta}");
    }
    let mut write = shop(&url);
    write
        .args(["set", "image", "7", "-", "--bytes", "--ttl", "1h"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut write = write.spawn().unwrap();
    write.stdin.take().unwrap().write_all(b"\x00\xff\n").unwrap();
    assert!(write.wait().unwrap().success());
    assert_eq!(run(shop(&url), ["get", "image", "7"]).out, "00ff0a\n");
    let output = shop(&url).args(["get", "image", "7", "--raw"]).output().unwrap();
    assert_eq!(output.stdout, b"\x00\xff\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_deleted_expired_invalidated_and_cleared() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let users = library.cache::<u64>("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
    for key in 0..6u64 {
        users.set(key, &key).tag("team:7").await.unwrap();
    }
    let code = |arguments: &[&str]| run(shop(&url), arguments).code;

    assert_eq!(code(&["del", "user", "0", "--dry-run"]), 0);
    assert_eq!(users.get(0u64).await.unwrap(), Some(0));
    let deleted = run(shop(&url), ["del", "user", "0", "9"]);
    assert_eq!((deleted.code, deleted.out.as_str()), (0, "key\tdone\n0\ttrue\n9\tfalse\n"));
    assert_eq!((users.get(0u64).await.unwrap(), code(&["del", "user", "0"])), (None, 1));

    assert_eq!(code(&["expire", "user", "1"]), 0);
    assert_eq!(code(&["exists", "user", "1"]), 1);
    let (answer, report) = json_of(&url, &["explain", "user", "1"]);
    assert_eq!((answer, &report["verdict"]), (1, &json!("stale")), "{report}");

    assert_eq!(code(&["ttl", "user", "2", "--set", "2h"]), 0);
    let left: u64 = run(shop(&url), ["ttl", "user", "2"]).out.trim().parse().unwrap();
    // Time to live and `stale_for` together. What was left of `stale_for` was read a moment before.
    assert!((7_200_000..10_801_000).contains(&left), "{left}");
    assert_eq!(code(&["ttl", "user", "77"]), 1);

    // What destroys more needs consent, and nothing is changed without it.
    for arguments in [&["tag", "invalidate", "team:7"][..], &["clear", "user"]] {
        let ran = run(shop(&url), arguments);
        assert_eq!(ran.code, 64, "{ran:?}");
        assert!(ran.err.contains("--yes"), "{ran:?}");
        assert_eq!(code(&[arguments, &["--dry-run"]].concat()), 0);
        assert_eq!(users.get(2u64).await.unwrap(), Some(2));
        assert_eq!(code(&[arguments, &["--yes", "--read-only"]].concat()), 77);
        assert_eq!(users.get(2u64).await.unwrap(), Some(2));
        assert_eq!(code(&[arguments, &["--yes"]].concat()), 0);
        assert_eq!(users.get(2u64).await.unwrap(), None);
        users.set(2u64, &2).tag("team:7").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_and_keys_are_listed() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let users = library.cache::<u64>("user").ttl(HOUR).build().unwrap();
    let pages = library.cache::<u64>("page").schema(2).ttl(HOUR).build().unwrap();
    for key in 0..30u64 {
        users.set(key, &key).await.unwrap();
    }
    pages.set("x\ty", &1).await.unwrap();
    let (_, listed) = json_of(&url, &["ls"]);
    assert_eq!(listed["exact"], json!(true), "{listed}");
    let entries = |name: &str| {
        let groups = listed["groups"].as_array().unwrap();
        groups.iter().find(|group| group["cache"] == name).unwrap_or_else(|| panic!("{listed}"))["entries"]
            .clone()
    };
    assert_eq!((entries("user"), entries("page@2")), (json!(30), json!(1)));

    let limited = run(shop(&url), ["ls", "user", "--limit", "7"]);
    assert_eq!((limited.code, limited.out.lines().count()), (0, 8), "{limited:?}");
    let all = run(shop(&url), ["ls", "user", "--all", "--details", "--format", "ndjson"]);
    let keys: std::collections::BTreeSet<String> = all
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 30);
    let none = run(shop(&url), ["ls", "nothing"]);
    assert_eq!(none.code, 1);
    assert!(none.err.contains("there is no entry of \"nothing\""), "{none:?}");

    // `larder ls user --all | head -1`: the reader goes, and nothing is said about it.
    let mut piped = shop(&url);
    piped.args(["ls", "user", "--all"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    drop(piped.stdout.take());
    let ended = Ran::of(&piped.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (141, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_processes_and_limits_are_shown_and_changed() {
    let server = Server::start();
    let url = server.url();
    let builder = Larder::builder().url(&url).namespace("shop").presence("web-3");
    let library = builder.connect().await.unwrap();
    let guard = library.lock("checkout").ttl(HOUR).acquire().await.unwrap();
    let _permit = library.semaphore("pool", 4).acquire().await.unwrap();

    let (code, lock) = json_of(&url, &["lock", "show", "checkout"]);
    assert_eq!((code, &lock["holders"][0]["process"]), (0, &json!("web-3")), "{lock}");
    assert_eq!(lock["holders"][0]["fence"], json!(guard.fence().get()));
    let (_, locks) = json_of(&url, &["lock", "ls"]);
    let names: Vec<&str> =
        locks.as_array().unwrap().iter().map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["checkout", "pool"]);
    let (_, processes) = json_of(&url, &["ps"]);
    assert_eq!(processes["processes"][0]["name"], "web-3", "{processes}");

    let broken = |options: &[&str]| run(shop(&url), [&["lock", "break", "checkout"], options].concat()).code;
    assert_eq!(broken(&["--fence", "1", "--yes"]), 1);
    assert_eq!(broken(&["--dry-run"]), 0);
    assert!(library.lock("checkout").holder().await.unwrap().is_some());
    assert_eq!(broken(&["--yes"]), 0);
    assert_eq!(run(shop(&url), ["lock", "show", "checkout"]).code, 1);

    let limit =
        |verb: &str| json_of(&url, &["limit", verb, "api", "ann", "--quota", "2/1h", "--quota", "5/1d"]);
    for (verb, code, allowed) in
        [("peek", 0, true), ("check", 0, true), ("check", 0, true), ("peek", 75, false), ("check", 75, false)]
    {
        let (exit, decision) = limit(verb);
        assert_eq!((exit, &decision["allowed"]), (code, &json!(allowed)), "{verb}: {decision}");
    }
    let waited = run(shop(&url), ["limit", "wait", "api", "ann", "--quota", "2/1h", "--within", "10ms"]);
    assert_eq!(waited.code, 75, "{waited:?}");
    assert_eq!(json_of(&url, &["limit", "reset", "api", "ann"]).0, 0);
    assert_eq!(limit("check").0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shapes_of_json_stay_as_they_are_and_the_page_has_their_fields() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let users = library.cache::<u64>("user").ttl(HOUR).build().unwrap();
    users.set("a", &1).tag("team").await.unwrap();
    let _guard = library.lock("job").ttl(HOUR).acquire().await.unwrap();
    let shapes: Value = [
        &["ls"][..],
        &["ls", "user", "--details"],
        &["get", "user", "a", "--meta"],
        &["explain", "user", "a"],
        &["ttl", "user", "a"],
        &["exists", "user", "a"],
        &["del", "user", "b"],
        &["lock", "ls"],
        &["lock", "show", "job"],
        &["limit", "peek", "api", "a", "--quota", "1/1s"],
        &["clear", "user", "--dry-run"],
        &["tag", "invalidate", "x", "--dry-run"],
        &["set", "user", "c", "1", "--ttl", "1h"],
        &["expire", "user", "c"],
        &["lock", "break", "job", "--dry-run"],
        &["limit", "reset", "api", "a"],
        &["bench", "--seconds", "0.2", "--tasks", "1", "--keys", "1"],
    ]
    .into_iter()
    .map(|arguments| (arguments.join(" "), shape(&json_of(&url, arguments).1)))
    .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/commands/shapes.json");
    if std::env::var_os("LARDER_BLESS").is_some() {
        fs::write(path, format!("{shapes:#}\n")).unwrap();
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(format!("{shapes:#}"), format!("{kept:#}"), "LARDER_BLESS=1 updates {path}");

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    let (_, section) = page.split_once("### JSON\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let missing: Vec<String> =
        fields(&shapes).into_iter().filter(|name| !section.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

/// The names of the fields of documents, one for each command.
fn fields(shapes: &Value) -> BTreeSet<String> {
    fn add(value: &Value, names: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                names.insert(name.clone());
                add(value, names);
            }),
            Value::Array(items) => items.iter().for_each(|item| add(item, names)),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    shapes.as_object().unwrap().values().for_each(|document| add(document, &mut names));
    names
}

#[test]
fn errors_say_what_and_what_to_do() {
    let server = Server::builder().tcp().password("hunter2").start();
    let address = server.addr().unwrap();
    let url = format!("redis://{address}");
    let fails = |command: Command, arguments: &[&str], code: i32, words: &[&str]| {
        let ran = run(command, arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.out.is_empty() && ran.err.starts_with("larder: "), "{ran:?}");
        assert!(ran.err.lines().count() <= 2 && !ran.err.contains("hunter2"), "{ran:?}");
        for word in words {
            assert!(ran.err.contains(word), "{word:?} in {ran:?}");
        }
    };
    fails(larder(), &["ls"], 64, &["no server is named", "LARDER_URL"]);
    fails(on("localhost:6379"), &["ls"], 64, &["scheme"]);
    fails(on("redis://127.0.0.1:1"), &["ls"], 69, &["cannot connect to 127.0.0.1:1", "start the server"]);
    fails(on(&url), &["ls"], 77, &["LARDER_PASSWORD"]);
    let secret = format!("redis://:hunter2@{address}");
    fails(larder(), &["--url", &secret, "ls"], 64, &["--url contains a password", "LARDER_PASSWORD"]);

    let with_password = || {
        let mut command = on(&url);
        command.env("LARDER_PASSWORD", "hunter2");
        command
    };
    assert_eq!(run(with_password(), ["exists", "user", "1"]).code, 1);
    server.command(&["HSET", "user:1", "a", "b"]);
    fails(with_password(), &["get", "user", "1"], 65, &["another program"]);
    fails(with_password(), &["get", "a/b", "1"], 64, &["A-Z a-z"]);
    fails(with_password(), &["set", "user", "2", "{oops", "--ttl", "1h"], 65, &["not JSON", "--text"]);
    fails(with_password(), &["limit", "check", "a", "b", "--quota", "1/1s", "--cost", "2"], 64, &[]);
    assert_eq!(run(larder(), ["frobnicate"]).code, 64);
    assert_eq!(run(larder(), ["help", "frobnicate"]).code, 64);
    assert_eq!(run(larder(), ["--version"]).code, 0);
    assert!(run(larder(), ["help", "exit-codes"]).out.contains("   75    not now"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(larder(), ["completions", shell]).out.contains("lock"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    assert_eq!(run(larder(), ["man", "--out", out]).code, 0);
    assert!(fs::read_to_string(folder.path().join("larder-lock-run.1")).unwrap().contains("setsid"));
}

#[test]
fn the_configuration_file_is_read_only_if_others_cannot_read_it() {
    let server = Server::builder().tcp().password("hunter2").start();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("larder")).unwrap();
    let file = folder.path().join("larder/config.toml");
    let profile = format!(
        "default = 'dev'\n[profiles.dev]\nurl = 'redis://{}'\npassword = 'hunter2'\nnamespace = 'shop'\n\
         [profiles.prod]\nurl = 'redis://127.0.0.1:1'\nread_only = true\n",
        server.addr().unwrap()
    );
    fs::write(&file, profile).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = larder();
        command.env("XDG_CONFIG_HOME", folder.path());
        run(command, arguments)
    };
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o640, 0o604, 0o700] {
        set_mode(mode);
        let ran = with(&["set", "user", "1", "1", "--ttl", "1h"]);
        assert_eq!(ran.code, 78, "{mode:o}: {ran:?}");
        assert!(ran.err.contains("chmod 600"), "{ran:?}");
    }
    set_mode(0o600);
    assert_eq!(with(&["set", "user", "1", "1", "--ttl", "1h"]).code, 0);
    assert_eq!(server.query::<u64>(&["EXISTS", "shop/user:1"]), 1);
    assert_eq!(with(&["--profile", "prod", "set", "user", "1", "1", "--ttl", "1h"]).code, 77);
    assert_eq!(with(&["--profile", "prod", "exists", "user", "1"]).code, 69);
    let unknown = with(&["--profile", "test", "ls"]);
    assert!(unknown.code == 78 && unknown.err.contains("dev, prod"), "{unknown:?}");
    // The password of the default profile is not sent to another server.
    let other = with(&["--url", &format!("redis://{}", server.addr().unwrap()), "ls"]);
    assert_eq!(other.code, 77, "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_asked_and_sees_nothing_that_commands_the_terminal() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let users = library.cache::<String>("user").ttl(HOUR).build().unwrap();
    users.set("1", &"\u{1b}[2J\u{9b}31m\u{202e}".to_owned()).await.unwrap();
    for (typed, code, left) in [("n\n", 1, true), ("\n", 1, true), ("y\n", 0, false)] {
        let mut screen = Screen::start(&url, "larder clear user");
        screen.until("Clear \"user\", 1 entry, in shop at");
        screen.type_in(typed);
        let (text, exit) = screen.ended();
        assert_eq!((exit, users.exists("1").await.unwrap()), (code, left), "{text}");
    }
    users.set("1", &"\u{1b}[2J\u{9b}31m\u{202e}".to_owned()).await.unwrap();
    let (text, _) = Screen::start(&url, "larder get user 1").ended();
    assert_eq!(text, "\"\\u001b[2J\\u009b31m\\u202e\"");
}
