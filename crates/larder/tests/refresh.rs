//! Replacing a value: it is stale, near its end, expired by hand, or refreshed on request (C5). If the new value fails
//! or is slow, callers get the old one and can tell; one load replaces it. On each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, Expiry, Format, Larder, LoadError, Near, Source};
use support::held::{Held, LIMIT, gate, load, within};
use support::{User, each_pair, each_store, until, user};
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, PartialEq)]
struct DatabaseIsDown;

impl std::error::Error for DatabaseIsDown {}

impl std::fmt::Display for DatabaseIsDown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the database is down")
    }
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap()
}

/// A cache in which `a` is stale.
async fn with_stale(larder: &Larder) -> Cache<User> {
    let users = users(larder);
    users.set("a", &user("stale")).await.unwrap();
    assert!(users.expire("a").await.unwrap());
    users
}

async fn fails() -> Result<User, DatabaseIsDown> {
    Err(DatabaseIsDown)
}

#[tokio::test]
async fn a_stale_value_is_nothing_to_get_and_get_or_load_loads() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        users.set("a", &user("stale")).ttl(Duration::from_millis(1)).await.unwrap();
        until("its time is over", async || users.get("a").await.unwrap().is_none()).await;
        assert!(!users.exists("a").await.unwrap(), "{store}");
        assert_eq!(users.get_many(["a"]).await.unwrap(), [None], "{store}");
        let entry = users.get_entry("a").await.unwrap().expect("a stale value");
        assert_eq!((entry.source(), entry.value()), (Source::Stale, &user("stale")), "{store}");
        assert!(entry.age().unwrap() < LIMIT, "{store}");
        assert!(
            // The server's time is an estimate, which may be some milliseconds ahead.
            matches!(users.ttl("a").await.unwrap(), Some(Expiry::After(left)) if left <= HOUR + Duration::from_secs(1)),
            "{store}"
        );

        assert_eq!(load(&users, "a", user("new")).await, user("new"), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");
        assert_eq!(larder.stats().caches["user"].stale_served, 0, "{store}");
    }
}

#[tokio::test]
async fn where_the_load_fails_or_panics_the_stale_value_is_given_and_says_so() {
    for (store, larder) in each_store().await {
        let users = with_stale(&larder).await;
        let entry = users.get_or_load("a", fails).entry().await.unwrap();
        assert_eq!((entry.source(), entry.value()), (Source::Stale, &user("stale")), "{store}");
        let panics =
            users.get_or_load("a", || async { panic!("row 7 is cursed") as Result<User, Infallible> });
        assert_eq!(panics.await.unwrap(), user("stale"), "{store}");
        let many = users.get_or_load_many(["a"], |_| async { Err::<Vec<(&str, User)>, _>(DatabaseIsDown) });
        assert_eq!(many.await.unwrap(), [Some(user("stale"))], "{store}");
        let stats = &larder.stats().caches["user"];
        assert_eq!((stats.stale_served, stats.load_failures), (3, 3), "{store}");

        // The stale value is still there for the next call, and a load can still replace it.
        assert_eq!(load(&users, "a", user("new")).await, user("new"), "{store}");
        let nothing_stale = users.get_or_load("b", fails).await.unwrap_err();
        assert_eq!(nothing_stale.loader(), Some(&DatabaseIsDown), "{store}");
    }
}

#[tokio::test]
async fn after_the_soft_timeout_the_stale_value_is_given_and_the_load_ends_in_the_background() {
    for (store, larder) in each_store().await {
        with_stale(&larder).await;
        let builder = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR);
        let users = builder.soft_timeout(Duration::from_millis(20)).build().unwrap();
        let (gate, mut keeper) = gate();
        let loader = || async move {
            gate.pass().await;
            Ok::<_, Infallible>(user("new"))
        };
        let entry = within("the stale value", LIMIT, users.get_or_load("a", loader).entry()).await.unwrap();
        assert_eq!((entry.source(), entry.value()), (Source::Stale, &user("stale")), "{store}");
        let joins = users.get_or_load("a", || async { panic!("loaded twice") as Result<User, Infallible> });
        assert_eq!(within("the stale value", LIMIT, joins).await.unwrap(), user("stale"), "{store}");

        keeper.reached().await;
        keeper.open();
        until("the load is stored", async || users.get("a").await.unwrap() == Some(user("new"))).await;
        assert_eq!(larder.stats().caches["user"].loads, 1, "{store}");
    }
}

#[tokio::test]
async fn a_cold_load_is_waited_for_beyond_the_soft_timeout() {
    for (store, larder) in each_store().await {
        let builder = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR);
        let users = builder.soft_timeout(Duration::from_millis(1)).build().unwrap();
        let loader = || async {
            // This time must pass: the soft timeout expires long before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, Infallible>(user("new"))
        };
        let entry = users.get_or_load("a", loader).entry().await.unwrap();
        assert_eq!((entry.source(), entry.value()), (Source::Loaded, &user("new")), "{store}");
    }
}

#[tokio::test]
async fn after_the_hard_timeout_the_loader_is_dropped_and_the_call_says_timeout() {
    for (store, larder) in each_store().await {
        let builder = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR);
        let users = builder.hard_timeout(Duration::from_millis(20)).build().unwrap();
        let (gate, mut keeper) = gate();
        let loader = || async move {
            gate.pass().await;
            Ok::<_, Infallible>(user("late"))
        };
        let error = within("it times out", LIMIT, users.get_or_load("a", loader)).await.unwrap_err();
        assert!(error.is_timeout(), "{store}: {error}");
        assert!(error.to_string().contains("hard_timeout"), "{store}: {error}");
        keeper.reached().await;
        assert!(keeper.is_gone(), "{store}: the loader lives on");
        assert_eq!(load(&users, "a", user("new")).await, user("new"), "{store}");
    }
}

#[tokio::test]
async fn after_the_hard_timeout_a_stale_value_is_given_where_there_is_one() {
    for (store, larder) in each_store().await {
        with_stale(&larder).await;
        let builder = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR);
        let users = builder.hard_timeout(Duration::from_millis(20)).build().unwrap();
        let (gate, keeper) = gate();
        let loader = || async move {
            gate.pass().await;
            Ok::<_, Infallible>(user("late"))
        };
        let entry = within("it times out", LIMIT, users.get_or_load("a", loader).entry()).await.unwrap();
        assert_eq!((entry.source(), entry.value()), (Source::Stale, &user("stale")), "{store}");
        assert!(keeper.is_gone(), "{store}: the loader lives on");
        assert_eq!(larder.stats().caches["user"].stale_served, 1, "{store}");
        assert_eq!(load(&users, "a", user("new")).await, user("new"), "{store}");
    }
}

/// Loaders that wait until they may all continue, and that are counted.
#[derive(Clone)]
struct Counted {
    loads: Arc<AtomicU64>,
    go: watch::Receiver<bool>,
}

impl Counted {
    fn new() -> (Self, watch::Sender<bool>) {
        let (open, go) = watch::channel(false);
        (Self { loads: Arc::default(), go }, open)
    }

    fn count(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn load(mut self, row: User) -> Result<User, Infallible> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let _ = self.go.wait_for(|go| *go).await;
        Ok(row)
    }
}

/// One load replaces a value that is near its end, while both handles serve the old one.
async fn refreshed_early_once(case: &str, handles: &[Cache<User>]) {
    // A slow load is worth starting early. With an eagerness of 100 this one starts 20 s before the end on average, so
    // 60 s before the end about every twentieth call starts it.
    let slow = handles[0].get_or_load("a", || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, Infallible>(user("present"))
    });
    slow.await.unwrap();
    let (counted, open) = Counted::new();
    let ask = async |users: &Cache<User>| {
        let counted = counted.clone();
        let asked = users.get_or_load("a", move || counted.load(user("new")));
        let entry = within("no call waits for an early refresh", LIMIT, asked.entry()).await.unwrap();
        assert_eq!(entry.value(), &user("present"), "{case}");
        assert!(matches!(entry.source(), Source::Near | Source::Server), "{case}: {entry:?}");
    };
    until("somebody is elected", async || {
        for users in handles {
            ask(users).await;
        }
        counted.count() > 0
    })
    .await;
    for _ in 0..100 {
        for users in handles {
            ask(users).await;
        }
    }
    assert_eq!(counted.count(), 1, "{case}");
    open.send_replace(true);
    for users in handles {
        until("the new value is there", async || users.get("a").await.unwrap() == Some(user("new"))).await;
    }
}

fn eager(larder: &Larder, near: bool) -> Cache<User> {
    let builder = larder.cache(if near { "near" } else { "user" }).ttl(Duration::from_secs(60));
    let builder = builder.early_refresh(100.0);
    if near { builder.near(Near::bytes(1 << 20)) } else { builder }.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_near_its_end_is_loaded_again_once_while_it_is_still_served() {
    for (store, larder) in each_store().await {
        for near in [false, true] {
            refreshed_early_once(&format!("{store}, near: {near}"), &[eager(&larder, near)]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_programs_one_loads_a_value_near_its_end() {
    for (store, here, there) in each_pair().await {
        for near in [false, true] {
            let handles = [eager(&here, near), eager(&there, near)];
            refreshed_early_once(&format!("{store}, near: {near}"), &handles).await;
        }
    }
}

#[tokio::test]
async fn early_refreshes_are_as_frequent_as_xfetch_says_from_near_copies_too() {
    for near in [false, true] {
        let larder = Larder::connect("memory:").await.unwrap();
        early_refreshes_of(&eager(&larder, near)).await;
        let name = if near { "near" } else { "user" };
        assert_eq!(larder.stats().caches[name].near_hits > 500, near, "{name}");
    }
}

async fn early_refreshes_of(users: &Cache<User>) {
    // The time that a load takes decides how early the next one starts, so this time must pass.
    let slow = users.get_or_load("a", || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, Infallible>(user("present"))
    });
    slow.await.unwrap();
    let loads = Arc::new(AtomicU64::new(0));
    for _ in 0..1000 {
        let loads = loads.clone();
        let counted = move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            fails().await
        };
        users.get_or_load("a", counted).await.unwrap();
        // The load has ended before the next call.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    // 200 ms with an eagerness of 100 reach past 60 s once in e^3 = 20 calls. Less than half of that has a probability
    // of one in a hundred thousand; if the chance were drawn twice a call, it would be once in 400 calls.
    let loads = loads.load(Ordering::SeqCst);
    assert!(loads >= 25, "{loads} of 1000 calls loaded early, not 50");
}

#[tokio::test]
async fn a_value_far_from_its_end_is_not_loaded_early() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder.cache("user").ttl(HOUR).early_refresh(1.0).build().unwrap();
        for _ in 0..300 {
            load(&users, "a", user("Ann")).await;
        }
        assert_eq!(larder.stats().caches["user"].loads, 1, "{store}");
    }
}

#[tokio::test]
async fn an_early_refresh_that_fails_leaves_the_value_and_the_next_may_try_again() {
    for (store, larder) in each_store().await {
        let users = eager(&larder, false);
        let slow = users.get_or_load("a", || async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, Infallible>(user("present"))
        });
        slow.await.unwrap();
        until("two have failed", async || {
            assert_eq!(users.get_or_load("a", fails).await.unwrap(), user("present"), "{store}");
            larder.stats().caches["user"].load_failures >= 2
        })
        .await;
        assert_eq!(users.get("a").await.unwrap(), Some(user("present")), "{store}");
    }
}

#[tokio::test]
async fn a_refresh_loads_what_is_fresh_and_the_old_value_is_served_meanwhile() {
    for (store, larder) in each_store().await {
        for near in [false, true] {
            let builder = larder.cache(if near { "near" } else { "user" }).ttl(HOUR);
            let users = if near { builder.near(Near::bytes(1 << 20)) } else { builder }.build().unwrap();
            users.set("a", &user("old")).await.unwrap();
            let held = Held::refresh(&users, "a", user("new"), |cx| {
                assert_eq!(cx.stale(), Some(&user("old")));
            })
            .await;
            assert_eq!(users.get("a").await.unwrap(), Some(user("old")), "{store}, near: {near}");
            assert_eq!(load(&users, "a", user("other")).await, user("old"), "{store}, near: {near}");
            assert_eq!(held.finish().await, user("new"));
            // C1: a call that starts after the refresh has returned.
            assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}, near: {near}");
            assert_eq!(users.fresh().get("a").await.unwrap(), Some(user("new")), "{store}, near: {near}");
        }
    }
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_the_old_value_and_is_an_error() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        users.set("a", &user("old")).await.unwrap();
        let error = users.refresh("a", |_| fails()).await.unwrap_err();
        assert_eq!(error.loader(), Some(&DatabaseIsDown), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("old")), "{store}");
        // The failed refresh has given up its claim: the next one does not wait.
        let again = users.refresh("a", |_| async { Ok::<_, Infallible>(user("new")) });
        within("the next refresh", Duration::from_secs(2), again).await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");
    }
}

#[tokio::test]
async fn a_refresh_where_nothing_is_loads() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let loaded = users.refresh("a", |cx| async move {
            assert_eq!((cx.stale(), cx.key()), (None, "a"));
            Ok::<_, Infallible>(user("new"))
        });
        assert_eq!(loaded.await.unwrap(), user("new"), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");
    }
}

/// A load that began before a refresh ends after it.
async fn outrun(case: &str, slow: &Cache<User>, quick: &Cache<User>) {
    let never_old = async |when: &str| {
        for users in [slow, quick] {
            assert_ne!(users.get("a").await.unwrap(), Some(user("old")), "{case}: {when}");
        }
    };
    for what in ["nothing", "stale", "fresh"] {
        let case = format!("{case}, over {what}");
        if what != "nothing" {
            slow.set("a", &user("standing")).await.unwrap();
        }
        if what == "stale" {
            slow.expire("a").await.unwrap();
        }
        let old = match what {
            "fresh" => Held::refresh(slow, "a", user("old"), |_| {}).await,
            _ => Held::load(slow, "a", user("old")).await,
        };
        let refresh = quick.refresh("a", |_| async { Ok::<_, Infallible>(user("new")) });
        let refreshed = within("a refresh waits for no older load", LIMIT, refresh).await.unwrap();
        assert_eq!(refreshed, user("new"), "{case}");
        assert_eq!(quick.get("a").await.unwrap(), Some(user("new")), "{case}");
        assert_eq!(load(quick, "a", user("newer")).await, user("new"), "{case}: joined an older load");
        assert_eq!(old.finish().await, user("old"), "{case}");
        never_old("the older load has ended").await;
        if what != "fresh" {
            assert_eq!(quick.get("a").await.unwrap(), Some(user("new")), "{case}");
        }
        quick.delete("a").await.unwrap();
    }
}

#[tokio::test]
async fn a_refresh_is_not_overwritten_by_a_load_that_began_before_it() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        outrun(store, &users, &users).await;
    }
}

#[tokio::test]
async fn a_refresh_is_not_overwritten_by_another_programs_load_that_began_before_it() {
    for (store, here, there) in each_pair().await {
        outrun(store, &users(&here), &users(&there)).await;
    }
}

#[tokio::test]
async fn bare_json_of_others_can_be_refreshed() {
    for (store, larder) in each_store().await {
        let plain: Cache<User> = larder.cache("user").ttl(HOUR).format(Format::Plain).build().unwrap();
        let users = users(&larder);
        plain.set("a", &user("bare")).await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), Some(user("bare")), "{store}");
        let refreshed = users.refresh("a", |_| async { Ok::<_, Infallible>(user("new")) });
        assert_eq!(refreshed.await.unwrap(), user("new"), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");

        // Without an envelope, a value cannot be kept next to the claim of its refresh: it costs one more load.
        plain.set("a", &user("bare")).await.unwrap();
        users.refresh("a", |_| fails()).await.unwrap_err();
        let found = load(&users, "a", user("newer")).await;
        assert!(found == user("bare") || found == user("newer"), "{store}: {found:?}");

        // A cache of bare JSON has no fences, and serves the old value meanwhile.
        plain.set("b", &user("old")).await.unwrap();
        let held = Held::refresh(&plain, "b", user("new"), |_| {}).await;
        assert_eq!(plain.get("b").await.unwrap(), Some(user("old")), "{store}");
        assert_eq!(held.finish().await, user("new"));
        assert_eq!(plain.get("b").await.unwrap(), Some(user("new")), "{store}");
    }
}

#[tokio::test]
async fn of_two_programs_one_loads_a_stale_value_and_the_other_waits_for_it() {
    for (store, here, there) in each_pair().await {
        let held = Held::load(&with_stale(&here).await, "a", user("new")).await;
        let waits = tokio::spawn({
            let users = users(&there);
            async move {
                let never = || async { panic!("loaded twice") as Result<User, Infallible> };
                users.get_or_load("a", never).entry().await.unwrap()
            }
        });
        let patient = there.cache::<User>("user").ttl(HOUR).stale_for(HOUR);
        let impatient = patient.soft_timeout(Duration::from_millis(10)).build().unwrap();
        let stale = within("the stale value", LIMIT, load(&impatient, "a", user("other"))).await;
        assert_eq!(stale, user("stale"), "{store}");
        until("both have looked", async || there.stats().caches["user"].misses == 2).await;
        assert_eq!(held.finish().await, user("new"));
        let entry = within("the other is notified", Duration::from_secs(2), waits).await.unwrap();
        assert_eq!((entry.value(), entry.source()), (&user("new"), Source::Server), "{store}");
        assert_eq!(there.stats().caches["user"].loads, 0, "{store}");
    }
}

#[tokio::test]
async fn where_the_other_programs_refresh_fails_this_one_loads() {
    for (store, here, there) in each_pair().await {
        let users_here = with_stale(&here).await;
        let (gate, mut keeper) = gate();
        let failing = tokio::spawn(async move {
            let loader = || async move {
                gate.pass().await;
                Err(DatabaseIsDown)
            };
            users_here.get_or_load("a", loader).await
        });
        keeper.reached().await;
        let waits = tokio::spawn({
            let users = users(&there);
            async move { load(&users, "a", user("new")).await }
        });
        until("the other has looked", async || there.stats().caches["user"].misses == 1).await;
        keeper.open();
        assert_eq!(failing.await.unwrap().unwrap(), user("stale"), "{store}");
        let loaded = within("the lease ends with the failure", Duration::from_secs(2), waits).await.unwrap();
        assert_eq!(loaded, user("new"), "{store}");
    }
}

#[tokio::test]
async fn what_is_expired_is_not_got_and_is_what_a_failing_load_falls_back_on() {
    for (store, larder) in each_store().await {
        for stale_for in [HOUR, Duration::ZERO] {
            let users: Cache<User> = larder.cache("user").ttl(HOUR).stale_for(stale_for).build().unwrap();
            users.set("a", &user("old")).await.unwrap();
            assert!(users.expire("a").await.unwrap(), "{store}");
            assert_eq!(users.get("a").await.unwrap(), None, "{store}");
            assert!(matches!(users.ttl("a").await.unwrap(), Some(Expiry::After(_))), "{store}");
            assert_eq!(users.get_or_load("a", fails).await.unwrap(), user("old"), "{store}");
            assert!(users.expire("a").await.unwrap(), "{store}: expired twice");
            assert_eq!(load(&users, "a", user("new")).await, user("new"), "{store}");
            assert!(!users.expire("nothing").await.unwrap(), "{store}");
            users.delete("a").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_refresh_under_way_is_invalidated_by_an_expire() {
    for (store, larder) in each_store().await {
        let users = with_stale(&larder).await;
        let held = Held::load(&users, "a", user("older than the expire")).await;
        assert!(users.expire("a").await.unwrap());
        assert_eq!(held.finish().await, user("older than the expire"));
        assert_eq!(users.get("a").await.unwrap(), None, "{store}");
        assert_eq!(users.get_or_load("a", fails).await.unwrap(), user("stale"), "{store}");
        assert_eq!(larder.stats().caches["user"].fills_invalidated, 1, "{store}");
    }
}

#[tokio::test]
async fn a_touch_moves_the_moment_from_which_a_value_is_stale() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let second = Duration::from_secs(1);
        users.set("longer", &user("Ann")).ttl(second).await.unwrap();
        let set = Instant::now();
        assert!(users.touch("longer", HOUR).await.unwrap(), "{store}: a second is over already");

        users.set("shorter", &user("Ann")).await.unwrap();
        assert!(users.touch("shorter", Duration::from_millis(1)).await.unwrap());
        until("it is stale", async || users.get("shorter").await.unwrap().is_none()).await;
        let entry = users.get_entry("shorter").await.unwrap().expect("a stale value");
        assert_eq!(entry.source(), Source::Stale, "{store}");
        assert!(entry.remaining().unwrap() > HOUR / 2, "{store}: stale_for is cut off");
        assert!(!users.touch("shorter", HOUR).await.unwrap(), "{store}: what is stale was touched to life");

        until("the first end is past", async || set.elapsed() > second + second / 10).await;
        assert_eq!(users.get("longer").await.unwrap(), Some(user("Ann")), "{store}");
        let left = users.get_entry("longer").await.unwrap().unwrap().remaining().unwrap();
        assert!(left > HOUR, "{store}: the stale time is not behind the new end: {left:?}");
    }
}

#[tokio::test]
async fn a_stale_value_that_the_loader_confirms_is_fresh_again() {
    for (store, larder) in each_store().await {
        let users = with_stale(&larder).await;
        let unchanged = users.get_or_load_with("a", |cx| async move {
            let stale = cx.stale().cloned();
            stale.ok_or(DatabaseIsDown)
        });
        let entry = unchanged.entry().await.unwrap();
        assert_eq!((entry.value(), entry.source()), (&user("stale"), Source::Loaded), "{store}");
        let entry = users.get_entry("a").await.unwrap().expect("it is kept");
        assert_eq!((entry.value(), entry.source()), (&user("stale"), Source::Server), "{store}");
        assert_eq!(users.get("a").await.unwrap(), Some(user("stale")), "{store}: it is as fresh as any");

        let forced = users.refresh("a", |cx| async move { cx.stale().cloned().ok_or(DatabaseIsDown) });
        assert_eq!(forced.await.unwrap(), user("stale"), "{store}");
        let cold =
            users.get_or_load_with("cold", |cx| async move { cx.stale().cloned().ok_or(DatabaseIsDown) });
        assert!(matches!(cold.await, Err(LoadError::Loader(_))), "{store}: a cold load was given a value");
    }
}

#[tokio::test]
async fn a_deleted_or_cleared_value_is_never_fallen_back_on() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let put = async || {
            users.set("a", &user("old")).tag("team:7").await.unwrap();
            users.expire("a").await.unwrap();
        };
        put().await;
        users.delete("a").await.unwrap();
        users.get_or_load("a", fails).await.expect_err(store);
        put().await;
        users.clear().await.unwrap();
        users.get_or_load("a", fails).await.expect_err(store);
        put().await;
        larder.tag("team:7").invalidate().await.unwrap();
        users.get_or_load("a", fails).await.expect_err(store);
        assert_eq!(users.get_entry("a").await.unwrap(), None, "{store}");
    }
}
