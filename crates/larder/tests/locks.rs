//! Locks, on each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::ErrorKind;

use larder::lock::ReleaseOutcome;
use support::{each_store, until};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn one_holder_at_a_time_and_fences_grow() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("reports").ttl(TTL);
        let first = lock.try_acquire().await.unwrap().unwrap();
        assert!(first.is_valid() && first.remaining() <= TTL);
        assert!(lock.try_acquire().await.unwrap().is_none(), "{store}");
        assert!(larder.lock("other").try_acquire().await.unwrap().is_some());

        let fence = first.fence();
        assert_eq!(first.release().await.unwrap(), ReleaseOutcome::Released);
        let second = lock.acquire().await.unwrap();
        assert!(second.fence() > fence, "{store}");
        second.release().await.unwrap();
    }
}

#[tokio::test]
async fn fences_grow_though_the_servers_clock_is_behind_the_last_one() {
    let (server, space) = (support::server(), support::namespace());
    let larder = support::connect_as(&server.url(), &space).await;
    let (lock, name) = (larder.lock("reports").ttl(TTL), format!("~lock.2:{{{space}/reports}}"));
    let first = lock.acquire().await.unwrap();
    let ahead = first.fence().get() + 3_600_000_000;
    first.release().await.unwrap();
    server.command(&["SET", &format!("{name}:fence"), &ahead.to_string(), "KEEPTTL"]);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.fence().get(), ahead + 1);
    // The same if the lock is handed over.
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    let line = format!("{name}:line");
    until("it is queued", async || server.query::<u64>(&["ZCARD", &line]) == 1).await;
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap();
    assert_eq!(guard.fence().get(), ahead + 2);
    guard.release().await.unwrap();
    assert_eq!(lock.acquire().await.unwrap().fence().get(), ahead + 3);
    assert!(server.query::<i64>(&["PTTL", &format!("{name}:fence")]) > 0);
}

#[tokio::test]
async fn a_waiter_gets_the_lock_when_it_is_free_and_gives_up_in_time() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("reports").ttl(TTL);
        let guard = lock.acquire().await.unwrap();
        let late = lock.acquire_within(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockHeld, "{store}");

        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await.unwrap().fence() }
        });
        tokio::task::yield_now().await;
        let fence = guard.fence();
        guard.release().await.unwrap();
        assert!(waiter.await.unwrap() > fence);
    }
}

#[tokio::test]
async fn the_time_of_a_lock_ends_and_a_lost_guard_never_revives() {
    for (store, larder) in each_store().await {
        let short = larder.lock("reports").ttl(Duration::from_millis(50));
        let lost = short.acquire().await.unwrap();
        until("its time is over", async || !lost.is_valid()).await;
        let error = lost.extend(TTL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{store}");
        let next = short.acquire().await.unwrap();
        assert_eq!(lost.release().await.unwrap(), ReleaseOutcome::AlreadyLost, "{store}");
        assert!(next.extend(TTL).await.is_ok(), "{store}: somebody else's release freed it");
        assert!(next.remaining() > TTL / 2);
    }
}

#[tokio::test]
async fn a_dropped_guard_frees_its_lock() {
    for (_, larder) in each_store().await {
        let lock = larder.lock("reports").ttl(TTL);
        drop(lock.acquire().await.unwrap());
        until("it is free", async || lock.try_acquire().await.unwrap().is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_can_take_again_what_it_has_just_dropped() {
    for (store, larder) in each_store().await {
        let (lock, semaphore) = (larder.lock("again").ttl(TTL), larder.semaphore("again", 1));
        for round in 0..200 {
            let guard = lock.try_acquire().await.unwrap();
            drop(guard.unwrap_or_else(|| panic!("{store}: the lock was refused, round {round}")));
            let permit = semaphore.try_acquire().await.unwrap();
            drop(permit.unwrap_or_else(|| panic!("{store}: the permit was refused, round {round}")));
        }
    }
}

#[tokio::test]
async fn closing_waits_until_the_locks_of_dropped_guards_are_free() {
    let url = support::server().url();
    let namespace = support::namespace();
    let connect = || larder::Larder::builder().url(&url).namespace(&namespace).connect();
    let (here, there) = (connect().await.unwrap(), connect().await.unwrap());
    drop(here.lock("reports").ttl(TTL).acquire().await.unwrap());
    here.close().await.unwrap();
    assert!(there.lock("reports").try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn extending_never_shortens() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("reports").ttl(TTL);
        let guard = lock.acquire().await.unwrap();
        guard.extend(Duration::from_millis(10)).await.unwrap();
        assert!(guard.remaining() > TTL / 2, "{store}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(lock.try_acquire().await.unwrap().is_none(), "{store}: the server let it go");
        guard.extend(3 * TTL).await.unwrap();
        assert!(guard.remaining() > 2 * TTL, "{store}");
    }
}

#[tokio::test]
async fn a_lock_name_has_a_longest_length_too() {
    for (_, larder) in each_store().await {
        let error = larder.lock("x".repeat(2000)).try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::KeyTooLong);
    }
}

#[tokio::test]
async fn a_cancelled_attempt_leaves_no_lock_behind() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("reports").ttl(TTL);
        for max_wait in 0..200u64 {
            // Dropped before, while and after the server grants it.
            let _ = tokio::time::timeout(Duration::from_micros(max_wait * 5), lock.acquire()).await;
        }
        let guard = lock.acquire_within(Duration::from_secs(5)).await;
        assert!(guard.is_ok(), "{store}: a cancelled attempt still holds the lock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_never_overlap() {
    for (store, larder) in each_store().await {
        let (inside, passed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (lock, inside, passed) = (larder.lock("gate").ttl(TTL), inside.clone(), passed.clone());
                tokio::spawn(async move {
                    for _ in 0..10 {
                        let guard = lock.acquire().await.unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        passed.fetch_add(1, Ordering::SeqCst);
                        guard.release().await.unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap_or_else(|e| panic!("{store}: {e}"));
        }
        assert_eq!(passed.load(Ordering::SeqCst), 80);
    }
}

#[tokio::test]
async fn a_time_to_live_out_of_bounds_is_refused() {
    for (_, larder) in each_store().await {
        for ttl in [Duration::ZERO, Duration::MAX] {
            let error = larder.lock("a").ttl(ttl).acquire().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        }
    }
}
