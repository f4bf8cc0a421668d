//! Several locks at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::ErrorKind;

use larder::lock::ReleaseOutcome;
use support::waiting::{Lateness, QueuedAttempts};
use support::{each_pair, each_store, until};

const TTL: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn all_are_held_or_none() {
    for (store, larder) in each_store().await {
        let both = larder.locks(["b", "a"]).ttl(TTL);
        let guard = both.acquire().await.unwrap();
        assert!(guard.is_valid() && guard.remaining() > TTL / 2, "{store}");
        assert!(guard.fence("a") < guard.fence("b") && guard.fence("a").is_some(), "{store}: in order");
        assert_eq!(guard.fence("c"), None);
        for name in ["a", "b"] {
            assert!(larder.lock(name).try_acquire().await.unwrap().is_none(), "{store}: {name}");
        }
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released, "{store}");

        let b = larder.lock("b").ttl(TTL).acquire().await.unwrap();
        assert!(both.try_acquire().await.unwrap().is_none(), "{store}");
        until("the first was given back", async || larder.lock("a").holder().await.unwrap().is_none()).await;
        let late = both.acquire_within(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockHeld, "{store}");
        until("the first was given back", async || larder.lock("a").holder().await.unwrap().is_none()).await;
        let queued = QueuedAttempts::listen();
        let waiting = tokio::spawn({
            let both = both.clone();
            async move { both.acquire().await.unwrap() }
        });
        queued.until(1).await;
        b.release().await.unwrap();
        let guard = tokio::time::timeout(LONG, waiting).await.expect(store).unwrap();
        drop(guard);
        until("a dropped guard frees all", async || both.try_acquire().await.unwrap().is_some()).await;
    }
    let larder = support::connect("memory:").await;
    for names in [vec![], vec!["a", "a"]] {
        assert_eq!(larder.locks(names).acquire().await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn what_is_taken_is_renewed_while_the_next_is_waited_for_and_a_loss_begins_again() {
    for (store, larder) in each_store().await {
        let b = larder.lock("b").ttl(TTL).acquire().await.unwrap();
        let queued = QueuedAttempts::listen();
        let waiting = tokio::spawn({
            let both = larder.locks(["a", "b"]).ttl(Duration::from_secs(3));
            async move { both.acquire().await.unwrap() }
        });
        queued.until(1).await;
        let first = larder.lock("a").holder().await.unwrap().expect(store);
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let renewed = larder.lock("a").holder().await.unwrap().expect(store);
        assert_eq!(renewed.fence, first.fence, "{store}: taken again, not renewed");
        // An operator breaks the lock that the waiter already has: the waiter starts again, and still takes both.
        assert!(larder.lock("a").break_if(first.fence).await.unwrap(), "{store}");
        until("it takes the first again", async || {
            larder.lock("a").holder().await.unwrap().is_some_and(|holder| holder.fence > first.fence)
        })
        .await;
        b.release().await.unwrap();
        let guard = tokio::time::timeout(LONG, waiting).await.expect(store).unwrap();
        assert!(guard.fence("a").unwrap() > first.fence, "{store}");
        let lost = guard.lost();
        assert!(larder.lock("b").break_if(guard.fence("b").unwrap()).await.unwrap());
        tokio::time::timeout(LONG, lost).await.expect("the loss of one is that of all");
        assert!(!guard.is_valid(), "{store}");
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::AlreadyLost, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_sets_in_any_order_never_wait_in_a_circle_and_never_overlap() {
    for (store, here, there) in each_pair().await {
        let held: Arc<Vec<AtomicBool>> = Arc::new((0..4).map(|_| AtomicBool::new(false)).collect());
        let tasks: Vec<_> = (0..12usize)
            .map(|task| {
                let larder = if task % 2 == 0 { here.clone() } else { there.clone() };
                let held = held.clone();
                tokio::spawn(async move {
                    for round in 0..6usize {
                        let sets = [[0, 1], [1, 0], [1, 2], [3, 0], [2, 3], [3, 1]];
                        let set = sets[(task + round) % sets.len()];
                        let names = set.map(|lock| format!("l{lock}"));
                        let guard = larder.locks(&names).ttl(TTL).acquire().await.unwrap();
                        for lock in set {
                            assert!(!held[lock].swap(true, Ordering::SeqCst), "held twice");
                        }
                        tokio::task::yield_now().await;
                        for lock in set {
                            held[lock].store(false, Ordering::SeqCst);
                        }
                        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(60), task).await.expect(store).unwrap();
        }
    }
}

#[tokio::test]
async fn one_max_wait_is_for_all_locks_together() {
    const MAX_WAIT: Duration = Duration::from_secs(2);
    for (store, larder) in each_store().await {
        let late = Lateness::watch();
        let _b = larder.lock("b").ttl(TTL).acquire().await.unwrap();
        let a = larder.lock("a").ttl(TTL).acquire().await.unwrap();
        let both = larder.locks(["a", "b"]).ttl(TTL);
        let queued = QueuedAttempts::listen();
        let began = Instant::now();
        let waiting = tokio::spawn(async move { both.acquire_within(MAX_WAIT).await });
        queued.until(1).await;
        // Most of the time allowed is over when it waits for the second lock.
        tokio::time::sleep((MAX_WAIT * 9 / 10).saturating_sub(began.elapsed())).await;
        a.release().await.unwrap();
        let error = tokio::time::timeout(LONG, waiting).await.expect(store).unwrap().unwrap_err();
        let took = began.elapsed();
        assert_eq!(error.kind(), ErrorKind::LockHeld, "{store}");
        assert!(took < MAX_WAIT * 3 / 2 + late.of(1), "{store}: {took:?} of {MAX_WAIT:?}");
    }
}

#[tokio::test]
async fn a_release_reports_any_lock_that_was_lost() {
    for (store, larder) in each_store().await {
        for broken in ["a", "b"] {
            let both = larder.locks(["a", "b"]).ttl(TTL).acquire().await.unwrap();
            assert!(larder.lock(broken).break_if(both.fence(broken).unwrap()).await.unwrap(), "{store}");
            assert_eq!(both.release().await.unwrap(), ReleaseOutcome::AlreadyLost, "{store}: {broken}");
        }
    }
}
