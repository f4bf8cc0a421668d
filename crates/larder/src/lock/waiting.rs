//! The attempts of this process that wait for locks, and the heartbeat that keeps their places.
//!
//! The problem: the server cannot know whether a waiter still lives, and a lock that is handed to a dead one stands still. The
//! mechanism: while anything waits here, one loop of the background says so to the store, 4.5 times a second, for all places of
//! all locks in one request (one a slot on a cluster). That request also hands on what is free, and its answer says whose turn it
//! is: so a wake-up that was lost costs one beat.
//!
//! The heartbeat has a connection of its own, that of the background; where that does not answer soon it is sent once more, on
//! the connection of callers. So one connection that breaks makes no waiter look dead.
//!
//! Invariants: one loop, which sends nothing while nothing waits. A waiter whose turn it is is notified again with each beat.
//!
//! Not guaranteed: that a waiter whose future nobody polls takes its turn. It is passed over, and keeps its place while its
//! process lives.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::hedge::hedged;
use super::keeping::reconnected;
use super::locks::Coordinator;
use crate::background::Resident;
use crate::clock::Tick;
use crate::error::Result;
use crate::store::lock::{LockStore, LockToken, QueueStatus, QueueTiming};

/// How long a beat is waited for: if its answer is lost, the next is sent while the waiters still count as alive.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Default)]
pub(super) struct Queues {
    queue: Arc<WaitQueue>,
    heart: Resident,
}

#[derive(Default)]
struct WaitQueue {
    /// By lock, then by token, as the store wants them.
    places: Mutex<BTreeMap<(String, u64), QueuedLock>>,
    /// Notified when the first has come.
    begun: Notify,
    left: Notify,
}

struct QueuedLock {
    told: Arc<Notify>,
    /// When the last heartbeat for it was sent that was answered.
    answered: Option<Tick>,
}

/// A place in the queue of a lock: kept until it is dropped.
pub(super) struct QueuePlace {
    queue: Arc<WaitQueue>,
    key: (String, u64),
    pub(super) told: Arc<Notify>,
}

impl Queues {
    /// Keeps the place of an attempt that waits.
    pub(super) fn join(locks: &Arc<Coordinator>, lock: &str, token: u64) -> QueuePlace {
        let (key, told) = ((lock.to_owned(), token), Arc::new(Notify::new()));
        let queue = &locks.waiting.queue;
        let mut places = queue.places();
        let first = places.is_empty();
        places.insert(key.clone(), QueuedLock { told: told.clone(), answered: None });
        drop(places);
        if first {
            queue.begun.notify_one();
        }
        locks.context.background.ensure(&locks.waiting.heart, || {
            let (weak, queue) = (Arc::downgrade(locks), queue.clone());
            let reconnects = locks.context.background_reconnects();
            move || run(weak.clone(), queue.clone(), reconnects.clone())
        });
        QueuePlace { queue: queue.clone(), key, told }
    }

    /// When a heartbeat for this place was last answered.
    pub(super) fn answered(&self, lock: &str, token: u64) -> Option<Tick> {
        self.queue.places().get(&(lock.to_owned(), token))?.answered
    }

    pub(super) fn wake_all(&self) {
        self.queue.places().values().for_each(|known| known.told.notify_one());
    }

    #[cfg(test)]
    pub(super) fn anybody(&self) -> bool {
        !self.queue.places().is_empty()
    }

    /// Completes when nothing waits.
    pub(super) async fn emptied(&self) {
        loop {
            let mut left = pin!(self.queue.left.notified());
            left.as_mut().enable();
            if self.queue.places().is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl WaitQueue {
    fn tickets(&self) -> Vec<LockToken> {
        self.places().keys().map(|(lock, token)| LockToken { lock: lock.clone(), token: *token }).collect()
    }

    /// Tells the waiters what a beat that was sent at `sent` was answered.
    fn tell(&self, sent: Tick, tickets: Vec<LockToken>, answer: Result<Vec<Option<QueueStatus>>>) {
        let mut places = self.places();
        let Ok(turns) = answer else { return places.values().for_each(|known| known.told.notify_one()) };
        for (ticket, turn) in tickets.into_iter().zip(turns) {
            let Some(known) = places.get_mut(&(ticket.lock, ticket.token)) else { continue };
            if turn.is_some() {
                known.answered = Some(sent);
            }
            // Where nothing was answered it asks for itself, and learns what is the matter.
            if turn != Some(QueueStatus::Waits) {
                known.told.notify_one();
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<(String, u64), QueuedLock>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.queue.places().remove(&self.key);
        self.queue.left.notify_waiters();
    }
}

/// Holds no reference to the locks while it waits.
async fn run(locks: Weak<Coordinator>, queue: Arc<WaitQueue>, mut reconnects: Option<watch::Receiver<u64>>) {
    loop {
        if queue.places().is_empty() {
            queue.begun.notified().await;
        }
        let mut ticks = interval(QueueTiming::BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, and the server has just heard of an attempt that begins to wait.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The places were kept for as long as the server did not hear of them: at once, then.
                () = reconnected(&mut reconnects) => ticks.reset(),
            }
            let tickets = queue.tickets();
            if tickets.is_empty() {
                break;
            }
            let Some(locks) = locks.upgrade() else { return };
            let sent = locks.context.clock.now();
            locks.meter.beat();
            let answer = beat(&locks, &tickets).await;
            queue.tell(sent, tickets, answer);
        }
    }
}

/// One heartbeat. The later answer knows more: a turn that has come, or a place that is gone.
async fn beat(locks: &Coordinator, tickets: &[LockToken]) -> Result<Vec<Option<QueueStatus>>> {
    let patience = PATIENCE.min(locks.timeout());
    hedged(locks, patience, |store, patience| store.heartbeat(tickets, patience), |_, later| later).await
}
