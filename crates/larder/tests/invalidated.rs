//! A value that a loader read before a write is never stored after it (C3), and a call that starts after the write sees
//! nothing older (C1). A loader pauses between its read and its store, and the write runs in between: on each store,
//! with and without a near tier, on a cold key, on a stale value, and in a forced refresh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{Cache, Larder, Near, Stored};
use larder_testkit::{Cluster, Server};
use support::held::{Held, LIMIT, load, within};
use support::{User, cluster, connect, each_pair, each_store, server, until, user};

const HOUR: Duration = Duration::from_secs(3600);
const TAG: &str = "team:7";
const BARE: &str = r#"{"name":"new","age":30}"#;

/// The write that runs while a loader is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Set,
    SetMany,
    Delete,
    DeleteMany,
    Expire,
    Clear,
    /// Invalidates a tag that the call named.
    CallTag,
    /// Invalidates a tag that the loader names after the write.
    LoaderTag,
    /// A set whose value has expired before the loader continues.
    ShortSet,
    /// A write of another program, which does not use larder.
    RawSet,
    RawDel,
    RawShortSet,
}

/// The kind of load that is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// The key was absent.
    Cold,
    /// The key had a stale value, which the load refreshes.
    Stale,
    /// The key had a fresh value, and the refresh is forced.
    Forced,
}

const FILLS: [Fill; 3] = [Fill::Cold, Fill::Stale, Fill::Forced];

/// One cache, and what happens in it.
struct Case {
    store: &'static str,
    fill: Fill,
    near: bool,
    /// The handle that loads: it keeps stale values.
    users: Cache<User>,
    /// The handle that writes: what it sets is gone once it has expired.
    writer: Cache<User>,
    larder: Larder,
    key: String,
}

impl Case {
    fn new(store: &'static str, larder: &Larder, writing: &Larder, fill: Fill, near: bool) -> Self {
        let name = if near { "near" } else { "user" };
        let handle = |larder: &Larder, stale_for: Duration| {
            let builder = larder.cache(name).ttl(HOUR).stale_for(stale_for);
            if near { builder.near(Near::bytes(1 << 20)) } else { builder }.build().unwrap()
        };
        Self {
            store,
            fill,
            near,
            users: handle(larder, HOUR),
            writer: handle(writing, Duration::ZERO),
            larder: writing.clone(),
            key: format!("{fill:?}"),
        }
    }

    fn each(store: &'static str, larder: &Larder, writing: &Larder) -> Vec<Self> {
        let all = FILLS.iter().flat_map(|fill| [false, true].map(|near| (*fill, near)));
        all.map(|(fill, near)| Self::new(store, larder, writing, fill, near)).collect()
    }

    fn says(&self) -> String {
        format!("a {:?} load on {}, near: {}", self.fill, self.store, self.near)
    }

    /// A load that has read the old row.
    async fn hold(&self, write: Write) -> Held {
        let Self { users, key, .. } = self;
        if self.fill != Fill::Cold {
            users.set(key, &user("standing")).tag(TAG).await.unwrap();
            if self.fill == Fill::Stale {
                assert!(users.expire(key).await.unwrap());
            }
            // From here on a near handle has the value near.
            users.get(key).await.unwrap();
        }
        let tag_of_loader = move |cx: &larder::LoadContext<User>| {
            if write == Write::LoaderTag {
                cx.tag(TAG);
            }
        };
        match (self.fill, write) {
            (Fill::Forced, Write::CallTag) => {
                let (users, key) = (users.clone(), key.clone());
                Held::started(move |gate| async move {
                    let loader = move |_| async move {
                        gate.pass().await;
                        Ok(user("old"))
                    };
                    users.refresh(&key, loader).tag(TAG).await
                })
                .await
            }
            (Fill::Forced, _) => Held::refresh(users, key, user("old"), tag_of_loader).await,
            (_, Write::CallTag) => Held::tagged(users, key, user("old"), &[TAG]).await,
            (_, Write::LoaderTag) => Held::with(users, key, user("old"), tag_of_loader).await,
            _ => Held::load(users, key, user("old")).await,
        }
    }

    async fn write(&self, write: Write) {
        let Self { writer, key, .. } = self;
        let new = user("new");
        let is_gone = async || writer.fresh().get(key).await.unwrap().is_none();
        match write {
            Write::Set => writer.set(key, &new).await.unwrap(),
            Write::SetMany => writer.set_many([(key, &new)]).await.unwrap(),
            Write::Delete => drop(writer.delete(key).await.unwrap()),
            Write::DeleteMany => drop(writer.delete_many([key]).await.unwrap()),
            Write::Expire => drop(writer.expire(key).await.unwrap()),
            Write::Clear => writer.clear().await.unwrap(),
            Write::CallTag | Write::LoaderTag => self.larder.tag(TAG).invalidate().await.unwrap(),
            Write::ShortSet => {
                writer.set(key, &new).ttl(Duration::from_millis(1)).await.unwrap();
                until("the short value has expired", is_gone).await;
            }
            Write::RawSet => self.raw(&["SET", &self.name().await, BARE]).await,
            Write::RawDel => self.raw(&["DEL", &self.name().await]).await,
            Write::RawShortSet => {
                self.raw(&["SET", &self.name().await, BARE, "PX", "1"]).await;
                until("the short value has expired", is_gone).await;
            }
        }
    }

    async fn name(&self) -> String {
        let name = if self.near { "near" } else { "user" };
        self.larder.explain(&format!("{name}:{}", self.key)).await.unwrap().name
    }

    /// The command of another program. None can reach into `memory:`, so a delete takes its place there.
    async fn raw(&self, command: &[&str]) {
        match self.store {
            "memory" => drop(self.writer.delete(&self.key).await.unwrap()),
            "server" => drop(server().command(command)),
            _ => drop(cluster().master_of(command[1]).command(command)),
        }
    }

    /// Asserts that no kind of read serves the old row.
    async fn assert_not_old(&self, when: &str) {
        for _ in 0..2 {
            for users in [&self.users, &self.users.fresh(), &self.writer, &self.writer.fresh()] {
                let found = users.get(&self.key).await.unwrap();
                assert_ne!(found, Some(user("old")), "{when}: {}", self.says());
                let many = users.get_many([&self.key]).await.unwrap();
                assert_ne!(many, [Some(user("old"))], "{when}: {}", self.says());
            }
        }
    }
}

/// A load reads the old row, this write runs, and the load continues.
async fn never_stored(write: Write) {
    for (store, larder) in each_store().await {
        for case in Case::each(store, &larder, &larder) {
            let held = case.hold(write).await;
            case.write(write).await;
            case.assert_not_old("the load is paused").await;
            assert_eq!(held.finish().await, user("old"), "who asked before still gets an answer");
            case.assert_not_old("the load has ended").await;

            // A forced refresh that cannot store its value deletes the entry, which might be older than what it loaded.
            let sets = matches!(write, Write::Set | Write::SetMany)
                || (write == Write::RawSet && case.store != "memory");
            let expected = (sets && case.fill != Fill::Forced).then(|| user("new"));
            let found = case.users.fresh().get(&case.key).await.unwrap();
            assert_eq!(found, expected, "{}", case.says());
            case.users.delete(&case.key).await.unwrap();
        }
    }
}

/// The same, with a write by another `Larder`. That one reads nothing older than its own writes; the one that loads may
/// lag behind a tag or a clear by as long as the server's notification takes.
async fn never_stored_against_another(write: Write) {
    for (store, here, there) in each_pair().await {
        for case in Case::each(store, &here, &there) {
            let held = case.hold(write).await;
            case.write(write).await;
            assert_eq!(held.finish().await, user("old"));
            let old = Some(user("old"));
            for there in [&case.writer, &case.writer.fresh()] {
                assert_ne!(there.get(&case.key).await.unwrap(), old, "{}", case.says());
            }
            for here in [&case.users, &case.users.fresh()] {
                until("the loading side hears of it", async || here.get(&case.key).await.unwrap() != old)
                    .await;
            }
            case.assert_not_old("all have heard").await;
            case.users.delete(&case.key).await.unwrap();
        }
    }
}

macro_rules! never_stored {
    ($($name:ident: $write:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            within("all cases end", 4 * LIMIT, never_stored(Write::$write)).await;
        }
    )+};
}

never_stored! {
    what_was_read_before_a_set_is_never_stored_after_it: Set;
    what_was_read_before_a_set_of_many_is_never_stored_after_it: SetMany;
    what_was_read_before_a_delete_is_never_stored_after_it: Delete;
    what_was_read_before_a_delete_of_many_is_never_stored_after_it: DeleteMany;
    what_was_read_before_an_expire_is_never_stored_after_it: Expire;
    what_was_read_before_a_clear_is_never_served_after_it: Clear;
    what_was_read_before_its_calls_tag_was_invalidated_is_never_served_after_it: CallTag;
    what_was_read_before_its_loaders_tag_was_invalidated_is_never_stored_after_it: LoaderTag;
    what_was_read_before_a_set_that_has_expired_again_is_never_stored_after_it: ShortSet;
    what_was_read_before_another_programs_set_is_never_stored_after_it: RawSet;
    what_was_read_before_another_programs_delete_is_never_stored_after_it: RawDel;
    what_was_read_before_another_programs_set_that_has_expired_is_never_stored_after_it: RawShortSet;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_another_process_wrote_is_never_stored_after_it() {
    for write in [Write::Set, Write::Delete, Write::Expire, Write::ShortSet] {
        within("all cases end", 2 * LIMIT, never_stored_against_another(write)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_another_process_cleared_or_invalidated_is_never_served_after_it() {
    for write in [Write::Clear, Write::CallTag, Write::LoaderTag] {
        within("all cases end", 2 * LIMIT, never_stored_against_another(write)).await;
    }
}

/// A value that was read before the server lost all its data is not stored afterwards.
async fn never_stored_after_loss(larder: &Larder, store: &'static str, lose: impl AsyncFn()) {
    for case in Case::each(store, larder, larder) {
        let held = case.hold(Write::Delete).await;
        lose().await;
        assert_eq!(held.finish().await, user("old"));
        until("nothing older is served", async || case.users.get(&case.key).await.unwrap().is_none()).await;
        case.assert_not_old("all is lost").await;
        assert_eq!(load(&case.users, &case.key, user("new")).await, user("new"), "{}", case.says());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_flush_is_never_stored_after_it() {
    let server = Server::start();
    let larder = connect(&server.url()).await;
    never_stored_after_loss(&larder, "server", async || drop(server.command(&["FLUSHALL"]))).await;

    let cluster = Cluster::start();
    let larder = connect(&cluster.url()).await;
    let flush = async || cluster.masters().iter().for_each(|master| drop(master.command(&["FLUSHALL"])));
    never_stored_after_loss(&larder, "cluster", flush).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_an_eviction_is_never_stored_after_it() {
    let server = Server::builder().arg("maxmemory-policy", "allkeys-random").start();
    let larder = connect(&server.url()).await;
    let evict = async || {
        server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        until("all is evicted", async || {
            // A refused write makes the server evict, too.
            let _ = server.try_query::<String>(&["SET", "probe", "1"]);
            server.query::<u64>(&["DBSIZE"]) == 0
        })
        .await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    };
    never_stored_after_loss(&larder, "server", evict).await;
    assert!(server.info("stats")["evicted_keys"].parse::<u64>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_the_embedded_store_evicted_its_placeholder_is_not_stored() {
    let larder = Larder::builder().url("memory:").memory_max_entries(50).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    let held = Held::load(&users, "a", user("old")).await;
    assert!(matches!(larder.explain("user:a").await.unwrap().stored, Stored::Loading(_)));
    let mut filler = 0;
    until("the placeholder is evicted", async || {
        for _ in 0..100 {
            filler += 1;
            let key = format!("filler-{filler}");
            users.set(&key, &user("filler")).await.unwrap();
            users.get(&key).await.unwrap();
        }
        larder.explain("user:a").await.unwrap().stored == Stored::Nothing
    })
    .await;
    assert_eq!(held.finish().await, user("old"));
    assert_eq!(users.get("a").await.unwrap(), None);
}

/// A load that starts after a write has returned gets nothing older, and does not wait for the loader that read too
/// early.
async fn starts_again(write: Write) {
    for (store, larder) in each_store().await {
        for case in Case::each(store, &larder, &larder) {
            let says = case.says();
            let held = case.hold(write).await;
            case.write(write).await;
            // The old loader still waits at its gate.
            let found = load(&case.users, &case.key, user("new")).await;
            assert_eq!(found, user("new"), "{says}");
            assert_eq!(case.users.get(&case.key).await.unwrap(), Some(user("new")), "{says}");
            assert_eq!(held.finish().await, user("old"), "{says}");
            case.assert_not_old("the load has ended").await;
            if case.fill != Fill::Forced {
                assert_eq!(case.users.get(&case.key).await.unwrap(), Some(user("new")), "{says}");
            }
            case.users.delete(&case.key).await.unwrap();
        }
    }
}

macro_rules! starts_again {
    ($($name:ident: $write:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            within("all cases end", 4 * LIMIT, starts_again(Write::$write)).await;
        }
    )+};
}

starts_again! {
    a_load_after_a_set_gets_what_was_set: Set;
    a_load_after_a_delete_starts_again_and_waits_for_no_earlier_load: Delete;
    a_load_after_a_delete_of_many_starts_again_and_waits_for_no_earlier_load: DeleteMany;
    a_load_after_an_expire_starts_again_and_waits_for_no_earlier_load: Expire;
    a_load_after_a_clear_starts_again_and_waits_for_no_earlier_load: Clear;
    a_load_after_its_tag_was_invalidated_starts_again_and_waits_for_no_earlier_load: CallTag;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_a_loaders_tag_was_invalidated_never_gets_the_old_row() {
    for (store, larder) in each_store().await {
        for case in Case::each(store, &larder, &larder) {
            let held = case.hold(Write::LoaderTag).await;
            case.write(Write::LoaderTag).await;
            // It is not known yet that the running loader will name the tag, so its placeholder remains.
            let next = tokio::spawn({
                let (users, key) = (case.users.clone(), case.key.clone());
                async move { load(&users, &key, user("new")).await }
            });
            assert_eq!(held.finish().await, user("old"), "{}", case.says());
            assert_eq!(
                within("the next load ends", LIMIT, next).await.unwrap(),
                user("new"),
                "{}",
                case.says()
            );
            case.assert_not_old("both have ended").await;
            case.users.delete(&case.key).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_loads_and_writes_at_once_leave_nothing_older_than_the_last_write() {
    // The row's number only grows; a write stores nothing in the cache: it changes the row and then deletes the entry.
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    for (store, larder) in each_store().await {
        for near in [false, true] {
            let case = Case::new(store, &larder, &larder, Fill::Cold, near);
            let row = Arc::new(AtomicU32::new(0));
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    let (users, row) = (case.users.clone(), row.clone());
                    tokio::spawn(async move {
                        for _ in 0..100 {
                            let loader = {
                                let row = row.clone();
                                move || async move {
                                    let read = row.load(Ordering::SeqCst);
                                    // As a database does.
                                    tokio::time::sleep(Duration::from_millis(1)).await;
                                    Ok::<_, std::convert::Infallible>(User { name: "row".into(), age: read })
                                }
                            };
                            users.get_or_load("row", loader).await.unwrap();
                        }
                    })
                })
                .collect();
            for number in 1..=100 {
                row.store(number, Ordering::SeqCst);
                case.users.delete("row").await.unwrap();
                let found = case.users.get("row").await.unwrap();
                assert!(found.is_none_or(|found| found.age >= number), "{store}, near: {near}");
                let row = row.clone();
                let loaded = case.users.get_or_load("row", move || async move {
                    Ok::<_, std::convert::Infallible>(User {
                        name: "row".into(),
                        age: row.load(Ordering::SeqCst),
                    })
                });
                let loaded = within("a load ends", LIMIT, loaded).await.unwrap();
                assert!(loaded.age >= number, "{store}, near: {near}: {} after {number}", loaded.age);
            }
            for reader in readers {
                within("a reader ends", LIMIT, reader).await.unwrap();
            }
            assert!(case.users.get("row").await.unwrap().is_none_or(|found| found.age == 100), "{store}");
        }
    }
}
