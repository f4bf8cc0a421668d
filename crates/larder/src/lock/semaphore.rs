//! Distributed semaphores: a number of permits, leased and renewed, granted first come, first served.
//!
//! A permit is a token with an expiry in the store. While its guard lives it is renewed together with the locks
//! that are kept alive; the permit of a holder that dies expires. A caller that finds too few permits waits in the
//! semaphore's queue. Every release grants all free permits to the first live waiters, in one script. Each grant is
//! a claim, which its waiter confirms in the same way as an attempt at a lock does. So a caller never overtakes a
//! live waiter, and the round trips of one waiter do not delay the others.
//!
//! Invariants: never more permits than the stored number, unless it was lowered; a lost permit stays lost.
//!
//! Not guaranteed: a fence. Several callers hold permits at once, so a resource could not check an order.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Attempt, AttemptOutcome, Want};
use super::coordinator::Coordinator;
use super::failover::{Failover, quarantined};
use super::lease::{self, Lease};
use super::permit::SemaphorePermit;
use super::release::{Ending, end_in_background};
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL};
use crate::call::Call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::store::lock::QueueTiming;
use crate::store::permit::{HEAVIEST, MOST_PERMITS, PermitRequest, PermitStore, WhenTaken};

/// A semaphore with a name, or with a name and a key. [`Larder::semaphore`](crate::Larder::semaphore) makes it;
/// acquiring permits gives a [`SemaphorePermit`].
///
/// **The stored number decides.** The first use of a name stores the handle's number of permits, which is kept for
/// 30 days after the last use. A handle with another number uses the stored one, and a `Larder` logs that once for each
/// name.
/// [`set_permits`](Self::set_permits) changes the number while it is in use.
///
/// Waiters are served first come, first served, also when they want several permits: while a large request is first
/// in the queue, free permits may stay unused until there are enough for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
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
/// ```
#[derive(Clone)]
#[must_use = "a permit is acquired by acquire(), acquire_within() or try_acquire()"]
pub struct Semaphore {
    locks: Arc<Coordinator>,
    /// The kind of thing it is, for error messages.
    what: &'static str,
    /// The name as the caller wrote it.
    label: Arc<str>,
    /// The full name on the server.
    name: Arc<str>,
    permits: u64,
    ttl: Duration,
    max_hold: Duration,
    max_waiting: u64,
    failover: Failover,
}

impl Semaphore {
    pub(crate) fn new(locks: Arc<Coordinator>, label: &str, permits: u64) -> Self {
        let name = locks.context.keyspace.semaphore(label).as_str().into();
        Self::named(locks, "semaphore", label, name, permits)
    }

    /// Makes a semaphore from its full name on the server.
    pub(super) fn named(
        locks: Arc<Coordinator>,
        what: &'static str,
        label: &str,
        name: Arc<str>,
        permits: u64,
    ) -> Self {
        Self {
            locks,
            what,
            label: label.into(),
            name,
            permits,
            ttl: DEFAULT_TTL,
            max_hold: DEFAULT_MAX_HOLD,
            max_waiting: u64::MAX,
            failover: Failover::default(),
        }
    }

    /// Returns the semaphore of one key, with its own permits, queue and stored number.
    pub fn key(&self, key: impl CacheKey) -> Self {
        let name = self.locks.context.keyspace.keyed_semaphore(&self.label, key).as_str().into();
        Self { name, ..self.clone() }
    }

    /// Returns whether the name with this key is short enough for the store.
    #[cfg(feature = "tower")]
    pub(crate) fn takes(&self, key: &str) -> bool {
        let name = self.locks.context.keyspace.keyed_semaphore(&self.label, key);
        self.locks.context.limits.check_key(&name).is_ok()
    }

    /// Returns a random part of a span.
    #[cfg(feature = "tower")]
    pub(crate) fn jitter(&self, most: Duration) -> Duration {
        self.locks.context.random.part_of(most)
    }

    /// Sets the time to live of a permit: how long others wait after a holder's process dies. The permit is renewed
    /// while its guard lives. 10 ms to 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Limits how long a permit is renewed, counted from its grant. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Refuses a caller at once with `QueueFull` if this many callers already wait. Default: no limit.
    pub fn max_waiting(mut self, callers: u64) -> Self {
        self.max_waiting = callers;
        self
    }

    /// Refuses grants after a failover until every lease of the old master has expired: see
    /// [`Lock::quarantine`](super::Lock::quarantine).
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Acquires a permit and waits in the queue for as long as it takes.
    ///
    /// One round trip if a permit is free and the queue is empty. A call that waits makes two, and one more when it
    /// is granted a permit.
    ///
    /// # Errors
    ///
    /// A queued call rides out an outage of up to `response_timeout`; a new call gets the error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no permit and no place in the queue.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_many_within(1, Duration::MAX)
    }

    /// Acquires a permit and waits in the queue for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): no permit was free in time. Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        max_wait: Duration,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_many_within(1, max_wait)
    }

    /// Acquires `permits` permits at once and waits in the queue for as long as it takes. One guard holds them all.
    ///
    /// # Errors
    ///
    /// The number may also be lowered while this call waits: then it fails with `InvalidSetting`.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
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

    /// Acquires `permits` permits at once and waits in the queue for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): too few permits were free in time. Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_many_within(
        &self,
        permits: u64,
        max_wait: Duration,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.call_within(max_wait, self.take_within(permits, false, max_wait))
    }

    /// Acquires a permit if one is free now and the queue is empty. Returns `None` otherwise.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Too few free permits are `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<SemaphorePermit>>> + Send> {
        self.try_acquire_many(1)
    }

    /// Acquires `permits` permits if that many are free now and the queue is empty. Returns `None` otherwise.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Too few free permits are `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/semaphore_errors.md")]
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

    /// Returns the number of permits that are held over all processes, including those that were granted to waiters
    /// and are not confirmed yet.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
    pub fn in_use(&self) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.in_use, async move {
            self.check()?;
            self.locks.context.coordination()?.permits_in_use(&self.name).await
        })
    }

    /// Changes the stored number of permits. `version` is yours, and must increase: a number is ignored if its
    /// version is not higher than the stored one, so that the later of two deployments decides. Returns whether
    /// this number and version are now stored.
    ///
    /// Lowering the number revokes nothing: no permit is granted until enough are released. A waiter that wants
    /// more permits than the new number fails. The handle's own number does not change; it matters only while none
    /// is stored.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](ErrorKind::InvalidSetting): no permits, or a number or version of 2⁵³ or more.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have changed the number. It can be repeated.
    pub fn set_permits(
        &self,
        permits: u64,
        version: u64,
    ) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.set_permits, async move {
            self.check()?;
            check_number(permits)?;
            if version >= MOST_PERMITS {
                return Err(Error::invalid(format!("a version is below 2^53, not {version}")));
            }
            self.locks.context.coordination()?.set_permits(&self.name, permits, version).await
        })
    }

    fn check(&self) -> Result<()> {
        lease::check(self.ttl, self.failover)?;
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
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.acquire, work)
    }

    /// The call's own deadline is later than `max_wait`, so that a lack of permits and an outage give different
    /// errors.
    pub(super) fn call_within<T, F>(&self, max_wait: Duration, work: F) -> Call<'_, F>
    where
        F: Future<Output = Result<T>>,
    {
        let longest = max_wait.saturating_add(2 * self.locks.context.limits.response_timeout);
        Call::new(longest, &self.locks.meter.acquire, work)
    }

    pub(super) async fn take_within(
        &self,
        permits: u64,
        fenced: bool,
        max_wait: Duration,
    ) -> Result<SemaphorePermit> {
        let end = (max_wait != Duration::MAX).then(|| self.locks.context.clock.now().after(max_wait));
        self.take(permits, fenced, Some(end)).await?.ok_or_else(|| {
            let Self { what, label, .. } = self;
            let message = format!("the {what} had too few free permits for {max_wait:?}");
            let named = format!("the {what} {label:?} had too few free permits for {max_wait:?}");
            Error::named(ErrorKind::LockHeld, message, named)
        })
    }

    /// The full name on the server.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the permits of `old` by `permits` permits in one step; `None` if they were lost.
    pub(super) async fn exchange(
        &self,
        mut old: SemaphorePermit,
        permits: u64,
    ) -> Result<Option<SemaphorePermit>> {
        let locks = &self.locks;
        let (held, other) = (old.lease().clone(), locks.context.tokens.of_weight(permits));
        let sent = locks.context.clock.now();
        if !held.asks(sent, self.ttl) {
            return Ok(None);
        }
        // Stop the renewals first: one that is sent after the exchange would not find the token.
        let ended = old.end_renewals();
        // From here on, `undo` gives back what the request may have acquired if it fails or is dropped.
        let mut undo = Exchange { semaphore: self, token: other, armed: true };
        let call = Call::new(locks.context.limits.response_timeout, &locks.meter.acquire, async {
            locks.context.coordination()?.exchange_permits(&self.name, held.token, other, self.ttl).await
        });
        if !call.await? {
            undo.armed = false;
            // What was over by the local clock is counted when `old` is dropped.
            if ended.may_be_held && ended.was_valid {
                locks.meter.lost();
            }
            return Ok(None);
        }
        old.exchanged();
        let lease =
            Lease::of_permit(&locks.context.clock, self.name.clone(), other, held.fence, sent, self.ttl);
        if !lease.is_valid() {
            return Ok(None);
        }
        undo.armed = false;
        Ok(Some(SemaphorePermit::new(&self.locks, lease, self.ttl, self.max_hold)))
    }

    /// Acquires permits at once (`None`), or waits for them (`Some`), until an end if there is one.
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
        let want = Want::Permits { label: self.label.clone(), weight: permits, request };
        let outcome = match wait {
            Some(end) => Attempt::within(&self.locks, &self.name, want, end).await?,
            None => Attempt::once(&self.locks, &self.name, want).await?,
        };
        let label = &self.label;
        match outcome {
            AttemptOutcome::Granted(lease) => {
                Ok(Some(SemaphorePermit::new(&self.locks, lease, self.ttl, self.max_hold)))
            }
            AttemptOutcome::Held => Ok(None),
            AttemptOutcome::Quarantined(until) => Err(quarantined(&self.name, until)),
            AttemptOutcome::QueueFull => {
                let most = self.max_waiting;
                let message = format!("{most} callers or more wait for the semaphore already");
                let named = format!("{most} callers or more wait for the semaphore {label:?} already");
                Err(Error::named(ErrorKind::QueueFull, message, named))
            }
            AttemptOutcome::TooHeavy(stored) => {
                let rest = format!("has {stored} permits: {permits} are never free");
                let named = format!("the semaphore {label:?} {rest}");
                Err(Error::named(ErrorKind::InvalidSetting, format!("the semaphore {rest}"), named))
            }
        }
    }
}

/// An exchange that the server may have carried out.
struct Exchange<'a> {
    semaphore: &'a Semaphore,
    token: u64,
    armed: bool,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.armed {
            let Semaphore { locks, name, ttl, .. } = self.semaphore;
            // The token is remembered as cancelled, so that an exchange that arrives later acquires nothing
            // although the old token is still held.
            let ending = Ending::GivePermit(Some(QueueTiming::REMEMBERED));
            let tried = (*ttl).max(QueueTiming::REMEMBERED);
            end_in_background(&locks.context, name.clone(), self.token, tried, ending);
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
