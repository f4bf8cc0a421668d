//! The operations of a store on lock groups: locks that are acquired together, in one step.
//!
//! The locks of a group share one table and one queue. An attempt is a token that wants some of the names. It
//! gets all of them or none, when all are free and no live waiter ahead of it wants one of them. So attempts
//! with a name in common are served in the order in which they arrived, attempts without one do not wait for
//! each other, and no attempt holds one lock while it waits for another. One step looks at no more than
//! [`MOST_LOOKED_AT`] waiters; those behind them wait until the queue is shorter.
//!
//! Claims and live waiters are those of a [lock](super::lock).

use std::future::Future;
use std::time::Duration;

use super::AnyStore;
use super::lock::{Attempted, HeldBy, LockRequest, LockToken, WhenHeld};
use crate::error::Result;

/// The prefix of every group's name.
pub(crate) const PREFIX: &str = "~group.1:";
/// The most waiters that one step looks at.
#[cfg_attr(not(test), allow(dead_code, reason = "the script has it, too"))]
pub(crate) const MOST_LOOKED_AT: usize = 256;

/// Returns whether this is the name of a group and not of a lock.
pub(crate) fn is_group(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The operations of every store on lock groups. Each is atomic, and one round trip. The names of locks are
/// escaped and joined by line feeds.
pub(crate) trait GroupStore: Send + Sync + 'static {
    /// Acquires all locks; otherwise enqueues the attempt, if it asks for that. Must be sent once for each
    /// token.
    fn take_group(
        &self,
        group: &str,
        token: u64,
        names: &str,
        request: LockRequest<'_>,
        queue: WhenHeld,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// Confirms a claim, or takes the locks if they are free and it is this attempt's turn. May be sent
    /// again.
    fn confirm_group(
        &self,
        group: &str,
        token: u64,
        request: LockRequest<'_>,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// Extends holders, as [`LockStore::extend`](super::lock::LockStore::extend) does.
    fn renew_groups(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Frees what a token holds, or cancels an attempt, which may be remembered. Returns whether the token
    /// held its locks or had a claim on them.
    fn give_group(
        &self,
        group: &str,
        token: u64,
        remembered: Option<Duration>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Reads the holder of one of the locks, and how many attempts wait for it.
    fn group_holder(&self, group: &str, name: &str) -> impl Future<Output = Result<Option<HeldBy>>> + Send;
}

impl GroupStore for AnyStore {
    async fn take_group(
        &self,
        group: &str,
        token: u64,
        names: &str,
        request: LockRequest<'_>,
        queue: WhenHeld,
    ) -> Result<Attempted> {
        on_either!(self.take_group(group, token, names, request, queue))
    }

    async fn confirm_group(&self, group: &str, token: u64, request: LockRequest<'_>) -> Result<Attempted> {
        on_either!(self.confirm_group(group, token, request))
    }

    async fn renew_groups(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<bool>>> {
        on_either!(self.renew_groups(held, max_wait))
    }

    async fn give_group(&self, group: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        on_either!(self.give_group(group, token, remembered))
    }

    async fn group_holder(&self, group: &str, name: &str) -> Result<Option<HeldBy>> {
        on_either!(self.group_holder(group, name))
    }
}
