//! Guards on a clock that is set by hand: what happens with a slow clock, a late reply and a lost lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::guard::Guard;
use super::lease::{Lease, drift};
use super::{Coordinator, Lock};
use crate::clock::Clock;
use crate::context::{CallLimits, Context};
use crate::error::ErrorKind;
use crate::fence::Fence;
use crate::keyspace::Keyspace;
use crate::near::Invalidations;
use crate::presence::Presence;
use crate::random::Random;
use crate::store::AnyStore;
use crate::store::lock::{Attempted, LockStore, WhenHeld};
use crate::store::memory::{Bounds, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);

/// The locks of a process, its clock, and the clock of the store.
fn locks() -> (Arc<Coordinator>, Arc<AtomicU64>, Arc<AtomicU64>) {
    let (here, there) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let invalidations = Arc::new(Invalidations::default());
    let store = MemoryStore::new(Bounds::default(), Clock::Manual(there.clone()), invalidations.clone());
    let limits = CallLimits { response_timeout: SECOND, max_value_bytes: 1000, max_key_bytes: 1000 };
    let clock = Clock::Manual(here.clone());
    let store = AnyStore::Memory(Arc::new(store));
    let context = Context::new(store, invalidations, Keyspace::default(), limits, clock, Random::default());
    let context = Arc::new(context);
    let presence = Arc::new(Presence::new(context.clone(), None));
    (Arc::new(Coordinator::new(context, presence)), here, there)
}

fn pass(hand: &AtomicU64, span: Duration) {
    hand.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::AcqRel);
}

fn lock(locks: &Arc<Coordinator>) -> Lock {
    Lock::new(locks.clone(), "a").ttl(SECOND)
}

#[tokio::test]
async fn a_guard_is_lost_before_another_holds_the_lock_though_its_clock_is_a_hundredth_slow() {
    let (locks, here, there) = locks();
    let guard = lock(&locks).acquire().await.unwrap();
    for _ in 0..1000 {
        pass(&there, Duration::from_micros(1010));
        pass(&here, Duration::from_micros(1000));
        if let Some(other) = lock(&locks).try_acquire().await.unwrap() {
            assert!(!guard.is_valid(), "two guards are valid at once");
            return drop(other);
        }
    }
    panic!("the lock's time never ended");
}

#[tokio::test]
async fn a_guard_whose_time_is_over_here_is_not_revived_by_a_store_that_still_holds_it() {
    let (locks, here, there) = locks();
    let guard = lock(&locks).acquire().await.unwrap();
    pass(&here, SECOND);
    assert!(!guard.is_valid());
    assert_eq!(guard.extend(60 * SECOND).await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(!guard.is_valid());
    guard.lost().await;
    // The store was not asked to extend it either.
    pass(&there, SECOND);
    assert!(lock(&locks).try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn an_answer_that_arrives_after_the_deadline_does_not_revive_it() {
    let (locks, here, _) = locks();
    let sent = locks.context.clock.now();
    let lease = Lease::new(&locks.context.clock, "a".into(), 7, Fence::new(1), sent, SECOND);
    pass(&here, SECOND);
    assert!(!lease.renewed(locks.context.clock.now(), SECOND), "a lost lock came back");
    assert!(!lease.is_valid());
}

#[tokio::test]
async fn a_deadline_counts_from_before_the_request_and_not_from_its_answer() {
    let (locks, here, _) = locks();
    let sent = locks.context.clock.now();
    pass(&here, SECOND / 2);
    let lease = Lease::new(&locks.context.clock, "a".into(), 7, Fence::new(1), sent, SECOND);
    assert_eq!(lease.remaining(), SECOND / 2 - drift(SECOND));
    let renewed = locks.context.clock.now();
    pass(&here, SECOND / 4);
    assert!(lease.renewed(renewed, SECOND));
    assert_eq!(lease.remaining(), SECOND * 3 / 4 - drift(SECOND));
}

#[tokio::test]
async fn a_lock_that_the_store_lost_is_lost_here_and_its_waiters_are_notified() {
    let (locks, ..) = locks();
    let guard = lock(&locks).acquire().await.unwrap();
    let lost = tokio::spawn(guard.lost());
    let name = locks.context.keyspace.lock("a");
    locks.context.coordination().unwrap().release(&name, guard.token()).await.unwrap();
    assert_eq!(guard.extend(SECOND).await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(!guard.is_valid());
    lost.await.unwrap();
    assert_eq!(locks.stats().lost, 1);
}

#[tokio::test]
async fn a_dropped_guard_gives_its_lock_back() {
    let (locks, ..) = locks();
    let name = locks.context.keyspace.lock("a");
    let lease = Lease::new(
        &locks.context.clock,
        name.as_str().into(),
        7,
        Fence::new(1),
        locks.context.clock.now(),
        SECOND,
    );
    let store = locks.context.coordination().unwrap();
    let granted = store.acquire(&name, 7, SECOND, WhenHeld::Return).await.unwrap();
    assert!(matches!(granted, Attempted::Granted { .. }));
    drop(Guard::new(&locks, lease, SECOND, None));
    // The release runs in its own task: yield to it.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        if lock(&locks).try_acquire().await.unwrap().is_some() {
            return;
        }
    }
    panic!("a dropped guard's lock is not freed");
}

#[test]
fn the_margin_is_a_hundredth_and_two_milliseconds() {
    assert_eq!(drift(10 * SECOND), Duration::from_millis(102));
}

#[tokio::test]
async fn a_handle_is_lost_once_its_guard_begins_to_release() {
    let (locks, ..) = locks();
    let guard = lock(&locks).keep_alive().acquire().await.unwrap();
    let handle = guard.handle();
    let renewed = guard.handle();
    // Drop the release before its reply.
    drop(tokio::time::timeout(Duration::ZERO, guard.release()).await);
    assert!(!handle.is_valid(), "a handle outlived its guard");
    renewed.lost().await;
    assert_eq!(locks.stats().lost, 0);
}

#[tokio::test]
async fn the_server_may_hold_a_lock_until_the_latest_end_that_it_was_asked_for() {
    let (locks, here, _) = locks();
    let sent = locks.context.clock.now();
    let lease = Lease::new(&locks.context.clock, "a".into(), 7, Fence::new(1), sent, SECOND);
    // No reply arrives.
    assert!(lease.asks(sent, 60 * SECOND));
    pass(&here, SECOND);
    assert!(!lease.is_valid());
    assert_eq!(lease.may_last(), 59 * SECOND);
    assert!(lease.begin_release().may_be_held);
    assert!(!lease.asks(sent, 90 * SECOND), "a lock that was released is extended");
}

#[tokio::test]
async fn a_waiter_has_left_the_queue_when_the_locks_are_closed() {
    let (locks, ..) = locks();
    let guard = lock(&locks).acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock(&locks);
        async move { lock.acquire().await.map(drop) }
    });
    while locks.stats().wakeups == 0 && !locks.waiting.is_anyone_waiting() {
        tokio::task::yield_now().await;
    }
    locks.context.begin_closing();
    locks.close().await;
    assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let name = locks.context.keyspace.lock("a");
    let store = locks.context.coordination_even_closed();
    assert!(store.release(&name, guard.token()).await.unwrap());
    let next = store.acquire(&name, 9, SECOND, WhenHeld::Return).await.unwrap();
    assert!(matches!(next, Attempted::Granted { .. }), "a place was left behind: {next:?}");
}
