//! The claim of a refresh names the value that it refreshes. A claim for another value has no effect, so `delete` and
//! `expire` touch one key, and work while a cluster moves its slot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use larder::{Cache, ErrorKind};
use larder_testkit::{Cluster, Server};
use support::{User, patient, user};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_claim_on_another_value_is_free_to_take_and_one_on_this_value_is_not() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
    let load = async |row: &'static str| {
        let started = Instant::now();
        users.get_or_load("a", move || async move { Ok::<_, Infallible>(user(row)) }).await.unwrap();
        started.elapsed()
    };
    users.set("a", &user("Ann")).await.unwrap();
    users.expire("a").await.unwrap();
    let put = |claim: &str| {
        let _: String = server.query(&["SET", "~lease.2:{user:a}", claim, "PX", "3000"]);
    };
    put("00000000000000ab00000000000000cd");
    assert!(load("new").await < Duration::from_millis(1500), "waited for a claim on another value");
    assert_eq!(users.get("a").await.unwrap(), Some(user("new")));

    users.expire("a").await.unwrap();
    // The nonce of the stored value.
    let script = r"local n = redis.call('GETRANGE', KEYS[1], 4, 11)
        return (string.gsub(n, '.', function(c) return string.format('%02x', string.byte(c)) end))";
    let nonce: String = server.query(&["EVAL", script, "1", "user:a"]);
    put(&format!("00000000000000ab{nonce}"));
    assert_eq!(larder.explain("user:a").await.unwrap().refreshing, Some(0xab));
    assert!(load("newer").await > Duration::from_millis(1500), "did not wait for a claim on this value");
    assert_eq!(users.get("a").await.unwrap(), Some(user("newer")));
    put("00000000000000ab00000000000000cd");
    assert_eq!(larder.explain("user:a").await.unwrap().refreshing, None, "that one was left behind");
}

/// Starts to move a slot: keys that are not on its master are asked for on the target node.
fn begin_moving<'a>(cluster: &'a Cluster, key: &str) -> (String, &'a Server, &'a Server) {
    let from = cluster.master_of(key);
    let to = cluster.masters().into_iter().find(|node| node.addr() != from.addr()).unwrap();
    let slot: u16 = from.query(&["CLUSTER", "KEYSLOT", key]);
    let slot = slot.to_string();
    let id = |node: &Server| node.query::<String>(&["CLUSTER", "MYID"]);
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    (slot, from, to)
}

fn move_key(from: &Server, to: &Server, key: &str) {
    let port = to.addr().unwrap().port().to_string();
    let moved: String = from.query(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    assert_eq!(moved, "OK");
}

fn end_moving(cluster: &Cluster, slot: &str, to: &Server) {
    let id: String = to.query(&["CLUSTER", "MYID"]);
    for node in std::iter::once(to).chain(cluster.masters()) {
        node.command(&["CLUSTER", "SETSLOT", slot, "NODE", &id]);
    }
}

#[tokio::test]
async fn deletes_and_expiries_work_while_the_slot_moves() {
    let cluster = Cluster::start();
    let larder = patient().url(cluster.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
    users.set("a", &user("Ann")).await.unwrap();
    let (slot, from, to) = begin_moving(&cluster, "user:a");
    assert!(users.expire("a").await.unwrap(), "the key has not been moved yet");
    move_key(from, to, "user:a");
    users.set("a", &user("Bob")).await.unwrap();
    assert!(users.expire("a").await.unwrap(), "the key has been moved");
    assert!(users.delete("a").await.unwrap());
    assert_eq!(users.delete_many(["a"]).await.unwrap(), [false]);
    end_moving(&cluster, &slot, to);
    assert_eq!(users.get_entry("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_fenced_write_waits_for_the_end_of_the_move_within_its_timeout() {
    let cluster = Cluster::start();
    let larder = patient().url(cluster.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    let guard = larder.lock("writers").acquire().await.unwrap();
    assert!(users.set_fenced("a", &user("Ann"), guard.fence()).await.unwrap());
    let (slot, from, to) = begin_moving(&cluster, "user:a");
    // The value has been moved, and the fence has not.
    move_key(from, to, "user:a");
    let late = users.set_fenced("a", &user("Bob"), guard.fence()).timeout(Duration::from_millis(300)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    let bob = user("Bob");
    let write = users.set_fenced("a", &bob, guard.fence()).timeout(Duration::from_secs(20));
    let finish = async {
        tokio::task::yield_now().await;
        move_key(from, to, "~lease.2:{user:a}:fence");
        end_moving(&cluster, &slot, to);
    };
    let (written, ()) = tokio::join!(write, finish);
    assert!(written.unwrap());
    assert_eq!(users.get("a").await.unwrap(), Some(user("Bob")));
    guard.release().await.unwrap();
}
