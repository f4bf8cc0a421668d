//! What all locks of a `Larder` share: the waiting attempts, the renewals and the releases in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::meter::LockMeter;
use super::queue::Queues;
use super::renewer::Renewer;
use crate::background::{HEDGE, Retry, begun, retry};
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

/// The request that ends a lease or an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Release,
    /// Cancels an attempt at a lock; its token is remembered for this long.
    GiveUp(Duration),
    /// Gives back permits; with `Some`, the attempt's token is remembered as cancelled for this long.
    GivePermit(Option<Duration>),
    /// As `GivePermit`, for a group of locks.
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

    /// Releases a lock or cancels an attempt without waiting for the result, and retries until the lock would have
    /// expired anyway. Requests that are queued before `close` are still sent.
    ///
    /// The first request is written before this returns, on the connection of attempts that do not wait, so that a
    /// task that drops a guard and then calls `try_acquire` finds the lock free. Later requests alternate between
    /// the background connection and the callers' connection, because either may be down alone. Outside a runtime
    /// the background connection is first. Sending this twice is safe: a token is used for one attempt only.
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
            // Try at once, in the order of the caller's requests.
            if in_order && matches!(begun(HEDGE, how.send(callers, &name, token)).await, Some(Ok(_))) {
                return;
            }
            // Then retry on both connections, with a growing pause, until the lock has expired.
            retry(async |pause| {
                let first = tokio::time::timeout(locks.timeout(), how.send(own, &name, token)).await;
                let answer = match first {
                    Ok(Ok(_)) => return Retry::Done,
                    _ if std::ptr::eq(own, callers) => first,
                    _ => tokio::time::timeout(locks.timeout(), how.send(callers, &name, token)).await,
                };
                match answer {
                    Ok(Ok(_)) => Retry::Done,
                    Ok(Err(error)) if !error.is_retryable() || context.clock.now().after(pause) >= end => {
                        tracing::debug!(
                            target: target::LOCK,
                            error = error.unnamed(),
                            "a lock could not be released and will expire"
                        );
                        Retry::Done
                    }
                    Err(_) if context.clock.now() >= end => Retry::Done,
                    _ => Retry::Again,
                }
            })
            .await;
        });
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
