//! What may be served: every kind of read gives the same answer, and sends no more requests than it must.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::{Cache, Larder, Near, Stored};
use larder_testkit::{Direction, Proxy, Server};
use support::held::{LIMIT, within};
use support::{User, connect_as, each_pair, namespace, patient, server, user};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn many_reads_of_bare_json_in_a_near_cache_are_two_round_trips() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    users.get("warm").await.unwrap();
    for key in 0..100 {
        let _: String =
            server.query(&["SET", &format!("user:{key}"), r#"{"name":"Ann","age":30}"#, "PX", "60000"]);
    }
    server.reset_stats();
    assert_eq!(users.get_many(0..100).await.unwrap().iter().flatten().count(), 100);
    assert_eq!((server.calls("evalsha"), server.calls("eval")), (0, 0), "a script a key");
    assert_eq!((server.calls("mget"), server.calls("get")), (1, 0));
    assert_eq!(server.calls("pttl"), 100, "all in one write");
    let before = larder.stats().caches["user"].near_hits;
    users.get_many(0..100).await.unwrap();
    assert_eq!(larder.stats().caches["user"].near_hits - before, 100, "copies were kept");
}

#[tokio::test]
async fn a_near_copy_of_bare_json_ends_with_its_entry() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    let _: String = server.query(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    for key in ["one", "of many"] {
        let _: String =
            server.query(&["SET", &format!("user:{key}"), r#"{"name":"Ann","age":30}"#, "PX", "400"]);
    }
    assert!(users.get("one").await.unwrap().is_some());
    assert!(users.get_many(["of many"]).await.unwrap()[0].is_some());
    support::until("both have ended", async || {
        users.get("one").await.unwrap().is_none() && users.get("of many").await.unwrap().is_none()
    })
    .await;
}

/// A value of another shape, which only decoding can find unreadable.
#[tokio::test]
async fn what_was_invalidated_is_not_decoded() {
    for (store, here, there) in each_pair().await {
        let users: Cache<User> = here.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
        let numbers: Cache<u64> = there.cache("user").ttl(HOUR).build().unwrap();
        numbers.set("cleared", &7).await.unwrap();
        numbers.clear().await.unwrap();
        numbers.set("tagged", &7).tag("t").await.unwrap();
        there.tag("t").invalidate().await.unwrap();
        for key in ["cleared", "tagged"] {
            support::until("it is invalid", async || {
                let stored = here.explain(&format!("user:{key}")).await.unwrap().stored;
                matches!(stored, Stored::Invalidated { .. })
            })
            .await;
            let loaded = users.get_or_load(key, || async { Ok::<_, Infallible>(user("Ann")) }).await;
            assert_eq!(loaded.unwrap(), user("Ann"), "{store}");
        }
        assert_eq!(here.stats().caches["user"].unreadable, 0, "{store}: decoded for nothing");
    }
}

async fn agree(larder: &Larder, users: &Cache<User>, key: &str, state: &str) -> bool {
    let got = users.get(key).await.unwrap().is_some();
    let many = users.get_many([key]).await.unwrap()[0].is_some();
    assert_eq!(many, got, "{state}: get_many");
    assert_eq!(users.exists(key).await.unwrap(), got, "{state}: exists");
    let explained = larder.explain(&format!("user:{key}")).await.unwrap();
    assert_eq!(matches!(explained.stored, Stored::Fresh | Stored::Bare), got, "{state}: {explained}");
    let left = users.ttl(key).await.unwrap();
    assert_eq!(left.is_some(), got || explained.stored == Stored::Stale, "{state}: ttl says {left:?}");
    got
}

#[tokio::test]
async fn get_get_many_exists_ttl_and_explain_agree() {
    let namespace = namespace();
    let larder = connect_as(&server().url(), &namespace).await;
    let users: Cache<User> =
        larder.cache("user").ttl(HOUR).stale_for(HOUR).negative_ttl(HOUR).build().unwrap();
    let raw = |key: &str, lua: &str| {
        let script = format!("return redis.call('SET', KEYS[1], {lua})");
        let _: String = server().query(&["EVAL", &script, "1", &format!("{namespace}/user:{key}")]);
    };
    users.set("fresh", &user("Ann")).await.unwrap();
    users.set("tagged", &user("Ann")).tag("kept").await.unwrap();
    users.set("stale", &user("Ann")).await.unwrap();
    users.expire("stale").await.unwrap();
    users.set("invalidated", &user("Ann")).tag("gone").await.unwrap();
    larder.tag("gone").invalidate().await.unwrap();
    users.get_or_load_optional("absent", |_| async { Ok::<_, Infallible>(None) }).await.unwrap();
    raw("bare", r#"'{"name":"Ann","age":30}'"#);
    raw("empty", "''");
    raw("another layout", r"'\154\9' .. string.rep('x', 60)");
    for key in ["fresh", "tagged", "bare"] {
        assert!(agree(&larder, &users, key, key).await, "{key}");
    }
    for key in ["stale", "invalidated", "absent", "empty", "another layout", "missing"] {
        assert!(!agree(&larder, &users, key, key).await, "{key}");
    }
    users.clear().await.unwrap();
    for key in ["fresh", "tagged", "stale"] {
        assert!(!agree(&larder, &users, key, "cleared").await, "{key}");
    }
    assert!(agree(&larder, &users, "bare", "bare, after a clear").await);
}

#[tokio::test]
async fn an_empty_string_is_a_missing_key() {
    let namespace = namespace();
    let larder = connect_as(&server().url(), &namespace).await;
    for (name, near) in [("far", false), ("near", true)] {
        let builder = larder.cache::<User>(name).ttl(HOUR);
        let users = if near { builder.near(Near::bytes(1 << 20)) } else { builder }.build().unwrap();
        for key in ["one", "refreshed", "many"] {
            let _: String = server().query(&["SET", &format!("{namespace}/{name}:{key}"), ""]);
        }
        assert_eq!(users.get("one").await.unwrap(), None);
        let ann = || async { Ok::<_, Infallible>(user("Ann")) };
        let limit = Duration::from_secs(10);
        assert_eq!(users.get_or_load("one", ann).timeout(limit).await.unwrap(), user("Ann"), "{name}");
        assert_eq!(
            users.refresh("refreshed", move |_| ann()).timeout(limit).await.unwrap(),
            user("Ann"),
            "{name}"
        );
        let many = users.get_or_load_many(["many"], |keys| async move {
            Ok::<_, Infallible>(keys.into_iter().map(|key| (key, user("Ann"))).collect::<Vec<_>>())
        });
        assert_eq!(many.timeout(limit).await.unwrap(), [Some(user("Ann"))], "{name}");
        for key in ["one", "refreshed", "many"] {
            assert_eq!(users.get(key).await.unwrap(), Some(user("Ann")), "{name}: {key} was not stored");
        }
    }
}

/// Another program, which changes the key faster than any caller can claim it.
#[tokio::test]
async fn a_load_whose_key_changes_at_each_attempt_ends_after_some() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    users.set("warm", &user("Ann")).await.unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let url = server.url();
    let changes = std::thread::spawn(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut number = 0u64;
        while stopped.try_recv().is_err() {
            number += 1;
            redis::cmd("SET").arg("user:a").arg(format!("no value {number}")).exec(&mut connection).unwrap();
        }
        number
    });
    support::until("it has begun", async || server.calls("set") > 100).await;
    let before = server.calls("evalsha");
    for _ in 0..5 {
        let load = users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) });
        assert_eq!(load.timeout(Duration::from_secs(20)).await.unwrap(), user("Ann"));
    }
    // One begin for each attempt, and one request to remove a lost claim.
    let asked = server.calls("evalsha") - before;
    assert!(asked <= 5 * 20, "{asked} scripts for five loads");
    let _ = stop.send(());
    assert!(changes.join().unwrap() > 100);
}

/// One read of many that race with an invalidation: when it began and ended, and whether it found the value.
struct Read {
    how: &'static str,
    began: Instant,
    ended: Instant,
    found: bool,
}

async fn read(users: &Cache<User>, how: &'static str) -> Read {
    let began = Instant::now();
    let found = match how {
        "get" => users.get("a").await.unwrap().is_some(),
        "get_many" => users.get_many(["a"]).await.unwrap()[0].is_some(),
        "exists" => users.exists("a").await.unwrap(),
        _ => users.ttl("a").await.unwrap().is_some(),
    };
    Read { how, began, ended: Instant::now(), found }
}

/// Replies and notifications are late, by different times on each connection. Once a read has found the value
/// invalidated, no read that begins later finds it valid, by any kind of read.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_of_any_kind_finds_what_another_has_found_invalidated_before_it_began() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (reader, writer) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
    let cache = |larder: &Larder| -> Cache<User> { larder.cache("user").ttl(HOUR).build().unwrap() };
    let (users, writes) = (cache(&reader), cache(&writer));
    for (round, (what, untracked, tracked)) in ["delete", "clear", "tag"]
        .iter()
        .flat_map(|what| [(what, 2, 9), (what, 9, 2), (what, 0, 3)])
        .enumerate()
    {
        proxy.restore();
        writes.set("a", &user("Ann")).tag("t").await.unwrap();
        support::until("it is found", async || users.exists("a").await.unwrap()).await;
        proxy.only_untracked().delay(Direction::ToClient, Duration::from_millis(untracked));
        proxy.only_tracked().delay(Direction::ToClient, Duration::from_millis(tracked));
        let reading = ["get", "get_many", "exists", "ttl"].into_iter().cycle().take(8).map(|how| {
            let users = users.clone();
            tokio::spawn(async move {
                let mut reads = Vec::new();
                // Until it is gone, and for a while afterwards.
                while reads.iter().filter(|read: &&Read| !read.found).count() < 10 {
                    reads.push(read(&users, how).await);
                }
                reads
            })
        });
        let reading: Vec<_> = reading.collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        match *what {
            "delete" => assert!(writes.delete("a").await.unwrap()),
            "clear" => writes.clear().await.unwrap(),
            _ => writer.tag("t").invalidate().await.unwrap(),
        }
        let reads = within("it is found no more", LIMIT, join_all(reading)).await;
        let reads: Vec<Read> = reads.into_iter().flat_map(Result::unwrap).collect();
        let first = reads.iter().filter(|read| !read.found).min_by_key(|read| read.ended).unwrap();
        let late: Vec<&Read> = reads.iter().filter(|read| read.found && read.began > first.ended).collect();
        assert!(
            late.is_empty(),
            "{what}, round {round}: {} found it {:?} after {} had not",
            late[0].how,
            late[0].began - first.ended,
            first.how
        );
        assert!(reads.iter().any(|read| read.found), "{what}, round {round}: no read raced with it");
    }
}
