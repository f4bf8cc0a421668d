//! Lock groups: locks that are acquired together, in one command.
//!
//! The problem: a caller that acquires several locks one after the other holds some while it waits for the next.
//! The mechanism: the locks of a group share a table, a queue and a cluster slot, so one step sees all of them and
//! grants all or none. A waiter holds nothing, so no two waiters block each other. One token holds the whole set,
//! which is renewed and released as one.
//!
//! Invariants: of two attempts with a name in common, the one that arrived first is served first, as long as it is
//! alive. Attempts without a name in common do not wait for each other.
//!
//! Not guaranteed: anything between groups. Tasks that hold locks of one group and wait for another can deadlock.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::attempt::{Attempt, AttemptOutcome, Want};
use super::coordinator::Coordinator;
use super::failover::{Failover, quarantined};
use super::guard::{Guard, Keep};
use super::holder::Holder;
use super::lease::{self, Lease};
use super::release::ReleaseOutcome;
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::keyspace::{Keyspace, shown};
use crate::store::group::GroupStore;

/// The maximum number of locks of one attempt.
const MOST_LOCKS: usize = 128;

/// A group of locks that can be acquired together in one command. Made by
/// [`Larder::lock_group`](crate::Larder::lock_group).
///
/// A lock of a group is a different lock from [`Larder::lock`](crate::Larder::lock) of the same name, and from the
/// lock of that name in another group.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let order = larder.lock_group("order:7");
/// let both = order.locks(["invoice", "parcel"]).acquire().await?;
/// assert!(order.locks(["parcel", "stock"]).try_acquire().await?.is_none());
/// assert!(order.holder("parcel").await?.is_some() && order.holder("stock").await?.is_none());
/// both.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "the locks of a group are named by locks()"]
pub struct LockGroup {
    locks: Arc<Coordinator>,
    name: Arc<str>,
}

impl LockGroup {
    pub(crate) fn new(locks: Arc<Coordinator>, name: &str) -> Self {
        let name = locks.context.keyspace.lock_group(name).into();
        Self { locks, name }
    }

    /// Selects locks of the group, in any order: 1 to 128 names, each once.
    pub fn locks(&self, names: impl IntoIterator<Item = impl AsRef<str>>) -> GroupLocks {
        let mut names: Vec<Arc<str>> = names.into_iter().map(|name| Arc::from(name.as_ref())).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        GroupLocks {
            group: self.clone(),
            distinct: names.len() == all,
            names: names.into(),
            ttl: DEFAULT_TTL,
            max_hold: DEFAULT_MAX_HOLD,
            failover: Failover::default(),
        }
    }

    /// Returns the holder of one of the locks and the number of attempts that wait for it. `None` if the lock is
    /// free or just being handed over.
    ///
    /// One round trip, and one more for the name that another process announced.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
    pub fn holder(
        &self,
        name: impl AsRef<str>,
    ) -> Call<'_, impl Future<Output = Result<Option<Holder>>> + Send> {
        let lock = Keyspace::lock_in_group(name.as_ref());
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.holder, async move {
            self.check()?;
            let by = self.locks.context.coordination()?.group_holder(&self.name, &lock).await?;
            Ok(self.locks.named(by).await)
        })
    }

    fn check(&self) -> Result<()> {
        self.locks.context.limits.check_key(&self.name)?;
        self.locks.context.check_coordination()
    }
}

impl fmt::Debug for LockGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGroup").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Some locks of a group, to be acquired together. Made by [`LockGroup::locks`].
///
/// **The order that is promised:** of two attempts that want a lock in common, the one that came first is served
/// first, as long as it is [live](crate::guide::guarantees#locks). So a later attempt waits for an earlier one even
/// where the lock in common is free, because the earlier one waits for another. Attempts without a lock in common
/// never wait for each other, unless 256 wait in the group: those behind them wait until the queue is shorter.
#[derive(Clone)]
#[must_use = "locks are acquired by acquire(), acquire_within() or try_acquire()"]
pub struct GroupLocks {
    group: LockGroup,
    /// Sorted.
    names: Arc<[Arc<str>]>,
    distinct: bool,
    ttl: Duration,
    max_hold: Duration,
    failover: Failover,
}

impl GroupLocks {
    /// Sets the time to live of the locks: how long others wait after the holder's process dies. The locks are
    /// renewed together while the guard lives. 10 ms to 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Limits how long the locks are renewed, counted from their grant. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Refuses grants after a failover until every lease of the old master has expired: see
    /// [`Lock::quarantine`](super::Lock::quarantine). It applies to the whole group: every program that uses the
    /// group must set it.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Counts the locks as granted only when this many replicas have acknowledged them: see
    /// [`Lock::replicated`](super::Lock::replicated).
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.failover.replicas = replicas;
        self
    }

    /// Acquires all locks and waits in the group's queue for as long as it takes.
    ///
    /// One command for any number of locks, if all are free and no earlier attempt waits for one of them. Otherwise
    /// two, and one more when it is this call's turn.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no name, more than 128, or a name given twice. Correct
    ///   the call.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no lock and no place in the queue.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<GroupGuard>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Acquires all locks and waits for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): others held one of the locks, or were queued before this call, all
    ///   the time. Naming a lock that is held and its holder takes one more command for each lock, in one round trip.
    ///   Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        max_wait: Duration,
    ) -> Call<'_, impl Future<Output = Result<GroupGuard>> + Send> {
        let locks = &self.group.locks;
        // The call's own deadline is later than `max_wait`, so that held locks and an outage give different errors.
        let longest = max_wait.saturating_add(2 * locks.context.limits.response_timeout);
        Call::new(longest, &locks.meter.acquire, async move {
            let want = self.want()?;
            let end = (max_wait != Duration::MAX).then(|| locks.context.clock.now().after(max_wait));
            let outcome = Attempt::within(locks, &self.group.name, want, end).await?;
            match self.guard(outcome).await? {
                Some(guard) => Ok(guard),
                None => Err(Box::pin(self.held_error(max_wait)).await),
            }
        })
    }

    /// The error of locks that others held for `max_wait`. Names the group, the locks, and the first of them that is
    /// still held with its holder, if the store answers in time.
    async fn held_error(&self, max_wait: Duration) -> Error {
        let locks = &self.group.locks;
        let holders = self.names.iter().map(async |name| {
            let by = locks
                .context
                .coordination()?
                .group_holder(&self.group.name, &Keyspace::lock_in_group(name))
                .await?;
            Ok::<_, Error>(locks.named(by).await)
        });
        let asked = tokio::time::timeout(locks.context.limits.response_timeout, join_all(holders))
            .await
            .unwrap_or_default();
        let held = self.names.iter().zip(asked).find_map(|(name, holder)| Some((name, holder.ok()??)));
        let (by, lock) = match &held {
            Some((name, holder)) => {
                (format!("; held by {holder}"), format!("; {name:?} is held by {holder}"))
            }
            // Free, being handed over, or wanted by a call that was queued before.
            None => (String::new(), String::new()),
        };
        let (group, names) = (shown(&self.group.name), &self.names);
        let message = format!("others held one of the locks of a group for {max_wait:?}{by}");
        let named =
            format!("others held one of the locks {names:?} of the group {group:?} for {max_wait:?}{lock}");
        Error::named(ErrorKind::LockHeld, message, named)
    }

    /// Acquires all locks if they are free now and no earlier attempt waits for one of them. Returns `None`
    /// otherwise.
    ///
    /// One command.
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
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<GroupGuard>>> + Send> {
        let locks = &self.group.locks;
        Call::new(locks.context.limits.response_timeout, &locks.meter.acquire, async move {
            let want = self.want()?;
            let outcome = Attempt::once(locks, &self.group.name, want).await?;
            self.guard(outcome).await
        })
    }

    async fn guard(&self, outcome: AttemptOutcome) -> Result<Option<GroupGuard>> {
        match outcome {
            AttemptOutcome::Granted(lease) => self.granted(lease).await.map(Some),
            AttemptOutcome::Quarantined(until) => Err(quarantined(&self.group.name, until)),
            _ => Ok(None),
        }
    }

    /// Makes the guard of a grant once enough replicas have acknowledged it. Otherwise the guard is dropped, which
    /// releases the locks.
    async fn granted(&self, lease: Lease) -> Result<GroupGuard> {
        let keep = Some(Keep { max_hold: self.max_hold });
        let guard = Guard::new(&self.group.locks, lease, self.ttl, keep);
        if self.failover.replicas > 0 {
            Box::pin(guard.acknowledged(self.ttl)).await?;
        }
        Ok(GroupGuard { guard, names: self.names.clone() })
    }

    fn want(&self) -> Result<Want> {
        lease::check(self.ttl, self.failover)?;
        let Self { max_hold, ttl, .. } = self;
        if max_hold < ttl {
            return Err(Error::invalid(format!(
                "max_hold ({max_hold:?}) is shorter than the time to live ({ttl:?})"
            )));
        }
        if !(1..=MOST_LOCKS).contains(&self.names.len()) || !self.distinct {
            return Err(Error::invalid(format!(
                "locks() of a group takes 1 to {MOST_LOCKS} names, each once, not {}",
                self.names.len()
            )));
        }
        if self.names.iter().any(|name| name.is_empty()) {
            return Err(Error::invalid("a lock of a group must have a name: this one is empty"));
        }
        self.group.check()?;
        let escaped: Vec<String> = self.names.iter().map(|name| Keyspace::lock_in_group(name)).collect();
        for name in &escaped {
            self.group.locks.context.limits.check_key(name)?;
        }
        Ok(Want::Group { names: escaped.join("\n").into(), ttl: self.ttl, failover: self.failover })
    }
}

impl fmt::Debug for GroupLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLocks")
            .field("group", &self.group.name)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Locks of a group that are held together until the guard is released or dropped, or they are lost. All are lost
/// at the same moment. Made by [`GroupLocks`].
#[must_use = "a guard that is dropped at once frees its locks"]
pub struct GroupGuard {
    guard: Guard,
    names: Arc<[Arc<str>]>,
}

impl GroupGuard {
    /// Returns the fence of one of the locks, by its name. It is higher than that of every earlier grant of this
    /// lock.
    #[must_use]
    pub fn fence(&self, name: &str) -> Option<Fence> {
        self.names.iter().any(|held| **held == *name).then(|| self.guard.fence())
    }

    /// Returns how long the locks are certainly still held: see [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Returns whether the locks are certainly still held: see [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// Completes when the locks are lost: see [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and requested again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.guard.lost()
    }

    /// Releases all locks, in one command.
    ///
    /// # Errors
    ///
    /// An error means that the release may be incomplete: it is retried in the background until the lease expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the locks in the background.
    pub async fn release(self) -> Result<ReleaseOutcome> {
        self.guard.release().await
    }
}

impl fmt::Debug for GroupGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupGuard").field("names", &self.names).field("guard", &self.guard).finish()
    }
}
