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

use super::lock::{Attempted, HeldBy, LockRequest, LockToken, Renewal, WhenHeld};
use crate::error::Result;
use crate::keyspace::GROUP;

/// The most waiters that one step looks at.
#[cfg_attr(not(test), allow(dead_code, reason = "the script has it, too"))]
pub(crate) const MOST_EXAMINED: usize = 256;

/// Returns whether this is the name of a group and not of a lock.
pub(crate) fn is_group(name: &str) -> bool {
    name.starts_with(GROUP)
}

store_operations! {
    /// The operations of every store on lock groups. Each is atomic, and one round trip. The names of locks are
    /// escaped and joined by line feeds.
    pub(crate) trait GroupStore {
        /// Acquires all locks; otherwise enqueues the attempt, if it asks for that. Must be sent once for each
        /// token.
        async fn take_group(
            &self,
            group: &str,
            token: u64,
            names: &str,
            request: LockRequest<'_>,
            queue: WhenHeld,
        ) -> Result<Attempted>;

        /// Confirms a claim, or takes the locks if they are free and it is this attempt's turn. May be sent
        /// again.
        async fn confirm_group(
            &self,
            group: &str,
            token: u64,
            request: LockRequest<'_>,
        ) -> Result<Attempted>;

        /// Extends holders, as [`LockStore::extend`](super::lock::LockStore::extend) does.
        async fn renew_groups(
            &self,
            held: &[(LockToken, Duration)],
            max_wait: Duration,
        ) -> Result<Vec<Option<Renewal>>>;

        /// Frees what a token holds, or cancels an attempt, which may be remembered. Returns whether the token
        /// held its locks or had a claim on them.
        async fn give_group(
            &self,
            group: &str,
            token: u64,
            remembered: Option<Duration>,
        ) -> Result<bool>;

        /// Reads the holder of one of the locks, and how many attempts wait for it.
        async fn group_holder(&self, group: &str, name: &str) -> Result<Option<HeldBy>>;
    }
}
