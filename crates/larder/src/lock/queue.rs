//! The attempts of this process that wait for locks, and the heartbeat that keeps their places in the queues.
//!
//! The problem: the server cannot know whether a waiter is alive, and a lock that is handed to a dead waiter is
//! blocked. The mechanism: while attempts wait here, one background loop sends a heartbeat to the store 4.5 times a
//! second, for all places in all queues in one request (one per slot on a cluster). The same request hands on free
//! locks, and its reply says whose turn it is, so a lost wake-up costs at most one beat.
//!
//! The heartbeat uses the background connection. If the reply is late, it is also sent on the callers' connection,
//! so that one broken connection makes no waiter look dead.
//!
//! Invariants: there is one loop, and it sends nothing while no attempt waits. A waiter whose turn it is is
//! notified at each beat.
//!
//! Not guaranteed: that a waiter whose future is not polled takes its turn. It is passed over, and keeps its place
//! while its process lives.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::hedge::hedged;
use super::meter::LockMeter;
use super::renewer::reconnected;
use crate::background::Resident;
use crate::clock::Tick;
use crate::context::Context;
use crate::error::Result;
use crate::store::lock::{LockStore, LockToken, QueueStatus, QueueTiming};

/// The time limit of a beat: after a lost reply, the next beat is sent while the waiters still count as alive.
const BEAT_TIMEOUT: Duration = Duration::from_millis(400);

pub(super) struct LockQueues {
    context: Arc<Context>,
    meter: Arc<LockMeter>,
    queue: Arc<WaitingAttempts>,
    heart: Resident,
}

#[derive(Default)]
struct WaitingAttempts {
    /// By lock, then by token: the order that the store needs.
    places: Mutex<BTreeMap<(String, u64), QueuedLock>>,
    /// Notified when the first attempt joins.
    begun: Notify,
    left: Notify,
}

struct QueuedLock {
    wakeup: Arc<Notify>,
    /// When the last heartbeat that was answered for it was sent.
    answered: Option<Tick>,
}

/// A place in the queue of a lock, kept until it is dropped.
pub(super) struct QueuePlace {
    queue: Arc<WaitingAttempts>,
    key: (String, u64),
    pub(super) wakeup: Arc<Notify>,
}

impl LockQueues {
    pub(super) fn new(context: Arc<Context>, meter: Arc<LockMeter>) -> Self {
        Self { context, meter, queue: Arc::default(), heart: Resident::default() }
    }

    /// Keeps the place of a waiting attempt until the result is dropped.
    pub(super) fn join(self: &Arc<Self>, lock: &str, token: u64) -> QueuePlace {
        let (key, wakeup) = ((lock.to_owned(), token), Arc::new(Notify::new()));
        let queue = &self.queue;
        let mut places = queue.places();
        let first = places.is_empty();
        places.insert(key.clone(), QueuedLock { wakeup: wakeup.clone(), answered: None });
        drop(places);
        if first {
            queue.begun.notify_one();
        }
        self.context.background.ensure(&self.heart, || {
            let (weak, queue) = (Arc::downgrade(self), queue.clone());
            let reconnects = self.context.background_reconnects();
            move || run(weak.clone(), queue.clone(), reconnects.clone())
        });
        QueuePlace { queue: queue.clone(), key, wakeup }
    }

    /// When the last heartbeat that was answered for this place was sent.
    pub(super) fn answered(&self, lock: &str, token: u64) -> Option<Tick> {
        self.queue.places().get(&(lock.to_owned(), token))?.answered
    }

    pub(super) fn wake_all(&self) {
        self.queue.places().values().for_each(|known| known.wakeup.notify_one());
    }

    #[cfg(test)]
    pub(super) fn is_anyone_waiting(&self) -> bool {
        !self.queue.places().is_empty()
    }

    /// Completes when no attempt waits.
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

impl WaitingAttempts {
    fn tickets(&self) -> Vec<LockToken> {
        self.places().keys().map(|(lock, token)| LockToken { lock: lock.clone(), token: *token }).collect()
    }

    /// Notifies the waiters of the reply to a beat that was sent at `sent`.
    fn notify(&self, sent: Tick, tickets: Vec<LockToken>, answer: Result<Vec<Option<QueueStatus>>>) {
        let mut places = self.places();
        let Ok(turns) = answer else { return places.values().for_each(|known| known.wakeup.notify_one()) };
        for (ticket, turn) in tickets.into_iter().zip(turns) {
            let Some(known) = places.get_mut(&(ticket.lock, ticket.token)) else { continue };
            if turn.is_some() {
                known.answered = Some(sent);
            }
            // Without an answer for its place, the waiter asks the server itself and learns what is wrong.
            if turn != Some(QueueStatus::Waits) {
                known.wakeup.notify_one();
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

/// Holds no strong reference to the queues, and so none to the `Larder`, while it waits.
async fn run(
    queues: Weak<LockQueues>,
    queue: Arc<WaitingAttempts>,
    mut reconnects: Option<watch::Receiver<u64>>,
) {
    loop {
        if queue.places().is_empty() {
            queue.begun.notified().await;
        }
        let mut ticks = interval(QueueTiming::BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Skip the immediate first tick: the server has just seen the attempt that begins to wait.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The server saw no heartbeat during the outage, so send one at once.
                () = reconnected(&mut reconnects) => ticks.reset(),
            }
            let tickets = queue.tickets();
            if tickets.is_empty() {
                break;
            }
            let Some(queues) = queues.upgrade() else { return };
            let sent = queues.context.clock.now();
            queues.meter.beat();
            let answer = beat(&queues.context, &tickets).await;
            queue.notify(sent, tickets, answer);
        }
    }
}

/// Sends one heartbeat. If both connections replied, the callers' reply wins: it is the newer one, and may contain
/// a turn or a lost place that the other does not.
async fn beat(context: &Context, tickets: &[LockToken]) -> Result<Vec<Option<QueueStatus>>> {
    let max_wait = BEAT_TIMEOUT.min(context.limits.response_timeout);
    hedged(context, max_wait, |store, max_wait| store.heartbeat(tickets, max_wait), |_, later| later).await
}
