//! The near tier: what is served from this process, and what empties it. On each store.
//!
//! coherence.rs, near_race.rs and history.rs test whether a *broken* connection can make it stale.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use larder::{Cache, DisplayKey, ErrorKind, Format, Larder, Near, NearVerdict, Source, Stored};
use larder_testkit::{Cluster, Direction, Proxy, Server};
use support::{User, connect_as, each_pair, each_store, patient, until, user};

const HOUR: Duration = Duration::from_secs(3600);

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
}

async fn source(users: &Cache<User>, key: &str) -> Option<Source> {
    users.get_entry(key).await.unwrap().map(|entry| entry.source())
}

/// Reads until a read is served near. The first reads after a write may not be, because the push for the write is still
/// to come.
async fn warm(users: &Cache<User>, key: &str) {
    until("a near copy is served", async || source(users, key).await == Some(Source::Near)).await;
}

/// As [`until`], within the documented bound; returns how long it took.
async fn soon(what: &str, holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    until(what, holds).await;
    let took = start.elapsed();
    assert!(took < Near::STALENESS, "{what}: only after {took:?}");
    took
}

fn near_hits(larder: &Larder) -> u64 {
    larder.stats().caches["user"].near_hits
}

/// The commands that a server received, without heartbeats and without the testkit's own commands.
fn commands(server: &Server) -> Vec<String> {
    let own = ["time", "info", "config", "cluster", "client", "hello", "replconf", "ping"];
    let stats = server.info("commandstats");
    let names = stats.keys().filter_map(|name| name.strip_prefix("cmdstat_"));
    let asked = names.filter(|name| !own.contains(&name.split('|').next().unwrap_or(name)));
    asked.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_second_read_is_served_from_this_process() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        users.set("first", &user("Ann")).await.unwrap();
        warm(&users, "first").await;
        // All versions are known by now, so the counts are exact.
        users.set("a", &user("Bob")).await.unwrap();
        let before = larder.stats().caches["user"].clone();
        assert_eq!(users.get("a").await.unwrap(), Some(user("Bob")), "{store}");
        let entry = users.get_entry("a").await.unwrap().unwrap();
        assert_eq!((entry.source(), entry.value()), (Source::Near, &user("Bob")), "{store}");
        assert!(entry.age().unwrap() < Duration::from_secs(60), "{store}");
        for _ in 0..10 {
            assert_eq!(users.get("a").await.unwrap(), Some(user("Bob")));
        }
        let after = larder.stats().caches["user"].clone();
        assert_eq!(after.near_hits - before.near_hits, 11, "{store}");
        assert_eq!(after.hits - before.hits, 12, "{store}: a near hit is a hit");
        assert_eq!((after.misses, after.near_entries), (before.misses, before.near_entries + 1), "{store}");
        assert!(after.near_bytes > before.near_bytes, "{store}");
    }
}

#[tokio::test]
async fn a_near_read_sends_nothing_to_the_server() {
    let server = Server::start();
    let cluster = Cluster::start();
    for (store, url) in [("server", server.url()), ("cluster", cluster.url())] {
        let larder = support::connect(&url).await;
        let users = users(&larder);
        users.set("a", &user("Ann")).tag("team:7").await.unwrap();
        let get_or_load = async || {
            users.get_or_load("a", || async { panic!("loaded") as Result<User, Infallible> }).await.unwrap()
        };
        warm(&users, "a").await;
        server.reset_stats();
        cluster.reset_stats();
        for _ in 0..50 {
            assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")));
            assert_eq!(source(&users, "a").await, Some(Source::Near));
            assert_eq!(users.get_many(["a"]).await.unwrap(), [Some(user("Ann"))]);
            assert_eq!(get_or_load().await, user("Ann"));
        }
        let nodes: Vec<&Server> = std::iter::once(&server).chain(cluster.masters()).collect();
        for node in nodes {
            assert_eq!(commands(node), Vec::<String>::new(), "{store}");
        }
    }
}

#[tokio::test]
async fn on_a_quiet_server_every_read_is_served_near() {
    let server = Server::start();
    let cluster = Cluster::start();
    for (store, url) in [("server", server.url()), ("cluster", cluster.url())] {
        let larder = support::connect(&url).await;
        let users = users(&larder);
        let keys: Vec<String> = (0..20).map(|key| format!("k{key}")).collect();
        for key in &keys {
            users.set(key, &user("Ann")).await.unwrap();
        }
        for key in &keys {
            warm(&users, key).await;
        }
        // Longer than the bound, and than two checks of which node serves which slot.
        let (start, mut reads) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_secs(5) {
            for key in &keys {
                let from = source(&users, key).await;
                assert_eq!(from, Some(Source::Near), "{store}: after {:?}", start.elapsed());
                reads += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        eprintln!("{store}: {reads} near reads in 5 s");
    }
}

#[tokio::test]
async fn an_absent_key_is_asked_for_each_time() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        for _ in 0..3 {
            assert_eq!(users.get("unknown").await.unwrap(), None, "{store}");
        }
        let stats = &larder.stats().caches["user"];
        assert_eq!((stats.misses, stats.near_hits, stats.near_entries), (3, 0, 0), "{store}");
    }
}

#[tokio::test]
async fn what_this_larder_writes_is_seen_at_once() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let dated: Cache<User> =
            larder.cache("dated").ttl(HOUR).stale_for(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
        for round in 0..20 {
            let old = user(&format!("old {round}"));
            let new = user(&format!("new {round}"));
            let fill = async || {
                users.set("a", &old).tag("team:7").await.unwrap();
                users.set("b", &old).await.unwrap();
                warm(&users, "a").await;
                warm(&users, "b").await;
            };
            fill().await;
            users.set("a", &new).await.unwrap();
            assert_eq!(users.get("a").await.unwrap(), Some(new.clone()), "{store}: set");
            users.set_many([("b", &new)]).await.unwrap();
            assert_eq!(users.get("b").await.unwrap(), Some(new.clone()), "{store}: set_many");
            fill().await;
            users.delete("a").await.unwrap();
            assert_eq!(users.get("a").await.unwrap(), None, "{store}: delete");
            users.delete_many(["b"]).await.unwrap();
            assert_eq!(users.get("b").await.unwrap(), None, "{store}: delete_many");
            fill().await;
            larder.tag("team:7").invalidate().await.unwrap();
            assert_eq!(users.get("a").await.unwrap(), None, "{store}: tag");
            assert_eq!(users.get("b").await.unwrap(), Some(old.clone()), "{store}: another's tag");
            fill().await;
            users.clear().await.unwrap();
            assert_eq!(users.get_many(["a", "b"]).await.unwrap(), [None, None], "{store}: clear");
            fill().await;
            users.expire("a").await.unwrap();
            assert_eq!(users.get("a").await.unwrap(), None, "{store}: expire");
            users.touch("b", HOUR * 2).await.unwrap();
            assert_eq!(users.get("b").await.unwrap(), Some(old.clone()), "{store}: touch");

            dated.set("a", &old).await.unwrap();
            warm(&dated, "a").await;
            dated.touch("a", HOUR * 5).await.unwrap();
            let remaining = dated.get_entry("a").await.unwrap().unwrap().remaining().unwrap();
            assert!(remaining > HOUR * 2, "{store}: touch left {remaining:?}");
            warm(&dated, "a").await;
            dated.expire("a").await.unwrap();
            assert_eq!(dated.get("a").await.unwrap(), None, "{store}: expire with stale_for");
        }
    }
}

#[tokio::test]
async fn what_another_larder_writes_is_seen_as_soon_as_it_is_notified() {
    for (store, here, there) in each_pair().await {
        let (here_users, there_users) = (users(&here), users(&there));
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let old = user(&format!("old {round}"));
            let new = user(&format!("new {round}"));
            let fill = async || {
                there_users.set("a", &old).tag("team:7").await.unwrap();
                warm(&here_users, "a").await;
            };
            let mut gone = async |what: &str, now: Option<&User>| {
                let took = soon(what, async || here_users.get("a").await.unwrap().as_ref() == now).await;
                slowest = slowest.max(took);
            };
            fill().await;
            there_users.set("a", &new).await.unwrap();
            gone("a set is seen", Some(&new)).await;
            fill().await;
            there_users.delete("a").await.unwrap();
            gone("a delete is seen", None).await;
            fill().await;
            there_users.clear().await.unwrap();
            gone("a clear is seen", None).await;
            fill().await;
            there.tag("team:7").invalidate().await.unwrap();
            gone("an invalidated tag is seen", None).await;
            fill().await;
            there_users.expire("a").await.unwrap();
            gone("an expire is seen", None).await;
            fill().await;
        }
        eprintln!("{store}: another Larder's write was seen after {slowest:?} at most");
    }
}

#[tokio::test]
async fn what_another_program_does_to_the_server_is_seen() {
    let server = Server::start();
    let cluster = Cluster::start();
    for (store, url) in [("server", server.url()), ("cluster", cluster.url())] {
        let larder = patient().url(&url).connect().await.unwrap();
        let users = users(&larder);
        let node = || if store == "server" { &server } else { cluster.master_of("user:a") };
        let flush = |command: &str| {
            let nodes = if store == "server" { vec![&server] } else { cluster.masters() };
            nodes.into_iter().for_each(|node| drop(node.command(&[command])));
        };
        let fill = async || {
            users.set("a", &user("Ann")).await.unwrap();
            warm(&users, "a").await;
        };
        let seen = async |what: &str, now: Option<User>| {
            soon(what, async || users.get("a").await.unwrap() == now).await
        };
        fill().await;
        node().command(&["SET", "user:a", r#"{"name":"Bob","age":30}"#]);
        seen("SET", Some(user("Bob"))).await;
        warm(&users, "a").await;
        node().command(&["SET", "user:a", r#"{"name":"Cid","age":30}"#]);
        seen("SET over bare JSON", Some(user("Cid"))).await;
        fill().await;
        node().command(&["DEL", "user:a"]);
        seen("DEL", None).await;
        fill().await;
        node().command(&["PEXPIRE", "user:a", "20"]);
        seen("PEXPIRE", None).await;
        fill().await;
        node().command(&["RENAME", "user:a", "user:a"]);
        seen("RENAME to itself", Some(user("Ann"))).await;
        for command in ["FLUSHALL", "FLUSHDB"] {
            fill().await;
            flush(command);
            seen(command, None).await;
            assert_eq!(
                larder.explain("user:a").await.unwrap().near,
                NearVerdict::Absent,
                "{store}: {command}"
            );
        }
    }
}

#[tokio::test]
async fn a_copy_ends_with_the_time_to_live_of_its_value() {
    // Its own server: among many keys with an expiry, a server takes a while to find the expired ones.
    let (server, cluster) = (Server::start(), Cluster::start());
    for (store, url) in
        [("memory", "memory:".to_owned()), ("server", server.url()), ("cluster", cluster.url())]
    {
        let larder = support::connect(&url).await;
        let users = users(&larder);
        users.set("warm", &user("Ann")).await.unwrap();
        warm(&users, "warm").await;
        let ttl = Duration::from_millis(300);
        let start = Instant::now();
        users.set("a", &user("Ann")).ttl(ttl).await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")));
        assert_eq!(source(&users, "a").await, Some(Source::Near), "{store}");
        soon("it has expired", async || users.get("a").await.unwrap().is_none()).await;
        eprintln!("{store}: served {:?} beyond its time to live", start.elapsed().saturating_sub(ttl));

        // The envelope says until when it is fresh: no push is needed.
        let dated: Cache<User> =
            larder.cache("dated").ttl(ttl).stale_for(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
        dated.set("a", &user("Ann")).await.unwrap();
        assert_eq!(dated.get("a").await.unwrap(), Some(user("Ann")));
        soon("it is stale", async || dated.get("a").await.unwrap().is_none()).await;
        assert_eq!(source(&dated, "a").await, Some(Source::Stale), "{store}");
    }
}

#[tokio::test]
async fn a_copy_ends_with_the_time_to_live_though_the_server_reports_it_late() {
    let server = Server::start();
    // As among a hundred thousand keys with an expiry: the server pushes nothing before it has found the expired key.
    server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    let ttl = Duration::from_millis(300);
    users.set("a", &user("Ann")).ttl(ttl).await.unwrap();
    warm(&users, "a").await;
    let start = Instant::now();
    soon("it has expired", async || users.get("a").await.unwrap().is_none()).await;
    eprintln!("served at most {:?} beyond its time to live", start.elapsed().saturating_sub(ttl));
}

#[tokio::test]
async fn a_fresh_handle_sees_what_a_delayed_push_has_not_announced_yet() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (here, there) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
    let users = users(&here);
    let writer: Cache<User> = there.cache("user").ttl(HOUR).build().unwrap();
    writer.set("a", &user("old")).await.unwrap();
    warm(&users, "a").await;
    proxy.only_tracked().delay(Direction::ToClient, Duration::from_millis(700));
    let fresh = users.fresh();
    writer.set("a", &user("new")).await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), Some(user("old")), "the push is on its way");
    assert_eq!(fresh.get("a").await.unwrap(), Some(user("new")));
    assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "the push came before the answer");
    proxy.restore();

    let hits = near_hits(&here);
    until("near serves again", async || source(&users, "a").await == Some(Source::Near)).await;
    for _ in 0..5 {
        assert_eq!(source(&fresh, "a").await, Some(Source::Server));
        assert_eq!(fresh.get_many(["a"]).await.unwrap(), [Some(user("new"))]);
        let load = fresh.get_or_load("a", || async { panic!("loaded") as Result<User, Infallible> });
        assert_eq!(load.entry().await.unwrap().source(), Source::Server);
    }
    assert_eq!(near_hits(&here), hits + 1, "a fresh handle never reads near");
}

#[tokio::test]
async fn a_fresh_handle_refreshes_the_copy() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        users.set("warm", &user("Ann")).await.unwrap();
        warm(&users, "warm").await;
        users.set("a", &user("Bob")).await.unwrap();
        assert_eq!(users.fresh().get("a").await.unwrap(), Some(user("Bob")));
        assert_eq!(source(&users, "a").await, Some(Source::Near), "{store}");
        let plain: Cache<User> = larder.cache("plain").ttl(HOUR).build().unwrap();
        plain.set("a", &user("Bob")).await.unwrap();
        assert_eq!(plain.fresh().get("a").await.unwrap(), Some(user("Bob")), "{store}: without a near tier");
    }
}

#[tokio::test]
async fn a_copy_is_used_for_its_maximum_age_and_then_asked_for_again() {
    for (store, larder) in each_store().await {
        let age = Duration::from_millis(300);
        let near = Near::bytes(1 << 20).max_age(age);
        let users: Cache<User> = larder.cache("user").ttl(HOUR).near(near).build().unwrap();
        users.set("a", &user("Ann")).await.unwrap();
        warm(&users, "a").await;
        let start = Instant::now();
        until("it is too old", async || {
            let verdict = larder.explain("user:a").await.unwrap().near;
            assert!(matches!(verdict, NearVerdict::Served | NearVerdict::TooOld), "{store}: {verdict:?}");
            verdict == NearVerdict::TooOld
        })
        .await;
        assert!(start.elapsed() < age + Duration::from_secs(1), "{store}");
        assert_eq!(source(&users, "a").await, Some(Source::Server), "{store}");
        assert_eq!(source(&users, "a").await, Some(Source::Near), "{store}: and near again");
    }
}

#[tokio::test]
async fn copies_weigh_no_more_than_the_limit() {
    for (store, larder) in each_store().await {
        let limit = 64 << 10;
        let pages: Cache<String> = larder.cache("user").ttl(HOUR).near(Near::bytes(limit)).build().unwrap();
        let page = "x".repeat(500);
        for key in 0..500 {
            pages.set(key, &page).await.unwrap();
            assert_eq!(pages.get(key).await.unwrap(), Some(page.clone()));
            let stats = &larder.stats().caches["user"];
            assert!(stats.near_bytes <= limit, "{store}: {} bytes", stats.near_bytes);
        }
        let stats = &larder.stats().caches["user"];
        let most = limit / 500;
        assert!(
            stats.near_entries > most / 3 && stats.near_entries <= most,
            "{store}: {}",
            stats.near_entries
        );
        // A value that does not fit at all is read from the server each time.
        let large = "y".repeat(200_000);
        pages.set("large", &large).await.unwrap();
        for _ in 0..2 {
            let entry = pages.get_entry("large").await.unwrap().unwrap();
            assert_eq!((entry.source(), entry.value().len()), (Source::Server, large.len()), "{store}");
        }
    }
}

#[tokio::test]
async fn handles_of_one_name_share_one_near_tier() {
    for (store, larder) in each_store().await {
        let (one, two) = (users(&larder), users(&larder));
        one.set("a", &user("Ann")).await.unwrap();
        warm(&one, "a").await;
        assert_eq!(source(&two, "a").await, Some(Source::Near), "{store}");
        assert_eq!(source(&one.clone(), "a").await, Some(Source::Near), "{store}");
        two.set("a", &user("Bob")).await.unwrap();
        assert_eq!(one.get("a").await.unwrap(), Some(user("Bob")), "{store}");

        // A handle without `near()` asks the server, and the other handles see what it writes.
        let far: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
        warm(&one, "a").await;
        assert_eq!(source(&far, "a").await, Some(Source::Server), "{store}");
        far.set("a", &user("Cid")).await.unwrap();
        assert_eq!(one.get("a").await.unwrap(), Some(user("Cid")), "{store}");

        // An entry of another schema is a separate entry in the same tier.
        let newer: Cache<User> =
            larder.cache("user").schema(2).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
        assert_eq!(newer.get("a").await.unwrap(), None, "{store}");
        newer.set("a", &user("Dan")).await.unwrap();
        warm(&newer, "a").await;
        newer.set("a", &user("Eve")).await.unwrap();
        assert_eq!(newer.get("a").await.unwrap(), Some(user("Eve")), "{store}");
        assert_eq!(one.get("a").await.unwrap(), Some(user("Cid")), "{store}");
        warm(&one, "a").await;
        warm(&newer, "a").await;
        newer.clear().await.unwrap();
        assert_eq!(one.get("a").await.unwrap(), None, "{store}: clear is for every schema");

        for other in [Near::bytes(1 << 21), Near::bytes(1 << 20).max_age(HOUR)] {
            let error = larder.cache::<User>("user").ttl(HOUR).near(other).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        }
        for nonsense in [Near::bytes(0), Near::bytes(1).max_age(Duration::ZERO)] {
            let error = larder.cache::<User>("other").ttl(HOUR).near(nonsense).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        }
    }
}

#[tokio::test]
async fn an_entry_has_one_copy_however_its_key_is_given_and_in_each_schema_another() {
    for (store, larder, other) in each_pair().await {
        let of = |larder: &Larder, schema| -> Cache<User> {
            let users = larder.cache("user").schema(schema).ttl(HOUR).near(Near::bytes(1 << 20));
            users.build().unwrap()
        };
        let (ours, newer, theirs) = (of(&larder, 0), of(&larder, 2), of(&other, 0));
        ours.set(7u64, &user("Ann")).await.unwrap();
        newer.set("7", &user("Zoe")).await.unwrap();
        warm(&newer, "7").await;
        warm(&ours, "7").await;
        until("each way to give the key hits the copy", async || {
            let before = near_hits(&larder);
            let found = [
                ours.get(7u64).await,
                ours.get("7").await,
                ours.get((7i32,)).await,
                ours.get(DisplayKey(7)).await,
                ours.get_or_load(7u128, || async { Ok::<_, Infallible>(user("Cid")) })
                    .await
                    .map(Some)
                    .map_err(|_| panic!("{store}: the load failed")),
            ];
            assert!(found.into_iter().all(|found| found.unwrap() == Some(user("Ann"))), "{store}");
            near_hits(&larder) == before + 5
        })
        .await;
        for different in ["07", "+7", "7 ", ""] {
            assert_eq!(ours.get(different).await.unwrap(), None, "{store}: {different:?}");
        }
        theirs.set(7u8, &user("Bob")).await.unwrap();
        soon("another's write is seen", async || ours.get("7").await.unwrap() == Some(user("Bob"))).await;
        assert_eq!(ours.get(7).await.unwrap(), Some(user("Bob")), "{store}");
        ours.delete("7").await.unwrap();
        assert_eq!(
            (ours.get(7).await.unwrap(), newer.get(7).await.unwrap()),
            (None, Some(user("Zoe"))),
            "{store}"
        );

        // A handle without a near tier fills the tier of the others, also with entries of a schema of its own.
        let far: Cache<User> = larder.cache("user").schema(3).ttl(HOUR).build().unwrap();
        far.set("a", &user("Dan")).await.unwrap();
        assert_eq!(far.get("a").await.unwrap(), Some(user("Dan")), "{store}");
        of(&other, 3).set("a", &user("Eve")).await.unwrap();
        let third = of(&larder, 3);
        soon("its copy is dropped", async || third.get("a").await.unwrap() == Some(user("Eve"))).await;
    }
}

#[tokio::test]
async fn many_keys_are_read_from_near_and_from_the_server_in_their_order() {
    for (store, larder) in each_store().await {
        let numbers: Cache<u32> = larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
        let all: Vec<u32> = (0..60).collect();
        numbers.set_many(all.iter().map(|n| (*n, n))).await.unwrap();
        let warmed = [3u32, 50, 7, 20];
        until("those are near", async || {
            let hits = near_hits(&larder);
            numbers.get_many(warmed).await.unwrap();
            near_hits(&larder) == hits + 4
        })
        .await;
        let keys: Vec<u32> = (0..80).rev().collect();
        let hits = near_hits(&larder);
        let found = numbers.get_many(&keys).await.unwrap();
        let expected: Vec<Option<u32>> = keys.iter().map(|key| (*key < 60).then_some(*key)).collect();
        assert_eq!(found, expected, "{store}");
        assert_eq!(near_hits(&larder), hits + 4, "{store}");
        // All keys that exist are near now; only the others are fetched.
        assert_eq!(numbers.get_many(&keys).await.unwrap(), expected, "{store}");
        assert_eq!(near_hits(&larder), hits + 4 + 60, "{store}");
        numbers.set(7, &700).await.unwrap();
        numbers.delete(50).await.unwrap();
        let found = numbers.get_many([50u32, 3, 7, 20]).await.unwrap();
        assert_eq!(found, [None, Some(3), Some(700), Some(20)], "{store}");
    }
}

#[tokio::test]
async fn what_is_loaded_is_kept_near_from_its_first_read_on() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let load = || users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) });
        assert_eq!(load().entry().await.unwrap().source(), Source::Loaded, "{store}");
        until("it is near", async || load().entry().await.unwrap().source() == Source::Near).await;
        let hits = near_hits(&larder);
        let never = users.get_or_load("a", || async { panic!("loaded") as Result<User, Infallible> });
        assert_eq!(never.await.unwrap(), user("Ann"));
        assert_eq!(near_hits(&larder), hits + 1, "{store}");
        users.delete("a").await.unwrap();
        let again = users.get_or_load("a", || async { Ok::<_, Infallible>(user("Bob")) });
        assert_eq!(again.await.unwrap(), user("Bob"), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("Bob")), "{store}");
    }
}

#[tokio::test]
async fn bare_json_is_kept_near_too() {
    for (store, larder) in each_store().await {
        let build = || larder.cache("user").ttl(HOUR).format(Format::Plain).near(Near::bytes(1 << 20));
        let users: Cache<User> = build().build().unwrap();
        users.set("a", &user("Ann")).await.unwrap();
        warm(&users, "a").await;
        let entry = users.get_entry("a").await.unwrap().unwrap();
        assert_eq!((entry.source(), entry.age()), (Source::Near, None), "{store}");
        users.set("a", &user("Bob")).await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), Some(user("Bob")), "{store}");
        warm(&users, "a").await;
        users.delete("a").await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), None, "{store}");
    }
    for (store, here, there) in each_pair().await {
        let build = |larder: &Larder| -> Cache<User> {
            let builder = larder.cache("user").ttl(HOUR).format(Format::Plain);
            builder.near(Near::bytes(1 << 20)).build().unwrap()
        };
        let (here, there) = (build(&here), build(&there));
        there.set("a", &user("Ann")).await.unwrap();
        warm(&here, "a").await;
        there.set("a", &user("Bob")).await.unwrap();
        soon("the change is seen", async || here.get("a").await.unwrap() == Some(user("Bob"))).await;
        warm(&here, "a").await;
        there.delete("a").await.unwrap();
        soon("the deletion is seen", async || here.get("a").await.unwrap().is_none()).await;
        assert_eq!(here.get("a").await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn an_explanation_says_whether_near_serves_and_what_invalidated_an_entry() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let explain = async || larder.explain("user:a").await.unwrap();
        let explained = explain().await;
        assert_eq!((explained.near, explained.stored), (NearVerdict::Absent, Stored::Nothing), "{store}");
        users.set("a", &user("Ann")).tag("team:7").await.unwrap();
        let explained = explain().await;
        assert_eq!((explained.near, explained.stored), (NearVerdict::Absent, Stored::Fresh), "{store}");
        warm(&users, "a").await;
        let explained = explain().await;
        assert_eq!((explained.near, &explained.stored), (NearVerdict::Served, &Stored::Fresh), "{store}");
        assert!(explained.to_string().contains("a near copy is served"), "{store}: {explained}");
        let hits = near_hits(&larder);
        assert_eq!(explain().await.near, NearVerdict::Served);
        assert_eq!(near_hits(&larder), hits, "{store}: to explain is not to read");

        larder.tag("team:7").invalidate().await.unwrap();
        let explained = explain().await;
        assert_eq!(explained.stored, Stored::Invalidated { by: "team:7".into() }, "{store}");
        assert_eq!(users.get("a").await.unwrap(), None, "{store}");
        assert_eq!(explained.near, NearVerdict::TagsUnknown, "{store}");

        users.set("a", &user("Ann")).await.unwrap();
        warm(&users, "a").await;
        users.clear().await.unwrap();
        let explained = explain().await;
        assert_eq!(explained.stored, Stored::Invalidated { by: "clear".into() }, "{store}");
        assert_eq!(explained.near, NearVerdict::Absent, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_connection_is_silent_is_not_served_and_the_explanation_says_so() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect_as(&proxy.url(), "n").await;
    let users = users(&larder);
    users.set("a", &user("Ann")).await.unwrap();
    warm(&users, "a").await;
    proxy.only_tracked().silence(Direction::ToClient);
    let silent = Instant::now();
    let explain = async || larder.explain("user:a").await.unwrap();
    until("the copy is not trusted", async || {
        let verdict = explain().await.near;
        assert!(matches!(verdict, NearVerdict::Served | NearVerdict::Untrusted), "{verdict:?}");
        verdict == NearVerdict::Untrusted
    })
    .await;
    let after = silent.elapsed();
    eprintln!(
        "a copy on a silent connection was said to be untrusted after {after:?} (bound {:?})",
        Near::STALENESS
    );
    assert!(after < Near::STALENESS + Duration::from_millis(500), "{after:?}");
    until(
        "reads ask the server",
        async || matches!(users.get_entry("a").await, Ok(Some(entry)) if entry.source() == Source::Server),
    )
    .await;
    let after = silent.elapsed();
    eprintln!("reads went by another connection after {after:?}");
    assert_ne!(explain().await.near, NearVerdict::Served);
    proxy.restore();
    warm(&users, "a").await;
    assert_eq!(larder.explain("user:a").await.unwrap().near, NearVerdict::Served);
}

/// A user who may run everything except the request for tracking. Before 7.0 only the whole command can be forbidden.
fn forbid_tracking(server: &Server, user: &str) {
    let forbidden = if server.version().at_least(7, 0) { "-client|tracking" } else { "-client" };
    server.command(&["ACL", "SETUSER", user, forbidden]);
}

#[tokio::test]
async fn where_tracking_is_refused_nothing_is_kept_near_and_all_works() {
    let server = Server::builder().tcp().start();
    server.command(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
    forbid_tracking(&server, "ann");
    let here = connect_as(&format!("redis://ann:pw@{}", server.addr().unwrap()), "n").await;
    let there = connect_as(&server.url(), "n").await;
    let (here_users, there_users) = (users(&here), users(&there));
    for round in 0..10 {
        let (old, new) = (user(&format!("old {round}")), user(&format!("new {round}")));
        let fill = async || {
            there_users.set("a", &old).tag("team:7").await.unwrap();
            assert_eq!(here_users.get("a").await.unwrap(), Some(old.clone()));
            assert_eq!(source(&here_users, "a").await, Some(Source::Server));
            assert_eq!(here_users.get_many(["a"]).await.unwrap(), [Some(old.clone())]);
        };
        // Without tracking there is no push; each change is seen at once because every read asks the server.
        fill().await;
        there_users.set("a", &new).await.unwrap();
        assert_eq!(here_users.get("a").await.unwrap(), Some(new));
        fill().await;
        there_users.delete("a").await.unwrap();
        assert_eq!(here_users.get("a").await.unwrap(), None);
        fill().await;
        there_users.clear().await.unwrap();
        assert_eq!(here_users.get("a").await.unwrap(), None);
        fill().await;
        there.tag("team:7").invalidate().await.unwrap();
        assert_eq!(here_users.get("a").await.unwrap(), None);
        fill().await;
        there_users.clear().await.unwrap();
        assert_eq!(here_users.get_many(["a"]).await.unwrap(), [None]);
    }
    let stats = &here.stats().caches["user"];
    assert_eq!((stats.near_hits, stats.near_entries), (0, 0));
    assert_eq!(here.explain("user:a").await.unwrap().near, NearVerdict::Absent);
}

#[tokio::test]
async fn a_clear_is_seen_though_the_node_that_keeps_its_version_reports_nothing() {
    let cluster = Cluster::start();
    let clear = "~clear.1:{n/user}";
    let teller = cluster.master_of(clear);
    forbid_tracking(teller, "default");
    let (here, there) = (connect_as(&cluster.url(), "n").await, connect_as(&cluster.url(), "n").await);
    let (here_users, there_users) = (users(&here), users(&there));
    let key = (0..)
        .map(|n| format!("k{n}"))
        .find(|key| cluster.master_of(&format!("n/user:{key}")).addr() != teller.addr());
    let key = key.unwrap();
    for many in [false, true] {
        there_users.set(&key, &user("Ann")).await.unwrap();
        let read = async || {
            if many {
                here_users.get_many([&key]).await.unwrap().remove(0)
            } else {
                here_users.get(&key).await.unwrap()
            }
        };
        for _ in 0..10 {
            assert_eq!(read().await, Some(user("Ann")));
        }
        there_users.clear().await.unwrap();
        soon("the clear is seen", async || read().await.is_none()).await;
    }
}

#[tokio::test]
async fn while_an_invalidation_is_queued_near_is_passed_by_and_the_explanation_says_so() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    for what in ["clear", "tag"] {
        users.set("a", &user("old")).tag("team:7").await.unwrap();
        warm(&users, "a").await;
        // From here on the server answers reads and refuses writes.
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        let error = match what {
            "clear" => users.clear().await.unwrap_err(),
            _ => larder.tag("team:7").invalidate().await.unwrap_err(),
        };
        assert!(error.is_queued(), "{what}: {error}");
        let hits = near_hits(&larder);
        for _ in 0..5 {
            assert_eq!(source(&users, "a").await, None, "{what}: what is to be invalidated is not served");
        }
        assert_eq!(near_hits(&larder), hits);
        assert_eq!(larder.explain("user:a").await.unwrap().near, NearVerdict::InvalidationsQueued, "{what}");
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        until("it was sent", async || {
            larder.explain("user:a").await.unwrap().near != NearVerdict::InvalidationsQueued
        })
        .await;
        assert_eq!(users.get("a").await.unwrap(), None, "{what}");
        users.set("a", &user("new")).await.unwrap();
        warm(&users, "a").await;
    }
}

#[tokio::test]
async fn while_an_invalidation_is_queued_other_names_are_read_near() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    for key in ["a", "b"] {
        users.set(key, &user("old")).tag("team:7").await.unwrap();
        warm(&users, key).await;
    }
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert!(users.delete("a").await.unwrap_err().is_queued());
    assert!(larder.tag("another").invalidate().await.unwrap_err().is_queued());
    assert_eq!(source(&users, "b").await, Some(Source::Near));
    assert_eq!(larder.explain("user:b").await.unwrap().near, NearVerdict::Served);
    assert_eq!(source(&users, "a").await, None);
    assert_eq!(larder.explain("user:a").await.unwrap().near, NearVerdict::InvalidationsQueued);
}

#[tokio::test]
async fn on_a_server_that_evicts_what_is_used_from_this_process_does_not_look_unused() {
    let server = Server::builder().arg("maxmemory", "100mb").arg("maxmemory-policy", "allkeys-lru").start();
    let larder = connect_as(&server.url(), "n").await;
    let users = users(&larder);
    users.set("a", &user("Ann")).tag("team:7").await.unwrap();
    server.command(&["SET", "unused", "1"]);
    warm(&users, "a").await;
    let idle = |name: &str| server.query::<u64>(&["OBJECT", "IDLETIME", name]);
    let names = ["n/user:a", "~clear.1:{n/user}", "~tag.1:{n/team:7}"];
    until("they are read though only this process's memory is asked", async || {
        for _ in 0..1000 {
            users.get("a").await.unwrap();
        }
        idle("unused") >= 4 && names.iter().all(|name| idle(name) <= 1)
    })
    .await;
    // A version that was evicted is not written back, because it may have been replaced meanwhile.
    server.command(&["DEL", "~clear.1:{n/user}"]);
    until("that is noticed", async || users.get("a").await.unwrap().is_none()).await;
    until("the others are read again", async || {
        users.fresh().get("a").await.unwrap();
        idle("unused") >= 7
    })
    .await;
    assert_eq!(server.query::<u32>(&["EXISTS", "~clear.1:{n/user}"]), 0);
}

#[tokio::test]
async fn a_server_without_memory_can_still_clear_and_invalidate() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    for what in ["clear", "tag"] {
        users.set("a", &user("old")).tag("team:7").await.unwrap();
        warm(&users, "a").await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        match what {
            "clear" => users.clear().await.unwrap(),
            _ => larder.tag("team:7").invalidate().await.unwrap(),
        }
        assert_eq!(users.get("a").await.unwrap(), None, "{what}");
        assert_eq!(users.fresh().get("a").await.unwrap(), None, "{what}");
        assert_eq!(larder.stats().invalidations.waiting, 0, "{what}");
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    }
}

#[tokio::test]
async fn an_invalidation_that_was_queued_is_seen_as_soon_as_near_reads_resume() {
    let server = Server::builder().tcp().start();
    if !server.version().at_least(6, 2) {
        return eprintln!("{} cannot pause writes alone", server.version());
    }
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect_as(&proxy.url(), "n").await;
    let users = users(&larder);
    for what in ["delete", "set", "clear", "tag"] {
        users.set("a", &user("old")).tag("team:7").await.unwrap();
        warm(&users, "a").await;
        server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let short = Duration::from_millis(100);
        let error = match what {
            "delete" => users.delete("a").timeout(short).await.unwrap_err(),
            "set" => users.set("a", &user("new")).timeout(short).await.unwrap_err(),
            "clear" => users.clear().timeout(short).await.unwrap_err(),
            _ => larder.tag("team:7").invalidate().timeout(short).await.unwrap_err(),
        };
        assert!(error.is_timeout() && error.is_queued(), "{what}: {error}");
        // The server still has the old value, which must not be served any more.
        let hits = near_hits(&larder);
        for _ in 0..5 {
            assert_eq!(users.get("a").await.unwrap(), None, "{what}");
        }
        assert_eq!(near_hits(&larder), hits, "{what}");
        // The push that drops the copy arrives after the server's reply to the queue's request.
        proxy.only_tracked().delay(Direction::ToClient, Duration::from_millis(500));
        server.command(&["CLIENT", "UNPAUSE"]);
        until("it was sent", async || {
            larder.explain("user:a").await.unwrap().near != NearVerdict::InvalidationsQueued
        })
        .await;
        assert_ne!(users.get("a").await.unwrap(), Some(user("old")), "{what}");
        proxy.restore();
    }
}
