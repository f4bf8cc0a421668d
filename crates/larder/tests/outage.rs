//! The server is away (C6): loaders still run, few at once; invalidations that could not be sent are queued and sent
//! later, and what they invalidate is not served near meanwhile. And `close` leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, Error, ErrorKind, Larder, LoadError, Near, NearVerdict, Source, Stored, WriteOutcome};
use larder_testkit::{Direction, Proxy, Server};
use support::held::{Held, LIMIT, gate, load, within};
use support::{User, each_pair, until, user};
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3600);
const TAG: &str = "team:7";
const RESPONSE: Duration = Duration::from_millis(500);

async fn connect(url: &str) -> Larder {
    let builder = Larder::builder().url(url).response_timeout(RESPONSE).connect_timeout(RESPONSE);
    builder.connect().await.unwrap()
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

fn near(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
}

/// A server whose data survives its crashes.
fn lasting() -> Server {
    Server::builder().tcp().persist().start()
}

/// Kills the server, and returns once the `Larder` has noticed.
async fn take_away(server: &Server, larder: &Larder) {
    server.kill();
    until("the outage is noticed", async || {
        larder.ping().await.is_err_and(|e| e.kind() == ErrorKind::Refused)
    })
    .await;
}

/// Loaders that wait until they may end, and that are counted.
#[derive(Clone)]
struct Crowded {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    loads: Arc<AtomicU64>,
    go: watch::Receiver<bool>,
}

impl Crowded {
    fn new() -> (Self, watch::Sender<bool>) {
        let (open, go) = watch::channel(false);
        (Self { running: Arc::default(), most: Arc::default(), loads: Arc::default(), go }, open)
    }

    async fn load(mut self, row: User) -> Result<User, Infallible> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let _ = self.go.wait_for(|go| *go).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(row)
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

// ---- Loading while the server is away ------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_a_key_is_loaded_once_for_all_its_callers() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users = users(&larder);
    take_away(&server, &larder).await;
    let (crowded, open) = Crowded::new();
    let callers: Vec<_> = (0..200)
        .map(|i| {
            let (users, crowded) = (users.clone(), crowded.clone());
            tokio::spawn(async move {
                users.get_or_load(["a", "b"][i % 2], move || crowded.load(user("Ann"))).await.unwrap()
            })
        })
        .collect();
    until("both are loading", async || crowded.running() == 2).await;
    // A caller that cannot read joins the load of its key at once.
    until("all have asked", async || larder.stats().caches["user"].bypassed >= 200).await;
    open.send_replace(true);
    for caller in callers {
        assert_eq!(within("a caller is answered", LIMIT, caller).await.unwrap(), user("Ann"));
    }
    assert_eq!(crowded.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_only_so_many_loaders_run_at_once() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).outage_loads(3).build().unwrap();
    take_away(&server, &larder).await;
    let (crowded, open) = Crowded::new();
    let mut callers: Vec<_> = (0..20u32)
        .map(|key| {
            let (users, crowded) = (users.clone(), crowded.clone());
            tokio::spawn(async move {
                users.get_or_load(key, move || crowded.load(user("Ann"))).await.unwrap();
            })
        })
        .collect();
    callers.push(tokio::spawn({
        let (users, crowded) = (users.clone(), crowded.clone());
        async move {
            // One loader, for any number of keys.
            let loader = move |keys: Vec<u32>| {
                let crowded = crowded.clone();
                async move {
                    let row = crowded.load(user("Ann")).await?;
                    Ok::<_, Infallible>(
                        keys.into_iter().map(move |key| (key, row.clone())).collect::<Vec<_>>(),
                    )
                }
            };
            let found = users.get_or_load_many(100..110, loader).await.unwrap();
            assert!(found.iter().all(Option::is_some));
        }
    }));
    until("three are loading", async || crowded.running() == 3).await;
    until("all have asked", async || larder.stats().caches["user"].bypassed >= 21).await;
    assert_eq!(crowded.running(), 3);
    open.send_replace(true);
    for caller in callers {
        within("a caller is answered", LIMIT, caller).await.unwrap();
    }
    assert_eq!(crowded.loads.load(Ordering::SeqCst), 21);
    assert!(crowded.most.load(Ordering::SeqCst) <= 3, "{} at once", crowded.most.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_loads_that_load_do_not_wait_for_their_own_place() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).outage_loads(1).build().unwrap();
    take_away(&server, &larder).await;
    let nested = users.get_or_load("child", {
        let users = users.clone();
        move || async move {
            let inner = users.clone();
            let loader = move || async move {
                let many = inner.get_or_load_many(["grandparent"], |_| async {
                    Ok::<_, Infallible>([("grandparent", user("Ann"))])
                });
                many.await.map(|found| found[0].clone().unwrap())
            };
            users.get_or_load("parent", loader).await
        }
    });
    assert_eq!(within("nested loads end", LIMIT, nested).await.unwrap(), user("Ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_a_load_that_joins_one_that_waits_for_its_place_ends_too() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users: Cache<User> = larder.cache("user").ttl(HOUR).outage_loads(1).build().unwrap();
    take_away(&server, &larder).await;
    let (gate, mut keeper) = gate();
    let child = tokio::spawn({
        let users = users.clone();
        async move {
            let inner = users.clone();
            let loader = move || async move {
                gate.pass().await;
                inner.get_or_load("parent", || async { Ok::<_, Infallible>(user("Ann")) }).await
            };
            users.get_or_load("child", loader).await
        }
    });
    keeper.reached().await;
    // The only slot for a load is taken, and this load waits for it.
    let before = larder.stats().caches["user"].bypassed;
    let parent = tokio::spawn({
        let users = users.clone();
        async move { load(&users, "parent", user("Ann")).await }
    });
    until("the parent's load has asked", async || larder.stats().caches["user"].bypassed > before).await;
    keeper.open();
    let child = within("the child's load ends", Duration::from_secs(5), child).await.unwrap();
    assert_eq!(child.unwrap(), user("Ann"));
    within("the parent's load ends", LIMIT, parent).await.unwrap();
}

#[tokio::test]
async fn a_server_that_goes_away_during_a_load_costs_the_caller_nothing_but_the_storing() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let held = Held::load(&users(&larder), "a", user("Ann")).await;
    take_away(&server, &larder).await;
    let begun = Instant::now();
    assert_eq!(held.finish().await, user("Ann"));
    assert!(begun.elapsed() < 4 * RESPONSE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_falls_silent_costs_a_bounded_time_a_load_and_then_none() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect(&proxy.url()).await;
    let users = users(&larder);
    users.set("warm", &user("Ann")).await.unwrap();
    proxy.silence(Direction::Both);
    let mut took = Vec::new();
    for key in 0..20u32 {
        let begun = Instant::now();
        let loaded = users.get_or_load(key, || async { Ok::<_, Infallible>(user("Ann")) });
        within("a load", LIMIT, loaded).await.unwrap();
        took.push(begun.elapsed());
    }
    println!("a silent server, response_timeout {RESPONSE:?}: loads took {took:?}");
    assert!(took.iter().all(|took| *took < 5 * RESPONSE), "{took:?}");
    let last = took[10..].iter().min().unwrap();
    assert!(*last < RESPONSE / 2, "every load still waits for the silent server: {took:?}");
    proxy.restore();
    until("it is stored again", async || {
        users.get_or_load("back", || async { Ok::<_, Infallible>(user("Ann")) }).await.unwrap();
        users.get("back").await.is_ok_and(|found| found.is_some())
    })
    .await;
}

#[tokio::test]
async fn while_the_server_is_away_a_get_is_an_error_and_no_miss() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users = users(&larder);
    take_away(&server, &larder).await;
    assert!(users.get("a").await.is_err());
    assert!(users.get_many(["a"]).await.is_err());
    assert!(users.get_entry("a").await.is_err());
    assert!(users.exists("a").await.is_err());
    assert!(!users.get("a").await.unwrap_err().is_queued());
    let failing = users.get_or_load("a", || async { Err::<User, _>("the database is down, too") });
    assert!(matches!(failing.await, Err(LoadError::Loader(_))));
}

// ---- Invalidations that could not be sent
// ----------------------------------------------------------------------------

/// The writes that are made while the server is away.
#[derive(Debug, Clone, Copy)]
enum Write {
    Delete,
    DeleteMany,
    Set,
    SetMany,
    Expire,
    Clear,
    Tag,
}

async fn write(larder: &Larder, users: &Cache<User>, write: Write) -> Result<(), Error> {
    match write {
        Write::Delete => users.delete("a").await.map(drop),
        Write::DeleteMany => users.delete_many(["a", "b"]).await.map(drop),
        Write::Set => users.set("a", &user("new")).await,
        Write::SetMany => users.set_many([("a", &user("new"))]).await,
        Write::Expire => users.expire("a").await.map(drop),
        Write::Clear => users.clear().await,
        Write::Tag => larder.tag(TAG).invalidate().await,
    }
}

/// The error says that the write is queued; the old value is not served near meanwhile, and is gone when the server is
/// back.
async fn made_up_for(what: Write) {
    let server = lasting();
    let larder = connect(&server.url()).await;
    let (users, near) = (users(&larder), near(&larder));
    users.set("a", &user("old")).tag(TAG).await.unwrap();
    assert_eq!(near.get("a").await.unwrap(), Some(user("old")));
    assert_eq!(near.get_entry("a").await.unwrap().unwrap().source(), Source::Near);

    take_away(&server, &larder).await;
    let error = write(&larder, &users, what).await.unwrap_err();
    assert!(error.is_queued() && error.to_string().contains("queued"), "{what:?}: {error}");
    assert!(near.get("a").await.is_err(), "{what:?}: a near read went on");

    let watching = tokio::spawn({
        let near = near.clone();
        async move {
            let (mut from_server, mut reads) = (0u32, 0u32);
            loop {
                match near.get_entry("a").await {
                    Ok(None) => return (from_server, reads),
                    Ok(Some(entry)) => {
                        assert_ne!(entry.source(), Source::Near, "{what:?}: {entry:?} after {reads} reads");
                        if entry.source() == Source::Stale {
                            return (from_server, reads);
                        }
                        from_server += 1;
                    }
                    Err(_) => {}
                }
                reads += 1;
                tokio::task::yield_now().await;
            }
        }
    });
    let begun = Instant::now();
    server.restart();
    let (from_server, _) = within("the old value goes", LIMIT, watching).await.unwrap();
    println!(
        "{what:?}: made up for {:?} after the restart; read from the server {from_server} times",
        begun.elapsed()
    );
    until("all is sent", async || {
        larder
            .explain("user:a")
            .await
            .is_ok_and(|explained| explained.near != NearVerdict::InvalidationsQueued)
    })
    .await;
    for users in [&users, &near] {
        assert_eq!(users.get("a").await.unwrap(), None, "{what:?}");
    }
    // Near reads resume.
    users.set("a", &user("newer")).await.unwrap();
    until("it is near again", async || {
        near.get_entry("a").await.is_ok_and(|entry| entry.is_some_and(|entry| entry.source() == Source::Near))
    })
    .await;
}

macro_rules! made_up_for {
    ($($name:ident: $write:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            within("the server goes away and returns", 3 * LIMIT, made_up_for(Write::$write)).await;
        }
    )+};
}

made_up_for! {
    a_delete_while_the_server_is_away_is_queued_and_made_up_for: Delete;
    a_delete_of_many_while_the_server_is_away_is_queued_and_made_up_for: DeleteMany;
    a_set_while_the_server_is_away_is_queued_as_a_delete: Set;
    a_set_of_many_while_the_server_is_away_is_queued_as_a_delete: SetMany;
    an_expire_while_the_server_is_away_is_queued_as_a_delete: Expire;
    a_clear_while_the_server_is_away_is_queued_and_made_up_for: Clear;
    a_tags_invalidation_while_the_server_is_away_is_queued_and_made_up_for: Tag;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_more_is_queued_than_fits_the_cache_is_cleared() {
    let server = lasting();
    let larder = connect(&server.url()).await;
    let (all, other) = (users(&larder), larder.cache::<User>("other").ttl(HOUR).build().unwrap());
    // Long keys fill the queue sooner.
    let key = |number: u32| format!("{number:0>900}");
    all.set("never deleted", &user("old")).await.unwrap();
    all.set(key(0), &user("old")).await.unwrap();
    other.set("a", &user("of another cache")).await.unwrap();
    take_away(&server, &larder).await;
    let error = all.delete_many((0..40_000).map(key)).await.unwrap_err();
    assert!(error.is_queued(), "{error}");
    server.restart();
    until("the cache is cleared", async || all.get("never deleted").await.is_ok_and(|found| found.is_none()))
        .await;
    until("all is sent", async || all.get(key(0)).await.is_ok_and(|found| found.is_none())).await;
    let stored = async || larder.explain("user:never deleted").await.unwrap().stored;
    until("the queue is sent", async || stored().await != Stored::Overdue).await;
    assert_eq!(stored().await, Stored::Invalidated { by: "clear".into() });
    assert_eq!(other.get("a").await.unwrap(), Some(user("of another cache")));
}

/// The server becomes unreachable, and everything that was sent to it is lost; later it is back.
async fn lost(what: &str, lose: impl AsyncFnOnce(&Cache<User>)) {
    let server = lasting();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect(&proxy.url()).await;
    let users = users(&larder);
    users.set("a", &user("old")).await.unwrap();
    proxy.swallow(Direction::ToServer);
    lose(&users).await;
    let stored = server.query::<Option<Vec<u8>>>(&["GET", "user:a"]);
    assert!(stored.is_some(), "{what}: the server was reached");
    proxy.drop_connections().restore();
    until("it is made up for", async || users.get("a").await.is_ok_and(|found| found.is_none())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_times_out_is_queued_and_made_up_for() {
    let short = Duration::from_millis(50);
    let is_queued = |error: Error| {
        assert!(error.is_timeout() && error.is_queued(), "{error}");
    };
    lost("delete", async |users| is_queued(users.delete("a").timeout(short).await.unwrap_err())).await;
    lost("set", async |users| is_queued(users.set("a", &user("new")).timeout(short).await.unwrap_err()))
        .await;
    lost("expire", async |users| is_queued(users.expire("a").timeout(short).await.unwrap_err())).await;
    lost("clear", async |users| is_queued(users.clear().timeout(short).await.unwrap_err())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_under_way_is_made_up_for() {
    let short = Duration::from_millis(50);
    lost("delete", async |users| {
        tokio::time::timeout(short, users.delete("a")).await.unwrap_err();
    })
    .await;
    lost("set", async |users| {
        tokio::time::timeout(short, users.set("a", &user("new")).into_future()).await.unwrap_err();
    })
    .await;
    lost("clear", async |users| {
        tokio::time::timeout(short, users.clear()).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn a_write_whose_error_says_so_is_queued_by_then() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect(&proxy.url()).await;
    let users = users(&larder);
    users.set("a", &user("old")).await.unwrap();
    proxy.swallow(Direction::ToServer);
    let mut call = std::pin::pin!(users.delete("a").timeout(Duration::from_millis(50)));
    let error = call.as_mut().await.unwrap_err();
    // The call is still running: the queueing does not depend on its end.
    assert!(error.is_queued() && larder.stats().invalidations.waiting == 1, "{error}");
}

#[tokio::test]
async fn an_invalidation_that_is_queued_can_count_as_success() {
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let users = users(&larder);
    let outcome = users.set("a", &user("Ann")).or_queue().await.unwrap();
    assert_eq!(outcome, WriteOutcome::Done(()));
    assert_eq!(users.delete("a").or_queue().await.unwrap().done(), Some(true));
    server.command(&["SADD", "user:list", "1"]);
    assert_eq!(users.expire("list").or_queue().await.unwrap_err().kind(), ErrorKind::WrongType);
    take_away(&server, &larder).await;
    let outcomes = [
        users.delete("a").or_queue().await.unwrap().is_queued(),
        users.delete_many(["a"]).or_queue().await.unwrap().is_queued(),
        users.set("a", &user("Bob")).ttl(HOUR).or_queue().await.unwrap().is_queued(),
        users.set_many([("a", &user("Bob"))]).or_queue().await.unwrap().is_queued(),
        users.expire("a").or_queue().await.unwrap().is_queued(),
        users.clear().or_queue().await.unwrap().is_queued(),
        larder.tag(TAG).invalidate().timeout(RESPONSE).or_queue().await.unwrap().is_queued(),
    ];
    assert_eq!(outcomes, [true; 7]);
}

#[test]
fn a_write_that_is_queued_in_a_runtime_that_ends_is_sent_and_later_ones_are_too() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (lasting, server) = (runtime(), Server::builder().tcp().start());
    let larder = lasting.block_on(connect(&server.url()));
    let users = users(&larder);
    for key in ["a", "b"] {
        lasting.block_on(async { users.set(key, &user("old")).await.unwrap() });
        // As in a failover: the server refuses writes.
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        let short = runtime();
        let error = short.block_on(async { users.delete(key).await.unwrap_err() });
        assert!(error.is_queued(), "{error}");
        drop(short);
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        lasting.block_on(until("it is sent", async || larder.stats().invalidations.waiting == 0));
        assert_eq!(server.query::<u32>(&["EXISTS", &format!("user:{key}")]), 0);
    }
}

#[tokio::test]
async fn a_write_that_fails_for_another_reason_is_not_queued() {
    let server = Server::start();
    let larder = connect(&server.url()).await;
    let users = users(&larder);
    users.set("a", &user("Ann")).await.unwrap();
    server.command(&["SADD", "user:list", "1"]);
    let error = users.expire("list").await.unwrap_err();
    assert_eq!((error.kind(), error.is_queued()), (ErrorKind::WrongType, false));
    assert_eq!(server.query::<String>(&["TYPE", "user:list"]), "set");
    let error = users.set("a", &user(&"x".repeat(9 << 20))).await.unwrap_err();
    assert_eq!((error.kind(), error.is_queued()), (ErrorKind::ValueTooLarge, false));
    assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")));
}

// ---- Closing -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn closing_takes_the_claims_of_its_loads_away() {
    for (store, here, there) in each_pair().await {
        let (users_here, users_there) = (users(&here), users(&there));
        users_here.set("refreshed", &user("old")).await.unwrap();
        let cold = Held::load(&users_here, "cold", user("never stored")).await;
        let refresh = Held::refresh(&users_here, "refreshed", user("never stored"), |_| {}).await;
        assert!(matches!(there.explain("user:cold").await.unwrap().stored, Stored::Loading(_)));
        assert!(there.explain("user:refreshed").await.unwrap().refreshing.is_some());

        within("it closes", LIMIT, here.close()).await.unwrap();
        for held in [cold, refresh] {
            let error = within("a load ends", LIMIT, held.load).await.unwrap().unwrap_err();
            assert!(
                matches!(error, LoadError::Larder(error) if error.kind() == ErrorKind::Closed),
                "{store}"
            );
        }
        // After `close` has returned, no other caller waits for a load that will not finish.
        assert_eq!(there.explain("user:cold").await.unwrap().stored, Stored::Nothing, "{store}");
        assert_eq!(there.explain("user:refreshed").await.unwrap().refreshing, None, "{store}");
        assert_eq!(load(&users_there, "cold", user("Ann")).await, user("Ann"), "{store}");
        assert_eq!(users_there.get("refreshed").await.unwrap(), Some(user("old")), "{store}");
    }
}

#[tokio::test]
async fn a_waiter_for_a_load_of_a_program_that_closes_loads_at_once() {
    for (store, here, there) in each_pair().await {
        let held = Held::load(&users(&here), "a", user("never stored")).await;
        let waits = tokio::spawn({
            let users = users(&there);
            async move { load(&users, "a", user("Ann")).await }
        });
        until("the other has missed", async || {
            there.stats().caches.get("user").is_some_and(|stats| stats.misses == 1)
        })
        .await;
        here.close().await.unwrap();
        let loaded = within("the other loads", Duration::from_millis(1500), waits).await.unwrap();
        assert_eq!(loaded, user("Ann"), "{store}");
        drop(held);
    }
}

/// While a server hangs, larder refuses to send. If each refused attempt left a cancellation behind, the first second
/// after an outage would be spent on them.
#[tokio::test]
async fn attempts_at_a_lock_that_were_not_sent_leave_nothing_to_cancel() {
    const ATTEMPTS: u64 = 300;
    let server = Server::builder().tcp().start();
    let larder = connect(&server.url()).await;
    let lock = larder.lock("job");
    lock.try_acquire().await.unwrap().unwrap().release().await.unwrap();
    server.pause();
    until("the outage is noticed", async || {
        larder.ping().await.is_err_and(|error| error.to_string().contains("has stopped answering"))
    })
    .await;
    for _ in 0..ATTEMPTS {
        let error = lock.try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    server.resume();
    until("the server answers", async || larder.ping().await.is_ok()).await;
    // The time in which cancellations would have been sent at least once.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let scripts = server.calls("eval") + server.calls("evalsha");
    assert!(scripts < ATTEMPTS / 3, "{scripts} scripts");
    lock.try_acquire().await.unwrap().unwrap().release().await.unwrap();
    larder.close().await.unwrap();
}
