//! Lock groups: locks that are taken together, in one command.
//!
//! The problem: who takes several locks one after the other holds some while it waits for the next. The mechanism: the locks
//! of a group share a table, a line and a slot of the cluster, so one step sees all of them, and grants all or none. A waiter
//! holds nothing, so no two wait for each other. One token holds the whole set: it is renewed and freed as one.
//!
//! Invariants: of two attempts with a name in common, the one that came first is served first, while it lives. Attempts
//! without one do not wait for each other.
//!
//! Not guaranteed: anything between groups. A task that holds locks of one and waits for another can wait in a circle.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Attempt, Outcome, Want};
use super::failover::{Failover, quarantined};
use super::fence::{Fence, Release};
use super::guard::Guard;
use super::holder::Holder;
use super::holding::Holding;
use super::locks::Locks;
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL, Keep, check_ttl};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::store::group::GroupStore;

/// The most locks of one attempt.
const MOST_LOCKS: usize = 128;

/// Locks that can be taken together in one command, by the group's name. Made by
/// [`Larder::lock_group`](crate::Larder::lock_group).
///
/// A lock of a group is another lock than [`Larder::lock`](crate::Larder::lock) of the same name, and than that of
/// another group.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let order = larder.lock_group("order:7");
/// let both = order.locks(["invoice", "parcel"]).acquire().await?;
/// assert!(order.locks(["parcel", "stock"]).try_acquire().await?.is_none());
/// assert!(order.holder("parcel").await?.is_some() && order.holder("stock").await?.is_none());
/// both.release().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "the locks of a group are named by locks()"]
pub struct LockGroup {
    locks: Arc<Locks>,
    name: Arc<str>,
}

impl LockGroup {
    pub(crate) fn new(locks: Arc<Locks>, name: &str) -> Self {
        let name = locks.context.keyspace.lock_group(name).into();
        Self { locks, name }
    }

    /// Names locks of the group, in any order: 1 to 128, each once.
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

    /// Returns who holds one of the locks, and how many attempts wait for it. `None` if it is free, or just being handed
    /// over.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Those of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn holder(
        &self,
        name: impl AsRef<str>,
    ) -> Call<'_, impl Future<Output = Result<Option<Holder>>> + Send> {
        let lock = Keyspace::lock_in_group(name.as_ref());
        Call::new(self.locks.timeout(), &self.locks.meter.holder, async move {
            self.check()?;
            Ok(self.locks.store()?.group_holder(&self.name, &lock).await?.map(Holder::of))
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

/// Some locks of a group, to be taken together. Made by [`LockGroup::locks`].
///
/// **The order that is promised:** of two attempts that want a lock in common, the one that came first is served first, as
/// long as it is [live](crate::guide::guarantees#locks). So a later attempt waits for an earlier one
/// even where the lock in common is free, because the earlier one waits for another. Attempts without a lock in common never
/// wait for each other, unless 256 wait in the group: those behind them wait until the line is shorter.
#[derive(Clone)]
#[must_use = "locks are taken by acquire(), acquire_within() or try_acquire()"]
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
    /// The time to live of the locks. They are renewed together while the guard lives: it is how long others wait for a
    /// holder that died. 10 ms to 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The longest that the locks are renewed, counted from their grant. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Grants nothing after a failover until every lease of the old master is over: see
    /// [`Lock::quarantine`](super::Lock::quarantine). It is the whole group's: all programs that use the group must ask for
    /// it.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Counts the locks as granted only when so many replicas have acknowledged them: see
    /// [`Lock::replicated`](super::Lock::replicated).
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.failover.replicas = replicas;
        self
    }

    /// Takes all locks, waiting in the group's line as long as it takes.
    ///
    /// One command, however many locks, where all are free and no earlier attempt waits for one of them; else two, and one
    /// when it is this call's turn.
    ///
    /// # Errors
    ///
    /// - `InvalidSetting` for no name, more than 128, or one that is given twice; for a time to live out of bounds.
    /// - Else as [`Lock::acquire`](super::Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no lock and no place in line behind.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<GroupGuard>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Takes all locks, waiting no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if others held one of them, or came before, all the time; else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        patience: Duration,
    ) -> Call<'_, impl Future<Output = Result<GroupGuard>> + Send> {
        let locks = &self.group.locks;
        // The call's own deadline lies behind, so that contention and an outage are told apart.
        let longest = patience.saturating_add(2 * locks.timeout());
        Call::new(longest, &locks.meter.acquire, async move {
            let want = self.want()?;
            let end = (patience != Duration::MAX).then(|| locks.context.clock.now().after(patience));
            let outcome = Attempt::within(locks, &self.group.name, want, end).await?;
            self.guard(outcome).await?.ok_or_else(|| {
                let message = format!("others held one of the locks for {patience:?}");
                let named = format!("others held one of the locks {:?} for {patience:?}", self.names);
                Error::named(ErrorKind::LockHeld, message, named)
            })
        })
    }

    /// Takes all locks if they are free at this moment, and no earlier attempt waits for one of them.
    ///
    /// One command.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That others hold one of them is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<GroupGuard>>> + Send> {
        let locks = &self.group.locks;
        Call::new(locks.timeout(), &locks.meter.acquire, async move {
            let want = self.want()?;
            let outcome = Attempt::once(locks, &self.group.name, want).await?;
            self.guard(outcome).await
        })
    }

    async fn guard(&self, outcome: Outcome) -> Result<Option<GroupGuard>> {
        match outcome {
            Outcome::Granted(holding, _) => self.granted(holding).await.map(Some),
            Outcome::Quarantined(until) => Err(quarantined(&self.group.name, until)),
            _ => Ok(None),
        }
    }

    /// The guard of a grant, once enough replicas have it. One that too few have is dropped, which frees the locks.
    async fn granted(&self, holding: Holding) -> Result<GroupGuard> {
        let guard = Guard::new(holding, self.ttl, Some(Keep { max_hold: self.max_hold }));
        if self.failover.replicas > 0 {
            Box::pin(guard.acknowledged(self.ttl)).await?;
        }
        Ok(GroupGuard { guard, names: self.names.clone() })
    }

    fn want(&self) -> Result<Want> {
        check_ttl(self.ttl)?;
        self.failover.check(self.ttl)?;
        let Self { max_hold, ttl, .. } = self;
        if max_hold < ttl {
            return Err(Error::invalid(format!(
                "max_hold ({max_hold:?}) is shorter than the time to live ({ttl:?})"
            )));
        }
        if !(1..=MOST_LOCKS).contains(&self.names.len()) || !self.distinct {
            return Err(Error::invalid(format!(
                "locks() of a group takes 1 to {MOST_LOCKS} names, each once, and not {}",
                self.names.len()
            )));
        }
        if self.names.iter().any(|name| name.is_empty()) {
            return Err(Error::invalid("a lock of a group has a name"));
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

/// Locks of a group that are held together until they are released, dropped, or lost: all at the same moment. Made by
/// [`GroupLocks`].
#[must_use = "a guard that is dropped at once frees its locks"]
pub struct GroupGuard {
    guard: Guard,
    names: Arc<[Arc<str>]>,
}

impl GroupGuard {
    /// The number of the grant of one of the locks, by its name: higher than that of every earlier grant of this lock.
    #[must_use]
    pub fn fence(&self, name: &str) -> Option<Fence> {
        self.names.iter().any(|held| **held == *name).then(|| self.guard.fence())
    }

    /// How long the locks are certainly still held: see [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Whether the locks are certainly still held: see [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// Completes when the locks are lost: see [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.guard.lost()
    }

    /// Frees all locks, in one command.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees the locks in the background.
    pub async fn release(self) -> Result<Release> {
        self.guard.release().await
    }
}

impl fmt::Debug for GroupGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupGuard").field("names", &self.names).field("guard", &self.guard).finish()
    }
}
