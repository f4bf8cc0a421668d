//! Distributed locks with fences and a queue of waiters.
//!
//! A lock is a name on the server that stores the random token of its holder and a time to live. Acquiring,
//! extending and releasing are each one atomic step on the server. Each step compares the token, so that a caller
//! never releases another caller's lock. Every grant has a fence, a number that is higher than any before it. A
//! resource that remembers the highest fence it has seen can refuse a holder that was paused past its deadline; a
//! lock alone cannot (Kleppmann, "How to do distributed locking", 2016).
//!
//! An attempt that finds the lock held joins the queue in the same step. A release hands the lock to the first live
//! waiter, which is woken and confirms. Inside: `attempt` is one attempt, from its request to a guard or to
//! nothing; `queue` keeps places in the queue; `lease` is the local view of a granted lock; `renewer` renews;
//! `release` releases in the background; `coordinator` is what all handles share.
//!
//! Invariants: one holder at a time, as long as the server keeps the writes it acknowledged; a guard never counts
//! as valid for longer than the server holds the lock; live waiters are served first come, first served; a dropped
//! attempt leaves nothing behind.
//!
//! Not guaranteed: any of this through a failover that loses writes, or on a server that evicts keys. Use the fence
//! there.

mod attempt;
mod coordinator;
mod election;
mod failover;
mod group;
mod guard;
mod hedge;
mod holder;
mod job;
mod job_run;
mod lease;
mod meter;
mod numbers;
mod permit;
mod queue;
mod release;
mod renewer;
mod run;
mod rw_lock;
mod semaphore;
mod several;
#[cfg(test)]
mod tests;
mod ticket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
pub use crate::fence::Fence;
use crate::keyspace::shown;
use crate::store::lock::{HeldBy, LockStore, LockToken, Renewal};
use attempt::{Attempt, AttemptOutcome, Want};
pub(crate) use coordinator::Coordinator;
pub use election::{Election, Leader, Leaders, Leadership};
use failover::Failover;
pub use group::{GroupGuard, GroupLocks, LockGroup};
use guard::Keep;
pub use guard::{Guard, LockHandle};
pub use holder::Holder;
pub use job::Job;
pub use job_run::{JobOutcome, JobRun, JobStatus};
use lease::Lease;
pub use permit::SemaphorePermit;
pub use release::ReleaseOutcome;
use release::{Ending, end_in_background};
pub use rw_lock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::Semaphore;
pub use several::{LocksGuard, SeveralLocks};
pub use ticket::LockTicket;

const DEFAULT_TTL: Duration = Duration::from_secs(30);
const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(3600);
/// The longest time to wait for the holder's name when an error message is made.
const HOLDER_TIMEOUT: Duration = Duration::from_millis(500);

/// A lock with a name. [`Larder::lock`](crate::Larder::lock) makes it; acquiring it gives a [`Guard`].
///
/// A lock belongs to its guard, not to a task, a thread or a process. Locks are not reentrant: a second `acquire`
/// by the same task waits for the first guard, as any other caller does. Reentrancy needs an owner to count for,
/// and async code has none, because a task moves between threads and delegates to other tasks.
///
/// Waiters are served first come, first served. A server that evicts keys can evict a lock: keep locks on a server
/// that does not ([`coordination`](crate::LarderBuilder::coordination)).
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let reports = larder.lock("reports").ttl(Duration::from_secs(10));
/// let guard = reports.acquire().await?;
/// assert!(reports.try_acquire().await?.is_none());
/// guard.extend(Duration::from_secs(10)).await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a lock is acquired by acquire(), acquire_within() or try_acquire()"]
pub struct Lock {
    locks: Arc<Coordinator>,
    name: Arc<str>,
    ttl: Duration,
    keep: Option<Keep>,
    max_hold: Duration,
    /// The holder's name as others see it, after a space; `None` for this process's name.
    by: Option<Arc<str>>,
    failover: Failover,
}

impl Lock {
    pub(crate) fn new(locks: Arc<Coordinator>, name: &str) -> Self {
        let name = locks.context.keyspace.lock(name).into();
        Self::named(locks, name)
    }

    /// Makes a lock from its full name on the server.
    fn named(locks: Arc<Coordinator>, name: Arc<str>) -> Self {
        Self {
            name,
            locks,
            ttl: DEFAULT_TTL,
            keep: None,
            max_hold: DEFAULT_MAX_HOLD,
            by: None,
            failover: Failover::default(),
        }
    }

    fn want(&self) -> Want {
        Want::Lock { ttl: self.ttl, by: self.by.clone(), failover: self.failover }
    }

    /// Sets how long the lock is held unless it is extended or released: 10 ms to 24 hours. Default: 30 s.
    ///
    /// With [`keep_alive`](Self::keep_alive), this is how long others wait after the holder's process dies.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Renews the lock while its guard lives: after each third of the time to live, up to
    /// [`max_hold`](Self::max_hold). Off by default; then the lock expires unless you extend it.
    ///
    /// Renewals of locks with similar times to live share round trips across a `Larder`. A guard whose renewals
    /// fail is [lost](Guard::lost) at its deadline.
    pub fn keep_alive(mut self) -> Self {
        self.keep = Some(Keep { max_hold: self.max_hold });
        self
    }

    /// Limits how long `keep_alive` renews the lock, counted from its grant, so that a task that hangs does not
    /// hold it for ever. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self.keep = self.keep.map(|_| Keep { max_hold });
        self
    }

    /// Refuses grants after a failover until every lease of the old master has expired, because the promoted server
    /// may not know of locks that are held. `max_lease` is the longest time to live that any program uses for this
    /// lock: 24 hours at most, and a longer lease is refused.
    ///
    /// Each grant compares the server's replication id with a marker beside the lock. The marker is kept for 30
    /// days after the last grant. If the id differs, or there is no marker (a failover, a restart, a server that
    /// got its first replica, the first use of the lock), grants fail with [`Quarantined`](ErrorKind::Quarantined)
    /// for `max_lease`. Renewals and releases of locks that the server knows still work. It costs no extra round
    /// trip.
    ///
    /// Every program that uses the lock must set this, and the old master must stop: docs/guarantees.md has the
    /// conditions. No effect on `memory:`.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Counts the lock as granted or renewed only when `replicas` replicas have acknowledged it (`WAIT`). That costs
    /// one more round trip. Up to eight calls wait at the same time, and further calls queue. Each waits on a
    /// connection of its own, which is opened on demand and closed after half a minute without use.
    ///
    /// If too few replicas acknowledge within a quarter of the time to live, or half of `response_timeout`, the lock
    /// is released: the call fails with [`NotReplicated`](ErrorKind::NotReplicated), and a guard that was being
    /// renewed is [lost](Guard::lost).
    ///
    /// This makes it unlikely that a failover loses the lock, but does not rule it out: the replica that
    /// acknowledged need not be the one that is promoted. [`quarantine`](Self::quarantine) rules it out. No effect
    /// on `memory:`.
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.failover.replicas = replicas;
        self
    }

    /// Acquires the lock and waits in its queue for as long as it takes. Use
    /// [`acquire_within`](Self::acquire_within) for a bounded wait: unlike `.timeout()`, it distinguishes a lock
    /// that is held from a server that does not answer.
    ///
    /// One round trip if the lock is free. A queued call needs one more when its turn comes; the server wakes it.
    /// While calls wait, the process sends one heartbeat for all of them 4.5 times a second.
    ///
    /// # Errors
    ///
    /// A queued call rides out an outage that is shorter than `response_timeout`; a new call gets the error at once.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no lock and no place in the queue: if the server grants it anyway, now or later, the
    /// grant is released or refused. A call that is kept but not polled is passed over when its turn comes.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Acquires the lock and waits in its queue for at most `max_wait`.
    ///
    /// One round trip if the lock is free, and one more after a wait.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): other callers held the lock all the time. Retry later or do without.
    ///   If the server went silent before `max_wait` ended and a request failed, the error is that of the request
    ///   instead.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(&self, max_wait: Duration) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        // The call's own deadline is later than `max_wait`, so that a held lock and an outage give different
        // errors.
        let longest = max_wait.saturating_add(2 * self.locks.context.limits.response_timeout);
        Call::new(longest, &self.locks.meter.acquire, async move {
            self.check()?;
            let end = (max_wait != Duration::MAX).then(|| self.locks.context.clock.now().after(max_wait));
            match Attempt::within(&self.locks, &self.name, self.want(), end).await? {
                AttemptOutcome::Granted(lease) => self.guard(lease).await,
                AttemptOutcome::Quarantined(until) => Err(failover::quarantined(&self.name, until)),
                _ => Err(self.held_error(max_wait).await),
            }
        })
    }

    /// Acquires the lock if it is free now and its queue is empty. Returns `None` otherwise.
    ///
    /// One round trip.
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
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<Guard>>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.acquire, async move {
            self.check()?;
            match Attempt::once(&self.locks, &self.name, self.want()).await? {
                AttemptOutcome::Granted(lease) => self.guard(lease).await.map(Some),
                AttemptOutcome::Quarantined(until) => Err(failover::quarantined(&self.name, until)),
                _ => Ok(None),
            }
        })
    }

    /// Makes the guard of a grant once enough replicas have acknowledged it. Otherwise the guard is dropped, which
    /// releases the lock.
    async fn guard(&self, lease: Lease) -> Result<Guard> {
        let guard = Guard::new(&self.locks, lease, self.ttl, self.keep);
        if self.failover.replicas > 0 {
            // Boxed to keep the future of locks without replicas small.
            Box::pin(guard.acknowledged(self.ttl)).await?;
        }
        Ok(guard)
    }

    /// Returns the holder of the lock and the number of waiters. `None` if the lock is free or just being handed
    /// over.
    ///
    /// One round trip, and one more for the name that another process announced.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub fn holder(&self) -> Call<'_, impl Future<Output = Result<Option<Holder>>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.holder, async move {
            self.check()?;
            Ok(self.locks.named(self.read_holder().await?).await)
        })
    }

    /// Returns the holder without the name of its process, which takes another request.
    async fn read_holder(&self) -> Result<Option<HeldBy>> {
        self.locks.context.coordination()?.holder(&self.name).await
    }

    /// Releases the lock, or hands it to the next waiter, if its holder has this fence. Returns whether it had.
    ///
    /// One round trip.
    ///
    /// **This overrides the guarantee of one holder (L1).** The holder learns of it at its next renewal or, without
    /// `keep_alive`, at its deadline: [`Guard::lost`] completes then. Until then it and the next holder may both
    /// work, and only the fence distinguishes them. Meant for an operator who knows that the holder hangs.
    ///
    /// # Errors
    ///
    /// After [`TimedOut`](crate::ErrorKind::TimedOut) and [`Disconnected`](crate::ErrorKind::Disconnected) the lock
    /// may have been released.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have released the lock.
    pub fn break_if(&self, fence: Fence) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.break_if, async move {
            self.check()?;
            self.locks.context.coordination()?.break_if(&self.name, fence.get()).await
        })
    }

    /// Continues a lock that another guard gave up with [`Guard::into_ticket`], in this process or another. Holds
    /// it for this lock's time to live from now, with the same fence.
    ///
    /// One round trip. [`keep_alive`](Self::keep_alive) applies, and `max_hold` counts from here.
    ///
    /// # Errors
    ///
    /// After an error of the request the ticket stays usable until the lock expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`LockLost`](ErrorKind::LockLost): the lock has expired, or the reply took longer than the time to live; then
    ///   the lock is released. Acquire it again.
    /// - [`InvalidSetting`](ErrorKind::InvalidSetting): the ticket is for another lock.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the lock held until it expires. The ticket can be adopted again.
    pub fn adopt(&self, ticket: &LockTicket) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        let LockTicket { lock, token, fence } = ticket.clone();
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.acquire, async move {
            self.check()?;
            if *lock != *self.name {
                let (is, wanted) = (shown(&lock), shown(&self.name));
                let named = format!("the ticket is for the lock {is:?}, not for {wanted:?}");
                return Err(Error::named(ErrorKind::InvalidSetting, "the ticket is for another lock", named));
            }
            let sent = self.locks.context.clock.now();
            let held = [(LockToken { lock, token }, self.ttl)];
            let answer = self.locks.context.coordination()?.extend(&held, Duration::MAX).await?;
            let (clock, name) = (&self.locks.context.clock, self.name.clone());
            let mut lease = Lease::new(clock, name, token, fence, sent, self.ttl);
            lease.failover = self.failover;
            match answer.into_iter().next().flatten() {
                Some(Renewal::Held) if lease.is_valid() => self.guard(lease).await,
                Some(Renewal::Held) => {
                    // The reply is too late to be sure, and the server holds the lock for a guard that is not made.
                    let left = lease.may_last();
                    end_in_background(&self.locks.context, self.name.clone(), token, left, Ending::Release);
                    Err(lease::lost(&self.name))
                }
                Some(Renewal::Lost(Some(to))) => Err(lease::lost_to(&self.name, &Holder::of(to))),
                _ => Err(lease::lost(&self.name)),
            }
        })
    }

    /// The error for a lock that stayed held; it names the current holder if the server answers in time.
    async fn held_error(&self, max_wait: Duration) -> Error {
        let name = shown(&self.name);
        let holder = tokio::time::timeout(
            self.locks.context.limits.response_timeout.min(HOLDER_TIMEOUT),
            self.read_holder(),
        )
        .await;
        let by = match holder {
            Ok(Ok(Some(by))) => format!(" by {}", Holder::of(by)),
            _ => String::new(),
        };
        let message = format!("the lock was held for {max_wait:?}{by}");
        Error::named(ErrorKind::LockHeld, message, format!("the lock {name:?} was held for {max_wait:?}{by}"))
    }

    fn check(&self) -> Result<()> {
        lease::check(self.ttl, self.failover)?;
        if let Some(Keep { max_hold }) = self.keep.filter(|keep| keep.max_hold < self.ttl) {
            let ttl = self.ttl;
            return Err(Error::invalid(format!(
                "max_hold ({max_hold:?}) is shorter than the time to live ({ttl:?})"
            )));
        }
        self.locks.context.limits.check_key(&self.name)?;
        self.locks.context.check_coordination()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
