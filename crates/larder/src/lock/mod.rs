//! Distributed locks with fences, and a line of those who wait.
//!
//! A lock is a name that one attempt's random token stands under, with a time to live. Taking it, extending it and
//! freeing it are each one atomic step on the server, and each compares the token, so nobody frees what is another's.
//! Every grant carries a fence, a number higher than any before it: a resource that remembers the highest fence it has
//! seen can refuse a holder that was paused past its time, which no lock alone can (Kleppmann, "How to do distributed
//! locking", 2016).
//!
//! Who finds a lock taken stands in line, in the same step. Who frees it hands it to the next that lives, which is woken and
//! confirms. Inside: `attempt` is one try, from its request to a guard or to nothing; `waiting` keeps places in line;
//! `holding` is what is believed of a lock that was granted; `keeping` renews; `locks` is what all of them share.
//!
//! Invariants: one holder at a time, where the server keeps what it acknowledged; a guard never believes longer than the server
//! does; first come, first served among those that live; a dropped attempt leaves nothing.
//!
//! Not guaranteed: any of it through a failover that loses writes, or on a server that evicts. The fence is for that.

mod attempt;
mod election;
mod failover;
mod fence;
mod group;
mod guard;
mod hedge;
mod holder;
mod holding;
mod job;
mod job_run;
mod keeping;
mod locks;
mod meter;
mod permit;
mod run;
mod rw_lock;
mod semaphore;
mod several;
#[cfg(test)]
mod tests;
mod ticket;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::store::lock::{LockStore, LockToken};
use attempt::{Attempt, AttemptOutcome, Want};
pub use election::{Election, Leader, Leaders, Leadership};
use failover::Failover;
pub use fence::{Fence, ReleaseOutcome};
pub use group::{GroupGuard, GroupLocks, LockGroup};
pub use guard::{Guard, LockHandle};
pub use holder::Holder;
use holding::Lease;
pub use job::Job;
pub use job_run::{JobOutcome, JobRun, JobStatus};
pub(crate) use locks::Coordinator;
pub use permit::SemaphorePermit;
pub use rw_lock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::Semaphore;
pub use several::{LocksGuard, SeveralLocks};
pub use ticket::LockTicket;

const DEFAULT_TTL: Duration = Duration::from_secs(30);
const SHORTEST_TTL: Duration = Duration::from_millis(10);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(3600);
/// The longest wait for a holder's name, for an error message.
const LOOK: Duration = Duration::from_millis(500);

/// How a lock is kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keep {
    max_hold: Duration,
}

/// A lock by its name. Made by [`Larder::lock`](crate::Larder::lock); taking it gives a [`Guard`].
///
/// Locks belong to the guard, not to a task, a thread or a process, and are not reentrant: a second `acquire` by the same task
/// waits for the first guard like anybody's. A count of entries would have to belong to somebody, and a task that moves between
/// threads and hands its work to others is nobody: a lock that is taken twice by mistake would be freed once too early.
/// Those who wait are served in the order in which they came. A server that evicts can evict a lock: give locks one
/// that does not ([`coordination`](crate::LarderBuilder::coordination)).
///
/// ```
/// # use std::time::Duration;
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let reports = larder.lock("reports").ttl(Duration::from_secs(10));
/// let guard = reports.acquire().await?;
/// assert!(reports.try_acquire().await?.is_none());
/// guard.extend(Duration::from_secs(10)).await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a lock is taken by acquire(), acquire_within() or try_acquire()"]
pub struct Lock {
    locks: Arc<Coordinator>,
    name: Arc<str>,
    ttl: Duration,
    keep: Option<Keep>,
    max_hold: Duration,
    /// As others see the holder, behind a space, if not as this process.
    by: Option<Arc<str>>,
    failover: Failover,
}

impl Lock {
    pub(crate) fn new(locks: Arc<Coordinator>, name: &str) -> Self {
        let name = locks.context.keyspace.lock(name).into();
        Self::named(locks, name)
    }

    /// By its name on the server.
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

    /// How long the lock is held unless it is extended or released before: 10 ms to 24 hours. Default: 30 s.
    ///
    /// While the lock is kept alive, it is how long others wait for a holder that died.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Renews the lock while its guard lives, each time when a third of its time to live is over, up to
    /// [`max_hold`](Self::max_hold). Off by default: a lock that nobody renews ends by itself.
    ///
    /// The renewals of all locks of a `Larder` with like times to live share round trips. A guard whose renewals fail is [lost](Guard::lost) at its
    /// deadline.
    pub fn keep_alive(mut self) -> Self {
        self.keep = Some(Keep { max_hold: self.max_hold });
        self
    }

    /// The longest that a lock is kept alive, counted from its grant: what hangs must not hold it for ever. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self.keep = self.keep.map(|_| Keep { max_hold });
        self
    }

    /// Grants nothing after a failover until every lease of the old master is over: a server that was promoted may lack locks
    /// that are held. `max_lease` is the longest time to live that anybody uses for this lock; a longer one is refused.
    ///
    /// Each grant compares the server's replication id with a marker beside the lock, which is kept for 30 days after the last
    /// grant. Where it is another one, or where there is none (a failover, a restart, a server that got its first replica, the
    /// first use of the lock), grants fail with [`Quarantined`](ErrorKind::Quarantined) for `max_lease`; renewals and releases
    /// of locks that the server knows go on. No round trip more. All programs that use the lock must ask for it, and
    /// the old master must stop: the conditions are in docs/guarantees.md. On `memory:` it has no effect.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Counts the lock as granted or renewed only when so many replicas have acknowledged it (`WAIT`): one round trip more, on
    /// a connection of its own. Where too few do within a quarter of the time to live, or half of `response_timeout`, the
    /// lock is released: the call fails with [`NotReplicated`](ErrorKind::NotReplicated), a guard that is renewed is
    /// [lost](Guard::lost).
    ///
    /// It makes it unlikely that a failover loses the lock, and rules nothing out: the replica that acknowledged need not be
    /// the one that is promoted. [`quarantine`](Self::quarantine) rules it out. On `memory:` it has no effect.
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.failover.replicas = replicas;
        self
    }

    /// Takes the lock, waiting in line as long as it takes. [`acquire_within`](Self::acquire_within) waits for a bounded time and
    /// tells a lock that others hold from a server that does not answer, which `.timeout()` does not.
    ///
    /// One round trip where the lock is free; in line, one more when it is this call's turn. Who waits is woken by the
    /// server. The process tells that it lives 4.5 times a second, for all that wait in it together.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; for who stands in line, once the server has been silent for
    /// `response_timeout`. `InvalidSetting` for a time to live out of bounds, `LockLost` where the grant's time was over when it
    /// arrived.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no lock and no place in line behind: if the server granted it all the same, now or later, it is
    /// freed or refused. A call that is kept and not polled is passed over when its turn comes.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Takes the lock, waiting in line no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` where others held it all the time, as far as the server was heard of: where it went silent before the time was
    /// over, and a request has failed, that request's error. Else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(&self, patience: Duration) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        // The call's own deadline lies behind, so that contention and an outage are told apart.
        let longest = patience.saturating_add(2 * self.locks.timeout());
        Call::new(longest, &self.locks.meter.acquire, async move {
            self.check()?;
            let end = (patience != Duration::MAX).then(|| self.locks.context.clock.now().after(patience));
            match Attempt::within(&self.locks, &self.name, self.want(), end).await? {
                AttemptOutcome::Granted(holding, _) => self.guard(holding).await,
                AttemptOutcome::Quarantined(until) => Err(failover::quarantined(&self.name, until)),
                _ => Err(self.held_error(patience).await),
            }
        })
    }

    /// Takes the lock if it is free at this moment and nobody waits for it.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That somebody else holds it is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<Guard>>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.acquire, async move {
            self.check()?;
            match Attempt::once(&self.locks, &self.name, self.want()).await? {
                AttemptOutcome::Granted(holding, _) => self.guard(holding).await.map(Some),
                AttemptOutcome::Quarantined(until) => Err(failover::quarantined(&self.name, until)),
                _ => Ok(None),
            }
        })
    }

    /// The guard of a grant, once enough replicas have it. One that too few have is dropped, which frees the lock.
    async fn guard(&self, holding: Lease) -> Result<Guard> {
        let guard = Guard::new(holding, self.ttl, self.keep);
        if self.failover.replicas > 0 {
            // Boxed: it would swell the future of every lock.
            Box::pin(guard.acknowledged(self.ttl)).await?;
        }
        Ok(guard)
    }

    /// Returns who holds the lock, and how many wait. `None` if it is free, or just being handed over.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Those of any request.
    pub fn holder(&self) -> Call<'_, impl Future<Output = Result<Option<Holder>>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.holder, async move {
            self.check()?;
            self.look().await
        })
    }

    async fn look(&self) -> Result<Option<Holder>> {
        Ok(self.locks.store()?.holder(&self.name).await?.map(Holder::of))
    }

    /// Frees the lock, or hands it to the next in line, if its holder has this fence; returns whether it had.
    ///
    /// **This overrides the guarantee of one holder (L1).** The broken guard does not know until its next renewal
    /// or, if it is not renewed, until its deadline: [`Guard::lost`] completes then. Until then it and the next holder may both
    /// work, and only the fence tells them apart. It is for an operator who knows that the holder hangs.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Those of any request. After `TimedOut` and `Disconnected` it may have been broken.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have broken the lock.
    pub fn break_if(&self, fence: Fence) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.break_if, async move {
            self.check()?;
            self.locks.store()?.break_if(&self.name, fence.get()).await
        })
    }

    /// Goes on with a lock that another guard gave up by [`Guard::into_ticket`], in this process or another: holds it for this
    /// lock's time to live from now, with the same fence.
    ///
    /// One round trip. [`keep_alive`](Self::keep_alive) applies, and `max_hold` counts from here.
    ///
    /// # Errors
    ///
    /// - `LockLost` if its time was over before.
    /// - `InvalidSetting` if the ticket is that of another lock.
    /// - Those of any request: the ticket is still good while the lock's time lasts.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the lock held until its time is over. The ticket can be adopted again.
    pub fn adopt(&self, ticket: &LockTicket) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        let LockTicket { lock, token, fence } = ticket.clone();
        Call::new(self.locks.timeout(), &self.locks.meter.acquire, async move {
            self.check()?;
            if *lock != *self.name {
                let (is, wanted) = (holder::shown(&lock), holder::shown(&self.name));
                let named = format!("the ticket is that of the lock {is:?}, not of {wanted:?}");
                return Err(Error::named(
                    ErrorKind::InvalidSetting,
                    "the ticket is that of another lock",
                    named,
                ));
            }
            let sent = self.locks.context.clock.now();
            let held = [(LockToken { lock, token }, self.ttl)];
            let answer = self.locks.store()?.extend(&held, Duration::MAX).await?;
            let (locks, name) = (self.locks.clone(), self.name.clone());
            let mut holding = Lease::new(locks, name, token, fence, sent, self.ttl);
            holding.failover = self.failover;
            match answer.first() {
                Some(Some(true)) if holding.is_valid() => self.guard(holding).await,
                _ => Err(holding::lost(&self.name)),
            }
        })
    }

    /// That others held the lock, and who holds it now, if the server says so in time.
    async fn held_error(&self, patience: Duration) -> Error {
        let name = holder::shown(&self.name);
        let asked = async { self.locks.store()?.holder(&self.name).await };
        let holder = tokio::time::timeout(self.locks.timeout().min(LOOK), asked).await;
        let by = match holder {
            Ok(Ok(Some(by))) => format!(" by {}", Holder::of(by)),
            _ => String::new(),
        };
        let message = format!("the lock was held for {patience:?}{by}");
        Error::named(ErrorKind::LockHeld, message, format!("the lock {name:?} was held for {patience:?}{by}"))
    }

    fn check(&self) -> Result<()> {
        check_ttl(self.ttl)?;
        self.failover.check(self.ttl)?;
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

fn check_ttl(ttl: Duration) -> Result<()> {
    if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
        return Err(Error::invalid(format!(
            "a lock is held for {SHORTEST_TTL:?} to {LONGEST_TTL:?}, not for {ttl:?}"
        )));
    }
    Ok(())
}
