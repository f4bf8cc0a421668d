//! Locks that count as held only once replicas have them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use larder::{ErrorKind, Larder};

use larder::lock::Guard;
use larder_testkit::{Cluster, Server, eventually};
use support::{connect_as, until};

const TTL: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(20);

/// A master and a replica that is up.
fn pair() -> (Server, Server) {
    let master = Server::builder().tcp().start();
    let port = master.addr().unwrap().port();
    let replica = Server::builder().tcp().arg("replicaof", &format!("127.0.0.1 {port}")).start();
    let acknowledged = |at_least: u64| {
        let info = master.info("replication");
        let slave = info.get("slave0")?;
        let offset = slave.split(',').find_map(|field| field.strip_prefix("offset="))?.parse::<u64>().ok()?;
        (slave.contains("state=online") && offset >= at_least).then_some(())
    };
    eventually("the replica follows its master", LONG, || acknowledged(0));
    // Until a replica has acknowledged a write, no grant counts.
    master.command(&["SET", "a", "1"]);
    let written = master.info("replication")["master_repl_offset"].parse().unwrap();
    eventually("the replica acknowledges what is written", LONG, || acknowledged(written));
    (master, replica)
}

/// Each kind of lock that has the setting, one after the other.
async fn acquire(larder: &Larder, kind: &str, replicas: u32) -> larder::Result<()> {
    match kind {
        "lock" => larder.lock("a").ttl(TTL).replicated(replicas).acquire().await.map(drop),
        "try" => larder.lock("b").ttl(TTL).replicated(replicas).try_acquire().await.map(drop),
        "locks" => larder.locks(["c", "d"]).ttl(TTL).replicated(replicas).acquire().await.map(drop),
        "group" => {
            larder.lock_group("g").locks(["a", "b"]).ttl(TTL).replicated(replicas).acquire().await.map(drop)
        }
        _ => larder.election("e").ttl(TTL).replicated(replicas).campaign().await.map(drop),
    }
}

/// The reason why it is not granted. A machine that stalls for a second gives no reply in time, so the test asks again.
async fn refused(larder: &Larder, kind: &str, replicas: u32) -> ErrorKind {
    loop {
        match acquire(larder, kind, replicas).await.expect_err(kind).kind() {
            ErrorKind::TimedOut | ErrorKind::LockLost => {}
            other => return other,
        }
    }
}

const KINDS: [&str; 5] = ["lock", "try", "locks", "group", "election"];

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_too_few_replicas_acknowledge_is_released_and_one_that_enough_do_is_held() {
    let (master, replica) = pair();
    let (here, there) = (connect_as(&master.url(), "w").await, connect_as(&master.url(), "w").await);
    for kind in KINDS {
        until("one replica has it", async || acquire(&here, kind, 1).await.is_ok()).await;
        assert_eq!(refused(&here, kind, 2).await, ErrorKind::NotReplicated, "{kind}");
    }
    replica.pause();
    for kind in KINDS {
        assert_eq!(refused(&here, kind, 1).await, ErrorKind::NotReplicated, "{kind}");
        // It is free long before its lease would have expired.
        let free = tokio::time::timeout(TTL - TTL / 4, acquire(&there, kind, 0)).await;
        free.unwrap_or_else(|_| panic!("{kind}: it was not released")).expect(kind);
    }
    replica.resume();
    for kind in KINDS {
        until("the replica has caught up", async || acquire(&here, kind, 1).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_too_few_replicas_acknowledge_ends_the_lock() {
    let (master, replica) = pair();
    let (here, there) = (connect_as(&master.url(), "w").await, connect_as(&master.url(), "w").await);
    let take = async |name: &str| -> Guard {
        here.lock(name).ttl(TTL).replicated(1).keep_alive().acquire().await.unwrap()
    };
    let (kept, extended) = (take("kept").await, here.lock("extended").ttl(TTL).replicated(1));
    // Renewed while the replica runs.
    tokio::time::sleep(2 * TTL).await;
    assert!(kept.is_valid(), "it was not renewed");
    let guard = extended.acquire().await.unwrap();
    guard.extend(TTL).await.unwrap();
    // A lock that needs no replica is renewed as usual.
    let alone = here.lock("alone").ttl(2 * TTL).keep_alive().acquire().await.unwrap();
    replica.pause();
    assert_eq!(guard.extend(TTL).await.unwrap_err().kind(), ErrorKind::NotReplicated);
    assert!(!guard.is_valid());
    tokio::time::timeout(TTL, kept.lost()).await.expect("it outlived its replicas");
    until("both are free", async || {
        let free = async |name: &str| there.lock(name).holder().await.unwrap().is_none();
        free("kept").await && free("extended").await
    })
    .await;
    tokio::time::sleep(2 * TTL).await;
    assert!(alone.is_valid());
    replica.resume();
}

#[test]
fn a_lock_with_replicas_is_kept_while_the_only_thread_of_its_runtime_computes() {
    // Shorter than larder takes to move the callers' connections away from a runtime that computes.
    const TTL: Duration = Duration::from_secs(2);
    let (master, _replica) = pair();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = connect_as(&master.url(), "w").await;
        // Grants at the same time leave idle connections of this runtime: more than there is time to try in one lease.
        let idle = || master.query::<String>(&["CLIENT", "LIST"]).matches("cmd=wait ").count();
        let mut guards = Vec::new();
        while idle() < 4 {
            let locks =
                (0..4).map(|_| larder.lock(format!("lock-{}", rand::random::<u64>())).ttl(TTL).replicated(1));
            let locks: Vec<_> = locks.map(larder::lock::Lock::keep_alive).collect();
            guards = join_all(locks.iter().map(|lock| lock.acquire())).await;
        }
        std::thread::sleep(TTL + TTL / 4);
        for guard in guards {
            let guard = guard.unwrap();
            assert!(guard.is_valid(), "a kept lock was lost");
            guard.release().await.unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_the_replica_of_the_locks_node_is_asked() {
    let cluster = Cluster::start();
    let larder = connect_as(&cluster.url(), "w").await;
    for number in 0..6 {
        let lock = larder.lock(format!("lock-{number}")).ttl(LONG).replicated(1);
        until("the node's replica has it", async || lock.try_acquire().await.is_ok()).await;
    }
    let lock = larder.lock("a").ttl(LONG).replicated(2);
    assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::NotReplicated);
}

#[tokio::test]
async fn the_embedded_store_has_no_replicas_and_needs_none() {
    let larder = support::connect("memory:").await;
    for kind in KINDS {
        acquire(&larder, kind, 5).await.expect(kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lock_that_waits_for_replicas_holds_up_no_other_request() {
    let (master, replica) = pair();
    let larder = connect_as(&master.url(), "w").await;
    larder.lock("a").replicated(1).acquire().await.unwrap().release().await.unwrap();
    replica.pause();
    let waiting = tokio::spawn({
        // Waits for half of the response timeout, which is long in these tests.
        let lock = larder.lock("a").ttl(LONG).replicated(1);
        async move { lock.acquire().await.map(drop) }
    });
    until("the server waits", async || {
        let clients: String = master.query(&["CLIENT", "LIST"]);
        clients.contains("cmd=wait ")
    })
    .await;
    for number in 0..50 {
        let guard = larder.lock(format!("other-{number}")).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
    assert!(!waiting.is_finished(), "the others were slower");
    replica.resume();
    waiting.await.unwrap().unwrap();
    // One more command for the grant, and the command that waits for replicas.
    assert_eq!((master.calls("wait"), master.calls("eval") >= 2), (2, true));
}

/// Each of them says how it was refused, not that it waited for the others.
#[tokio::test(flavor = "multi_thread")]
async fn locks_that_wait_for_replicas_at_the_same_time_do_not_hold_up_each_other() {
    const LOCKS: usize = 24;
    let (master, replica) = pair();
    let larder = connect_as(&master.url(), "w").await;
    replica.pause();
    let waiting: Vec<_> = (0..LOCKS)
        .map(|number| {
            let lock = larder.lock(format!("lock-{number}")).ttl(LONG).replicated(1);
            tokio::spawn(async move {
                loop {
                    // On a machine that stalls for a second the answer may be late.
                    match lock.acquire().await.map(drop).unwrap_err().kind() {
                        ErrorKind::TimedOut | ErrorKind::LockLost => {}
                        other => return other,
                    }
                }
            })
        })
        .collect();
    until("many wait at once", async || {
        let clients: String = master.query(&["CLIENT", "LIST"]);
        clients.matches("cmd=wait ").count() >= 8
    })
    .await;
    for one in waiting {
        let refused = tokio::time::timeout(4 * LONG, one).await.expect("a stall").unwrap();
        assert_eq!(refused, ErrorKind::NotReplicated);
    }
    replica.resume();
    let clients: String = master.query(&["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 8 + 10, "one connection a lock: {clients}");
}
