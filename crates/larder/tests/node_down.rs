//! One node of a cluster is down and has no replacement: what that does to keys on the other nodes, above all if that
//! node has the version of a cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder::{Cache, ErrorKind, Larder, WriteOutcome};
use larder_testkit::{Cluster, Server};
use support::held::{LIMIT, gate, within};
use support::{User, until, user};

const HOUR: Duration = Duration::from_secs(3600);

fn start(full_coverage: &str) -> Cluster {
    let builder = Cluster::builder().arg("cluster-replica-no-failover", "yes");
    builder.arg("cluster-require-full-coverage", full_coverage).start()
}

async fn connect(cluster: &Cluster) -> Larder {
    let second = Duration::from_secs(1);
    let builder = Larder::builder().url(cluster.url()).response_timeout(second).connect_timeout(second);
    builder.connect().await.unwrap()
}

fn clear_of(cache: &str) -> String {
    format!("~clear.1:{{/{cache}}}")
}

/// Keys of the cache `user` whose entries are on a node, or are not.
fn keys(cluster: &Cluster, node: &Server, at: bool) -> impl Iterator<Item = u32> {
    (0..).filter(move |key| (cluster.master_of(&format!("user:{key}")).addr() == node.addr()) == at)
}

fn stored(cluster: &Cluster, key: u32) -> Option<Vec<u8>> {
    let name = format!("user:{key}");
    cluster.master_of(&name).query(&["GET", &name])
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_node_of_a_caches_version_down_its_keys_at_other_nodes_fail_or_load_and_are_never_wrong() {
    let cluster = start("no");
    let larder = connect(&cluster).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    let down = cluster.master_of(&clear_of("user"));
    let address = down.addr().unwrap().to_string();
    let healthy: Vec<u32> = keys(&cluster, down, false).take(3).collect();
    let [read, set, deleted] = healthy[..] else { panic!("three keys") };
    for key in &healthy {
        users.set(key, &user("old")).await.unwrap();
    }

    down.kill();
    until("the version cannot be checked", async || match users.get(read).await {
        Ok(found) => {
            assert_eq!(found, Some(user("old")), "an outage is no miss");
            false
        }
        // While the connection is being dialled, the call's own timeout may expire first.
        Err(error) => error.to_string().contains(&address),
    })
    .await;
    let error = users.get(read).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");

    let loads = Arc::new(AtomicU32::new(0));
    let (passing, mut keeper) = gate();
    let passing = Arc::new(std::sync::Mutex::new(Some(passing)));
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (users, loads, passing) = (users.clone(), loads.clone(), passing.clone());
            tokio::spawn(async move {
                let load = move || async move {
                    loads.fetch_add(1, Ordering::SeqCst);
                    let gate = passing.lock().unwrap().take();
                    if let Some(gate) = gate {
                        gate.pass().await;
                    }
                    Ok::<_, Infallible>(user("loaded"))
                };
                users.get_or_load(read, load).await.unwrap()
            })
        })
        .collect();
    keeper.reached().await;
    let bypassed = || larder.stats().caches["user"].bypassed;
    until("all have asked", async || bypassed() >= 20).await;
    keeper.open();
    for caller in callers {
        assert_eq!(within("a caller is answered", LIMIT, caller).await.unwrap(), user("loaded"));
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);

    // A write that does not know the version stores nothing, and removes the old value.
    assert_eq!(users.set(set, &user("new")).or_queue().await.unwrap(), WriteOutcome::Queued);
    until("the old value is gone", async || stored(&cluster, set).is_none()).await;
    assert!(users.delete(deleted).await.unwrap());
    assert_eq!(larder.stats().invalidations.waiting, 0);

    down.restart();
    cluster.wait_until_ok();
    until("it works again", async || users.set(read, &user("new")).await.is_ok()).await;
    until("it is read again", async || users.get(read).await.is_ok_and(|found| found == Some(user("new"))))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_node_down_keys_of_the_others_are_deleted_once_and_stored_as_ever() {
    let cluster = start("no");
    let larder = connect(&cluster).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    let home = cluster.master_of(&clear_of("user")).addr();
    let down = cluster.masters().into_iter().find(|master| master.addr() != home).unwrap();
    let dead: Vec<u32> = keys(&cluster, down, true).take(5).collect();
    let healthy: Vec<u32> = keys(&cluster, down, false).take(5).collect();
    let all: Vec<u32> = dead.iter().chain(&healthy).copied().collect();
    for key in &all {
        users.set(key, &user("old")).await.unwrap();
    }
    down.kill();
    until("the node is known to be down", async || users.get(dead[0]).await.is_err()).await;
    let error = users.delete_many(all.iter().copied()).await.unwrap_err();
    assert!(error.is_queued(), "{error}");
    assert_eq!(larder.stats().invalidations.waiting, 5, "what the others have answered is not queued");
    for key in &healthy {
        assert_eq!(stored(&cluster, *key), None);
        let load = || async { Ok::<_, Infallible>(user("loaded")) };
        assert_eq!(users.get_or_load(key, load).await.unwrap(), user("loaded"));
        let again = || async { Ok::<_, Infallible>(user("loaded again")) };
        assert_eq!(users.get_or_load(key, again).await.unwrap(), user("loaded"), "it was not stored");
    }
    assert_eq!(larder.stats().invalidations.waiting, 5);
    down.restart();
    cluster.wait_until_ok();
    until("the rest is sent", async || larder.stats().invalidations.waiting == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_serves_nothing_with_one_node_down_queues_all_writes_and_loads_once() {
    let cluster = start("yes");
    let larder = connect(&cluster).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    let down = cluster.master_of(&clear_of("user"));
    let key = keys(&cluster, down, false).next().unwrap();
    users.set(key, &user("old")).await.unwrap();
    down.kill();
    until("the cluster is down", async || {
        let found = users.get(key).await;
        assert_ne!(found.as_ref().ok(), Some(&None), "an outage is no miss");
        found.is_err_and(|error| error.kind() == ErrorKind::ClusterDown)
    })
    .await;
    assert!(users.delete(key).await.unwrap_err().is_queued());
    let load = || async { Ok::<_, Infallible>(user("loaded")) };
    assert_eq!(within("a load ends", LIMIT, users.get_or_load(key, load)).await.unwrap(), user("loaded"));
    assert_eq!(users.set(key, &user("new")).or_queue().await.unwrap(), WriteOutcome::Queued);
    down.restart();
    cluster.wait_until_ok();
    until("the queue is sent", async || larder.stats().invalidations.waiting == 0).await;
    assert_eq!(stored(&cluster, key), None);
}
