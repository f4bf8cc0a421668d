//! What all locks of a `Larder` share: who waits, whose locks are renewed, what is on its way back.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::keeping::Renewer;
use super::meter::LockMeter;
use super::waiting::Queues;
use crate::background::{HEDGE, begun};
use crate::context::Context;
use crate::error::Result;
use crate::near::Invalidations;
use crate::stats::LockStats;
use crate::store::AnyStore;
use crate::store::group::GroupStore;
use crate::store::lock::LockStore;
use crate::store::permit::PermitStore;
use crate::telemetry::target;

pub(crate) struct Coordinator {
    pub(super) context: Arc<Context>,
    pub(super) meter: LockMeter,
    pub(super) waiting: Queues,
    pub(super) keeping: Renewer,
}

/// What is to be ended in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Release,
    /// An attempt, remembered for so long.
    GiveUp(Duration),
    /// A permit; where its attempt was given up, that is remembered for so long.
    GivePermit(Option<Duration>),
    /// The same of locks of a group.
    GiveGroup(Option<Duration>),
}

impl Ending {
    pub(super) async fn send(self, store: &AnyStore, name: &str, token: u64) -> Result<bool> {
        match self {
            Self::Release => store.release(name, token).await,
            Self::GiveUp(remembered) => store.give_up(name, token, remembered).await,
            Self::GivePermit(remembered) => store.give_permit(name, token, remembered).await,
            Self::GiveGroup(remembered) => store.give_group(name, token, remembered).await,
        }
    }
}

impl Coordinator {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, meter: LockMeter::new(), waiting: Queues::default(), keeping: Renewer::default() }
    }

    pub(super) fn store(&self) -> Result<&AnyStore> {
        self.context.coordination()
    }

    pub(super) fn changes(&self) -> &Arc<Invalidations> {
        self.context.coordination_changes()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.context.limits.response_timeout
    }

    pub(crate) fn stats(&self) -> LockStats {
        self.meter.stats()
    }

    /// Frees a lock, or ends an attempt, without waiting for it, and tries again until the lock's time is over anyway. What
    /// is handed over before `close` is still sent.
    ///
    /// The first request is sent before this returns, on the connection of attempts that do not wait. So a task that drops
    /// a guard and then tries to take its lock finds it free. Later requests alternate between the connection of the
    /// background and that of callers: either may be gone alone. Outside a runtime the background's is the first. It is
    /// safe to send this twice: a token is good for one attempt.
    pub(super) fn end_in_background(
        self: &Arc<Self>,
        name: Arc<str>,
        token: u64,
        ttl: Duration,
        how: Ending,
    ) {
        let (locks, in_order) = (self.clone(), Handle::try_current().is_ok());
        self.context.background.spawn_begun(async move {
            let context = &locks.context;
            let end = context.clock.now().after(ttl);
            let own = context.background_coordination_even_closed();
            let callers = context.coordination_even_closed();
            if in_order && matches!(begun(HEDGE, how.send(callers, &name, token)).await, Some(Ok(_))) {
                return;
            }
            let mut pause = Duration::from_millis(20);
            loop {
                let first = tokio::time::timeout(locks.timeout(), how.send(own, &name, token)).await;
                let answer = match first {
                    Ok(Ok(_)) => return,
                    _ if std::ptr::eq(own, callers) => first,
                    _ => tokio::time::timeout(locks.timeout(), how.send(callers, &name, token)).await,
                };
                match answer {
                    Ok(Ok(_)) => return,
                    Ok(Err(error)) if !error.is_retryable() || context.clock.now().after(pause) >= end => {
                        tracing::debug!(
                            target: target::LOCK,
                            error = error.unnamed(),
                            "a lock could not be freed and ends with its time"
                        );
                        return;
                    }
                    Err(_) if context.clock.now() >= end => return,
                    _ => {}
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        });
    }

    /// Ends the renewals and the waiting, and lets what is on its way back come to its end.
    pub(crate) async fn close(&self) {
        self.context.background.abort_endless(self.timeout()).await;
        let began = tokio::time::Instant::now();
        self.waiting.wake_all();
        // Who waits learns that it is closed, and leaves its place. One that nobody polls is not waited for any longer.
        let _ = tokio::time::timeout(self.timeout(), self.waiting.emptied()).await;
        self.context.background.settle(self.timeout().saturating_sub(began.elapsed())).await;
    }
}
