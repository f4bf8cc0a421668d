//! What an operation costs the server, counted by the server itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, Quota};
use larder_testkit::{Cluster, Server};
use support::{User, patient, until, user};

/// The commands that larder sent while `work` ran, without heartbeats and without the commands of this test.
async fn commands(server: &Server, work: impl Future<Output = ()>) -> BTreeMap<String, u64> {
    server.reset_stats();
    work.await;
    let stats = server.info("commandstats");
    stats
        .iter()
        .map(|(name, figures)| {
            let calls = figures.split(',').find_map(|figure| figure.strip_prefix("calls=")).unwrap();
            (name.trim_start_matches("cmdstat_").to_owned(), calls.parse().unwrap())
        })
        .filter(|(name, _)| !["time", "info", "ping", "hello", "client"].contains(&name.as_str()))
        .filter(|(name, _)| !name.starts_with("config") && !name.starts_with("client"))
        .collect()
}

/// The first use of a cache fetches the version that `clear` replaces, and creates it. The second use confirms that it
/// stays. Readers remember the version.
async fn warm(users: &Cache<User>) {
    for _ in 0..3 {
        users.set("warm", &user("Ann")).await.unwrap();
        users.get("warm").await.unwrap();
    }
}

fn only(command: &str, calls: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(command.to_owned(), calls)])
}

#[tokio::test]
async fn a_simple_operation_is_one_command() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let ann = user("Ann");
    warm(&users).await;

    let set = commands(&server, async { users.set("a", &ann).await.unwrap() }).await;
    assert_eq!(set, only("set", 1));
    let hit = commands(&server, async { assert!(users.get("a").await.unwrap().is_some()) }).await;
    assert_eq!(hit, only("get", 1));
    let miss = commands(&server, async { assert!(users.get("b").await.unwrap().is_none()) }).await;
    assert_eq!(miss, only("get", 1));
    let exists = commands(&server, async { assert!(users.exists("a").await.unwrap()) }).await;
    assert_eq!(exists, only("getrange", 1));
    let delete = commands(&server, async { assert!(users.delete("a").await.unwrap()) }).await;
    assert_eq!(delete, only("unlink", 1));
}

#[tokio::test]
async fn many_keys_are_one_mget_and_never_a_command_a_key() {
    let server = Server::start();
    let larder = patient().url(server.url()).connections(4).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let ann = user("Ann");
    warm(&users).await;
    users.set_many((0..100).map(|key| (key, &ann))).await.unwrap();

    let get = commands(&server, async {
        assert_eq!(users.get_many(0..100).await.unwrap().iter().flatten().count(), 100);
    });
    assert_eq!(get.await, only("mget", 1));
}

#[tokio::test]
async fn on_a_cluster_many_keys_are_one_mget_a_slot() {
    let cluster = support::cluster();
    let larder = support::connect(&cluster.url()).await;
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let ann = user("Ann");
    warm(&users).await;
    users.set_many((0..100).map(|key| (key, &ann))).await.unwrap();
    // The keys of a slot share one command, even the same key asked for ten times.
    cluster.reset_stats();
    assert_eq!(users.get_many([7; 10]).await.unwrap().iter().flatten().count(), 10);
    assert_eq!((cluster.calls("mget"), cluster.calls("get")), (1, 0));
    let larder = patient().url(cluster.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    warm(&users).await;
    let slots: BTreeSet<u16> = (0..5000).map(slot).collect();
    assert!(slots.len() > 4000 && slots.len() < 4500, "{}", slots.len());
    let asked: u16 = cluster.nodes()[0].query(&["CLUSTER", "KEYSLOT", &name(7)]);
    assert_eq!(slot(7), asked, "the test's own sum is the server's");
    users.set_many((0..5000).map(|key| (key, &ann))).await.unwrap();
    cluster.reset_stats();
    assert_eq!(users.get_many(0..5000).await.unwrap().iter().flatten().count(), 5000);
    assert_eq!((cluster.calls("mget"), cluster.calls("get")), (slots.len() as u64, 0));
}

/// The server's name of an entry of the cache `user`, without a namespace.
fn name(key: u32) -> String {
    format!("user:{key}")
}

fn slot(key: u32) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(name(key).as_bytes()) % 16_384
}

/// How often the servers read from a connection while `work` ran. A write of many commands is one read, or one for each
/// 16 KiB.
async fn reads(servers: &[&Server], work: impl Future<Output = ()>) -> u64 {
    let count = || -> u64 {
        servers
            .iter()
            .map(|server| server.info("stats")["total_reads_processed"].parse::<u64>().unwrap())
            .sum()
    };
    let before = count();
    work.await;
    count() - before
}

#[tokio::test]
async fn many_writes_are_sent_together_and_not_one_by_one() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let ann = user("Ann");
    warm(&users).await;
    let servers = [&server];
    let written = reads(&servers, async { users.set_many((0..1000).map(|key| (key, &ann))).await.unwrap() });
    // 150 kB of requests, plus heartbeats and the commands of this test.
    let written = written.await;
    assert!(written < 100, "{written} reads for 1000 entries");
    let deleted = reads(&servers, async {
        assert!(users.delete_many(0..1000).await.unwrap().iter().all(|there| *there));
    });
    let deleted = deleted.await;
    assert!(deleted < 100, "{deleted} reads for 1000 entries");
}

#[tokio::test]
async fn on_a_cluster_many_writes_are_sent_once_a_slot() {
    let cluster = Cluster::start();
    let larder = patient().url(cluster.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let ann = user("Ann");
    warm(&users).await;

    // The keys of the first ten slots that have 40 keys each.
    let (mut groups, mut full) = (HashMap::<u16, Vec<u32>>::new(), Vec::new());
    for key in 0.. {
        let group = groups.entry(slot(key)).or_default();
        group.push(key);
        if group.len() == 40 {
            full.push(slot(key));
        }
        if full.len() == 10 {
            break;
        }
    }
    let keys: Vec<u32> = full.iter().flat_map(|slot| &groups[slot]).copied().take(400).collect();
    let masters = cluster.masters();
    let written =
        reads(&masters, async { users.set_many(keys.iter().map(|key| (*key, &ann))).await.unwrap() });
    // Ten slots, plus heartbeats, replication and the commands of this test.
    let written = written.await;
    assert!(written < 60, "{written} reads for 400 entries of ten slots");
    cluster.reset_stats();
    assert!(users.get_many(&keys).await.unwrap().iter().all(Option::is_some));
    assert_eq!(cluster.calls("mget"), 10);
    let deleted = reads(&masters, async {
        assert!(users.delete_many(&keys).await.unwrap().iter().all(|there| *there));
    });
    let deleted = deleted.await;
    assert!(deleted < 60, "{deleted} reads for 400 entries of ten slots");
}

#[tokio::test]
async fn a_load_is_two_round_trips_before_the_loader_and_one_after() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap();
    let load = || users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) });
    warm(&users).await;
    load().await.unwrap();
    users.delete("a").await.unwrap();

    // GET; begin_fill (with GET and SET inside); commit_fill (with GET and SET inside).
    let cold = commands(&server, async { assert_eq!(load().await.unwrap(), user("Ann")) }).await;
    assert_eq!(cold, BTreeMap::from([("evalsha".into(), 2), ("get".into(), 3), ("set".into(), 2)]));
    let warm = commands(&server, async { assert_eq!(load().await.unwrap(), user("Ann")) }).await;
    assert_eq!(warm, only("get", 1));
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_sent_again() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(10)).unwrap();
    for left in [9, 8, 7] {
        server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(limiter.check("a").await.unwrap().remaining(), left);
    }
    let warm = commands(&server, async { assert!(limiter.allow("a").await.unwrap()) }).await;
    assert_eq!(warm.get("evalsha"), Some(&1));
    assert_eq!(warm.get("eval"), None);
}

#[tokio::test]
async fn many_readers_that_know_no_version_ask_for_it_once() {
    let server = Server::start();
    let (writer, reader) = (
        patient().url(server.url()).connect().await.unwrap(),
        patient().url(server.url()).connect().await.unwrap(),
    );
    let cache = |larder: &larder::Larder| -> Cache<User> {
        larder.cache("user").ttl(Duration::from_secs(60)).build().unwrap()
    };
    let (ann, written, read) = (user("Ann"), cache(&writer), cache(&reader));
    written.set_many((0..50).map(|key| (key, &ann))).await.unwrap();
    // As after a reconnect.
    let asked = commands(&server, async {
        let found = futures_util::future::join_all((0..50).map(|key| read.get(key))).await;
        assert!(found.into_iter().all(|found| found.unwrap().is_some()));
    });
    assert_eq!(asked.await, only("get", 51));
}

#[tokio::test]
async fn a_group_of_four_locks_is_one_command_to_take_one_to_renew_and_one_to_free() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let ttl = Duration::from_secs(3);
    let four = larder.lock_group("order:7").locks(["a", "b", "c", "d"]).ttl(ttl);
    warm(&larder.cache::<User>("user").ttl(ttl).build().unwrap()).await;
    // Run once, so that the server knows the scripts and the background connection exists.
    four.acquire().await.unwrap().release().await.unwrap();
    let scripts = |commands: &BTreeMap<String, u64>| {
        ["evalsha", "eval"].map(|name| commands.get(name).copied().unwrap_or_default()).iter().sum::<u64>()
    };
    let mut taken = None;
    let commands_of = commands(&server, async { taken = Some(four.acquire().await.unwrap()) }).await;
    assert_eq!(scripts(&commands_of), 1, "{commands_of:?}");
    let guard = taken.unwrap();
    let renewed = commands(&server, async {
        let mut least = guard.remaining();
        until("it is renewed", async || {
            let left = guard.remaining();
            std::mem::replace(&mut least, left) < left
        })
        .await;
    });
    // One command, and one more on the connection for requests if this machine is slow.
    let renewed = scripts(&renewed.await);
    assert!((1..=2).contains(&renewed), "{renewed}");
    let freed = commands(&server, async { guard.release().await.map(drop).unwrap() }).await;
    assert_eq!(scripts(&freed), 1, "{freed:?}");
}

#[tokio::test]
async fn a_lock_with_quarantine_is_no_command_more() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let ttl = Duration::from_secs(1);
    warm(&larder.cache::<User>("user").ttl(ttl).build().unwrap()).await;
    let lock = larder.lock("a").ttl(ttl).quarantine(ttl);
    support::lossy::take(&lock).await.release().await.unwrap();
    let pair =
        commands(&server, async { lock.acquire().await.unwrap().release().await.map(drop).unwrap() }).await;
    let sent = |name: &str| pair.get(name).copied().unwrap_or_default();
    let requests = ["evalsha", "delifeq", "delex"].map(sent).iter().sum::<u64>();
    assert_eq!((requests, sent("eval")), (2, 0), "{pair:?}");
}

#[tokio::test]
async fn a_contended_lock_is_three_requests_and_fourteen_commands() {
    let server = Server::start();
    if !server.version().at_least(7, 0) {
        return eprintln!("{} has no SET with NX and GET: a lock is some commands more", server.version());
    }
    let larder = patient().url(server.url()).connect().await.unwrap();
    let lock = larder.lock("gate").ttl(Duration::from_secs(20));
    let attempt = || {
        let lock = lock.clone();
        tokio::spawn(async move { lock.acquire().await.unwrap() })
    };
    let queued = async |count: u64| {
        until("it is queued", async || server.query::<u64>(&["ZCARD", "~lock.2:{/gate}:line"]) == count)
            .await;
    };
    // A holder that was in the queue, and two attempts behind it.
    let first = lock.acquire().await.unwrap();
    let (second, third) = (attempt(), attempt());
    queued(2).await;
    first.release().await.unwrap();
    let (mut holder, mut waiting) = (second.await.unwrap(), third);
    let fourth = attempt();
    queued(2).await;
    let mut next = fourth;
    for _ in 0..20 {
        // One more attempt, the release of the holder, and the confirmation of the next one.
        let (mut joins, mut granted) = (None, None);
        let sent = commands(&server, async {
            joins = Some(attempt());
            until("it is queued", async || server.calls("zadd") > 0).await;
            holder.release().await.unwrap();
            granted = Some((&mut waiting).await.unwrap());
        });
        let sent = sent.await;
        // Otherwise a heartbeat of the waiters was among them.
        if sent["evalsha"] == 3 {
            let expected = [
                ("evalsha", 3),
                ("get", 3),
                ("pexpire", 1),
                ("set", 4),
                ("zadd", 1),
                ("zrange", 1),
                ("zrem", 1),
            ];
            let expected: BTreeMap<_, _> =
                expected.iter().map(|(name, calls)| ((*name).to_owned(), *calls)).collect();
            assert_eq!(sent, expected);
            assert_eq!(sent.values().sum::<u64>(), 14);
            return;
        }
        holder = granted.unwrap();
        waiting = std::mem::replace(&mut next, joins.unwrap());
    }
    panic!("a heartbeat each time");
}
