//! docs/security.md is true: the test reads the ACL lines from the page, runs every operation with them, and shows that
//! less is not enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, Error, ErrorKind, Larder, LarderBuilder, LoadError, Near, OnceError, Quota};
use larder_testkit::{Product, Sentinel, Server};
use support::{User, namespace, until, user};

const PAGE: &str = include_str!("../../../docs/security.md");
const USER: &str = "shop";
const PASSWORD: &str = "CHANGE-ME";
const HOUR: Duration = Duration::from_secs(3600);

/// The lines of the page's block with this name.
fn lines(block: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = PAGE.split_once(&format!("```text {block}\n")).expect("the block is on the page");
    let (block, _) = rest.split_once("```").unwrap();
    block.lines().map(|line| line.split(' ').collect()).collect()
}

/// Runs the page's lines on a server, as the page says for the server's version.
fn apply(server: &Server, blocks: &[&str]) {
    let (version, locks) = (server.version(), blocks.contains(&"coordination"));
    let of_version = match version.product {
        _ if !version.at_least(7, 0) => Some(&"coordination-6"),
        Product::Valkey if version.at_least(9, 0) => Some(&"coordination-valkey-9"),
        Product::Redis if version.at_least(8, 4) => Some(&"coordination-redis-8.4"),
        _ => None,
    };
    for mut line in blocks.iter().chain(of_version.filter(|_| locks)).flat_map(|block| lines(block)) {
        if !server.version().at_least(6, 2) {
            line.retain(|word| *word != "resetchannels");
        }
        server.command(&line);
    }
}

/// What the page's lines in these blocks permit: `+get`, `+cluster|slots`, `~shop/*`.
fn permissions(blocks: &[&str], mark: char) -> Vec<&'static str> {
    let words = blocks.iter().flat_map(|block| lines(block)).flatten();
    words.filter(|word| word.starts_with(mark)).collect()
}

fn as_shop(url: &str) -> LarderBuilder {
    let builder = Larder::builder().url(url).username(USER).password(PASSWORD).namespace("shop");
    builder.response_timeout(Duration::from_secs(5))
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

type Outcome = BTreeMap<&'static str, Error>;

/// Runs every operation of a cache, and returns which failed and how.
async fn cache_operations(larder: &Larder) -> Outcome {
    let mut failed = Outcome::new();
    let mut note = |operation, error: Option<Error>| {
        if let Some(error) = error {
            failed.insert(operation, error);
        }
    };
    let users = users(larder);
    let ann = user("Ann");
    let key = namespace();
    note("ping", larder.ping().await.err());
    note("set", users.set(&key, &ann).await.err());
    note("get", users.get(&key).await.err());
    note("exists", users.exists(&key).await.err());
    note("touch", users.touch(&key, HOUR).await.err());
    note("ttl", users.ttl(&key).await.err());
    note("get_entry", users.get_entry(&key).await.err());
    note("explain", larder.explain(&format!("user:{key}")).await.err());
    note("expire", users.expire(&key).await.err());
    note("delete", users.delete(&key).await.err());
    note("set_many", users.set_many((0..20).map(|i| (i, &ann))).await.err());
    note("get_many", users.get_many(0..20).await.err());
    note("delete_many", users.delete_many(0..20).await.err());
    note("invalidate", larder.tag(&key).invalidate().await.err());
    note("set tagged", users.set(&key, &ann).tag(&key).await.err());
    note("set tagged for ever", users.set(&key, &ann).no_expiry().tag(&key).await.err());
    note("get tagged", users.get(&key).await.err());
    note("exists tagged", users.exists(&key).await.err());
    note("snapshot", larder.tag_snapshot([&key]).await.err());
    note("clear", larder.cache::<User>("other").build().unwrap().clear().await.err());
    for (outcome, key) in [("load", format!("{key}:loaded")), ("failed load", format!("{key}:failed"))] {
        let fails = outcome == "failed load";
        let load =
            users.get_or_load(&key, move || async move { if fails { Err("no") } else { Ok(user("Ann")) } });
        match load.tag("t").await {
            Err(LoadError::Larder(error)) => note(outcome, Some(error)),
            Err(_) if fails => {}
            loaded => assert_eq!(loaded.unwrap(), ann),
        }
    }
    // A refresh, a load under a tag that the loader names, a load of many keys, and a load of an absent key.
    let loaded = format!("{key}:loaded");
    let refreshed = users.refresh(&loaded, |loading| async move {
        loading.tag("t");
        Ok::<_, Infallible>(user("Bob"))
    });
    note("refresh", larder_error(refreshed.await));
    let many = users.get_or_load_many([format!("{key}:a"), format!("{key}:b")], |missing| async move {
        Ok::<_, Infallible>(missing.into_iter().map(|key| (key, user("Ann"))).collect::<Vec<_>>())
    });
    note("load many", larder_error(many.await));
    let absent = larder.cache::<User>("user").ttl(HOUR).negative_ttl(HOUR).build().unwrap();
    let absent_row =
        absent.get_or_load_optional(format!("{key}:absent"), |_| async { Ok::<_, Infallible>(None) }).await;
    note("load nothing", larder_error(absent_row));
    let once = users.run_once(format!("{key}:once"), || async { Ok::<_, Infallible>(user("Ann")) }).await;
    note(
        "run once",
        match once {
            Ok(_) => None,
            Err(OnceError::Larder(error)) => Some(error),
            Err(other) => panic!("{other:?}"),
        },
    );
    failed
}

fn larder_error<T, E: std::fmt::Debug>(loaded: Result<T, LoadError<E>>) -> Option<Error> {
    match loaded {
        Ok(_) => None,
        Err(LoadError::Larder(error)) => Some(error),
        Err(other) => panic!("{other:?}"),
    }
}

async fn coordination_operations(larder: &Larder) -> Outcome {
    let mut failed = Outcome::new();
    // Its buckets are so wide that the second charge is written over the first, however slow the machine is.
    let limiter = larder.rate_limiter("api", Quota::per_day(1_000_000)).unwrap();
    for allowed in [limiter.allow("someone").await, limiter.allow("someone").await] {
        failed.extend(allowed.err().map(|error| ("allow", error)));
    }
    let remaining = limiter.remaining("someone").await;
    failed.extend(remaining.err().map(|error| ("remaining", error)));
    let limiter = larder.rate_limiter("blocking", Quota::per_hour(2)).unwrap().block_for(HOUR).unwrap();
    let overridden = limiter.override_key("someone", Quota::per_hour(3), HOUR).await;
    failed.extend(overridden.err().map(|error| ("override", error)));
    for blocked in [
        limiter.allow("someone").await,
        limiter.check_n("someone", 2).await.map(|decision| decision.is_allowed()),
        limiter.allow("someone").await,
    ] {
        failed.extend(blocked.err().map(|error| ("block", error)));
    }
    let ended = limiter.end_override("someone").await;
    failed.extend(ended.err().map(|error| ("end override", error)));
    failed.extend(limiter.reset("someone").await.err().map(|error| ("reset", error)));
    let leadership = larder.election(namespace()).campaign().await;
    failed.extend(leadership.err().map(|error| ("campaign", error)));
    let read = larder.rw_lock(namespace()).read().await;
    failed.extend(read.err().map(|error| ("read", error)));
    let group = larder.lock_group(namespace()).locks(["a", "b"]).acquire().await;
    failed.extend(group.err().map(|error| ("group", error)));
    let job = larder.job(namespace()).run_slot("a", async |_| Ok::<_, String>(())).await;
    failed.extend(job.err().map(|error| ("job", error)));
    let semaphore = larder.semaphore(namespace(), 1);
    match semaphore.try_acquire().await {
        Err(error) => drop(failed.insert("permit", error)),
        Ok(permit) => {
            let permit = permit.expect("a permit that no other caller takes");
            failed.extend(semaphore.in_use().await.err().map(|error| ("in use", error)));
            // A script removes expired leases, so leave one behind.
            let brief = larder.semaphore(namespace(), 1).ttl(Duration::from_millis(10)).acquire_many(1).await;
            // On a slow machine its 10 ms are over before the reply arrives.
            let error = brief.err().filter(|error| error.kind() != ErrorKind::LockLost);
            failed.extend(error.map(|error| ("permit", error)));
            let waiter = tokio::spawn({
                let semaphore = semaphore.clone();
                async move { semaphore.acquire_within(Duration::from_millis(100)).await }
            });
            if let Ok(Err(error)) = waiter.await
                && error.kind() != ErrorKind::LockHeld
            {
                failed.insert("wait for a permit", error);
            }
            failed.extend(permit.release().await.err().map(|error| ("give back", error)));
        }
    }
    let waited_for = larder.lock(namespace());
    if let Ok(Some(guard)) = waited_for.try_acquire().await {
        let waiter = tokio::spawn({
            let lock = waited_for.clone();
            async move { lock.acquire_within(Duration::from_secs(2)).await }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        failed.extend(guard.release().await.err().map(|error| ("hand over", error)));
        match waiter.await.unwrap() {
            // A caller that could not be handed the lock waits in vain.
            Err(error) if error.kind() == ErrorKind::LockHeld => {}
            Err(error) => drop(failed.insert("wait in a queue", error)),
            Ok(guard) => drop(guard.release().await),
        }
    }
    match larder.lock(namespace()).try_acquire().await {
        Err(error) => drop(failed.insert("acquire", error)),
        Ok(guard) => {
            let guard = guard.expect("a lock that no other caller takes");
            failed.extend(guard.extend(HOUR).await.err().map(|error| ("extend", error)));
            failed.extend(guard.release().await.err().map(|error| ("release", error)));
        }
    }
    failed
}

async fn all_operations(larder: &Larder) -> Outcome {
    let mut failed = cache_operations(larder).await;
    failed.extend(coordination_operations(larder).await);
    failed
}

fn raw(server: &Server) -> redis::Connection {
    let url = format!("redis://{USER}:{PASSWORD}@{}", server.addr().unwrap());
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

#[tokio::test]
async fn the_pages_user_can_do_all_that_larder_does() {
    let server = Server::builder().tcp().start();
    apply(&server, &["cache", "tracking", "coordination"]);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    assert!(all_operations(&larder).await.is_empty());
    let stats = &larder.stats().caches["user"];
    // A load continues if the store refuses a request, and the refusal is counted.
    assert_eq!((stats.loads, stats.load_failures, stats.fills_invalidated, stats.bypassed), (6, 1, 0, 0));
    let stored = |key: &str| server.query::<Vec<String>>(&["KEYS", &format!("shop/user:*:{key}")]).len();
    assert_eq!(["loaded", "a", "b", "absent"].map(stored), [1; 4], "what was loaded is stored");
    until("the failed load's placeholder is gone", async || stored("failed") == 0).await;
    assert_eq!(server.query::<Vec<String>>(&["KEYS", "~lease*"]).len(), 0, "the refresh has ended");

    // Nothing was refused except the connection's introduction of itself, which is optional.
    server.command(&["ACL", "LOG", "RESET"]);
    assert!(all_operations(&larder).await.is_empty());
    assert_eq!(server.query::<Vec<redis::Value>>(&["ACL", "LOG"]).len(), 0);
}

#[tokio::test]
async fn without_tracking_all_works_but_near_reads_and_each_read_asks_for_versions() {
    let server = Server::builder().tcp().start();
    let near = |larder: &Larder| -> Cache<User> {
        larder.cache("near").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
    };
    // The commands of one read, after enough others that everything that can be known is known.
    let reads = async |larder: &Larder| {
        for _ in 0..3 {
            users(larder).set("a", &user("Ann")).await.unwrap();
            users(larder).get("a").await.unwrap();
        }
        server.reset_stats();
        users(larder).get("a").await.unwrap();
        server.calls("get")
    };

    apply(&server, &["cache", "coordination"]);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    assert!(all_operations(&larder).await.is_empty());
    assert_eq!(larder.stats().caches["user"].bypassed, 0);
    assert_eq!(reads(&larder).await, 2, "the entry, and its cache's version");
    near(&larder).set("a", &user("Ann")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(user("Ann")));
    }
    assert_eq!(larder.stats().caches["near"].near_hits, 0);

    apply(&server, &["tracking"]);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    assert_eq!(reads(&larder).await, 1);
    until("a read is answered from near", async || {
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(user("Ann")));
        larder.stats().caches["near"].near_hits > 0
    })
    .await;
}

#[tokio::test]
async fn the_pages_user_has_no_channels_also_where_new_users_have_all() {
    let server = Server::builder().tcp().start();
    // Redis 6.0 has no channels.
    if !server.version().at_least(6, 2) {
        return;
    }
    server.command(&["CONFIG", "SET", "acl-pubsub-default", "allchannels"]);
    let channels = |user: &str| {
        let about: redis::Value = server.command(&["ACL", "GETUSER", user]);
        let fields: BTreeMap<String, redis::Value> = redis::from_redis_value(about).unwrap();
        match &fields["channels"] {
            redis::Value::Array(channels) => channels.len(),
            redis::Value::BulkString(channels) => channels.len(),
            other => panic!("{other:?}"),
        }
    };
    server.command(&["ACL", "SETUSER", "other", "reset"]);
    assert_ne!(channels("other"), 0, "a new user has channels here");
    apply(&server, &["cache", "tracking", "coordination", "cluster", "sentinel", "database"]);
    assert_eq!(channels(USER), 0);
}

#[tokio::test]
async fn a_cache_needs_no_locks_and_limits() {
    let server = Server::builder().tcp().start();
    apply(&server, &["cache"]);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    let failed = cache_operations(&larder).await;
    assert!(failed.is_empty(), "{failed:?}");
    let failed = coordination_operations(&larder).await;
    assert_eq!(
        failed.keys().copied().collect::<Vec<_>>(),
        [
            "acquire",
            "allow",
            "block",
            "campaign",
            "end override",
            "group",
            "job",
            "override",
            "permit",
            "read",
            "remaining",
            "reset"
        ]
    );
    for (operation, error) in failed {
        assert_eq!(error.kind(), ErrorKind::Permission, "{operation}: {error:?}");
    }
    // Optional for a cache, as the table says, and for nothing else.
    server.command(&["ACL", "SETUSER", USER, "-time"]);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    let failed = cache_operations(&larder).await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn each_command_of_the_page_is_needed() {
    let server = Server::builder().tcp().start();
    let commands = permissions(&["cache", "coordination"], '+');
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        apply(&server, &["cache", "coordination"]);
        let without = command.replacen('+', "-", 1);
        server.command(&["ACL", "SETUSER", USER, &without]);
        server.command(&["SCRIPT", "FLUSH"]);
        let larder = as_shop(&server.url()).connect().await.unwrap();
        let failed = all_operations(&larder).await;
        assert!(!failed.is_empty(), "without {without} nothing fails");
        for (operation, error) in failed {
            assert_eq!(error.kind(), ErrorKind::Permission, "{without}: {operation}: {error:?}");
            assert!(!error.is_retryable());
        }
    }
}

#[tokio::test]
async fn quarantine_needs_info_and_replicas_need_wait() {
    let server = Server::builder().tcp().start();
    let port = server.addr().unwrap().port();
    let _replica = Server::builder().tcp().arg("replicaof", &format!("127.0.0.1 {port}")).start();
    let lease = Duration::from_secs(20);
    for block in [None, Some("eviction"), Some("replicas")] {
        let blocks: Vec<&str> = ["cache", "coordination"].into_iter().chain(block).collect();
        apply(&server, &blocks);
        let larder = as_shop(&server.url()).connect().await.unwrap();
        let quarantined = larder.lock(namespace()).ttl(lease).quarantine(lease).try_acquire().await;
        let expected = matches!(quarantined.unwrap_err().kind(), ErrorKind::Quarantined { .. });
        assert_eq!(expected, block == Some("eviction"), "{block:?}");
        let replicated = async || larder.lock(namespace()).ttl(lease).replicated(1).try_acquire().await;
        if block == Some("replicas") {
            until("the replica is up", async || replicated().await.is_ok()).await;
        } else {
            assert_eq!(replicated().await.unwrap_err().kind(), ErrorKind::Permission, "{block:?}");
        }
    }
}

#[tokio::test]
async fn each_key_pattern_of_the_page_is_needed() {
    let server = Server::builder().tcp().start();
    let patterns = permissions(&["cache", "coordination"], '~');
    assert_eq!(patterns.len(), 13);
    for left_out in &patterns {
        apply(&server, &["cache", "coordination"]);
        let mut line = vec!["ACL", "SETUSER", USER, "resetkeys"];
        line.extend(patterns.iter().filter(|pattern| *pattern != left_out));
        server.command(&line);
        let larder = as_shop(&server.url()).connect().await.unwrap();
        let failed = all_operations(&larder).await;
        assert!(!failed.is_empty(), "without {left_out} nothing fails");
        for (operation, error) in failed {
            assert_eq!(error.kind(), ErrorKind::Permission, "without {left_out}: {operation}: {error:?}");
        }
    }
}

/// Runs every operation for tools, and returns which the server refused. A fact that is left out counts as refused.
#[cfg(feature = "admin")]
async fn tools_operations(larder: &Larder) -> Vec<&'static str> {
    use larder::admin::{EntryValue, EntryWrite, LockKind};

    let admin = larder.admin();
    let mut refused = Vec::new();
    let mut note = |operation, error: Option<Error>| {
        if error.is_some_and(|error| error.kind() == ErrorKind::Permission) {
            refused.push(operation);
        }
    };
    let (key, value) = (namespace(), EntryValue::Json(serde_json::json!({"name": "Ann", "age": 30})));
    note("set", admin.set("user", &key, &value, EntryWrite::default().ttl(HOUR).tag("t")).await.err());
    let sample = admin.sample(1).await;
    let sizes = sample.as_ref().is_ok_and(|sample| sample.groups.iter().any(|group| group.bytes.is_some()));
    note("sample", sample.err());
    let mut scan = admin.scan("user").unwrap().details();
    let mut lengths = false;
    loop {
        match scan.next_page().await {
            Ok(None) => break,
            Ok(Some(page)) => lengths |= page.iter().any(|entry| entry.stored_bytes.is_some()),
            Err(error) => {
                note("scan", Some(error));
                break;
            }
        }
    }
    note("entry", admin.entry("user", &key).await.err());
    note("explain", admin.explain("user", &key).await.err());
    note("touch", admin.touch("user", &key, HOUR).await.err());
    note("expire", admin.expire("user", &key).await.err());
    note("delete", admin.delete("user", &key).await.err());
    note("clear", admin.clear("user").await.err());
    note("invalidate", admin.invalidate_tag("t").await.err());
    let guard = larder.lock(&key).acquire().await.unwrap();
    note("locks", admin.locks().next_page().await.err());
    for kind in LockKind::ALL {
        note("lock", admin.lock(kind, &key).await.err());
    }
    drop(guard);
    note("processes", admin.processes().await.err());
    note("push times", admin.push_times(1).await.err());
    note("peek", admin.peek_limit("api", &key, 1, Quota::per_day(9)).await.err());
    for node in admin.nodes().await.unwrap() {
        note("info", admin.info(&node).await.err());
        note("config", admin.config(&node, "maxmemory").await.err());
        note("whoami", admin.whoami(&node).await.err());
        note("dry run", admin.acl_dry_run(&node, USER, &["GET", "a"]).await.err());
        note("latency", admin.latency_events(&node).await.err());
        note("slow log", admin.slow_log(&node, 1).await.err());
        note("tracking", admin.tracking_info(&node).await.err());
        note("cluster", admin.cluster_info(&node).await.err());
        note("role", admin.role(&node).await.err());
    }
    // A size that the server refuses is left out.
    refused.extend((!sizes).then_some("sizes"));
    refused.extend((!lengths).then_some("lengths"));
    refused
}

#[cfg(feature = "admin")]
#[tokio::test]
async fn tools_need_the_commands_of_their_block_and_no_others() {
    let server = Server::builder().tcp().start();
    // Before Redis 7 a subcommand cannot be forbidden alone, and ACL DRYRUN is unknown.
    if !server.version().at_least(7, 0) {
        return;
    }
    let blocks = ["cache", "tracking", "coordination", "presence", "admin"];
    apply(&server, &blocks);
    let larder = as_shop(&server.url()).connect().await.unwrap();
    assert!(tools_operations(&larder).await.is_empty());
    for command in permissions(&["admin"], '+') {
        // Others need it as well.
        if command == "+zrange" {
            continue;
        }
        apply(&server, &blocks);
        server.command(&["ACL", "SETUSER", USER, &command.replacen('+', "-", 1)]);
        let larder = as_shop(&server.url()).connect().await.unwrap();
        // The tracked connection may become usable a moment later.
        let refused = async || !tools_operations(&larder).await.is_empty();
        until(&format!("something is refused without {command}"), refused).await;
    }
}

#[tokio::test]
async fn a_process_announces_itself_if_it_may_and_works_if_it_may_not() {
    let server = Server::builder().tcp().start();
    let records = || server.query::<Vec<String>>(&["KEYS", "~process.1:{shop/}:*"]).len();
    apply(&server, &["cache", "presence"]);
    let larder = as_shop(&server.url()).presence("web-3").connect().await.unwrap();
    // One for the id of its locks and loads, and one for that of its permits.
    until("the process has announced itself", async || records() == 2).await;
    larder.close().await.unwrap();
    assert_eq!(records(), 0);
    apply(&server, &["cache", "coordination"]);
    let larder = as_shop(&server.url()).presence("web-3").connect().await.unwrap();
    let other = as_shop(&server.url()).connect().await.unwrap();
    let guard = larder.lock("a").acquire().await.unwrap();
    let holder = other.lock("a").holder().await.unwrap().unwrap();
    assert_eq!((holder.announced, records()), (None, 0));
    guard.release().await.unwrap();
    larder.close().await.unwrap();
}

#[tokio::test]
async fn the_pages_user_reaches_no_other_namespace_and_nothing_dangerous() {
    let server = Server::builder().tcp().start();
    apply(&server, &["cache", "tracking", "coordination"]);
    for namespace in ["other", "shop2", "sho", "a.shop"] {
        let larder = as_shop(&server.url()).namespace(namespace).connect().await.unwrap();
        let failed = all_operations(&larder).await;
        let open: Vec<&str> = [
            "set",
            "get",
            "exists",
            "touch",
            "ttl",
            "delete",
            "set_many",
            "get_many",
            "delete_many",
            "invalidate",
        ]
        .into_iter()
        .chain(["set tagged", "get_entry", "explain", "expire", "snapshot", "clear"])
        .chain(["acquire", "allow", "remaining"])
        .filter(|operation| !failed.contains_key(operation))
        .collect();
        assert!(open.is_empty(), "{namespace}: {open:?}");
        assert!(failed.values().all(|error| error.kind() == ErrorKind::Permission), "{failed:?}");
    }
    let mut connection = raw(&server);
    for command in [
        "GET user:1",
        "GET other/user:1",
        "SET other/user:1 x",
        "GET ~lock.2:{other/x}",
        "GET ~lock.2:{x}",
        "GET ~clear.1:{other/user}",
        "SET ~clear.1:{other/user} x",
        "GET ~clear.1:{/user}",
        "SET ~tag.1:{other/x} x",
        "SET ~epoch.1:{other/} x",
        "GET ~lease.2:{other/user:1}",
        "GET ~lease.2:{user:1}",
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "CONFIG GET *",
        "INFO",
        "MONITOR",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "ACL LIST",
        "DEBUG SLEEP 0",
        "SHUTDOWN",
        "SAVE",
        "PUBLISH c m",
        "SUBSCRIBE c",
        "SCRIPT FLUSH",
        "DBSIZE",
        "SELECT 1",
        "CLUSTER INFO",
        "REPLICAOF NO ONE",
    ] {
        let mut words = command.split(' ');
        let answer = redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).exec(&mut connection);
        let error = answer.expect_err(command);
        assert_eq!(error.code(), Some("NOPERM"), "{command}: {error}");
    }
    // The same inside a script.
    let script =
        redis::cmd("EVAL").arg("return redis.call('GET', 'other/user:1')").arg(0).exec(&mut connection);
    assert!(script.is_err());
}

#[tokio::test]
async fn on_a_cluster_the_map_and_moving_slots_need_one_command_each() {
    let cluster = support::cluster();
    let blocks = ["cache", "tracking", "coordination", "cluster"];
    cluster.nodes().iter().for_each(|node| apply(node, &blocks));
    let larder = as_shop(&cluster.url()).connect().await.unwrap();
    let failed = all_operations(&larder).await;
    assert!(failed.is_empty(), "{failed:?}");

    // An absent key of a slot that is being moved: the old node replies ASK.
    let key = "shop/user:moving";
    let (from, masters) = (cluster.master_of(key), cluster.masters());
    let to = masters.iter().find(|node| node.addr() != from.addr()).unwrap();
    let slot = from.query::<u64>(&["CLUSTER", "KEYSLOT", key]).to_string();
    let (from_id, to_id): (String, String) =
        (from.query(&["CLUSTER", "MYID"]), to.query(&["CLUSTER", "MYID"]));
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    assert_eq!(users(&larder).get("moving").await.unwrap(), None);
    let set_all = |rule: &str| {
        for node in cluster.nodes() {
            node.command(&["ACL", "SETUSER", USER, rule]);
        }
    };
    set_all("-asking");
    let error = users(&larder).get("moving").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    from.command(&["CLUSTER", "SETSLOT", &slot, "STABLE"]);
    to.command(&["CLUSTER", "SETSLOT", &slot, "STABLE"]);
    assert_eq!(users(&larder).get("moving").await.unwrap(), None);

    // Redis 6.0 can forbid a subcommand only together with its command.
    set_all(if cluster.nodes()[0].version().at_least(7, 0) { "-cluster|slots" } else { "-cluster" });
    let error = as_shop(&cluster.url()).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    cluster.nodes().iter().for_each(|node| apply(node, &blocks));
}

#[tokio::test]
async fn under_sentinel_the_role_needs_one_command_before_redis_6_2() {
    let sentinel = Sentinel::start();
    sentinel.servers().iter().for_each(|server| apply(server, &["cache", "tracking", "coordination"]));
    let connected = as_shop(&sentinel.url()).connect().await;
    if sentinel.servers()[0].version().at_least(6, 2) {
        connected.unwrap();
    } else {
        let error = connected.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    }
    sentinel.servers().iter().for_each(|server| apply(server, &["sentinel"]));
    let larder = as_shop(&sentinel.url()).connect().await.unwrap();
    let failed = all_operations(&larder).await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn another_database_needs_one_command() {
    let server = Server::builder().tcp().start();
    apply(&server, &["cache", "coordination"]);
    let error = as_shop(&server.url()).database(3).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    apply(&server, &["database"]);
    let larder = as_shop(&server.url()).database(3).connect().await.unwrap();
    assert!(all_operations(&larder).await.is_empty());
}

#[tokio::test]
async fn the_name_in_client_list_is_optional() {
    let server = Server::builder().tcp().start();
    apply(&server, &["cache", "tracking", "eviction"]);
    // Redis 6.0 to 7.0 do not know SETINFO, and 7.0 refuses permissions for commands that it does not have.
    if !server.version().at_least(7, 2) {
        as_shop(&server.url()).connect().await.unwrap();
        return;
    }
    let refused = || server.query::<Vec<redis::Value>>(&["ACL", "LOG"]).len();
    let _larder = as_shop(&server.url()).connect().await.unwrap();
    assert!(refused() > 0);
    server.command(&["ACL", "LOG", "RESET"]);
    apply(&server, &["client-name", "name"]);
    let _larder = as_shop(&server.url()).connect().await.unwrap();
    assert_eq!(refused(), 0);
    assert!(server.query::<String>(&["CLIENT", "LIST"]).contains("lib-name=larder"));
}

#[tokio::test]
async fn a_default_user_that_is_off_keeps_no_other_user_out() {
    let server = Server::builder().password("admin").tcp().start();
    apply(&server, &["cache", "coordination"]);
    server.command(&["ACL", "SETUSER", "default", "off"]);
    let larder = as_shop(&format!("redis://{}", server.addr().unwrap())).connect().await.unwrap();
    assert!(all_operations(&larder).await.is_empty());
    let outsider = Larder::connect(&format!("redis://:admin@{}", server.addr().unwrap())).await.unwrap_err();
    assert_eq!(outsider.kind(), ErrorKind::Authentication, "{outsider:?}");
}

#[tokio::test]
async fn every_permission_of_the_lines_is_in_the_pages_table_and_the_other_way_round() {
    let blocks = [
        "cache",
        "tracking",
        "coordination",
        "eviction",
        "replicas",
        "cluster",
        "sentinel",
        "database",
        "coordination-6",
        "coordination-valkey-9",
        "coordination-redis-8.4",
        "client-name",
        "name",
        "presence",
        "admin",
    ];
    let mut granted: Vec<String> =
        ['+', '~'].iter().flat_map(|mark| permissions(&blocks, *mark)).map(str::to_owned).collect();
    let (_, rest) = PAGE.split_once("| permission |").unwrap();
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut explained: Vec<String> =
        rows.map(|row| row.split('`').nth(1).unwrap().replace("\\|", "|")).collect();
    granted.sort();
    // Several blocks grant what each of them needs.
    granted.dedup();
    explained.sort();
    assert_eq!(granted, explained);
}

#[cfg(feature = "compress")]
#[tokio::test]
async fn a_stored_value_that_claims_to_be_huge_takes_no_memory() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).namespace("shop").connect().await.unwrap();
    let texts: Cache<String> = larder.cache("text").ttl(HOUR).compress_above(1).build().unwrap();
    let large = Larder::builder()
        .url(server.url())
        .namespace("shop")
        .max_value_bytes(64 << 20)
        .connect()
        .await
        .unwrap();
    let writer: Cache<String> = large.cache("text").ttl(HOUR).compress_above(1).build().unwrap();
    writer.set("bomb", &"0".repeat(32 << 20)).timeout(Duration::from_secs(20)).await.unwrap();
    assert!(server.query::<u64>(&["STRLEN", "shop/text:bomb"]) < 1 << 20);
    assert_eq!(texts.get("bomb").await.unwrap(), None);
    assert_eq!(larder.stats().caches["text"].unreadable, 1);
    let reloaded =
        texts.get_or_load("bomb", || async { Ok::<_, Infallible>("small".to_owned()) }).await.unwrap();
    assert_eq!(reloaded, "small");
}
