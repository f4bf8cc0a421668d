//! Values of tens of megabytes, keys that are no text, keys of tuples, and Ctrl-C.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use larder::Quota;
use larder_testkit::{Direction, Proxy, Server, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::support::{LONG, Ran, Running, run};
use super::{HOUR, connect, json_of, shop};

#[test]
fn a_value_of_tens_of_megabytes_is_read_and_its_reader_may_go_away() {
    let server = Server::start();
    let url = server.url();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image");
    let bytes: Vec<u8> =
        (0..24_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let patient = || {
        let mut command = shop(&url);
        command.args(["--timeout", "60s"]);
        command
    };
    let stored = run(patient(), ["set", "image", "7", "--file", file, "--bytes", "--ttl", "1h"]);
    assert_eq!(stored.code, 0, "{stored:?}");
    let raw = patient().args(["get", "image", "7", "--raw"]).output().unwrap();
    assert!(raw.status.success() && raw.stdout == bytes, "{}", String::from_utf8_lossy(&raw.stderr));
    // A JSON text as large.
    let text = format!("\"{}\"", "x".repeat(24 << 20));
    fs::write(file, &text).unwrap();
    assert_eq!(run(patient(), ["set", "page", "1", "--file", file, "--ttl", "1h"]).code, 0);
    assert_eq!(run(patient(), ["get", "page", "1"]).out, format!("{text}\n"));

    for arguments in [
        &["get", "image", "7", "--raw"][..],
        &["get", "image", "7"],
        &["get", "page", "1", "--format", "json"],
    ] {
        let mut piped = patient();
        piped.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut piped = piped.spawn().unwrap();
        let mut out = piped.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        let ended = Ran::of(&piped.wait_with_output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (141, ""), "{arguments:?}");
    }
}

#[test]
fn names_that_are_no_text_are_sampled_and_listed() {
    let server = Server::start();
    let url = server.url();
    let store = "redis.call('SET', '\\255\\254:\\0\\1', 'x') redis.call('SET', '\\27[2J:1', 'x') \
                 redis.call('SET', 'shop/user:\\255\\27', '1') redis.call('SET', 'shop/user:1', '1')";
    server.command(&["EVAL", store, "0"]);
    let (code, listed) = json_of(&url, &["ls"]);
    let groups = listed["groups"].as_array().unwrap();
    let entries = |name: &str| {
        let group = groups.iter().find(|group| group["cache"] == name).unwrap_or_else(|| panic!("{listed}"));
        assert!(group["bytes"].as_u64().unwrap() > 0, "{group}");
        group["entries"].clone()
    };
    assert_eq!((code, entries("user"), entries("(other programs)")), (0, json!(2), json!(2)));
    // Random ones, which are named by their bytes: their size is known.
    let (code, sampled) = json_of(&url, &["ls", "--sample", "3"]);
    let groups = sampled["groups"].as_array().unwrap();
    assert_eq!((code, &sampled["sampled"]), (0, &json!(3)));
    assert!(groups.iter().all(|group| group["bytes"].as_u64().unwrap() > 0), "{sampled}");
    let keys = run(shop(&url), ["ls", "user"]);
    assert_eq!(keys.code, 0, "{keys:?}");
    assert!(keys.out.contains("\u{fffd}") && !keys.out.contains('\u{1b}'), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_tuple_is_given_as_it_is_stored() {
    let server = Server::start();
    let (url, library) = (server.url(), connect(&server.url()).await);
    let limiter = library.rate_limiter("mail", Quota::per_hour(3)).unwrap();
    assert!(limiter.check_n(("a", 1), 2).await.unwrap().is_allowed());
    let wait = |within: &str| {
        json_of(&url, &["limit", "wait", "mail", "a:1", "--quota", "3/1h", "--within", within])
    };
    let (code, decision) = wait("1s");
    assert_eq!((code, &decision["remaining"]), (0, &json!(0)), "{decision}");
    assert!(!limiter.check(("a", 1)).await.unwrap().is_allowed());
    assert_eq!(wait("1ms").0, 75);
    assert_eq!(json_of(&url, &["limit", "reset", "mail", "a:1"]).0, 0);
    assert_eq!(json_of(&url, &["limit", "peek", "mail", "a:1", "--quota", "3/1h"]).1["remaining"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_loading_process_and_lock_show_the_waiting_ones() {
    let server = Server::start();
    let url = server.url();
    let builder = larder::Larder::builder().url(&url).namespace("shop").presence("web-3");
    let library = builder.connect().await.unwrap();
    eventually("the process is announced", LONG, || {
        let (_, processes) = json_of(&url, &["ps"]);
        (processes["processes"][0]["name"] == "web-3").then_some(())
    });
    let users = library.cache::<u64>("user").ttl(HOUR).build().unwrap();
    let (began, begins) = tokio::sync::oneshot::channel();
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let load = async move || {
            began.send(()).unwrap();
            finished.await.unwrap();
            Ok::<_, std::io::Error>(7)
        };
        users.get_or_load("1", load).await.unwrap()
    });
    begins.await.unwrap();
    let (code, report) = json_of(&url, &["explain", "user", "1"]);
    assert_eq!((code, &report["verdict"]), (1, &json!("loading")), "{report}");
    assert_eq!(report["loader"]["process"], "web-3", "{report}");
    let text = run(shop(&url), ["explain", "user", "1"]).out;
    let line = text.lines().find(|line| line.trim_start().starts_with("loaded by  ")).unwrap();
    let who = format!("web-3 ({}", hostname());
    assert!(line.contains(&who) && line.contains(&format!(":{})", std::process::id())), "{text}");
    finish.send(()).unwrap();
    assert_eq!(load.await.unwrap(), 7);
    assert_eq!(json_of(&url, &["explain", "user", "1"]).1["loader"], Value::Null);

    let guard = library.lock("checkout").ttl(HOUR).acquire().await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let lock = library.lock("checkout");
            tokio::spawn(async move { lock.acquire().await.unwrap().release().await })
        })
        .collect();
    let shown = eventually("two wait", LONG, || {
        let (_, shown) = json_of(&url, &["lock", "show", "checkout"]);
        (shown["waiting"] == 2).then_some(shown)
    });
    let waiters = shown["waiters"].as_array().unwrap();
    assert!(waiters.len() == 2 && waiters.iter().all(|waiter| waiter["process"] == "web-3"), "{shown}");
    let text = run(shop(&url), ["lock", "show", "checkout"]).out;
    for place in ["waiting, 1: web-3 (", "waiting, 2: web-3 ("] {
        assert!(text.contains(place), "{text}");
    }
    guard.release().await.unwrap();
    for waiter in waiting {
        waiter.await.unwrap().unwrap();
    }
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_shows_what_is_known_so_far() {
    let server = Server::builder().tcp().start();
    server.command(&["DEBUG", "POPULATE", "40000", "shop/user"]);
    let proxy = Proxy::start(server.addr().unwrap()).await;
    proxy.delay(Direction::ToClient, Duration::from_millis(50));
    let interrupted = |arguments: &[&str], command: &str, calls: u64| {
        server.reset_stats();
        let running = Running::start(shop(&proxy.url()), arguments.iter().chain(&["--format", "table"]));
        eventually("the server is asked so often", LONG, || (server.calls(command) >= calls).then_some(()));
        running.signal(Signal::SIGINT);
        let ran = running.ended();
        assert_eq!((ran.code, ran.err.as_str()), (130, ""), "{ran:?}");
        ran.out
    };
    // Once the sixth hundred is asked for, the first five are known.
    let out = interrupted(&["ls", "--sample", "20000"], "randomkey", 600);
    let (_, rest) = out.split_once("(interrupted: estimate from ").unwrap_or_else(|| panic!("{out}"));
    let (sampled, rest) = rest.split_once(" of 40,000 keys, ±").unwrap_or_else(|| panic!("{out}"));
    let sampled: u64 = sampled.replace(',', "").parse().unwrap();
    assert!((500..20_000).contains(&sampled) && rest.contains("% of them)"), "{out}");
    assert!(out.lines().any(|line| line.starts_with(" user ") && line.contains(" ~40,000 ")), "{out}");

    let out = interrupted(&["ls", "user", "--all"], "scan", 3);
    assert!(out.contains("keys, interrupted: there may be more)"), "{out}");
    let keys = out.lines().filter(|line| line.trim().parse::<u64>().is_ok()).count();
    assert!((150..40_000).contains(&keys), "{keys}");
    let out = interrupted(&["lock", "ls"], "scan", 3);
    assert!(out.contains("(interrupted: there may be more)"), "{out}");
}
