//! The part of the seam that is about semaphores.
//!
//! A semaphore has a number of permits, the tokens that hold some of them until an end each, and one queue. An attempt
//! is a token, as an attempt at a lock is; its lowest 16 bits are its weight, how many permits it wants. Every
//! operation that may free permits grants all that are free to the first live waiters, at most [`MOST_GRANTS`] a time.
//! Each such grant is a claim: it holds its permits for [`QueueTiming::claim`](super::lock::QueueTiming::claim) unless it is
//! confirmed. A claim that ends puts its waiter back into its place, and is not given a second one before it has asked.
//!
//! The number that is stored decides. It is kept for [`NUMBER_KEPT`] after its last use.

use std::future::Future;
use std::time::Duration;

use super::AnyStore;
use super::lock::LockToken;
use crate::error::Result;

/// The most grants of one operation; the next operation continues.
pub(crate) const MOST_GRANTS: usize = 64;
/// How long a semaphore's number is kept after its last use.
pub(crate) const NUMBER_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest number of permits: exact in a script.
pub(crate) const MOST_PERMITS: u64 = 1 << 53;
/// The largest weight.
pub(crate) const HEAVIEST: u64 = 0xFFFF;

/// Whether a ticket's name is that of a semaphore, and not of a lock.
pub(crate) fn is_semaphore(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with(RW_LOCK)
}

/// What every semaphore's name begins with.
pub(crate) const PREFIX: &str = "~semaphore.1:";
/// The same of read-write locks, which are semaphores: readers take one permit, writers all.
pub(crate) const RW_LOCK: &str = "~rwlock.1:";

/// A random token that wants `weight` permits.
pub(crate) fn token_of(nonce: u64, weight: u64) -> u64 {
    (nonce & !HEAVIEST) | (weight & HEAVIEST)
}

/// How many permits a token wants.
pub(crate) fn weight(token: u64) -> u64 {
    token & HEAVIEST
}

/// What an attempt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PermitRequest {
    /// The number of permits, if none is stored.
    pub(crate) permits: u64,
    pub(crate) ttl: Duration,
    pub(crate) wait: WhenTaken,
    /// Whether the grant has a fence.
    pub(crate) fenced: bool,
    /// As of a [`LockRequest`](super::lock::LockRequest).
    pub(crate) quarantine: Option<Duration>,
}

/// Whether an attempt that finds too few permits waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenTaken {
    No,
    /// Unless so many wait already.
    Queue {
        most: u64,
    },
}

/// The answer to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It holds its permits, for the whole time asked for, of `permits` in all. The fence is 0 if none was asked for.
    Granted { permits: u64, fence: u64 },
    /// Too few are free, or others wait.
    Full,
    /// It waits. `told` says whether its wake-up name is listened to.
    Waiting { told: bool },
    /// As many wait as may.
    QueueFull,
    /// It wants more than there are.
    TooHeavy { permits: u64 },
    /// As [`Attempted::Quarantined`](super::lock::Attempted::Quarantined).
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store loses nothing"))]
    Quarantined { until: u64 },
    /// It does not wait: it was given up before, or its place was lost.
    Gone,
}

/// What every store can do with semaphores. `LockToken::lock` is the semaphore's name. Waiting attempts keep their places
/// by [`LockStore::heartbeat`](super::lock::LockStore::heartbeat), together with those that wait for locks.
pub(crate) trait PermitStore: Send + Sync + 'static {
    /// Takes permits that are free and not waited for; else waits, if told to. Once for each token.
    fn take_permit(
        &self,
        semaphore: &str,
        token: u64,
        request: PermitRequest,
    ) -> impl Future<Output = Result<Taken>> + Send;

    /// Confirms a grant, or takes what is free if it is this attempt's turn. May be sent again.
    fn confirm_permit(
        &self,
        semaphore: &str,
        token: u64,
        request: PermitRequest,
    ) -> impl Future<Output = Result<Taken>> + Send;

    /// Gives holders at least so much time from now; whether their tokens still held. In the order of `held`. `None`
    /// where its server did not answer within `max_wait`; an error where none did.
    fn renew_permits(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Ends an attempt or gives its permits back; whether they were still held. An attempt that was given up is
    /// remembered for so long.
    fn give_permit(
        &self,
        semaphore: &str,
        token: u64,
        remembered: Option<Duration>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Holds `other` in place of `token`, which it is not heavier than, and grants what is free then; whether `token`
    /// was still held, and `other` was not given up. May be sent again.
    fn exchange_permits(
        &self,
        semaphore: &str,
        token: u64,
        other: u64,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Stores another number of permits, unless one with this version or a later one is stored; whether this number and
    /// version are now the stored ones.
    fn set_permits(
        &self,
        semaphore: &str,
        permits: u64,
        version: u64,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// How many permits are held or claimed.
    fn permits_in_use(&self, semaphore: &str) -> impl Future<Output = Result<u64>> + Send;
}

impl PermitStore for AnyStore {
    async fn take_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        on_either!(self.take_permit(semaphore, token, request))
    }

    async fn confirm_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        on_either!(self.confirm_permit(semaphore, token, request))
    }

    async fn renew_permits(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<bool>>> {
        on_either!(self.renew_permits(held, max_wait))
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        on_either!(self.give_permit(semaphore, token, remembered))
    }

    async fn exchange_permits(&self, semaphore: &str, token: u64, other: u64, ttl: Duration) -> Result<bool> {
        on_either!(self.exchange_permits(semaphore, token, other, ttl))
    }

    async fn set_permits(&self, semaphore: &str, permits: u64, version: u64) -> Result<bool> {
        on_either!(self.set_permits(semaphore, permits, version))
    }

    async fn permits_in_use(&self, semaphore: &str) -> Result<u64> {
        on_either!(self.permits_in_use(semaphore))
    }
}
