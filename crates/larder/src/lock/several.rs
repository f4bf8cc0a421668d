//! Several locks at once, without deadlock.
//!
//! The locks are acquired one after the other in the order of their names, so that two callers with overlapping
//! sets never wait for each other in a circle. Locks that are already acquired are renewed while the next is
//! awaited. If one of them is lost, all are released and the call starts again. An error releases all of them.
//!
//! Not guaranteed: that the set is acquired in one step. Between the first and the last lock, others see some of
//! them held.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};

use super::coordinator::Coordinator;
use super::failover::Failover;
use super::guard::Guard;
use super::release::ReleaseOutcome;
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL, Lock};
use crate::error::{Error, Result};
use crate::fence::Fence;

/// Locks that are held together. Made by [`Larder::locks`](crate::Larder::locks).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let both = larder.locks(["account:2", "account:1"]).acquire().await?;
/// assert!(both.is_valid() && both.fence("account:1").is_some());
/// both.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "locks are acquired by acquire(), acquire_within() or try_acquire()"]
pub struct SeveralLocks {
    locks: Arc<Coordinator>,
    /// Sorted.
    names: Vec<Arc<str>>,
    distinct: bool,
    ttl: Duration,
    max_hold: Duration,
    failover: Failover,
}

impl SeveralLocks {
    pub(crate) fn new(locks: Arc<Coordinator>, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut names: Vec<Arc<str>> = names.into_iter().map(|name| Arc::from(name.as_ref())).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        let distinct = names.len() == all;
        Self {
            locks,
            names,
            distinct,
            ttl: DEFAULT_TTL,
            max_hold: DEFAULT_MAX_HOLD,
            failover: Failover::default(),
        }
    }

    /// Sets the time to live of each lock: how long others wait after the holder's process dies. The locks are
    /// renewed while the guard lives. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Limits how long each lock is renewed, counted from its grant. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Refuses grants after a failover until every lease of the old master has expired: see [`Lock::quarantine`].
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Counts each lock as granted only when this many replicas have acknowledged it: see [`Lock::replicated`].
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.failover.replicas = replicas;
        self
    }

    /// Acquires all locks and waits in the queue of each for as long as it takes.
    ///
    /// One round trip for each lock that is free.
    ///
    /// # Errors
    ///
    /// An error releases the locks that were acquired.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no name, or a name given twice. Correct the call.
    ///
    /// # Cancel safety
    ///
    /// A dropped call releases the locks that it acquired and leaves no place in a queue.
    pub async fn acquire(&self) -> Result<LocksGuard> {
        self.take(Duration::MAX).await
    }

    /// Acquires all locks and waits for at most `max_wait` for all of them together.
    ///
    /// # Errors
    ///
    /// An error releases the locks that were acquired.
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): others held one of the locks. Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, max_wait: Duration) -> Result<LocksGuard> {
        self.take(max_wait).await
    }

    /// Acquires all locks if they are free now and their queues are empty. Returns `None` otherwise.
    ///
    /// One round trip for each lock.
    ///
    /// # Errors
    ///
    /// A lock that is held is `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<LocksGuard>> {
        self.check()?;
        let mut guards = Vec::with_capacity(self.names.len());
        for name in &self.names {
            match self.lock(name).try_acquire().await? {
                Some(guard) => guards.push((name.clone(), guard)),
                None => return Ok(None),
            }
        }
        let guard = LocksGuard { guards };
        Ok(guard.is_valid().then_some(guard))
    }

    async fn take(&self, max_wait: Duration) -> Result<LocksGuard> {
        self.check()?;
        let clock = &self.locks.context.clock;
        let end = clock.now().after(max_wait);
        loop {
            let mut guard = LocksGuard { guards: Vec::with_capacity(self.names.len()) };
            for name in &self.names {
                let left = if max_wait == Duration::MAX { max_wait } else { end.since(clock.now()) };
                let lock = self.lock(name);
                let next = tokio::select! {
                    biased;
                    next = lock.acquire_within(left) => next?,
                    // A lock that was acquired is lost: release all and start again.
                    () = guard.lost() => break,
                };
                guard.guards.push((name.clone(), next));
            }
            if guard.guards.len() == self.names.len() && guard.is_valid() {
                return Ok(guard);
            }
        }
    }

    fn lock(&self, name: &str) -> Lock {
        let mut lock = Lock::new(self.locks.clone(), name).ttl(self.ttl).max_hold(self.max_hold).keep_alive();
        lock.failover = self.failover;
        lock
    }

    fn check(&self) -> Result<()> {
        if self.names.is_empty() || !self.distinct {
            return Err(Error::invalid("locks() takes one name or more, each once"));
        }
        Ok(())
    }
}

impl fmt::Debug for SeveralLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeveralLocks")
            .field("names", &self.names)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Locks that are held until the guard is released or dropped, or one of them is lost. Made by [`SeveralLocks`].
#[must_use = "a guard that is dropped at once frees its locks"]
pub struct LocksGuard {
    /// Each with its name.
    guards: Vec<(Arc<str>, Guard)>,
}

impl LocksGuard {
    /// Returns the fence of one of the locks, by its name.
    #[must_use]
    pub fn fence(&self, name: &str) -> Option<Fence> {
        self.guards.iter().find(|(held, _)| **held == *name).map(|(_, guard)| guard.fence())
    }

    /// Returns how long all locks are certainly still held: see [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guards.iter().map(|(_, guard)| guard.remaining()).min().unwrap_or_default()
    }

    /// Returns whether all locks are certainly still held.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guards.iter().all(|(_, guard)| guard.is_valid())
    }

    /// Completes when the first of the locks is lost: see [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and requested again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let lost: Vec<_> = self.guards.iter().map(|(_, guard)| Box::pin(guard.lost())).collect();
        async move {
            if lost.is_empty() {
                return std::future::pending().await;
            }
            let _ = select_all(lost).await;
        }
    }

    /// Releases all locks. `Released` if each was held until now; otherwise the first other outcome, in the order
    /// of names.
    ///
    /// The requests are sent together, so this takes about one round trip.
    ///
    /// # Errors
    ///
    /// Every lock is released, or its release is retried in the background until it expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the locks in the background.
    pub async fn release(self) -> Result<ReleaseOutcome> {
        let outcomes = join_all(self.guards.into_iter().map(|(_, guard)| guard.release())).await;
        let mut first = ReleaseOutcome::Released;
        for outcome in outcomes {
            let outcome = outcome?;
            if first == ReleaseOutcome::Released {
                first = outcome;
            }
        }
        Ok(first)
    }
}

impl fmt::Debug for LocksGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.guards.iter().map(|(_, guard)| guard)).finish()
    }
}
