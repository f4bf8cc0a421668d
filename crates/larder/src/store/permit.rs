//! The operations of a store on semaphores.
//!
//! A semaphore has a number of permits, the tokens that hold some of them until their expiry, and one queue.
//! An attempt is a token, as for a lock; its lowest 16 bits are its weight, the number of permits it wants.
//! Every operation that may free permits grants what is free to the first live waiters, at most
//! [`MOST_GRANTS`] in one step. Each such grant is a claim: it holds its permits for
//! [`QueueTiming::claim`](super::lock::QueueTiming::claim) unless it is confirmed. When a claim expires, its
//! waiter returns to its place in the queue, and gets no second claim before its next heartbeat.
//!
//! The stored number of permits applies. It is kept for [`NUMBER_KEPT`] after its last use.

use std::future::Future;
use std::time::Duration;

use super::lock::{LockToken, Renewal};
use crate::error::Result;
use crate::keyspace::{RW_LOCK, SEMAPHORE};

/// The most grants of one step; the next operation continues.
pub(crate) const MOST_GRANTS: usize = 64;
/// How long a semaphore's number is kept after its last use.
pub(crate) const NUMBER_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest number of permits that a script computes exactly.
pub(crate) const MOST_PERMITS: u64 = 1 << 53;
/// The largest weight.
pub(crate) const HEAVIEST: u64 = 0xFFFF;

/// Returns whether this is the name of a semaphore and not of a lock. A read-write lock is a semaphore: a reader takes
/// one permit, a writer all of them.
pub(crate) fn is_semaphore(name: &str) -> bool {
    name.starts_with(SEMAPHORE) || name.starts_with(RW_LOCK)
}

/// Makes a random token that wants `weight` permits.
pub(crate) fn token_of(nonce: u64, weight: u64) -> u64 {
    (nonce & !HEAVIEST) | (weight & HEAVIEST)
}

/// Returns how many permits a token wants.
pub(crate) fn weight(token: u64) -> u64 {
    token & HEAVIEST
}

/// What an attempt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PermitRequest {
    /// The number of permits to store if there is none.
    pub(crate) permits: u64,
    pub(crate) ttl: Duration,
    pub(crate) wait: WhenTaken,
    /// Whether the grant gets a fence.
    pub(crate) fenced: bool,
    /// As in a [`LockRequest`](super::lock::LockRequest).
    pub(crate) quarantine: Option<Duration>,
}

/// Whether an attempt that finds too few permits waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenTaken {
    No,
    /// Unless this many attempts wait already.
    Queue {
        most: u64,
    },
}

/// The reply to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The attempt holds its permits for the full time that was asked for. `permits` is the number of all
    /// permits. The fence is 0 if none was asked for.
    Granted { permits: u64, fence: u64 },
    /// Too few are free, or others wait.
    Full { permits: u64 },
    /// The attempt waits. `notified` tells whether the store will report a change of its wake-up name.
    Waiting { permits: u64, notified: bool },
    /// The queue is full.
    QueueFull { permits: u64 },
    /// The attempt wants more permits than there are.
    TooHeavy { permits: u64 },
    /// As [`Attempted::Quarantined`](super::lock::Attempted::Quarantined).
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store loses nothing"))]
    Quarantined { until: u64 },
    /// The attempt does not wait: it was cancelled before, or it lost its place.
    Gone,
}

impl Taken {
    /// Returns the stored number of permits, if the reply tells it.
    pub(crate) fn number(self) -> Option<u64> {
        match self {
            // 0 if the number was lost since the grant.
            Self::Granted { permits, .. } => Some(permits).filter(|permits| *permits > 0),
            Self::Full { permits }
            | Self::Waiting { permits, .. }
            | Self::QueueFull { permits }
            | Self::TooHeavy { permits } => Some(permits),
            Self::Quarantined { .. } | Self::Gone => None,
        }
    }
}

store_operations! {
    /// The operations of every store on semaphores. `LockToken::lock` is the semaphore's name. Waiting attempts
    /// keep their places by [`LockStore::heartbeat`](super::lock::LockStore::heartbeat), together with those that
    /// wait for locks.
    pub(crate) trait PermitStore {
        /// Takes permits that are free and that no earlier waiter wants; otherwise enqueues the attempt, if it
        /// asks for that. Must be sent once for each token.
        async fn take_permit(
            &self,
            semaphore: &str,
            token: u64,
            request: PermitRequest,
        ) -> Result<Taken>;

        /// Confirms a claim, or takes what is free if it is this attempt's turn. May be sent again.
        async fn confirm_permit(
            &self,
            semaphore: &str,
            token: u64,
            request: PermitRequest,
        ) -> Result<Taken>;

        /// Extends holders to at least the given time from now. Returns whether their tokens still hold, in the
        /// order of `held`; `None` if that server did not answer within `max_wait`. An error if no server
        /// answered.
        async fn renew_permits(
            &self,
            held: &[(LockToken, Duration)],
            max_wait: Duration,
        ) -> Result<Vec<Option<Renewal>>>;

        /// Cancels an attempt or gives its permits back, and returns whether they were still held. A cancelled
        /// attempt is remembered for `remembered`.
        async fn give_permit(
            &self,
            semaphore: &str,
            token: u64,
            remembered: Option<Duration>,
        ) -> Result<bool>;

        /// Replaces `token` by `other`, which is not heavier, and grants what is then free. Returns whether
        /// `token` still held its permits and `other` was not cancelled. May be sent again.
        async fn exchange_permits(
            &self,
            semaphore: &str,
            token: u64,
            other: u64,
            ttl: Duration,
        ) -> Result<bool>;

        /// Stores another number of permits, unless one with this version or a later one is stored. Returns
        /// whether this number and version are now the stored ones.
        async fn set_permits(
            &self,
            semaphore: &str,
            permits: u64,
            version: u64,
        ) -> Result<bool>;

        /// Counts the permits that are held or claimed.
        async fn permits_in_use(&self, semaphore: &str) -> Result<u64>;
    }
}
