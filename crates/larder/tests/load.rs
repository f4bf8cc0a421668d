//! Cache-aside: which call loads, how often, and what is never stored. On each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{Cache, ErrorKind, Expiry, Format, Larder, LoadError};
use larder_testkit::Server;
use support::{User, each_store, patient, until, user};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

/// A load that has read its row and waits before it returns it.
struct Held {
    read: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
    load: JoinHandle<Result<User, LoadError<Infallible>>>,
}

impl Held {
    /// Starts a load whose loader has read `row` when this returns.
    async fn at(users: &Cache<User>, key: &'static str, row: User) -> Self {
        let (tell_read, read) = oneshot::channel();
        let (go, wait) = oneshot::channel();
        let users = users.clone();
        let load = tokio::spawn(async move {
            users
                .get_or_load(key, move || async move {
                    tell_read.send(()).unwrap();
                    wait.await.unwrap();
                    Ok(row)
                })
                .await
        });
        let mut held = Self { read, go, load };
        (&mut held.read).await.unwrap();
        held
    }

    async fn finish(self) -> User {
        self.go.send(()).unwrap();
        self.load.await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_a_cold_key_load_once() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let loads = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..1000)
            .map(|_| {
                let (users, loads) = (users.clone(), loads.clone());
                tokio::spawn(async move {
                    let load = users.get_or_load("cold", move || async move {
                        loads.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        Ok::<_, Infallible>(user("Ann"))
                    });
                    load.await.unwrap()
                })
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.await.unwrap(), user("Ann"));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1, "{store}");
        assert_eq!(users.get("cold").await.unwrap(), Some(user("Ann")));
        let stats = &larder.stats().caches["user"];
        assert_eq!((stats.loads, stats.load_failures, stats.fills_invalidated), (1, 0, 0));
    }
}

#[tokio::test]
async fn what_is_there_is_not_loaded() {
    for (_, larder) in each_store().await {
        let users = users(&larder);
        users.set("a", &user("Ann")).await.unwrap();
        let never = users.get_or_load("a", || async { panic!("loaded") as Result<User, Infallible> });
        assert_eq!(never.await.unwrap(), user("Ann"));
    }
}

#[tokio::test]
async fn a_loaded_value_has_its_own_time_to_live_and_tags() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let load = |name: &'static str| {
            users.get_or_load("a", move || async move { Ok::<_, Infallible>(user(name)) })
        };
        load("Ann").ttl(Duration::from_secs(60)).tag("team:7").await.unwrap();
        assert!(
            matches!(users.ttl("a").await.unwrap(), Some(Expiry::After(left)) if left <= Duration::from_secs(60))
        );
        larder.tag("team:7").invalidate().await.unwrap();
        assert_eq!(load("Bob").tag("team:7").await.unwrap(), user("Bob"), "{store}");
        assert_eq!(load("Cid").await.unwrap(), user("Bob"), "{store}");
    }
}

#[tokio::test]
async fn what_was_read_before_a_write_is_never_stored_after_it() {
    for (store, larder) in each_store().await {
        let users = users(&larder);

        let held = Held::at(&users, "deleted", user("old")).await;
        users.delete("deleted").await.unwrap();
        assert_eq!(held.finish().await, user("old"), "who asked before the write still gets an answer");
        assert_eq!(users.get("deleted").await.unwrap(), None, "{store}");

        let held = Held::at(&users, "set", user("old")).await;
        users.set("set", &user("new")).await.unwrap();
        held.finish().await;
        assert_eq!(users.get("set").await.unwrap(), Some(user("new")), "{store}");

        // A short-lived set in between, which has expired when the load ends.
        let held = Held::at(&users, "short", user("old")).await;
        users.set("short", &user("new")).ttl(Duration::from_millis(1)).await.unwrap();
        until("it has expired", async || users.get("short").await.unwrap().is_none()).await;
        held.finish().await;
        assert_eq!(users.get("short").await.unwrap(), None, "{store}");

        let held = Held::at(&users, "many", user("old")).await;
        users.delete_many(["many"]).await.unwrap();
        held.finish().await;
        assert_eq!(users.get("many").await.unwrap(), None, "{store}");
        assert_eq!(larder.stats().caches["user"].fills_invalidated, 4, "{store}");
    }
}

#[tokio::test]
async fn another_programs_writes_invalidate_a_load_too() {
    for url in [support::server().url(), support::cluster().url()] {
        let namespace = support::namespace();
        let connect = || patient().url(&url).namespace(&namespace).connect();
        let (here, there) = (connect().await.unwrap(), connect().await.unwrap());
        for delete in [true, false] {
            let held = Held::at(&users(&here), "a", user("old")).await;
            if delete {
                users(&there).delete("a").await.unwrap();
            } else {
                users(&there).set("a", &user("new")).await.unwrap();
            }
            held.finish().await;
            let expected = (!delete).then(|| user("new"));
            assert_eq!(users(&here).get("a").await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn a_load_that_starts_after_a_delete_sees_nothing_older() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let held = Held::at(&users, "a", user("old")).await;
        users.delete("a").await.unwrap();
        let fresh = users.get_or_load("a", || async { Ok::<_, Infallible>(user("new")) }).await.unwrap();
        assert_eq!(fresh, user("new"), "{store}: joined the load that had read before the delete");
        assert_eq!(held.finish().await, user("old"));
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");
    }
}

#[tokio::test]
async fn an_invalidated_tag_invalidates_the_load_that_would_carry_it() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let (go, wait) = oneshot::channel::<()>();
        let (tell_read, read) = oneshot::channel();
        let load = tokio::spawn({
            let users = users.clone();
            async move {
                let loader = move || async move {
                    tell_read.send(()).unwrap();
                    wait.await.unwrap();
                    Ok::<_, Infallible>(user("old"))
                };
                users.get_or_load("a", loader).tag("team:7").await.unwrap()
            }
        });
        read.await.unwrap();
        larder.tag("team:7").invalidate().await.unwrap();
        let fresh = users.get_or_load("a", || async { Ok::<_, Infallible>(user("new")) });
        assert_eq!(fresh.await.unwrap(), user("new"), "{store}");
        go.send(()).unwrap();
        load.await.unwrap();
        assert_ne!(users.get("a").await.unwrap(), Some(user("old")), "{store}");
    }
}

#[tokio::test]
async fn an_invalidated_tag_leaves_other_loads_alone() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let held = Held::at(&users, "a", user("Ann")).await;
        larder.tag("team:7").invalidate().await.unwrap();
        let joined = tokio::spawn({
            let users = users.clone();
            async move { users.get_or_load("a", || async { Ok::<_, Infallible>(user("Bob")) }).await.unwrap() }
        });
        until("the second has missed", async || larder.stats().caches["user"].misses == 2).await;
        assert_eq!(held.finish().await, user("Ann"));
        assert_eq!(joined.await.unwrap(), user("Ann"), "{store}: loaded on its own");
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")), "{store}");
    }
}

#[tokio::test]
async fn tags_that_cannot_be_carried_are_refused_before_anything_is_loaded() {
    for (_, larder) in each_store().await {
        let plain: Cache<User> = larder.cache("user").ttl(HOUR).format(Format::Plain).build().unwrap();
        for (users, tag) in
            [(users(&larder), String::new()), (users(&larder), "t".repeat(201)), (plain, "t".into())]
        {
            let load = users.get_or_load("a", || async { panic!("loaded") as Result<User, Infallible> });
            let error = load.tag(tag.clone()).await.unwrap_err();
            assert!(matches!(error, LoadError::Larder(error) if error.kind() == ErrorKind::InvalidSetting));
            let error = users.set("a", &user("Ann")).tag(tag).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        }
    }
}

#[tokio::test]
async fn a_value_whose_encoding_panics_is_returned_and_the_next_call_loads() {
    #[derive(Debug, Clone, serde::Deserialize)]
    struct Cursed;
    impl serde::Serialize for Cursed {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("cursed")
        }
    }
    for (store, larder) in each_store().await {
        let cursed: Cache<Cursed> = larder.cache("cursed").ttl(HOUR).build().unwrap();
        for _ in 0..2 {
            cursed.get_or_load("a", || async { Ok::<_, Infallible>(Cursed) }).await.unwrap();
        }
        assert_eq!(larder.stats().caches["cursed"].loads, 2);
        until("the placeholder is taken away", async || {
            larder.explain("cursed:a").await.unwrap().stored == larder::Stored::Nothing
        })
        .await;
        assert!(!cursed.delete("a").await.unwrap(), "{store}");
    }
}

#[derive(Debug, PartialEq)]
struct NoSuchRow(u32);

impl std::error::Error for NoSuchRow {}

impl std::fmt::Display for NoSuchRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no row {}", self.0)
    }
}

#[tokio::test]
async fn a_failing_loader_fails_all_that_waited_and_the_next_call_loads() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let (go, wait) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let users = users.clone();
            async move {
                let loader = move || async move {
                    wait.await.unwrap();
                    Err(NoSuchRow(7))
                };
                users.get_or_load("a", loader).await
            }
        });
        until("the first has missed", async || larder.stats().caches["user"].misses == 1).await;
        let second = tokio::spawn({
            let users = users.clone();
            async move { users.get_or_load("a", || async { Err(NoSuchRow(8)) }).await }
        });
        // A call that has missed joins the load in flight before it waits for anything else.
        until("the second has missed", async || larder.stats().caches["user"].misses == 2).await;
        go.send(()).unwrap();
        let errors = [first.await.unwrap().unwrap_err(), second.await.unwrap().unwrap_err()];
        assert!(
            matches!(&errors[0], LoadError::Loader(error) if **error == NoSuchRow(7)),
            "{store}: {errors:?}"
        );
        assert!(
            matches!(&errors[1], LoadError::Loader(error) if **error == NoSuchRow(7)),
            "{store}: {errors:?}"
        );
        assert!(!users.exists("a").await.unwrap());
        let next = users.get_or_load("a", || async { Ok::<_, NoSuchRow>(user("Ann")) });
        assert_eq!(next.await.unwrap(), user("Ann"));
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_starts_after_another_failed_runs_its_own_loader() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        for attempt in 0..200 {
            let load = users.get_or_load("a", move || async move { Err::<User, _>(NoSuchRow(attempt)) });
            let error = load.await.unwrap_err();
            assert_eq!(error.loader(), Some(&NoSuchRow(attempt)), "{store}");
        }
    }
}

#[tokio::test]
async fn a_loader_that_panics_when_its_time_is_over_is_an_error_that_says_so() {
    struct Cursed;
    impl Drop for Cursed {
        fn drop(&mut self) {
            panic!("cursed to the end");
        }
    }
    for (store, larder) in each_store().await {
        let users: Cache<User> =
            larder.cache("user").ttl(HOUR).hard_timeout(Duration::from_millis(20)).build().unwrap();
        let load = users.get_or_load("a", || async {
            let _cursed = Cursed;
            std::future::pending::<Result<User, Infallible>>().await
        });
        let error = load.await.unwrap_err();
        assert!(error.to_string().contains("cursed to the end"), "{store}: {error}");
        assert_eq!(
            users.get_or_load("a", async || Ok::<_, Infallible>(user("Ann"))).await.unwrap(),
            user("Ann")
        );
    }
}

#[tokio::test]
async fn a_panicking_loader_is_an_error_and_harms_no_other_caller() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let load = users.get_or_load("a", || async { panic!("row 7 is cursed") as Result<User, Infallible> });
        let error = load.await.unwrap_err();
        assert!(
            matches!(&error, LoadError::Panicked(message) if message.contains("cursed")),
            "{store}: {error:?}"
        );
        let next = users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) });
        assert_eq!(next.await.unwrap(), user("Ann"));
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_load() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let (go, wait) = oneshot::channel::<()>();
        let loader = move || async move {
            wait.await.unwrap();
            Ok::<_, Infallible>(user("Ann"))
        };
        let impatient = users.get_or_load("a", loader).timeout(Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(impatient, LoadError::Larder(error) if error.is_timeout()), "{store}");
        go.send(()).unwrap();
        until("the value is stored", async || users.get("a").await.unwrap().is_some()).await;
    }
}

#[tokio::test]
async fn unreadable_bytes_are_loaded_over() {
    let server = support::server();
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    users.set("probe", &user("Ann")).await.unwrap();
    let names: Vec<String> = server.query(&["KEYS", "*user:probe"]);
    let broken = names[0].replace("probe", "broken");
    server.command(&["SET", &broken, "\u{1}not a value"]);
    assert_eq!(users.get("broken").await.unwrap(), None);
    let loaded = users.get_or_load("broken", || async { Ok::<_, Infallible>(user("Bob")) });
    assert_eq!(loaded.await.unwrap(), user("Bob"));
    assert_eq!(users.get("broken").await.unwrap(), Some(user("Bob")));
    assert_eq!(larder.stats().caches["user"].unreadable, 2);
}

#[tokio::test]
async fn bare_json_is_loaded_and_stored_without_a_placeholder() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder.cache("user").ttl(HOUR).format(Format::Plain).build().unwrap();
        let loaded = users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) });
        assert_eq!(loaded.await.unwrap(), user("Ann"));
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")), "{store}");

        let held = Held::at(&users, "b", user("old")).await;
        assert!(!users.delete("b").await.unwrap(), "{store}: something stood where bare JSON is expected");
        held.finish().await;
        assert_eq!(users.get("b").await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn when_the_server_is_away_the_loader_still_runs() {
    let server = Server::builder().tcp().start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let users = users(&larder);
    server.kill();
    for name in ["Ann", "Bob"] {
        let before = larder.stats().caches["user"].bypassed;
        let loaded = users.get_or_load("a", move || async move { Ok::<_, Infallible>(user(name)) });
        assert_eq!(loaded.await.unwrap(), user(name), "nothing was stored to be found");
        assert!(larder.stats().caches["user"].bypassed > before, "an outage passed for a miss");
    }
}

#[tokio::test]
async fn closing_ends_the_loads_under_way() {
    let larder = Larder::connect("memory:").await.unwrap();
    let users = users(&larder);
    let held = Held::at(&users, "a", user("old")).await;
    larder.close().await.unwrap();
    let error = held.load.await.unwrap().unwrap_err();
    assert!(matches!(error, LoadError::Larder(error) if error.kind() == ErrorKind::Closed));
}

/// The load that the call joins finds that the origin has no such row, which removes the stale value. The call's own
/// load then fails, and there is no stale value to fall back on.
#[tokio::test]
async fn a_stale_value_that_was_removed_while_a_call_waited_is_not_what_the_call_falls_back_on() {
    let larder = Larder::connect("memory:").await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
    users.set("a", &user("old")).await.unwrap();
    users.expire("a").await.unwrap();
    let ((tell, loads), (go, wait)) = (oneshot::channel(), oneshot::channel::<()>());
    let optional = tokio::spawn({
        let users = users.clone();
        async move {
            let load = users.get_or_load_optional("a", move |_| async move {
                tell.send(()).unwrap();
                wait.await.unwrap();
                Ok::<Option<User>, String>(None)
            });
            load.await
        }
    });
    loads.await.unwrap();
    let joins = tokio::spawn({
        let users = users.clone();
        async move { users.get_or_load("a", || async { Err::<User, _>("the origin fails".to_owned()) }).await }
    });
    // One thread and no server: the call has joined as soon as it has run.
    tokio::task::yield_now().await;
    go.send(()).unwrap();
    assert_eq!(optional.await.unwrap().unwrap(), None);
    let failed = joins.await.unwrap();
    assert!(matches!(failed, Err(LoadError::Loader(_))), "{failed:?}");
}
