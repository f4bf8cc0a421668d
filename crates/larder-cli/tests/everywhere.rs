//! The same commands on one server, on a cluster, through Sentinel, and on the embedded store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use larder::{Format, Larder, Near, Quota};
use larder_testkit::{Cluster, Sentinel, Server, eventually};
use serde_json::{Value, json};

use support::{LONG, Ran, on, run};

const HOUR: Duration = Duration::from_secs(3600);
const USERS: u64 = 300;

/// The command line at one deployment.
struct Shop(String);

impl Shop {
    fn command(&self) -> Command {
        let mut command = on(&self.0);
        command.env("LARDER_NAMESPACE", "shop");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        // A cluster may be slow, or replace a master, while other tests load the machine. The time to live of
        // `lock run` bounds what a request of it may take.
        let timeout = if arguments.starts_with(&["lock", "run"]) { "2s" } else { "15s" };
        let mut command = self.command();
        command.env("LARDER_TIMEOUT", timeout);
        run(command, arguments)
    }

    #[track_caller]
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        ran.out
    }

    #[track_caller]
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let out = self.expect(code, &[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_work_on_a_server() {
    let server = Server::builder().tcp().start();
    work_on(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_work_on_a_cluster() {
    let cluster = Cluster::start();
    work_on(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_work_through_sentinel() {
    let sentinel = Sentinel::start();
    work_on(&sentinel.url()).await;
}

async fn work_on(url: &str) {
    let shop = Shop(url.to_owned());
    let library = Larder::builder().url(url).namespace("shop").presence("web-3").connect().await.unwrap();
    let users = library.cache::<u64>("user").ttl(HOUR).build().unwrap();
    for key in 0..USERS {
        users.set(key, &key).await.unwrap();
    }
    let pages =
        library.cache::<Value>("page").schema(2).ttl(HOUR).format(Format::MessagePack).build().unwrap();
    pages.set(("a", 1), &json!({ "title": "News" })).await.unwrap();

    lists(&shop);
    entries(&shop, &users).await;
    locks(&shop, &library).await;
    limits(&shop, &library).await;
    eventually("the process is announced", LONG, || {
        (shop.json(0, &["ps"])["processes"][0]["name"] == "web-3").then_some(())
    });
    // A test server may have problems that doctor is right to name.
    let examined = shop.run(&["doctor", "--json", "--namespace", "shop"]);
    assert!([0, 2].contains(&examined.code), "{examined:?}");
    let examined: Value = serde_json::from_str(&examined.out).unwrap();
    let findings = examined["servers"][0]["findings"].as_array().unwrap();
    for id in ["L01", "L05", "L22", "L31", "L33", "L51"] {
        let finding = findings.iter().find(|finding| finding["id"] == id).unwrap();
        assert_eq!(finding["verdict"], "good", "{finding}");
    }
    let bench = ["bench", "--seconds", "0.2", "--tasks", "4", "--keys", "20"];
    assert_eq!(shop.json(0, &bench)["operations"][1]["errors"], 0);
    shop.expect(0, &["clear", "user", "--yes"]);
    is_gone(&users, 1).await;
    library.close().await.unwrap();
}

fn lists(shop: &Shop) {
    let group = |listed: &Value, name: &str| {
        let groups = listed["groups"].as_array().unwrap();
        groups.iter().find(|group| group["cache"] == name).unwrap_or_else(|| panic!("{listed}")).clone()
    };
    let listed = shop.json(0, &["ls"]);
    assert_eq!(listed["exact"], true);
    assert_eq!(group(&listed, "user")["entries"], USERS);
    assert_eq!(group(&listed, "page@2")["entries"], 1);
    // A sample of all nodes: nearly all keys are users.
    let sampled = shop.json(0, &["ls", "--sample", "150"]);
    assert_eq!(sampled["exact"], false);
    let estimate = group(&sampled, "user")["entries"].as_u64().unwrap();
    assert!((USERS * 8 / 10..=USERS * 12 / 10).contains(&estimate), "{sampled}");
    let keys = shop.expect(0, &["ls", "user", "--all"]);
    let keys: BTreeSet<u64> = keys.lines().skip(1).map(|key| key.parse().unwrap()).collect();
    assert_eq!(keys, (0..USERS).collect());
    let details = shop.json(0, &["ls", "user", "--details", "--limit", "9"]);
    let details = details.as_array().unwrap();
    assert!(details.len() == 9 && details.iter().all(|key| key["format"] == "json"), "{details:?}");
    shop.expect(1, &["ls", "nothing"]);
}

async fn entries(shop: &Shop, users: &larder::Cache<u64>) {
    assert_eq!(shop.expect(0, &["get", "user", "7"]), "7\n");
    assert_eq!(shop.json(0, &["get", "page@2", "a:1"])["value"], json!({ "title": "News" }));
    shop.expect(1, &["get", "user", "999"]);
    assert_eq!(shop.json(0, &["explain", "user", "7"])["verdict"], "fresh");
    shop.expect(0, &["set", "user", "7", "70", "--tag", "team:7"]);
    assert_eq!(users.get(7u64).await.unwrap(), Some(70));
    let meta = shop.json(0, &["get", "user", "7", "--meta"]);
    assert_eq!(meta["meta"]["tags"][0]["tag"], "team:7");
    shop.expect(0, &["tag", "invalidate", "team:7", "--yes"]);
    is_gone(users, 7).await;
    assert_eq!(shop.json(1, &["explain", "user", "7"])["verdict"], "invalidated");
    shop.expect(0, &["ttl", "user", "8", "--set", "2h"]);
    let left: u64 = shop.expect(0, &["ttl", "user", "8"]).trim().parse().unwrap();
    assert!(left > 7_000_000, "{left}");
    shop.expect(0, &["del", "user", "8", "9"]);
    shop.expect(1, &["exists", "user", "8"]);
    shop.expect(0, &["expire", "user", "10", "11"]);
    shop.expect(1, &["exists", "user", "10"]);
}

/// What another process invalidated is gone within C2's bound: this process learns the new version of a tag or of a
/// cache from a message of the server, which may arrive after the command has ended.
async fn is_gone(users: &larder::Cache<u64>, key: u64) {
    let end = Instant::now() + Near::STALENESS;
    while users.get(key).await.unwrap().is_some() {
        assert!(Instant::now() < end, "{key} is still served after {:?}", Near::STALENESS);
        tokio::task::yield_now().await;
    }
}

async fn locks(shop: &Shop, library: &Larder) {
    let guard = library.lock("checkout").ttl(HOUR).acquire().await.unwrap();
    let _permit = library.semaphore("pool", 4).ttl(HOUR).acquire().await.unwrap();
    let listed = shop.json(0, &["lock", "ls"]);
    let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|lock| &lock["name"]).collect();
    assert_eq!(names, ["checkout", "pool"]);
    assert_eq!(shop.json(0, &["lock", "show", "checkout"])["holders"][0]["fence"], guard.fence().get());
    assert_eq!(shop.expect(75, &["lock", "run", "checkout", "--no-wait", "--", "echo", "runs"]), "");
    shop.expect(3, &["lock", "run", "nightly", "--", "sh", "-c", "exit 3"]);
    shop.expect(0, &["lock", "run", "pool", "--max-holders", "4", "--no-wait", "--", "true"]);
    shop.expect(0, &["lock", "break", "checkout", "--yes"]);
    let out = shop.expect(0, &["lock", "run", "checkout", "--no-wait", "--", "echo", "runs"]);
    assert_eq!(out, "runs\n");
}

async fn limits(shop: &Shop, library: &Larder) {
    let quotas = ["--quota", "3/1h", "--quota", "9/1d"];
    let limit = |verb: &str, code| shop.json(code, &[&["limit", verb, "api", "ann"][..], &quotas].concat());
    let limiter = library.rate_limiter("api", [Quota::per_hour(3), Quota::per_day(9)]).unwrap();
    assert!(limiter.check("ann").await.unwrap().is_allowed());
    for (verb, code) in [("peek", 0), ("check", 0), ("wait", 0), ("peek", 75), ("check", 75)] {
        limit(verb, code);
    }
    shop.expect(0, &["limit", "reset", "api", "ann"]);
    limit("check", 0);
}

/// Each command starts with an empty store: what it says of that is right, and nothing waits for a server.
#[test]
fn the_commands_work_on_the_embedded_store() {
    let shop = Shop("memory:".to_owned());
    let listed = shop.json(0, &["ls"]);
    assert_eq!((&listed["total"], &listed["exact"]), (&json!(0), &json!(true)));
    shop.expect(1, &["ls", "user", "--all"]);
    shop.expect(1, &["get", "user", "1"]);
    assert_eq!(shop.json(1, &["explain", "user", "1"])["verdict"], "nothing");
    shop.expect(0, &["set", "user", "1", "1", "--ttl", "1h"]);
    for verb in ["del", "exists", "ttl", "expire"] {
        shop.expect(1, &[verb, "user", "1"]);
    }
    shop.expect(0, &["clear", "user", "--yes"]);
    shop.expect(0, &["tag", "invalidate", "team", "--yes"]);
    assert_eq!(shop.json(0, &["lock", "ls"]), json!([]));
    shop.expect(1, &["lock", "show", "job"]);
    shop.expect(1, &["lock", "break", "job", "--yes"]);
    shop.expect(3, &["lock", "run", "job", "--", "sh", "-c", "exit 3"]);
    shop.expect(0, &["limit", "check", "api", "ann", "--quota", "1/1h"]);
    shop.expect(0, &["limit", "wait", "api", "ann", "--quota", "1/1h"]);
    shop.expect(0, &["limit", "peek", "api", "ann", "--quota", "1/1h"]);
    shop.expect(1, &["limit", "reset", "api", "ann"]);
    shop.expect(0, &["ps"]);
    shop.expect(0, &["bench", "--seconds", "0.2", "--tasks", "2"]);
    // There is no server to examine.
    let ran = shop.run(&["doctor"]);
    assert!(ran.code == 64 && ran.err.contains("memory: is inside of a program"), "{ran:?}");
}
