//! Invalidations that are queued while the server still answers reads: a value that the server still has does not undo
//! what this process wrote (C1, C6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{Cache, ErrorKind, Larder, Near, Source};
use larder_testkit::{Cluster, Direction, Proxy, Server};
use support::events::Events;
use support::held::{LIMIT, within};
use support::{User, connect_as, until, user};

const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(200);
const TAG: &str = "team:7";

async fn warm(users: &Cache<User>, key: &str) {
    until("a near copy is served", async || {
        users.get_entry(key).await.unwrap().map(|entry| entry.source()) == Some(Source::Near)
    })
    .await;
}

/// A `Larder` with queued writes, on a server that answers reads and refuses what the queue sends.
struct Scene {
    server: Server,
    proxy: Proxy,
    larder: Larder,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::builder().tcp().start();
        let proxy = Proxy::start(server.addr().unwrap()).await;
        let larder = Larder::builder().url(proxy.url()).namespace("n").response_timeout(LIMIT).connect();
        let larder = larder.await.unwrap();
        Self { server, proxy, larder }
    }

    /// From here on requests are lost.
    fn lose_requests(&self) {
        self.proxy.swallow(Direction::ToServer);
    }

    /// Requests arrive again, and reads are answered.
    fn answer_reads(&self) {
        self.server.command(&["ACL", "SETUSER", "default", "-unlink", "-set"]);
        self.proxy.restore();
    }

    async fn carry_out(&self) {
        self.server.command(&["ACL", "SETUSER", "default", "+@all"]);
        until("all was sent", async || self.larder.stats().invalidations.waiting == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_and_is_queued_is_not_read_in_any_way() {
    let scene = Scene::new().await;
    let (larder, old) = (&scene.larder, Some(user("old")));
    let mut caches: Vec<(&str, Cache<User>)> = Vec::new();
    for what in ["delete", "delete_many", "set", "expire", "clear", "tag"] {
        caches.push((what, larder.cache(what).ttl(HOUR).build().unwrap()));
        let name = format!("near-{what}");
        caches.push((what, larder.cache(&name).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()));
    }
    for (what, users) in &caches {
        for key in ["a", "b"] {
            let value = user("old");
            let set = users.set(key, &value);
            if *what == "tag" {
                set.tag(TAG).await.unwrap()
            } else {
                set.await.unwrap()
            }
            assert_eq!(users.get(key).await.unwrap(), old, "{}: {key}", users.name());
        }
        if users.name().starts_with("near") {
            warm(users, "a").await;
            warm(users, "b").await;
        }
    }
    scene.lose_requests();
    for (what, users) in &caches {
        let error = match *what {
            "delete" => users.delete("a").timeout(SHORT).await.unwrap_err(),
            "delete_many" => users.delete_many(["a"]).timeout(SHORT).await.unwrap_err(),
            "set" => users.set("a", &user("new")).timeout(SHORT).await.unwrap_err(),
            "expire" => users.expire("a").timeout(SHORT).await.unwrap_err(),
            "clear" => users.clear().timeout(SHORT).await.unwrap_err(),
            _ => larder.tag(TAG).invalidate().timeout(SHORT).await.unwrap_err(),
        };
        assert!(error.is_queued(), "{what}: {error}");
    }
    scene.answer_reads();
    until("reads are answered", async || larder.ping().await.is_ok()).await;
    for (what, users) in &caches {
        let says = users.name();
        // This write fetches the clear version, which is then known here again, and is refused.
        let refused = users.set("refused", &user("new")).await.expect_err(says);
        assert_eq!(refused.kind(), ErrorKind::Permission, "{says}: {refused}");
        for users in [users, &users.fresh()] {
            until("it is answered", async || users.get("never set").await.is_ok()).await;
            assert_eq!(users.get("a").await.unwrap(), None, "{says}: get");
            assert_eq!(users.get_many(["a"]).await.unwrap(), [None], "{says}: get_many");
            assert!(!users.exists("a").await.unwrap(), "{says}: exists");
            // Only the entries that were written to are read as absent.
            let other = if ["clear", "tag"].contains(what) { None } else { old.clone() };
            assert_eq!(users.get("b").await.unwrap(), other, "{says}: another key");
        }
        assert_eq!(support::held::load(users, "a", user("new")).await, user("new"), "{says}: get_or_load");
    }
    assert!(larder.stats().invalidations.waiting > 0, "it was sent before it could be asked for");
    scene.carry_out().await;
    for (_, users) in &caches {
        assert_eq!(users.get("a").await.unwrap(), None, "{}: it was sent", users.name());
    }
}

/// Writes are paused while the server answers reads on the tracked connection. The reply to the read is in flight when
/// the server executes the delete, and arrives when the queue is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_began_before_its_queued_delete_was_carried_out_gives_nothing_older() {
    let server = Server::builder().tcp().start();
    if !server.version().at_least(6, 2) {
        return eprintln!("{} cannot pause writes alone", server.version());
    }
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect_as(&proxy.url(), "n").await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    for many in [false, true] {
        users.set("a", &user("old")).await.unwrap();
        warm(&users, "a").await;
        server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let error = users.delete("a").timeout(SHORT).await.unwrap_err();
        assert!(error.is_queued(), "{error}");
        proxy.only_tracked().delay(Direction::ToClient, Duration::from_millis(150));
        server.reset_stats();
        let read = tokio::spawn({
            let users = users.clone();
            async move { if many { Ok(users.get_many(["a"]).await?.remove(0)) } else { users.get("a").await } }
        });
        until("the server has answered it", async || server.calls("get") + server.calls("mget") > 0).await;
        server.command(&["CLIENT", "UNPAUSE"]);
        let found: larder::Result<_> = within("the read ends", LIMIT, read).await.unwrap();
        assert_eq!(found.unwrap(), None, "many: {many}");
        proxy.restore();
    }
}

/// The tag's own node stays reachable, so a write that carries the tag learns the tag's old version again.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_invalidation_is_queued_is_invalid_though_its_old_version_is_known_again() {
    let cluster = Cluster::start();
    if !cluster.nodes()[0].version().at_least(6, 2) {
        return eprintln!("it cannot pause writes alone");
    }
    let epochs = cluster.master_of("~epoch.1:{n/}");
    let elsewhere = |name: &str| cluster.master_of(name).addr() != epochs.addr();
    let find = |name: &dyn Fn(u32) -> String| (0..).find(|n| elsewhere(&name(*n))).unwrap();
    let cache = format!("user{}", find(&|n| format!("~clear.1:{{n/user{n}}}")));
    let tag = format!("team{}", find(&|n| format!("~tag.1:{{n/team{n}}}")));
    let keys: Vec<String> =
        (0..).map(|n| n.to_string()).filter(|key| elsewhere(&format!("n/{cache}:{key}"))).take(3).collect();
    let [a, b, c] = &keys[..] else { panic!() };

    let larder = connect_as(&cluster.url(), "n").await;
    let users: Cache<User> = larder.cache(&cache).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    for key in [a, b] {
        users.set(key, &user("old")).tag(&tag).await.unwrap();
        warm(&users, key).await;
    }
    epochs.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let error = larder.tag(&tag).invalidate().timeout(SHORT).await.unwrap_err();
    assert!(error.is_queued(), "{error}");
    users.set(c, &user("new")).tag(&tag).await.unwrap();
    for users in [&users, &users.fresh()] {
        for key in [a, b] {
            assert_eq!(users.get(key).await.unwrap(), None);
            assert_eq!(users.get_many([key]).await.unwrap(), [None]);
        }
    }
    epochs.command(&["CLIENT", "UNPAUSE"]);
    until("it was sent", async || larder.stats().invalidations.waiting == 0).await;
    assert_eq!(users.get_many([a, b]).await.unwrap(), [None, None]);
}

/// The queue takes hundreds of round trips to drain, and an invalidation leaves it all the time.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_long_queue_drains_a_read_of_another_key_costs_one_command_and_is_answered() {
    let scene = Scene::new().await;
    let users: Cache<User> = scene.larder.cache("user").ttl(HOUR).build().unwrap();
    users.set("other", &user("Ann")).await.unwrap();
    scene.proxy.silence(Direction::ToServer);
    let error = users.delete_many(0..50_000).timeout(SHORT).await.unwrap_err();
    assert!(error.is_queued(), "{error}");
    scene.proxy.restore().delay(Direction::ToClient, Duration::from_millis(20));
    until("reads are answered", async || users.get("other").await.is_ok()).await;
    until("it drains", async || scene.larder.stats().invalidations.waiting < 50_000).await;
    scene.server.reset_stats();
    for _ in 0..3 {
        assert_eq!(users.get("other").await.unwrap(), Some(user("Ann")));
        assert!(users.exists("other").await.unwrap());
        assert!(users.ttl("other").await.unwrap().is_some());
    }
    let calls = ["get", "getrange"].map(|command| scene.server.calls(command));
    assert!(scene.larder.stats().invalidations.waiting > 0, "it has drained before it could be read beside");
    // `ttl` reads the first bytes, too.
    assert_eq!(calls, [3, 6]);
    until("all was sent", async || scene.larder.stats().invalidations.waiting == 0).await;
}

/// The server may refuse one name and accept all others: the user may only read that name.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_invalidation_stays_queued_is_read_around_and_reported_and_is_sent_once_permitted() {
    let server = Server::builder().tcp().start();
    if !server.version().at_least(7, 0) {
        return eprintln!("{} has no permissions to read alone", server.version());
    }
    let events = Events::default();
    let _second = tracing::Dispatch::new(Events::default());
    let _subscribed = tracing::subscriber::set_default(events.clone());
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = Larder::builder().url(proxy.url()).namespace("n").response_timeout(LIMIT).connect();
    let larder = larder.await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    for key in ["refused", "sent", "other"] {
        users.set(key, &user("old")).await.unwrap();
        warm(&users, key).await;
    }
    // Requests are lost while both keys are deleted; after that, no user may write the one name.
    proxy.silence(Direction::ToServer);
    for key in ["refused", "sent"] {
        assert!(users.delete(key).timeout(SHORT).await.unwrap_err().is_queued());
    }
    let writable = ["~n/user:sent", "~n/user:other", "~~*", "%R~*"];
    let mut line = vec!["ACL", "SETUSER", "default", "resetkeys"];
    line.extend(writable);
    server.command(&line);
    proxy.drop_connections().restore();

    let counts = || larder.stats().invalidations;
    until("the one was sent and the other refused", async || counts().waiting == 1 && counts().refused > 0)
        .await;
    let (first, refused) = (Instant::now(), counts().refused);
    assert_eq!(server.query::<u64>(&["EXISTS", "n/user:sent"]), 0);
    until("near reads of other names are as ever", async || {
        users.get("other").await.unwrap();
        users.get_entry("other").await.unwrap().map(|entry| entry.source()) == Some(Source::Near)
    })
    .await;
    assert_eq!(users.get("sent").await.unwrap(), None);
    for users in [&users, &users.fresh()] {
        assert_eq!(users.get("refused").await.unwrap(), None, "the server has the old value still");
        assert!(!users.exists("refused").await.unwrap());
        // The clear version is fetched by a script, which this user may not run on the name.
        assert!(!matches!(users.ttl("refused").await, Ok(Some(_))));
        assert_eq!(users.get_many(["refused", "other"]).await.unwrap(), [None, Some(user("old"))]);
    }
    assert_eq!(server.query::<u64>(&["EXISTS", "n/user:refused"]), 1);
    // The queue tries it again, rarely.
    until("it is tried again", async || counts().refused > refused).await;
    let most = first.elapsed().as_secs() / 5 + 1;
    assert!(
        counts().refused - refused <= most,
        "{} times in {:?}",
        counts().refused - refused,
        first.elapsed()
    );
    assert_eq!(counts().waiting, 1);
    assert_eq!(
        events.count("the server refuses queued invalidations: retrying"),
        1,
        "one line in ten seconds"
    );

    server.command(&["ACL", "SETUSER", "default", "allkeys"]);
    until("it heals", async || counts().waiting == 0).await;
    assert_eq!(server.query::<u64>(&["EXISTS", "n/user:refused"]), 0);
    users.set("refused", &user("new")).await.unwrap();
    warm(&users, "refused").await;
    assert_eq!(users.get("refused").await.unwrap(), Some(user("new")));
}
