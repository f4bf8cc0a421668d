//! What all locks of a `Larder` share: the waiting attempts and the renewals.

use std::sync::Arc;

use super::holder::Holder;
use super::meter::LockMeter;
use super::numbers::Differences;
use super::queue::LockQueues;
use super::renewer::Renewer;
use crate::context::Context;
use crate::near::Wakeups;
use crate::presence::Presence;
use crate::stats::LockStats;
use crate::store::lock::HeldBy;

pub(crate) struct Coordinator {
    pub(super) context: Arc<Context>,
    /// Names the processes of holders.
    pub(super) presence: Arc<Presence>,
    pub(super) meter: Arc<LockMeter>,
    /// The wake-ups of waiting attempts, by token.
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) waiting: Arc<LockQueues>,
    pub(super) renewer: Arc<Renewer>,
    /// The semaphores of which another number was found than a handle's.
    pub(super) differences: Differences,
}

impl Coordinator {
    pub(crate) fn new(context: Arc<Context>, presence: Arc<Presence>) -> Self {
        let meter = Arc::new(LockMeter::new());
        Self {
            wakeups: context.coordination_invalidations().wakeups.clone(),
            waiting: Arc::new(LockQueues::new(context.clone(), meter.clone())),
            renewer: Arc::new(Renewer::new(context.clone(), meter.clone())),
            differences: Differences::default(),
            context,
            presence,
            meter,
        }
    }

    pub(crate) fn stats(&self) -> LockStats {
        self.meter.stats()
    }

    /// Makes the public holder, with the name that its process announced: one round trip, none if the holder is this
    /// process or the server has refused to show names.
    pub(super) async fn named(&self, by: Option<HeldBy>) -> Option<Holder> {
        let by = by?;
        let announced = self.presence.name_of(by.token).await;
        Some(Holder { announced, ..Holder::of(by) })
    }

    /// Ends the renewals and the waits, and lets the queued releases finish.
    pub(crate) async fn close(&self) {
        let most = self.context.limits.response_timeout;
        self.context.background.abort_endless(most).await;
        let began = tokio::time::Instant::now();
        self.waiting.wake_all();
        // Waiters learn that the `Larder` is closed and leave their queues. A waiter that is not polled delays this
        // by at most that time.
        let _ = tokio::time::timeout(most, self.waiting.emptied()).await;
        self.context.background.settle(most.saturating_sub(began.elapsed())).await;
    }
}
