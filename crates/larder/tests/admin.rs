//! What tools see of a store and change in it: on a server, on a cluster where that differs, and on `memory:`.
#![cfg(feature = "admin")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use larder::admin::{
    AclVerdict, Admin, Compression, EntryKind, EntryValue, EntryWrite, KeyGroup, LockInfo, LockKind,
    NodeRole, RawReply, StoreOf, StoredFormat,
};
use larder::{Cache, ErrorKind, Expiry, Format, Larder, Quota, Stored};
use larder_testkit::Server;
use serde_json::json;
use support::{User, cluster, connect, connect_as, namespace, patient, server, until, user};

const HOUR: Duration = Duration::from_secs(3600);

/// A `Larder` on a store of its own: on the embedded one, and on a server that no other test uses.
async fn alone() -> Vec<(&'static str, Larder, Option<Server>)> {
    let server = Server::start();
    let on_server = connect_as(&server.url(), "shop").await;
    vec![("memory", connect_as("memory:", "shop").await, None), ("server", on_server, Some(server))]
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

async fn fill(larder: &Larder, users_count: u32, pages_count: u32) {
    let pages = larder.cache::<String>("page").schema(2).ttl(2 * HOUR);
    let pages = pages.format(Format::MessagePack).compress_above(10).build().unwrap();
    let (ann, text) = (user("Ann"), "larder ".repeat(50));
    users(larder).set_many((0..users_count).map(|i| (i, &ann))).await.unwrap();
    pages.set_many((0..pages_count).map(|i| (i, &text))).await.unwrap();
}

async fn all_keys(admin: &Admin, cache: &str) -> BTreeSet<String> {
    let mut scan = admin.scan(cache).unwrap();
    let mut found = BTreeSet::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        found.extend(page.into_iter().map(|entry| entry.key));
    }
    let (visited, total) = scan.progress().unwrap();
    assert_eq!(visited, total);
    found
}

async fn all_locks(admin: &Admin) -> Vec<LockInfo> {
    let mut scan = admin.locks();
    let mut found = Vec::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        found.extend(page);
    }
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    found
}

#[tokio::test]
async fn a_small_store_is_counted_exactly_by_cache() {
    for (store, larder, server) in alone().await {
        fill(&larder, 60, 20).await;
        larder.cache::<u8>("ever").no_expiry().build().unwrap().set("a", &1).await.unwrap();
        if let Some(server) = &server {
            server.command(&["SET", "other/user:1", "1"]);
            server.command(&["RPUSH", "celery", "1"]);
        }
        let sample = larder.admin().sample(2000).await.unwrap();
        assert!(sample.exact && sample.sampled == sample.total, "{store}: {sample:?}");
        let of = |group: &str| sample.group(&KeyGroup::Cache(group.into())).unwrap().clone();
        let (of_users, pages, ever) = (of("user"), of("page@2"), of("ever"));
        assert_eq!((of_users.sampled, pages.sampled, ever.sampled), (60, 20, 1), "{store}");
        assert_eq!((of_users.keys.value, of_users.keys.error), (60.0, 0.0));
        assert_eq!((of_users.no_expiry.value, ever.no_expiry.value), (0.0, 1.0));
        assert_eq!(
            (of_users.formats[0].format, of_users.formats[0].compressed),
            (Some(StoredFormat::Json), false)
        );
        assert_eq!(
            (pages.formats[0].format, pages.formats[0].compressed),
            (Some(StoredFormat::MessagePack), true)
        );
        let median = pages.median_ttl.unwrap();
        assert!(median > HOUR && median <= 2 * HOUR, "{store}: {median:?}");
        assert!(of_users.bytes.unwrap().value > 60.0 * 60.0, "{store}: {of_users:?}");
        if server.is_some() {
            assert_eq!(sample.group(&KeyGroup::OtherNamespaces).unwrap().sampled, 1);
            assert_eq!(sample.group(&KeyGroup::Foreign).unwrap().sampled, 1);
        }
        assert_eq!(larder.admin().count_cache("page", 2000).await.unwrap().value, 20.0);
        assert_eq!(larder.admin().count_cache("page@1", 2000).await.unwrap().value, 0.0);
    }
}

#[tokio::test]
async fn a_large_store_is_estimated_without_a_scan() {
    let server = Server::start();
    let larder = connect_as(&server.url(), "shop").await;
    fill(&larder, 3000, 1000).await;
    server.reset_stats();
    let sample = larder.admin().sample(1000).await.unwrap();
    assert!(!sample.exact && sample.sampled == 1000, "{sample:?}");
    let of_users = sample.group(&KeyGroup::Cache("user".into())).unwrap();
    // The share is 0.75. Six standard deviations: a correct sample fails this once in a billion runs.
    assert!((of_users.share.value - 0.75).abs() < 0.083, "{of_users:?}");
    assert!((0.02..0.04).contains(&of_users.share.error), "{of_users:?}");
    assert!(
        (of_users.keys.value - 3000.0).abs() < 340.0 && of_users.bytes.unwrap().error > 0.0,
        "{of_users:?}"
    );
    let calls = |command| server.calls(command);
    assert_eq!((calls("randomkey"), calls("scan"), calls("keys"), calls("getrange")), (1000, 0, 0, 1000));
}

#[tokio::test]
async fn a_scan_finds_every_entry_of_one_cache_in_small_steps() {
    for (store, larder, server) in alone().await {
        fill(&larder, 1000, 300).await;
        if let Some(server) = &server {
            server.reset_stats();
        }
        let admin = larder.admin();
        let expected: BTreeSet<String> = (0..1000).map(|i| i.to_string()).collect();
        assert_eq!(all_keys(&admin, "user").await, expected, "{store}");
        if let Some(server) = &server {
            // About 1,300 keys in steps of 40, or of 200 after a slow answer; a step may return a few more.
            assert!((5..=45).contains(&server.calls("scan")), "{}", server.calls("scan"));
            assert_eq!((server.calls("keys"), server.calls("getrange")), (0, 0));
        }
        assert_eq!(all_keys(&admin, "page@2").await.len(), 300);
        assert!(all_keys(&admin, "page").await.is_empty());
        let mut scan = admin.scan("page@2").unwrap().details();
        let mut detailed = Vec::new();
        while let Some(page) = scan.next_page().await.unwrap() {
            detailed.extend(page);
        }
        assert!(detailed.iter().all(|entry| entry.kind == Some(EntryKind::Value)
            && entry.format == Some(StoredFormat::MessagePack)
            && matches!(entry.expiry, Some(Expiry::After(left)) if left > HOUR)
            && entry.stored_bytes.unwrap() > 40));
        for wrong in ["a b", "user@x", ""] {
            assert_eq!(admin.scan(wrong).unwrap_err().kind(), ErrorKind::InvalidSetting, "{wrong:?}");
        }
    }
}

#[tokio::test]
async fn a_cluster_is_sampled_and_scanned_over_all_its_nodes() {
    let larder = connect(&cluster().url()).await;
    fill(&larder, 400, 0).await;
    let admin = larder.admin();
    assert_eq!(admin.nodes().await.unwrap().len(), cluster().masters().len());
    assert_eq!(all_keys(&admin, "user").await.len(), 400);
    let sample = admin.sample(100).await.unwrap();
    assert!(!sample.exact && sample.sampled >= 100, "{sample:?}");
    assert!(sample.group(&KeyGroup::Cache("user".into())).unwrap().keys.value > 100.0);
    let guards = [larder.lock("a").acquire().await.unwrap(), larder.lock("b").acquire().await.unwrap()];
    assert_eq!(all_locks(&admin).await.iter().map(|lock| &lock.name[..]).collect::<Vec<_>>(), ["a", "b"]);
    drop(guards);
    let mut scan = admin.scan("user").unwrap().details();
    while let Some(page) = scan.next_page().await.unwrap() {
        assert!(page.iter().all(|entry| entry.stored_bytes.is_some()), "{page:?}");
    }
}

#[tokio::test]
async fn an_entry_of_any_format_is_decoded_and_shows_its_envelope() {
    for (store, larder, _server) in alone().await {
        let admin = larder.admin();
        fill(&larder, 1, 1).await;
        users(&larder).set("ann", &user("Ann")).tag("team:7").await.unwrap();
        let ann = admin.entry("user", "ann").await.unwrap().unwrap();
        assert_eq!(
            ann.value().unwrap(),
            Some(EntryValue::Json(json!({"name": "Ann", "age": 30}))),
            "{store}"
        );
        assert_eq!(
            (ann.kind, ann.format, ann.compression),
            (EntryKind::Value, Some(StoredFormat::Json), Compression::None)
        );
        assert!(
            ann.clear_version.is_some() && ann.clear_version == ann.current_clear_version,
            "{store}: {ann:?}"
        );
        assert_eq!((ann.tags[0].tag.as_str(), Some(ann.tags[0].version)), ("team:7", ann.tags[0].current));
        assert!(ann.written_at.is_some() && ann.expires_at.is_some() && ann.fresh_until.is_none());
        assert!(matches!(ann.expiry, Expiry::After(left) if left <= HOUR));
        assert_eq!(ann.payload().unwrap().unwrap(), r#"{"name":"Ann","age":30}"#.as_bytes());

        let page = admin.entry("page@2", "0").await.unwrap().unwrap();
        assert_eq!((page.format, page.compression), (Some(StoredFormat::MessagePack), Compression::Lz4));
        assert_eq!(page.value().unwrap(), Some(EntryValue::Json(json!("larder ".repeat(50)))), "{store}");

        let raw = larder.cache::<Vec<u8>>("raw").ttl(HOUR).format(Format::Raw).build().unwrap();
        raw.set(("a", "b:c"), &vec![0, 159, 146]).await.unwrap();
        let raw = admin.entry("raw", "a:b%3Ac").await.unwrap().unwrap();
        assert_eq!(raw.value().unwrap(), Some(EntryValue::Bytes(vec![0, 159, 146].into())), "{store}");

        let plain = larder.cache::<u32>("plain").ttl(HOUR).format(Format::Plain).build().unwrap();
        plain.set("a", &7).await.unwrap();
        let plain = admin.entry("plain", "a").await.unwrap().unwrap();
        assert_eq!(
            (plain.format, plain.value().unwrap()),
            (Some(StoredFormat::Plain), Some(EntryValue::Json(json!(7))))
        );
        assert_eq!((plain.nonce, plain.written_at), (0, None));

        let absent = larder.cache::<User>("user").ttl(HOUR).negative_ttl(HOUR).build().unwrap();
        absent.get_or_load_optional("none", |_| async { Ok::<_, Infallible>(None) }).await.unwrap();
        let none = admin.entry("user", "none").await.unwrap().unwrap();
        assert_eq!((none.kind, none.value().unwrap()), (EntryKind::Absence, None), "{store}");
        assert!(admin.entry("user", "nothing").await.unwrap().is_none());
    }
    let larder = connect_as(&server().url(), "types").await;
    server().command(&["RPUSH", "types/user:list", "1"]);
    server().command(&["SET", "types/user:broken", "\u{1}no JSON"]);
    assert_eq!(larder.admin().entry("user", "list").await.unwrap_err().kind(), ErrorKind::WrongType);
    let broken = larder.admin().entry("user", "broken").await.unwrap().unwrap();
    assert!(matches!(broken.value().unwrap(), Some(EntryValue::Bytes(_))));
}

#[tokio::test]
async fn an_entry_is_set_by_hand_as_its_program_would_have_set_it() {
    for (store, larder, _server) in alone().await {
        let admin = larder.admin();
        let ann = |age: u32| EntryValue::Json(json!({"name": "Ann", "age": age}));
        let error = admin.set("user", "1", &ann(1), EntryWrite::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}: there is no time to live to take");
        let how = EntryWrite::default().ttl(HOUR).tag("team:7");
        admin.set("user", "1", &ann(1), how).await.unwrap();
        let age = async || users(&larder).get("1").await.unwrap().map(|user| user.age);
        assert_eq!(age().await, Some(1), "{store}");

        // What is not given stays as it is.
        admin.set("user", "1", &ann(2), EntryWrite::default()).await.unwrap();
        assert_eq!(age().await, Some(2));
        let entry = admin.entry("user", "1").await.unwrap().unwrap();
        assert_eq!(entry.tags[0].tag, "team:7");
        assert!(
            matches!(entry.expiry, Expiry::After(left) if left <= HOUR && left > HOUR / 2),
            "{store}: {entry:?}"
        );
        fill(&larder, 0, 1).await;
        admin
            .set("page@2", "0", &EntryValue::Json(json!("x ".repeat(99))), EntryWrite::default())
            .await
            .unwrap();
        let page = admin.entry("page@2", "0").await.unwrap().unwrap();
        assert_eq!((page.format, page.compression), (Some(StoredFormat::MessagePack), Compression::Lz4));

        admin.invalidate_tag("team:7").await.unwrap();
        assert_eq!(age().await, None, "{store}: its tag was invalidated");
        admin.set("user", "1", &ann(3), EntryWrite::default()).await.unwrap();
        assert_eq!(age().await, Some(3));
        admin.clear("user").await.unwrap();
        assert_eq!(age().await, None, "{store}: the cache was cleared");
        assert_eq!(admin.clear("user@2").await.unwrap_err().kind(), ErrorKind::InvalidSetting);

        // A stale one, a longer life, and the end.
        admin.set("user", "1", &ann(4), EntryWrite::default().no_tags()).await.unwrap();
        assert!(admin.exists("user", "1").await.unwrap());
        assert!(admin.touch("user", "1", 3 * HOUR).await.unwrap());
        let left = admin.ttl("user", "1").await.unwrap();
        assert!(matches!(left, Some(Expiry::After(left)) if left > 2 * HOUR), "{store}: {left:?}");
        assert!(admin.expire("user", "1").await.unwrap());
        assert_eq!(age().await, None, "{store}: it is stale");
        assert!(!admin.exists("user", "1").await.unwrap() && admin.ttl("user", "1").await.unwrap().is_some());
        assert!(!admin.touch("user", "1", HOUR).await.unwrap());
        assert!(admin.delete("user", "1").await.unwrap() && !admin.delete("user", "1").await.unwrap());
        assert_eq!(admin.ttl("user", "1").await.unwrap(), None);

        // Other values than the format can hold.
        let raw = EntryWrite::default().ttl(HOUR).format(StoredFormat::Raw);
        assert_eq!(
            admin.set("raw", "1", &ann(1), raw.clone()).await.unwrap_err().kind(),
            ErrorKind::InvalidSetting
        );
        admin.set("raw", "1", &EntryValue::Bytes(vec![1, 2].into()), raw).await.unwrap();
        let tagged = EntryWrite::default().ttl(HOUR).format(StoredFormat::Plain).tag("t");
        assert_eq!(
            admin.set("raw", "2", &ann(1), tagged).await.unwrap_err().kind(),
            ErrorKind::InvalidSetting
        );
    }
}

#[tokio::test]
async fn an_explanation_says_why_an_entry_is_not_served_and_which_process_loads_it() {
    for url in ["memory:".to_owned(), server().url()] {
        let larder = patient().url(&url).namespace(namespace()).presence("web-3").connect().await.unwrap();
        let admin = larder.admin();
        until("the process has announced itself", async || !admin.processes().await.unwrap().is_empty())
            .await;
        assert_eq!(admin.explain("user", "1").await.unwrap().explanation.stored, Stored::Nothing);
        let (began, loading) = tokio::sync::oneshot::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let load = tokio::spawn({
            let users = users(&larder);
            async move {
                let loaded = users.get_or_load("1", move || async move {
                    began.send(()).unwrap();
                    finished.await.unwrap();
                    Ok::<_, Infallible>(user("Ann"))
                });
                loaded.await.unwrap()
            }
        });
        loading.await.unwrap();
        let report = admin.explain("user", "1").await.unwrap();
        let loader = report.loader.expect("it is being loaded");
        assert_eq!(report.explanation.stored, Stored::Loading(loader.token));
        assert_eq!(loader.process.unwrap().name, "web-3", "{url}");
        assert!(loader.since.is_some());
        finish.send(()).unwrap();
        load.await.unwrap();
        let report = admin.explain("user", "1").await.unwrap();
        assert_eq!((report.explanation.stored, report.loader), (Stored::Fresh, None));
        assert!(report.entry.is_some());
        larder.close().await.unwrap();
    }
}

#[tokio::test]
async fn every_kind_of_lock_is_listed_with_its_holders_and_waiters() {
    let mut seen = Vec::new();
    for url in ["memory:".to_owned(), server().url()] {
        let larder = patient().url(&url).namespace(namespace()).presence("web-3").connect().await.unwrap();
        let admin = larder.admin();
        until("the process has announced itself", async || !admin.processes().await.unwrap().is_empty())
            .await;
        let ttl = HOUR;
        let guard = larder.lock("a{b}:c").ttl(ttl).acquire().await.unwrap();
        let permits = larder.semaphore("pool", 3).ttl(ttl);
        let two = permits.acquire_many(2).await.unwrap();
        let keyed = larder.semaphore("exports", 1).ttl(ttl).key("ann").acquire().await.unwrap();
        let writer = larder.rw_lock("catalogue").ttl(ttl).write().await.unwrap();
        let group = larder.lock_group("order").locks(["y", "x"]).ttl(ttl).acquire().await.unwrap();
        let leader = larder.election("scheduler").ttl(ttl).campaign().await.unwrap();
        let (job_began, job_runs) = tokio::sync::oneshot::channel();
        let (job_end, job_ends) = tokio::sync::oneshot::channel::<()>();
        let job = tokio::spawn({
            let job = larder.job("nightly");
            async move {
                let run = job.run_slot("today", move |_| async move {
                    job_began.send(()).unwrap();
                    job_ends.await.unwrap();
                    Ok::<_, String>(())
                });
                run.await
            }
        });
        job_runs.await.unwrap();
        let waiter = tokio::spawn({
            let permits = permits.clone();
            async move { permits.acquire_many(2).await.unwrap() }
        });
        until("the waiter is queued", async || {
            admin.lock(LockKind::Semaphore, "pool").await.unwrap().waiting == 1
        })
        .await;

        let listed = all_locks(&admin).await;
        let shown: Vec<String> = listed
            .iter()
            .map(|lock| {
                let holders: Vec<_> = lock
                    .holders
                    .iter()
                    .map(|holder| {
                        assert_eq!(
                            holder.process.as_ref().map(|process| &process.name[..]),
                            Some("web-3"),
                            "{lock:?}"
                        );
                        assert!(holder.remaining <= ttl && !holder.unconfirmed);
                        (holder.permits, holder.fence.is_some(), holder.locks.clone(), !holder.by.is_empty())
                    })
                    .collect();
                let (name, kind) = (&lock.name, lock.kind.as_str());
                format!("{kind} {name} {holders:?} {} {} {:?}", lock.holding, lock.waiting, lock.permits)
            })
            .collect();
        assert_eq!(listed.len(), 7, "{shown:#?}");
        assert_eq!(shown[0], r#"lock a%7Bb%7D:c [(1, true, [], true)] 1 0 None"#);
        let job_info = listed.iter().find(|lock| lock.kind == LockKind::Job).unwrap();
        assert_eq!(job_info.last_run.as_ref().unwrap().outcome, "running");
        seen.push(shown);

        // One of them, with the waiter.
        let pool = admin.lock(LockKind::Semaphore, "pool").await.unwrap();
        assert_eq!((pool.waiters.len(), pool.waiters[0].permits, pool.permits), (1, 2, Some(3)));
        assert_eq!(pool.waiters[0].process.as_ref().unwrap().name, "web-3");
        // Whatever holds is taken from its holder, and the waiter is served.
        assert!(admin.break_lock(LockKind::Semaphore, "pool", &pool.holders[0]).await.unwrap());
        assert!(!admin.break_lock(LockKind::Semaphore, "pool", &pool.holders[0]).await.unwrap());
        let served = waiter.await.unwrap();
        for lock in &listed {
            if lock.name == "pool" {
                continue;
            }
            assert!(admin.break_lock(lock.kind, &lock.name, &lock.holders[0]).await.unwrap(), "{lock:?}");
            let broken = admin.lock(lock.kind, &lock.name).await.unwrap();
            assert_eq!((broken.holding, broken.waiting), (0, 0), "{broken:?}");
        }
        job_end.send(()).unwrap();
        drop((job.await.unwrap(), served, guard, two, keyed, writer, group, leader));
        larder.close().await.unwrap();
    }
    assert_eq!(seen[0], seen[1], "the embedded store answers as the server does");
}

#[tokio::test]
async fn a_process_is_listed_until_it_is_closed_and_its_locks_name_it() {
    for url in ["memory:".to_owned(), server().url()] {
        let namespace = namespace();
        let web = patient().url(&url).namespace(&namespace).presence("web-3").connect().await.unwrap();
        // Every `memory:` is a store of its own.
        let other = if url == "memory:" { web.clone() } else { connect_as(&url, &namespace).await };
        let admin = other.admin();
        until("the process has announced itself", async || !admin.processes().await.unwrap().is_empty())
            .await;
        let [process] = &admin.processes().await.unwrap()[..] else { panic!("one process") };
        assert_eq!((process.name.as_str(), process.pid), ("web-3", std::process::id()));
        assert_eq!(process.version, env!("CARGO_PKG_VERSION"));
        assert!(process.seen_ago < Duration::from_secs(20), "{process:?}");

        let guard = web.lock("reports").acquire().await.unwrap();
        let holder = other.lock("reports").holder().await.unwrap().unwrap();
        assert_eq!(holder.announced.as_deref(), Some("web-3"), "{url}");
        assert!(holder.to_string().starts_with("web-3 ("), "{holder}");
        guard.release().await.unwrap();
        let in_group = web.lock_group("order").locks(["x"]).acquire().await.unwrap();
        let holder = other.lock_group("order").holder("x").await.unwrap().unwrap();
        assert_eq!(holder.announced.as_deref(), Some("web-3"), "{url}");
        in_group.release().await.unwrap();

        if url != "memory:" {
            web.close().await.unwrap();
            assert!(admin.processes().await.unwrap().is_empty());
            let left = server().query::<Vec<String>>(&["KEYS", &format!("~process.1:{{{namespace}/*")]);
            assert!(left.is_empty(), "{left:?}");
        }
    }
    for wrong in ["", "web 3", &"x".repeat(65)] {
        let refused = Larder::builder().presence(wrong).connect().await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidSetting, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_limit_is_checked_peeked_at_and_reset_by_name() {
    for url in ["memory:".to_owned(), server().url()] {
        let larder = connect(&url).await;
        let admin = larder.admin();
        let quotas = || [Quota::per_hour(3), Quota::per_day(100)];
        let peeked = admin.peek_limit("api", "ann", 1, quotas()).await.unwrap();
        assert!(peeked.is_allowed(), "{url}: {peeked:?}");
        assert!(admin.check_limit("api", "ann", 3, quotas()).await.unwrap().is_allowed());
        let program = larder.rate_limiter("api", quotas()).unwrap();
        assert_eq!(program.remaining("ann").await.unwrap(), 0, "{url}: a peek charges nothing, a check does");
        let refused = admin.peek_limit("api", "ann", 1, quotas()).await.unwrap();
        assert!(!refused.is_allowed() && refused.retry_after().is_some());
        assert!(admin.reset_limit("api", "ann").await.unwrap());
        assert_eq!(program.remaining("ann").await.unwrap(), 3);
        let error = admin.peek_limit("api", "ann", 4, quotas()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting, "it could never be allowed");
    }
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let server = Server::builder().tcp().start();
    let larder = connect_as(&server.url(), "shop").await;
    let admin = larder.admin();
    let nodes = admin.nodes().await.unwrap();
    let [node] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!((node.store, &node.address), (StoreOf::Caches, &server.addr().unwrap().to_string()));
    let info = admin.info(node).await.unwrap();
    assert!(info.get("redis_version").is_some() && info.number("uptime_in_seconds").is_some(), "{info:?}");
    assert_eq!(admin.config(node, "maxmemory-policy").await.unwrap()["maxmemory-policy"], "noeviction");
    assert_eq!(admin.whoami(node).await.unwrap(), "default");
    assert_eq!(admin.role(node).await.unwrap(), NodeRole::Master { replicas: 0 });
    assert!(admin.cluster_info(node).await.is_err());
    assert_eq!(admin.ping_times(node, 3).await.unwrap().len(), 3);
    let (ahead, _) = admin.clock_difference(node).await.unwrap();
    assert!(ahead.abs() < 10_000, "it is the same machine: {ahead}");
    if server.version().at_least(6, 2) {
        let info = admin.tracking_info(node).await.unwrap().expect("the tracked connection is up");
        let flags = info.get("flags").unwrap().as_array().unwrap().iter().filter_map(RawReply::as_str);
        assert!(flags.into_iter().any(|flag| flag == "on"), "{info:?}");
    }
    if server.version().at_least(7, 0) {
        server.command(&["ACL", "SETUSER", "bob", "on", "nopass", "+get"]);
        let get = ["GET", "x"];
        assert!(
            matches!(admin.acl_dry_run(node, "bob", &get).await.unwrap(), AclVerdict::Refused(_)),
            "no key"
        );
        server.command(&["ACL", "SETUSER", "bob", "~*"]);
        assert_eq!(admin.acl_dry_run(node, "bob", &get).await.unwrap(), AclVerdict::Allowed);
        assert!(matches!(
            admin.acl_dry_run(node, "bob", &["SET", "x", "1"]).await.unwrap(),
            AclVerdict::Refused(_)
        ));
    }
    assert!(admin.push_times(3).await.unwrap().iter().all(Option::is_some));

    // The slow log shows commands and no keys.
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command(&["SET", "a secret key", "1"]);
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let slow = admin.slow_log(node, 10).await.unwrap();
    assert!(
        slow.iter().any(|entry| entry.command == "SET") && !format!("{slow:?}").contains("secret"),
        "{slow:?}"
    );
    assert!(slow.iter().any(|entry| entry.command == "CONFIG SET"), "{slow:?}");
    server.command(&["CONFIG", "SET", "latency-monitor-threshold", "1"]);
    server.command(&["DEBUG", "SLEEP", "0.01"]);
    let events = admin.latency_events(node).await.unwrap();
    assert!(events.iter().all(|event| event.longest >= event.latest), "{events:?}");

    // Any other command, but none that would change the shared connection.
    assert_eq!(admin.command(node, &["ECHO", "hello"]).await.unwrap().as_str(), Some("hello"));
    assert_eq!(admin.command(node, &["NOSUCH"]).await.unwrap_err().kind(), ErrorKind::Server);
    let no_arguments: [&str; 0] = [];
    assert_eq!(admin.command(node, &no_arguments).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    for refused in [&["subscribe", "a"][..], &["MULTI"], &["client", "reply", "off"], &["BLPOP", "a", "0"]] {
        assert_eq!(
            admin.command(node, refused).await.unwrap_err().kind(),
            ErrorKind::InvalidSetting,
            "{refused:?}"
        );
    }
    assert_eq!(admin.tls(node).await.unwrap(), None);

    let embedded = connect_as("memory:", "shop").await.admin();
    let nodes = embedded.nodes().await.unwrap();
    assert!(embedded.info(&nodes[0]).await.unwrap().number("maxmemory").is_some());
    assert_eq!(embedded.ping_times(&nodes[0], 2).await.unwrap().len(), 2);
    assert!(embedded.push_times(2).await.unwrap().iter().all(Option::is_some));
    assert_eq!(embedded.command(&nodes[0], &["PING"]).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_tls_connection_says_its_version_and_when_the_certificate_ends() {
    let server = Server::builder().tls().start();
    let larder = patient().url(server.url()).tls_roots(server.ca_pem()).connect().await.unwrap();
    let admin = larder.admin();
    let nodes = admin.nodes().await.unwrap();
    let facts = admin.tls(&nodes[0]).await.unwrap().expect("it speaks TLS");
    assert!(facts.version.starts_with("TLSv1.") && !facts.cipher.is_empty(), "{facts:?}");
    let end = facts.not_after.expect("the certificate can be parsed");
    assert!(end > std::time::SystemTime::now() && facts.days_left.is_some(), "{facts:?}");
}

#[tokio::test]
async fn locks_on_a_server_of_their_own_are_found_there() {
    let (caches, locks) = (Server::start(), Server::start());
    let larder =
        patient().url(caches.url()).coordination(locks.url()).namespace("shop").connect().await.unwrap();
    let admin = larder.admin();
    let guard = larder.lock("reports").acquire().await.unwrap();
    assert_eq!(all_locks(&admin).await.len(), 1);
    let stores: Vec<StoreOf> = admin.nodes().await.unwrap().iter().map(|node| node.store).collect();
    assert_eq!(stores, [StoreOf::Caches, StoreOf::Coordination]);
    guard.release().await.unwrap();
}

#[tokio::test]
async fn the_futures_can_be_spawned() {
    let admin = connect_as("memory:", "shop").await.admin();
    let task = tokio::spawn(async move {
        let mut scan = admin.scan("user").unwrap().details();
        scan.next_page().await.unwrap();
        admin.locks().next_page().await.unwrap();
        admin.sample(10).await.unwrap();
        admin.explain("user", "1").await.unwrap();
        admin.set("user", "1", &EntryValue::Json(json!(1)), EntryWrite::default().ttl(HOUR)).await.unwrap();
        admin.touch("user", "1", HOUR).await.unwrap()
    });
    assert!(task.await.unwrap());
}
