//! What all locks of a `Larder` share: the waiting attempts and the renewals.

use std::sync::Arc;
use std::time::Duration;

use super::meter::LockMeter;
use super::numbers::Differences;
use super::queue::LockQueues;
use super::renewer::Renewer;
use crate::context::Context;
use crate::error::Result;
use crate::near::{Invalidations, Wakeups};
use crate::stats::LockStats;
use crate::store::AnyStore;

pub(crate) struct Coordinator {
    pub(super) context: Arc<Context>,
    pub(super) meter: Arc<LockMeter>,
    /// The wake-ups of waiting attempts, by token.
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) waiting: Arc<LockQueues>,
    pub(super) keeping: Arc<Renewer>,
    /// The semaphores of which another number was found than a handle's.
    pub(super) differences: Differences,
}

impl Coordinator {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let meter = Arc::new(LockMeter::new());
        Self {
            wakeups: context.coordination_invalidations().wakeups.clone(),
            waiting: Arc::new(LockQueues::new(context.clone(), meter.clone())),
            keeping: Arc::new(Renewer::new(context.clone(), meter.clone())),
            differences: Differences::default(),
            context,
            meter,
        }
    }

    pub(super) fn store(&self) -> Result<&AnyStore> {
        self.context.coordination()
    }

    pub(super) fn changes(&self) -> &Arc<Invalidations> {
        self.context.coordination_invalidations()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.context.limits.response_timeout
    }

    pub(crate) fn stats(&self) -> LockStats {
        self.meter.stats()
    }

    /// Ends the renewals and the waits, and lets the queued releases finish.
    pub(crate) async fn close(&self) {
        self.context.background.abort_endless(self.timeout()).await;
        let began = tokio::time::Instant::now();
        self.waiting.wake_all();
        // Waiters learn that the `Larder` is closed and leave their queues. A waiter that is not polled delays this
        // by at most `response_timeout`.
        let _ = tokio::time::timeout(self.timeout(), self.waiting.emptied()).await;
        self.context.background.settle(self.timeout().saturating_sub(began.elapsed())).await;
    }
}
