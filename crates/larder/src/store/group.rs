//! The part of the seam that is about lock groups: locks that are taken together, in one step.
//!
//! The locks of a group share one table and one line. An attempt is a token that wants some of the names. It gets all of
//! them or none, when all are free and no live waiter before it wants one of them: so two attempts with a name in common are
//! served in the order in which they came, attempts without one do not wait for each other, and nobody holds one lock
//! while it waits for another. At most [`MOST_LOOKED_AT`] waiters are looked at in one step; those behind them wait until
//! the line is shorter.
//!
//! What a claim is, and when a waiter is live, is as for a [lock](super::lock).

use std::future::Future;
use std::time::Duration;

use super::AnyStore;
use super::lock::{Attempted, HeldBy, LockRequest, LockToken, WhenHeld};
use crate::error::Result;

/// What every group's name begins with.
pub(crate) const PREFIX: &str = "~group.1:";
/// The most waiters that one step looks at.
#[cfg_attr(not(test), allow(dead_code, reason = "the script has it, too"))]
pub(crate) const MOST_LOOKED_AT: usize = 256;

/// Whether a ticket's name is that of a group, and not of a lock.
pub(crate) fn is_group(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// What every store can do with lock groups. Each operation is atomic, and one round trip. Names of locks are escaped, and
/// stand in one text with line feeds between.
pub(crate) trait GroupStore: Send + Sync + 'static {
    /// Takes all locks, or stands in line if told to. Once for each token.
    fn take_group(
        &self,
        group: &str,
        token: u64,
        names: &str,
        request: LockRequest<'_>,
        queue: WhenHeld,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// Takes what the attempt has a claim on, or what is free if it is its turn. May be sent again.
    fn confirm_group(
        &self,
        group: &str,
        token: u64,
        request: LockRequest<'_>,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// As [`LockStore::extend`](super::lock::LockStore::extend).
    fn renew_groups(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Frees what a token holds, or ends an attempt, which may be remembered; whether it held anything, or had a claim.
    fn give_group(
        &self,
        group: &str,
        token: u64,
        remembered: Option<Duration>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Who holds one of the locks, and how many wait for it.
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
