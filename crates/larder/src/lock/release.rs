//! The outcome of a release; releases of leases and cancels of attempts in the background, where no caller waits for
//! them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::background::{HEDGE, Retry, begun, retry};
use crate::context::Context;
use crate::error::Result;
use crate::store::AnyStore;
use crate::store::group::GroupStore;
use crate::store::lock::LockStore;
use crate::store::permit::PermitStore;
use crate::telemetry::target;

/// The outcome of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The lock was held until now. It is free, or handed to the next waiter.
    Released,
    /// The lock had expired before: another caller may have held it since.
    AlreadyLost,
    /// The server did not answer: the lock may be free. It is released in the background, or expires.
    Unknown,
}

/// The request that ends a lease or an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Release,
    /// Releases a lock that no attempt waited for when it was granted.
    ReleaseUnwaited,
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
            Self::ReleaseUnwaited => store.release_unwaited(name, token).await,
            Self::GiveUp(remembered) => store.give_up(name, token, remembered).await,
            Self::GivePermit(remembered) => store.give_permit(name, token, remembered).await,
            Self::GiveGroup(remembered) => store.give_group(name, token, remembered).await,
        }
    }
}

/// Releases a lock or cancels an attempt without waiting for the result, and retries until the lock would have expired
/// anyway. Requests that are queued before `close` are still sent.
///
/// The first request is written before this returns, on the connection of attempts that do not wait, so that a task
/// that drops a guard and then calls `try_acquire` finds the lock free. Later requests alternate between the background
/// connection and the callers' connection, because either may be down alone. Outside a runtime the background
/// connection is first. Sending this twice is safe: a token is used for one attempt only.
///
/// A `memory:` store answers at once, also where no runtime is left.
pub(super) fn end_in_background(
    context: &Arc<Context>,
    name: Arc<str>,
    token: u64,
    ttl: Duration,
    how: Ending,
) {
    let store = context.coordination_even_closed();
    if matches!(store, AnyStore::Memory(_)) {
        // Done here and not in a task: there may be no runtime left that could run it.
        let _ = how.send(store, &name, token).now_or_never();
        return;
    }
    let (home, in_order) = (context.clone(), Handle::try_current().is_ok());
    context.background.spawn_begun(async move {
        let context = &*home;
        let max_wait = context.limits.response_timeout;
        let end = context.clock.now().after(ttl);
        let own = context.background_coordination_even_closed();
        let callers = context.coordination_even_closed();
        // Try at once, in the order of the caller's requests.
        if in_order && matches!(begun(HEDGE, how.send(callers, &name, token)).await, Some(Ok(_))) {
            return;
        }
        // Then retry on both connections, with a growing pause, until the lock has expired.
        retry(async |pause| {
            let first = tokio::time::timeout(max_wait, how.send(own, &name, token)).await;
            let answer = match first {
                Ok(Ok(_)) => return Retry::Done(()),
                _ if std::ptr::eq(own, callers) => first,
                _ => tokio::time::timeout(max_wait, how.send(callers, &name, token)).await,
            };
            match answer {
                Ok(Ok(_)) => Retry::Done(()),
                Ok(Err(error)) if !error.is_retryable() || context.clock.now().after(pause) >= end => {
                    tracing::debug!(
                        target: target::LOCK,
                        error = error.unnamed(),
                        "a lock could not be released and will expire"
                    );
                    Retry::Done(())
                }
                Err(_) if context.clock.now() >= end => Retry::Done(()),
                _ => Retry::Again,
            }
        })
        .await;
    });
}
