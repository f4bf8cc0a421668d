//! What the embedded store's locks do by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Bounds;
use super::*;
use crate::clock::Clock;
use crate::store::NoSink;

const SECOND: Duration = Duration::from_secs(1);

fn store() -> (MemoryStore, Arc<AtomicU64>) {
    let micros = Arc::new(AtomicU64::new(0));
    let clock = Clock::Manual(micros.clone());
    (MemoryStore::new(Bounds::default(), clock, Arc::new(NoSink)), micros)
}

fn pass(micros: &AtomicU64, span: Duration) {
    micros.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::AcqRel);
}

async fn attempt(store: &MemoryStore, token: u64) -> Attempted {
    store.acquire("job", token, SECOND, WhenHeld::Enqueue).await.unwrap()
}

fn fence(attempted: Attempted) -> u64 {
    match attempted {
        Attempted::Granted { fence } => fence,
        other => panic!("not granted: {other:?}"),
    }
}

fn tickets(tokens: &[u64]) -> Vec<LockToken> {
    tokens.iter().map(|token| LockToken { lock: "job".into(), token: *token }).collect()
}

async fn turns(store: &MemoryStore, tokens: &[u64]) -> Vec<QueueStatus> {
    let turns = store.heartbeat(&tickets(tokens), SECOND).await.unwrap();
    turns.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_fence_never_falls_back_even_when_the_lock_was_long_gone() {
    let (store, micros) = store();
    let mut last = 0;
    for token in 1..100 {
        let fence = fence(attempt(&store, token).await);
        assert!(fence > last);
        last = fence;
        pass(&micros, SECOND);
    }
}

#[tokio::test]
async fn fences_grow_though_the_clock_stops_or_is_set_back() {
    let (store, micros) = store();
    pass(&micros, 10 * SECOND);
    let mut last = fence(attempt(&store, 1).await);
    for token in 2..10 {
        assert_eq!(attempt(&store, token).await, Attempted::Waiting { notified: true });
        assert!(store.release("job", token - 1).await.unwrap());
        let next = fence(store.confirm("job", token, SECOND).await.unwrap());
        assert_eq!(next, last + 1);
        last = next;
    }
    assert!(store.release("job", 9).await.unwrap());
    micros.store(0, Ordering::Release);
    assert_eq!(fence(attempt(&store, 10).await), last + 1);
}

#[tokio::test]
async fn a_dead_head_is_passed_over_after_its_claim_and_a_live_one_keeps_its_place() {
    let (store, micros) = store();
    fence(attempt(&store, 1).await);
    for token in [2, 3, 4] {
        assert_eq!(attempt(&store, token).await, Attempted::Waiting { notified: true });
    }
    assert!(store.release("job", 1).await.unwrap());
    // 2 does not confirm: when its claim is over, 3 is handed the lock.
    assert_eq!(turns(&store, &[3, 4]).await, [QueueStatus::Waits, QueueStatus::Waits]);
    pass(&micros, store.timing.claim);
    assert_eq!(turns(&store, &[3, 4]).await, [QueueStatus::YourTurn, QueueStatus::Waits]);
    fence(store.confirm("job", 3, SECOND).await.unwrap());
    // 2 was only slow.
    assert_eq!(store.confirm("job", 2, SECOND).await.unwrap(), Attempted::Waiting { notified: true });
    assert!(store.release("job", 3).await.unwrap());
    assert_eq!(turns(&store, &[2, 4]).await, [QueueStatus::YourTurn, QueueStatus::Waits]);
    fence(store.confirm("job", 2, SECOND).await.unwrap());
}

#[tokio::test]
async fn a_handover_does_not_cost_more_the_more_wait() {
    const WAITERS: u64 = 20_000;
    let (store, micros) = store();
    fence(attempt(&store, 1).await);
    for token in 2..=WAITERS {
        attempt(&store, token).await;
    }
    let began = std::time::Instant::now();
    for token in 1..WAITERS {
        if token % 1000 == 0 {
            pass(&micros, Duration::from_millis(200));
            turns(&store, &(token + 1..=WAITERS).collect::<Vec<_>>()).await;
        }
        assert!(store.release("job", token).await.unwrap());
        fence(store.confirm("job", token + 1, 1000 * SECOND).await.unwrap());
    }
    // Looking at all of them each time would take minutes.
    assert!(began.elapsed() < 20 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn no_attempt_overtakes_the_queue_while_the_lock_is_free() {
    let (store, micros) = store();
    fence(attempt(&store, 1).await);
    attempt(&store, 2).await;
    pass(&micros, SECOND);
    turns(&store, &[2]).await;
    pass(&micros, store.timing.claim);
    // It was handed to 2, which did not confirm. While 2 is live, it is first.
    fence(store.confirm("job", 2, SECOND).await.unwrap());
    assert_eq!(store.acquire("job", 9, SECOND, WhenHeld::Return).await.unwrap(), Attempted::Held);
}

#[tokio::test]
async fn a_repeated_confirmation_does_not_shorten_what_was_extended() {
    let (store, micros) = store();
    fence(attempt(&store, 1).await);
    attempt(&store, 2).await;
    store.release("job", 1).await.unwrap();
    fence(store.confirm("job", 2, SECOND).await.unwrap());
    let ticket = tickets(&[2]).remove(0);
    assert_eq!(store.extend(&[(ticket, 10 * SECOND)], SECOND).await.unwrap(), [Some(Renewal::Held)]);
    fence(store.confirm("job", 2, SECOND).await.unwrap());
    pass(&micros, 9 * SECOND);
    assert_eq!(store.acquire("job", 3, SECOND, WhenHeld::Return).await.unwrap(), Attempted::Held);
}

#[tokio::test]
async fn what_was_given_up_takes_nothing_when_it_arrives_late() {
    let (store, micros) = store();
    store.give_up("job", 5, SECOND).await.unwrap();
    assert_eq!(attempt(&store, 5).await, Attempted::Gone);
    fence(attempt(&store, 6).await);
    assert_eq!(attempt(&store, 7).await, Attempted::Waiting { notified: true });
    store.give_up("job", 7, SECOND).await.unwrap();
    store.release("job", 6).await.unwrap();
    assert_eq!(store.confirm("job", 7, SECOND).await.unwrap(), Attempted::Gone);
    pass(&micros, SECOND);
    for mut state in store.locks.0.all() {
        state.sweep_at = 0;
        state.sweep(store.clock.now());
    }
    assert_eq!(store.locks.kept(), 0);
}
