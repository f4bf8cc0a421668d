//! Locks on a Cluster and under Sentinel: what happens to holders and waiters when a slot moves, a master dies, or one
//! node of several is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder};

use larder::lock::{Guard, Lock, ReleaseOutcome};
use larder_testkit::{Cluster, Sentinel, Server, eventually};
use support::until;
use support::waiting::ends_no_later_than;
use tokio::task::{JoinHandle, spawn_blocking};

const TTL: Duration = Duration::from_secs(20);
/// Survives a failover in which a second passes until the master counts as down.
const SHORT: Duration = Duration::from_secs(3);
/// Shorter than the time after which a replica becomes master.
const BRIEF: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(15);
const SPACE: &str = "f";

fn key(lock: &str) -> String {
    format!("~lock.2:{{{SPACE}/{lock}}}")
}

async fn connect(url: &str) -> Larder {
    // A waiter survives a failover, even on a busy machine.
    Larder::builder().url(url).namespace(SPACE).response_timeout(LIMIT).connect().await.unwrap()
}

/// Starts a waiter, and returns once it is in the queue on this server.
async fn stand(server: &Server, lock: Lock, name: &str) -> JoinHandle<Guard> {
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    let line = format!("{}:line", key(name));
    until("it is queued", async || server.query::<u64>(&["ZCARD", &line]) == 1).await;
    waiter
}

async fn served(waiter: JoinHandle<Guard>) -> Guard {
    tokio::time::timeout(LIMIT, waiter).await.expect("a stall").unwrap()
}

/// Waits until the replica has everything that the master has, because a failover may lose the rest.
fn in_step(master: &Server, replica: &Server) {
    eventually("the replica is in step", LIMIT, || {
        let offset = |server: &Server, field: &str| server.info("replication").get(field).cloned();
        (offset(master, "master_repl_offset")? == offset(replica, "slave_repl_offset")?).then_some(())
    });
}

/// Moves the slot of a key, with all its keys, to another master: one key after the other, as an operator would.
fn move_slot<'a>(cluster: &'a Cluster, key: &str) -> &'a Server {
    let from = cluster.master_of(key);
    let masters = cluster.masters();
    let to = *masters.iter().find(|node| node.addr() != from.addr()).unwrap();
    let slot = from.query::<u16>(&["CLUSTER", "KEYSLOT", key]).to_string();
    let id = |node: &Server| node.query::<String>(&["CLUSTER", "MYID"]);
    let port = to.addr().unwrap().port().to_string();
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    loop {
        let keys: Vec<String> = from.query(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
        let Some(key) = keys.first() else { break };
        from.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        // Requests arrive while some of the lock's keys are on this node and some on the other.
        std::thread::sleep(Duration::from_millis(100));
    }
    for node in [to, from].into_iter().chain(masters.iter().copied()) {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    cluster.wait_until_ok();
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_and_waited_for_moves_with_its_slot() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let (here, there) = (connect(&cluster.url()).await, connect(&cluster.url()).await);
    let kept = here.lock("gate").ttl(SHORT).keep_alive().acquire().await.unwrap();
    let waiter = stand(cluster.master_of(&key("gate")), there.lock("gate").ttl(TTL), "gate").await;
    let nodes = cluster.clone();
    let moved = spawn_blocking(move || move_slot(&nodes, &key("gate")).addr());
    // A caller that asks while the lock's keys are at two nodes learns that it may retry.
    let mut apart = 0;
    let asks = async {
        loop {
            match there.lock("gate").ttl(TTL).try_acquire().await {
                Ok(granted) => assert!(granted.is_none(), "two holders"),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    apart += u32::from(error.kind() == ErrorKind::ClusterDown);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let moved = tokio::select! {
        moved = moved => moved.unwrap(),
        () = asks => unreachable!(),
    };
    assert!(apart > 0, "no request met keys that are apart");
    let node = cluster.master_of(&key("gate"));
    assert_eq!(node.addr(), moved);
    // It is renewed on its new node.
    let began = Instant::now();
    while began.elapsed() < SHORT {
        assert!(kept.is_valid(), "lost");
        ends_no_later_than(node, &key("gate"), &kept);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!waiter.is_finished(), "two holders");
    let fence = kept.fence();
    assert_eq!(kept.release().await.unwrap(), ReleaseOutcome::Released);
    let next = served(waiter).await;
    assert!(next.fence() > fence);
    ends_no_later_than(node, &key("gate"), &next);
    assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_outlives_the_master_of_its_slot_where_the_replica_had_it() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let (here, there) = (connect(&cluster.url()).await, connect(&cluster.url()).await);
    let held = here.lock("gate").ttl(TTL).acquire().await.unwrap();
    let waiter = stand(cluster.master_of(&key("gate")), there.lock("gate").ttl(TTL), "gate").await;
    let nodes = cluster.clone();
    spawn_blocking(move || {
        let master = nodes.master_of(&key("gate"));
        in_step(master, nodes.replica_of(master).unwrap());
        master.kill();
        nodes.wait_until_ok();
    })
    .await
    .unwrap();
    let node = cluster.master_of(&key("gate"));
    assert!(held.is_valid() && !waiter.is_finished());
    ends_no_later_than(node, &key("gate"), &held);
    until("the new master is found", async || held.extend(TTL).await.is_ok()).await;
    let fence = held.fence();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let next = served(waiter).await;
    assert!(next.fence() > fence);
    assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_leaves_the_locks_of_the_others_renewed() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let larder = connect(&cluster.url()).await;
    let mut guards = Vec::new();
    for number in 0..30 {
        let name = format!("lock-{number}");
        let node = cluster.master_of(&key(&name)).addr();
        guards.push((node, larder.lock(&name).ttl(BRIEF).keep_alive().acquire().await.unwrap()));
    }
    let away = cluster.masters()[0];
    // The node accepts requests and answers none, which is worse than refusing them. It does so for less time than a
    // failover takes.
    away.pause();
    let paused = Instant::now();
    let lasts = paused.elapsed() + guards.iter().map(|(_, guard)| guard.remaining()).max().unwrap();
    let (on_it, elsewhere): (Vec<_>, Vec<_>) = guards.into_iter().partition(|(node, _)| *node == away.addr());
    assert!(!on_it.is_empty() && elsewhere.len() > 10);
    // Until every lease known from before has expired: the locks that are still valid then were renewed meanwhile.
    while paused.elapsed() <= lasts {
        for (_, guard) in &elsewhere {
            assert!(guard.is_valid(), "not renewed, {:?} after another node went away", paused.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(on_it.iter().all(|(_, guard)| !guard.is_valid()), "valid without a reply");
    away.resume();
    for (_, guard) in elsewhere {
        drop(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_follow_a_sentinel_failover() {
    let sentinel = Arc::new(spawn_blocking(Sentinel::start).await.unwrap());
    let (here, there) = (connect(&sentinel.url()).await, connect(&sentinel.url()).await);
    let held = here.lock("gate").ttl(TTL).acquire().await.unwrap();
    let brief = here.lock("brief").ttl(SHORT).acquire().await.unwrap();
    let master = sentinel.master();
    let waiter = stand(master, there.lock("gate").ttl(TTL), "gate").await;
    let after_brief = stand(master, there.lock("brief").ttl(TTL), "brief").await;
    let set = sentinel.clone();
    spawn_blocking(move || {
        let master = set.master();
        let replica = set.servers().iter().find(|server| server.addr() != master.addr()).unwrap();
        in_step(master, replica);
        set.kill_master();
        set.wait_for_new_master();
    })
    .await
    .unwrap();
    // A lock that the old master granted ends by its guard's own deadline, whichever server could be asked.
    let ended = brief.remaining();
    tokio::time::timeout(ended + Duration::from_secs(1), brief.lost()).await.expect("a guard without an end");
    let next = served(after_brief).await;
    assert!(!brief.is_valid() && next.fence() > brief.fence());
    until("the new master is found", async || here.ping().await.is_ok()).await;
    assert_eq!(brief.release().await.unwrap(), ReleaseOutcome::AlreadyLost);

    // A lock with a longer lease is still held at the new master, and is released there.
    assert!(held.is_valid() && !waiter.is_finished());
    until("the new master is found", async || held.extend(TTL).await.is_ok()).await;
    ends_no_later_than(sentinel.master(), &key("gate"), &held);
    let fence = held.fence();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let next = served(waiter).await;
    assert!(next.fence() > fence);
    assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released);
}
