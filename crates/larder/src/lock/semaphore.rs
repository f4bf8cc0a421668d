//! Distributed semaphores: a number of permits, leased and renewed, granted first come, first served.
//!
//! A permit is a token with an end in the store. While its guard lives it is renewed together with the locks that are
//! kept alive; a holder that dies gives it back when its lease ends. A caller that finds too few permits waits in the
//! semaphore's queue. Every release grants all that is free to the first live waiters, in one script: each grant is a
//! claim, which its waiter confirms as an attempt at a lock does. So a caller never overtakes a live waiter, and the
//! number of round trips of one waiter does not hold up the others.
//!
//! Invariants: never more permits than the stored number, unless it was lowered; a permit that was lost stays lost.
//!
//! Not guaranteed: a fence. Several hold at once, so no order of theirs could be checked.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::attempt::{Attempt, AttemptOutcome, Want};
use super::failover::{Failover, quarantined};
use super::holding::Lease;
use super::locks::{Coordinator, Ending};
use super::permit::SemaphorePermit;
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL, check_ttl};
use crate::call::Call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::store::lock::QueueTiming;
use crate::store::permit::{HEAVIEST, MOST_PERMITS, PermitRequest, PermitStore, WhenTaken, token_of};
use crate::telemetry::target;

/// A semaphore by its name, or by its name and a key. Made by [`Larder::semaphore`](crate::Larder::semaphore); taking
/// permits gives a [`SemaphorePermit`].
///
/// **The stored number decides.** The first use of a name stores the handle's number of permits; it is kept for 30 days
/// after the last use. A handle with another number uses the stored one, and logs that once.
/// [`set_permits`](Self::set_permits) changes it while it is in use.
///
/// Waiters are served in the order in which they came, also when they want several permits: while a large
/// request heads the queue, free permits may stay unused until there are enough for it.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let exports = larder.semaphore("exports", 2);                      // for each tenant
/// let first = exports.key("ann").acquire().await?;
/// let second = exports.key("ann").acquire().await?;
/// assert!(exports.key("ann").try_acquire().await?.is_none());
/// assert!(exports.key("bob").try_acquire().await?.is_some());
/// assert_eq!(exports.key("ann").in_use().await?, 2);
/// first.release().await?;
/// # drop(second);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a permit is taken by acquire(), acquire_within() or try_acquire()"]
pub struct Semaphore {
    locks: Arc<Coordinator>,
    /// What it is, for errors.
    what: &'static str,
    /// As the caller wrote it.
    called: Arc<str>,
    /// As the store knows it.
    name: Arc<str>,
    permits: u64,
    ttl: Duration,
    max_hold: Duration,
    max_waiting: u64,
    failover: Failover,
    /// Whether it was logged that another number is stored.
    warned: Arc<AtomicBool>,
}

impl Semaphore {
    pub(crate) fn new(locks: Arc<Coordinator>, called: &str, permits: u64) -> Self {
        let name = locks.context.keyspace.semaphore(called).as_str().into();
        Self::named(locks, "semaphore", called, name, permits)
    }

    /// By its name on the server.
    pub(super) fn named(
        locks: Arc<Coordinator>,
        what: &'static str,
        called: &str,
        name: Arc<str>,
        permits: u64,
    ) -> Self {
        Self {
            locks,
            what,
            called: called.into(),
            name,
            permits,
            ttl: DEFAULT_TTL,
            max_hold: DEFAULT_MAX_HOLD,
            max_waiting: u64::MAX,
            failover: Failover::default(),
            warned: Arc::default(),
        }
    }

    /// The semaphore of one key: it has permits, a queue and a stored number of its own.
    pub fn key(&self, key: impl CacheKey) -> Self {
        let name = self.locks.context.keyspace.keyed_semaphore(&self.called, key).as_str().into();
        Self { name, ..self.clone() }
    }

    /// The lease of a permit, which is renewed while its guard lives: how long others wait for a holder that died. 10
    /// ms to 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The longest that a permit is renewed, counted from when it was taken. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Refuses a caller at once, with `QueueFull`, if so many wait already. Default: any number may wait.
    pub fn max_waiting(mut self, callers: u64) -> Self {
        self.max_waiting = callers;
        self
    }

    /// Grants nothing after a failover until every lease of the old master is over: see
    /// [`Lock::quarantine`](super::Lock::quarantine).
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Takes a permit, waiting in the queue as long as it takes.
    ///
    /// One round trip if one is free and nobody waits. A caller that waits makes two, and one more when it is granted a
    /// permit.
    ///
    /// # Errors
    ///
    /// - `QueueFull` if [`max_waiting`](Self::max_waiting) callers wait already: shed the work.
    /// - `InvalidSetting` for no permits, a lease out of bounds, or a `max_hold` below it.
    /// - Those of any request. A caller that waits rides out an outage of up to `response_timeout`; a new caller gets
    ///   the error.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no permit and no place in the queue behind.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_many_within(1, Duration::MAX)
    }

    /// Takes a permit, waiting in the queue no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if none was free in time; else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        patience: Duration,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_many_within(1, patience)
    }

    /// Takes `permits` permits at once, waiting in the queue as long as it takes. One guard holds them all.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for more than the stored number, also when the number is lowered while this call waits, and for
    /// 0 or more than 65,535; else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_many(
        &self,
        permits: u64,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_many_within(permits, Duration::MAX)
    }

    /// Takes `permits` permits at once, waiting in the queue no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if too few were free in time; else as [`acquire_many`](Self::acquire_many).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_many_within(
        &self,
        permits: u64,
        patience: Duration,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.call_within(patience, self.take_within(permits, false, patience))
    }

    /// Takes a permit if one is free at this moment and nobody waits.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That all are taken is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<SemaphorePermit>>> + Send> {
        self.try_acquire_many(1)
    }

    /// Takes `permits` permits if so many are free at this moment and nobody waits.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`acquire_many`](Self::acquire_many). That too few are free is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire_many(
        &self,
        permits: u64,
    ) -> Call<'_, impl Future<Output = Result<Option<SemaphorePermit>>> + Send> {
        self.call_once(self.take(permits, false, None))
    }

    /// Returns how many permits are held, over all processes, those granted to waiters and not yet confirmed included.
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
    pub fn in_use(&self) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.in_use, async move {
            self.check()?;
            self.locks.store()?.permits_in_use(&self.name).await
        })
    }

    /// Changes the stored number of permits. `version` is the caller's, and increases: a number whose version is not
    /// higher than the stored one is ignored, so that of two deployments the later decides. Returns whether this number
    /// and version are now the stored ones.
    ///
    /// Lowering the number revokes nothing: no permit is granted until enough are given back. A waiter that wants more
    /// permits than there are then fails. This handle's own number stays as it is; it matters only while none is
    /// stored.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for no permits or a number from 2⁵³; those of any request.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have changed the number. It may be made again.
    pub fn set_permits(
        &self,
        permits: u64,
        version: u64,
    ) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.set_permits, async move {
            self.check()?;
            check_number(permits)?;
            if version > MOST_PERMITS {
                return Err(Error::invalid(format!("a version is at most 2^53, not {version}")));
            }
            self.locks.store()?.set_permits(&self.name, permits, version).await
        })
    }

    fn check(&self) -> Result<()> {
        check_ttl(self.ttl)?;
        self.failover.check(self.ttl)?;
        check_number(self.permits)?;
        if self.max_hold < self.ttl {
            let Self { max_hold, ttl, .. } = self;
            return Err(Error::invalid(format!(
                "max_hold ({max_hold:?}) is shorter than the lease ({ttl:?})"
            )));
        }
        self.locks.context.limits.check_key(&self.name)?;
        self.locks.context.check_coordination()
    }

    pub(super) fn call_once<T, F>(&self, work: F) -> Call<'_, F>
    where
        F: Future<Output = Result<T>>,
    {
        Call::new(self.locks.timeout(), &self.locks.meter.acquire, work)
    }

    /// The call's own deadline is later than `patience`, so that contention and an outage are told apart.
    pub(super) fn call_within<T, F>(&self, patience: Duration, work: F) -> Call<'_, F>
    where
        F: Future<Output = Result<T>>,
    {
        let longest = patience.saturating_add(2 * self.locks.timeout());
        Call::new(longest, &self.locks.meter.acquire, work)
    }

    pub(super) async fn take_within(
        &self,
        permits: u64,
        fenced: bool,
        patience: Duration,
    ) -> Result<SemaphorePermit> {
        let end = (patience != Duration::MAX).then(|| self.locks.context.clock.now().after(patience));
        self.take(permits, fenced, Some(end)).await?.ok_or_else(|| {
            let Self { what, called, .. } = self;
            let message = format!("the {what} had too few free permits for {patience:?}");
            let named = format!("the {what} {called:?} had too few free permits for {patience:?}");
            Error::named(ErrorKind::LockHeld, message, named)
        })
    }

    /// Holds `permits` permits in place of those of `old`, in one step; `None` if they were lost.
    pub(super) async fn exchange(
        &self,
        mut old: SemaphorePermit,
        permits: u64,
    ) -> Result<Option<SemaphorePermit>> {
        let locks = &self.locks;
        let (held, other) = (old.holding().clone(), token_of(locks.context.random.nonce(), permits));
        let sent = locks.context.clock.now();
        if !held.asks(sent, self.ttl) {
            return Ok(None);
        }
        // A renewal that is sent after the exchange would find nothing.
        old.end_renewals();
        // Whatever becomes of the request from here on, what it may have taken is given back.
        let mut undo = Exchange { semaphore: self, token: other, armed: true };
        let call = Call::new(locks.timeout(), &locks.meter.acquire, async {
            locks.store()?.exchange_permits(&self.name, held.token, other, self.ttl).await
        });
        if !call.await? {
            undo.armed = false;
            return Ok(None);
        }
        old.exchanged();
        let holding = Lease::of_permit(locks.clone(), self.name.clone(), other, held.fence, sent, self.ttl);
        if !holding.is_valid() {
            return Ok(None);
        }
        undo.armed = false;
        Ok(Some(SemaphorePermit::new(holding, self.ttl, self.max_hold)))
    }

    /// Takes permits at once, or waits for them until an end, if there is one.
    pub(super) async fn take(
        &self,
        permits: u64,
        fenced: bool,
        wait: Option<Option<Tick>>,
    ) -> Result<Option<SemaphorePermit>> {
        self.check()?;
        if !(1..=HEAVIEST).contains(&permits) {
            return Err(Error::invalid(format!("a caller takes 1 to {HEAVIEST} permits, not {permits}")));
        }
        let wait_in_queue = WhenTaken::Queue { most: self.max_waiting };
        let quarantine = self.failover.quarantine;
        let request =
            PermitRequest { permits: self.permits, ttl: self.ttl, wait: wait_in_queue, fenced, quarantine };
        let want = Want::Permits { weight: permits, request };
        let outcome = match wait {
            Some(end) => Attempt::within(&self.locks, &self.name, want, end).await?,
            None => Attempt::once(&self.locks, &self.name, want).await?,
        };
        let called = &self.called;
        match outcome {
            AttemptOutcome::Granted(holding, stored) => {
                if stored != self.permits && !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        target: target::LOCK,
                        "a semaphore has another number of permits than this handle: the stored one decides"
                    );
                }
                Ok(Some(SemaphorePermit::new(holding, self.ttl, self.max_hold)))
            }
            AttemptOutcome::Held => Ok(None),
            AttemptOutcome::Quarantined(until) => Err(quarantined(&self.name, until)),
            AttemptOutcome::QueueFull => {
                let most = self.max_waiting;
                let message = format!("{most} callers or more wait for the semaphore already");
                let named = format!("{most} callers or more wait for the semaphore {called:?} already");
                Err(Error::named(ErrorKind::QueueFull, message, named))
            }
            AttemptOutcome::TooHeavy(stored) => {
                let rest = format!("has {stored} permits: {permits} are never free");
                let named = format!("the semaphore {called:?} {rest}");
                Err(Error::named(ErrorKind::InvalidSetting, format!("the semaphore {rest}"), named))
            }
        }
    }
}

/// An exchange that may have been carried out.
struct Exchange<'a> {
    semaphore: &'a Semaphore,
    token: u64,
    armed: bool,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.armed {
            let Semaphore { locks, name, ttl, .. } = self.semaphore;
            // Remembered, so that an exchange that arrives after that takes nothing, although the old token is held
            // still.
            let ending = Ending::GivePermit(Some(QueueTiming::REMEMBERED));
            locks.end_in_background(name.clone(), self.token, (*ttl).max(QueueTiming::REMEMBERED), ending);
        }
    }
}

fn check_number(permits: u64) -> Result<()> {
    if !(1..MOST_PERMITS).contains(&permits) {
        return Err(Error::invalid(format!("a semaphore has 1 to 2^53 permits, not {permits}")));
    }
    Ok(())
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}
