//! A release in one plain command, on servers that can compare and delete, and what happens where it cannot be used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::lock::{Guard, Lock, ReleaseOutcome};
use larder::{ErrorKind, Larder};
use larder_testkit::{Cluster, Product, Server, Version};
use support::scripted::scripted;
use support::{namespace, patient, until};
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_secs(20);
const SPACE: &str = "release";

/// The server's command that compares and deletes, in the spelling of `INFO commandstats`.
fn delete_if(version: Version) -> Option<&'static str> {
    let command = match version.product {
        Product::Valkey if version.at_least(9, 0) => Some("delifeq"),
        Product::Redis if version.at_least(8, 4) => Some("delex"),
        _ => None,
    };
    if command.is_none() {
        // Past the capture of the test's output: a run that tests this on no server should say so.
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED: a release in one command, because {version} has none. `cargo xtask servers DIR \
             valkey-server-9.1` makes a server that has, and LARDER_TEST_SERVER chooses it"
        );
    }
    command
}

async fn larder(url: &str) -> Larder {
    patient().url(url).namespace(SPACE).connect().await.unwrap()
}

fn key(lock: &str) -> String {
    format!("~lock.2:{{{SPACE}/{lock}}}")
}

fn waiting(server: &Server, lock: &str) -> u64 {
    server.query(&["ZCARD", &format!("{}:line", key(lock))])
}

async fn enqueue(server: &Server, larder: &Larder, name: &str) -> JoinHandle<Guard> {
    let (before, lock) = (waiting(server, name), larder.lock(name).ttl(TTL));
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    until("it is queued", async || waiting(server, name) > before).await;
    waiter
}

async fn released(guard: Guard) {
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
}

#[tokio::test]
async fn an_uncontended_release_is_one_plain_command() {
    let server = Server::start();
    let Some(command) = delete_if(server.version()) else { return };
    let larder = larder(&server.url()).await;
    let lock = larder.lock("gate").ttl(TTL);
    released(lock.acquire().await.unwrap()).await;
    server.reset_stats();
    for _ in 0..10 {
        released(lock.acquire().await.unwrap()).await;
    }
    assert_eq!((server.calls("evalsha"), server.calls("eval"), server.calls(command)), (10, 0, 10));
    // A guard that is dropped is released by the script: what the task does next must find the lock free.
    drop(lock.acquire().await.unwrap());
    released(lock.try_acquire().await.unwrap().expect("a free lock")).await;
    assert_eq!(server.calls(command), 11);
    // A ticket, a renewed lock, one that is waited for no more.
    let adopted = lock.adopt(&lock.acquire().await.unwrap().into_ticket().unwrap()).await.unwrap();
    released(adopted).await;
    let kept = larder.lock("gate").ttl(Duration::from_millis(300)).keep_alive().acquire().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    released(kept).await;
    let guard = lock.acquire().await.unwrap();
    let waited = lock.acquire_within(Duration::from_millis(50)).await.map(drop).unwrap_err();
    assert_eq!(waited.kind(), ErrorKind::LockHeld);
    until("the waiter is gone", async || waiting(&server, "gate") == 0).await;
    until("the lock has no mark", async || server.query::<String>(&["GET", &key("gate")]).len() == 16).await;
    server.reset_stats();
    released(guard).await;
    assert_eq!((server.calls("evalsha"), server.calls("eval"), server.calls(command)), (0, 0, 1));
    assert_eq!(server.query::<u64>(&["EXISTS", &key("gate")]), 0);
}

#[tokio::test]
async fn a_waiter_is_handed_the_lock_in_the_same_release() {
    let server = Server::start();
    let (here, there) = (larder(&server.url()).await, larder(&server.url()).await);
    let lock = here.lock("gate").ttl(TTL);
    for round in 0..20 {
        let guard = lock.acquire().await.unwrap();
        let first = enqueue(&server, &there, "gate").await;
        let second = enqueue(&server, &here, "gate").await;
        released(guard).await;
        // The release has handed the lock on: it is not the heartbeat of the waiters that does it.
        assert_eq!(server.query::<u64>(&["EXISTS", &key("gate")]), 1, "round {round}");
        released(first.await.unwrap()).await;
        assert_eq!(server.query::<u64>(&["EXISTS", &key("gate")]), 1, "round {round}");
        released(second.await.unwrap()).await;
        assert_eq!(server.query::<u64>(&["EXISTS", &key("gate")]), 0, "round {round}");
    }
    let Some(command) = delete_if(server.version()) else { return };
    // A holder that was in the queue itself expects others in it, and does not try the plain command.
    assert_eq!(server.calls(command), 20);
}

/// Replies 1 if the lock is free although attempts wait for it, and none of them was handed it. A waiter that was
/// handed the lock and did not confirm in time, on a slow machine, has a wake-up key.
const FORGOTTEN: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end \
    for _, token in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do \
        if redis.call('EXISTS', KEYS[1] .. ':wake:' .. token) == 1 then return 0 end \
    end \
    return redis.call('EXISTS', KEYS[2])";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_release_that_races_with_an_attempt_forgets_the_waiter() {
    let server = Arc::new(Server::start());
    let (here, there) = (larder(&server.url()).await, larder(&server.url()).await);
    let contend = |lock: Lock| {
        tokio::spawn(async move {
            for turn in 0..500 {
                released(lock.acquire().await.unwrap()).await;
                // At another time in the other's turn each time.
                tokio::time::sleep(Duration::from_micros(turn % 7 * 60)).await;
            }
        })
    };
    let contenders = [contend(here.lock("gate").ttl(TTL)), contend(there.lock("gate").ttl(TTL))];
    let ended = Arc::new(AtomicBool::new(false));
    let watch = tokio::task::spawn_blocking({
        let (server, ended) = (server.clone(), ended.clone());
        move || {
            let (lock, line) = (key("gate"), format!("{}:line", key("gate")));
            let mut forgotten = 0;
            while !ended.load(Ordering::Acquire) {
                forgotten += server.query::<u64>(&["EVAL", FORGOTTEN, "2", &lock, &line]);
            }
            forgotten
        }
    });
    for contender in contenders {
        contender.await.unwrap();
    }
    ended.store(true, Ordering::Release);
    assert_eq!(watch.await.unwrap(), 0);
    assert!(here.stats().locks.waited + there.stats().locks.waited > 50, "they did not contend");
    assert_eq!(server.query::<u64>(&["EXISTS", &key("gate")]), 0);
}

#[tokio::test]
async fn a_plain_release_of_a_lost_lock_takes_nothing_from_its_new_holder() {
    let server = Server::start();
    let (here, there) = (larder(&server.url()).await, larder(&server.url()).await);
    let lost = here.lock("gate").ttl(TTL).acquire().await.unwrap();
    assert!(there.lock("gate").break_if(lost.fence()).await.unwrap());
    let other = there.lock("gate").ttl(TTL).acquire().await.unwrap();
    assert_eq!(lost.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    let holder = here.lock("gate").holder().await.unwrap().unwrap();
    assert_eq!(holder.fence, other.fence());
    released(other).await;
}

#[tokio::test]
async fn a_server_at_its_maxmemory_releases_and_hands_over() {
    let server = Server::start();
    let larder = larder(&server.url()).await;
    let alone = larder.lock("alone").ttl(TTL).acquire().await.unwrap();
    let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
    // Once before, so that the server knows the scripts.
    released(larder.lock("warm").ttl(TTL).acquire().await.unwrap()).await;
    let first = enqueue(&server, &larder, "gate").await;
    let second = enqueue(&server, &larder, "gate").await;
    let turn = larder.lock("turn").ttl(TTL).acquire().await.unwrap();
    // The first in the queue was woken before and has not asked since, so that it is passed over.
    let (name, gone) = (key("turn"), "00000000000000aa");
    let now: Vec<String> = server.query(&["TIME"]);
    server.command(&["ZADD", &format!("{name}:line"), &format!("{}{:0>6}", now[0], now[1]), gone]);
    server.command(&["SET", &format!("{name}:wake:{gone}"), "1"]);
    let third = enqueue(&server, &larder, "turn").await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    released(turn).await;
    assert_ne!(server.query::<String>(&["GETRANGE", &name, "0", "15"]), gone, "it has the lock again");
    released(third.await.unwrap()).await;
    released(alone).await;
    released(guard).await;
    released(first.await.unwrap()).await;
    released(second.await.unwrap()).await;
    let refused = larder.lock("gate").try_acquire().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
}

#[tokio::test]
async fn a_server_that_refuses_the_command_is_asked_once_a_connection() {
    let server = Server::start();
    let Some(command) = delete_if(server.version()) else { return };
    server.command(&["ACL", "SETUSER", "default", &format!("-{command}")]);
    let larder = larder(&server.url()).await;
    for _ in 0..5 {
        released(larder.lock("gate").ttl(TTL).acquire().await.unwrap()).await;
    }
    let stats = server.info("commandstats");
    let refused = stats.get(&format!("cmdstat_{command}")).map(String::as_str).unwrap_or_default();
    assert!(refused.contains("calls=0,") && refused.contains("rejected_calls=1,"), "{refused}");
}

#[tokio::test]
async fn each_node_of_a_cluster_is_known_by_itself() {
    let cluster = Cluster::start();
    let Some(command) = delete_if(cluster.nodes()[0].version()) else { return };
    let masters = cluster.masters();
    // As if this node were older than the others.
    masters[0].command(&["ACL", "SETUSER", "default", &format!("-{command}")]);
    let larder = patient().url(cluster.url()).namespace(SPACE).connect().await.unwrap();
    for name in 0..60 {
        let lock = larder.lock(format!("gate:{name}")).ttl(TTL);
        released(lock.acquire().await.unwrap()).await;
        released(lock.acquire().await.unwrap()).await;
    }
    let calls: Vec<u64> = masters.iter().map(|master| master.calls(command)).collect();
    assert_eq!(calls[0], 0);
    assert!(calls[1..].iter().all(|calls| *calls >= 2), "{calls:?}");
}

/// The reply to the script that acquires a lock.
const GRANTED: &str = ":1767225600000000\r\n";

fn is_release(command: &[String]) -> bool {
    // The keys are the lock and its queue.
    matches!(command[0].as_str(), "EVAL" | "EVALSHA") && command[2] == "2"
}

#[tokio::test]
async fn redis_8_4_is_sent_delex() {
    let (url, sent) = scripted("redis", "8.4.0", |command| match command[0].as_str() {
        "DELEX" => ":1\r\n".to_owned(),
        _ => GRANTED.to_owned(),
    })
    .await;
    let larder = larder(&url).await;
    let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let acquired = sent.take();
    released(guard).await;
    let token = acquired[0].iter().find(|part| part.len() == 16).expect("the attempt's token");
    let expected = ["DELEX", &key("gate"), "IFEQ", token].map(str::to_owned);
    assert_eq!(sent.take(), [expected.to_vec()]);
}

#[tokio::test]
async fn a_lock_with_another_value_is_released_by_the_script() {
    for (server, version, name) in [("redis", "8.4.0", "DELEX"), ("valkey", "9.0.1", "DELIFEQ")] {
        let (url, sent) = scripted(server, version, |command| match command[0].as_str() {
            "DELEX" | "DELIFEQ" => ":0\r\n".to_owned(),
            _ if is_release(command) => ":1\r\n".to_owned(),
            _ => GRANTED.to_owned(),
        })
        .await;
        let larder = larder(&url).await;
        for _ in 0..2 {
            let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
            sent.take();
            released(guard).await;
            let commands = sent.take();
            assert_eq!(commands.len(), 2, "{commands:?}");
            assert!(commands[0][0] == name && is_release(&commands[1]), "{commands:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_command_in_spite_of_its_version_gets_the_script() {
    for refusal in ["-ERR unknown command 'DELIFEQ'\r\n", "-NOPERM this user has no permissions\r\n"] {
        let (url, sent) = scripted("valkey", "9.0.1", move |command| match command[0].as_str() {
            "DELIFEQ" => refusal.to_owned(),
            _ if is_release(command) => ":1\r\n".to_owned(),
            _ => GRANTED.to_owned(),
        })
        .await;
        let larder = larder(&url).await;
        for expected in [2, 1, 1] {
            let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
            sent.take();
            released(guard).await;
            let commands = sent.take();
            assert_eq!(commands.len(), expected, "{commands:?}");
            assert!(is_release(commands.last().unwrap()), "{commands:?}");
        }
    }
}

#[tokio::test]
async fn servers_without_the_command_are_never_sent_it() {
    for (server, version) in [("redis", "8.2.1"), ("valkey", "8.1.4"), ("redis", "7.0.15")] {
        let (url, sent) = scripted(server, version, |command| match command[0].as_str() {
            _ if is_release(command) => ":1\r\n".to_owned(),
            _ => GRANTED.to_owned(),
        })
        .await;
        let larder = patient().url(url).namespace(namespace()).connect().await.unwrap();
        let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
        sent.take();
        released(guard).await;
        let commands = sent.take();
        assert!(commands.len() == 1 && is_release(&commands[0]), "{server} {version}: {commands:?}");
    }
}
