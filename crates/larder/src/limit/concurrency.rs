//! How many may run at once, over all processes: permits that free themselves when their holder dies.
//!
//! A permit is held for a time that its holder renews; a holder that dies, hangs or is cut off loses it at the end of
//! that time. A permit counts its time from before the request that was answered left, on a clock that goes on during
//! suspend, and is lost here no later than there. After that somebody else may run beside its holder, who is told.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::meter::PermitMeter;
use crate::call::Call;
use crate::clock::Tick;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::store::limit::{Entered, LimitStore};

const DEFAULT_TTL: Duration = Duration::from_secs(30);
const SHORTEST_TTL: Duration = Duration::from_millis(100);
const LONGEST_TTL: Duration = Duration::from_secs(366 * 24 * 3600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// At most so many at once, over all processes. Made by
/// [`Larder::concurrency_limiter`](crate::Larder::concurrency_limiter); cheap to clone.
///
/// Each key has permits of its own. A permit is a lease (Gray and Cheriton, 1989): it is held for a [time](Self::ttl),
/// renewed meanwhile, and free again when it is released, or when its time is over because its holder died. No more than
/// the permits are held at once, as long as each holder renews in time: one that could not is [told](Permit::lost), and may
/// run beside the next. A key is a sorted set with one entry a holder, and expires with the last of them.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let exports = larder.concurrency_limiter("exports", 2)?;
/// let first = exports.try_acquire("ann").await?.expect("nobody else exports");
/// let second = exports.try_acquire("ann").await?;
/// assert!(second.is_some() && exports.try_acquire("ann").await?.is_none());
/// first.release().await?;
/// assert!(exports.try_acquire("ann").await?.is_some());
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct ConcurrencyLimiter {
    context: Arc<Context>,
    shared: Arc<Shared>,
    name: String,
    permits: u64,
    ttl: Duration,
}

struct Shared {
    meter: PermitMeter,
    /// Who waits for permits of which name.
    queues: Mutex<HashMap<String, Weak<Queue>>>,
}

/// Those of this process that wait for a permit of one name.
#[derive(Default)]
struct Queue {
    /// One asks at a time.
    turn: tokio::sync::Mutex<()>,
    /// A permit was freed here.
    freed: Notify,
}

impl Shared {
    fn queue(&self, name: &str) -> Arc<Queue> {
        let mut queues = self.queues();
        if let Some(queue) = queues.get(name).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::default();
        queues.insert(name.to_owned(), Arc::downgrade(&queue));
        queue
    }

    /// Wakes who waits longest.
    fn freed(&self, name: &str) {
        if let Some(queue) = self.queues().get(name).and_then(Weak::upgrade) {
            queue.freed.notify_one();
        }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<String, Weak<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConcurrencyLimiter {
    pub(crate) fn new(context: Arc<Context>, name: &str, permits: u64) -> Result<Self> {
        if !(1..=100_000).contains(&permits) {
            return Err(Error::invalid(format!("a concurrency limit is from 1 to 100000, not {permits}")));
        }
        let whole = context.keyspace.permits(name, "")?;
        let make = || Shared { meter: PermitMeter::new(name), queues: Mutex::default() };
        let shared = context.shared_of_limiter(&whole, make)?;
        Ok(Self { context, shared, name: name.to_owned(), permits, ttl: DEFAULT_TTL })
    }

    /// After how long the permit of a holder that died is free again. Default: 30 s. While a holder lives,
    /// its permit is renewed three times in that span.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for less than 100 ms or more than 366 days.
    pub fn ttl(mut self, ttl: Duration) -> Result<Self> {
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
            return Err(Error::invalid(format!(
                "a permit is held for {SHORTEST_TTL:?} to 366 days, not {ttl:?}"
            )));
        }
        self.ttl = ttl;
        Ok(self)
    }

    /// A permit, if one is free. One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// What a dropped call may have taken is given back in the background, and else free again when its time is over.
    pub fn try_acquire(
        &self,
        key: impl CacheKey,
    ) -> Call<'_, impl Future<Output = Result<Option<Permit>>> + Send> {
        let name = self.record(key);
        Call::new(
            self.timeout(),
            &self.shared.meter.acquire,
            async move { Ok(self.enter(&name?).await?.ok()) },
        )
    }

    /// A permit, waited for `within` so long; `None` where none came free in time.
    ///
    /// Each caller asks once. Of those that wait then one a key and process asks at a time, in their order: at once when a
    /// permit is freed here, and else with growing pauses up to half a second.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. Each has `response_timeout`; the waiting has not.
    ///
    /// # Cancel safety
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub async fn acquire(&self, key: impl CacheKey + Send, within: Duration) -> Result<Option<Permit>> {
        let (started, name) = (Instant::now(), self.record(key));
        let waited = match name {
            Ok(name) => self.wait_within(&name, within).await,
            Err(error) => Err(error),
        };
        self.shared.meter.acquire.finished(started.elapsed(), waited.as_ref().err());
        waited
    }

    /// How many permits of a key are held, over all processes. One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn in_use(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.shared.meter.in_use, async move {
            self.context.coordination()?.inside(&name?).await
        })
    }

    async fn wait_within(&self, name: &str, within: Duration) -> Result<Option<Permit>> {
        let started = Instant::now();
        if let Ok(permit) = self.enter_in_time(name).await? {
            return Ok(Some(permit));
        }
        let left = within.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        tokio::time::timeout(left, self.wait(name)).await.map_or(Ok(None), |got| got.map(Some))
    }

    async fn enter_in_time(&self, name: &str) -> Result<Result<Permit, Duration>> {
        let asked = tokio::time::timeout(self.timeout(), self.enter(name)).await;
        asked.map_err(|_| Error::timed_out(self.timeout()))?
    }

    async fn wait(&self, name: &str) -> Result<Permit> {
        let queue = self.shared.queue(name);
        let _turn = queue.turn.lock().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let freed = queue.freed.notified();
            match self.enter_in_time(name).await? {
                Ok(permit) => return Ok(permit),
                Err(first_ends) => {
                    let _ = tokio::time::timeout(pause.min(first_ends.max(FIRST_PAUSE)), freed).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A permit, or how long the first held one lasts.
    async fn enter(&self, name: &str) -> Result<Result<Permit, Duration>> {
        let (token, sent) = (self.context.random.nonce(), self.context.clock.now());
        // Whatever becomes of the request from here on, the permit that it may have taken is given back.
        let mut guard = Taken { limiter: self, name, token, armed: true };
        let entered = self.context.coordination()?.enter(name, self.permits, token, self.ttl).await;
        guard.armed = entered.as_ref().is_err_and(Error::is_indeterminate);
        match entered? {
            Entered::Full { first_ends } => Ok(Err(first_ends)),
            Entered::Granted { .. } => {
                let held = Arc::new(Holding {
                    name: name.to_owned(),
                    token,
                    deadline: Mutex::new(sent.after(lasting(self.ttl))),
                    ended: Notify::new(),
                    lost: Notify::new(),
                });
                let (context, ttl, renewed) = (self.context.clone(), self.ttl, held.clone());
                self.context.timers.spawn(async move {
                    tokio::select! {
                        () = renewed.ended.notified() => {}
                        () = renew(&context, &renewed, ttl) => {}
                    }
                });
                Ok(Ok(Permit { limiter: self.clone(), held, freed: false }))
            }
        }
    }

    fn record(&self, key: impl CacheKey) -> Result<String> {
        let name = self.context.keyspace.permits(&self.name, key)?;
        self.context.limits.check_key(&name)?;
        Ok(name)
    }

    fn timeout(&self) -> Duration {
        self.context.limits.response_timeout
    }
}

/// How long a permit may be relied on here: clocks of two machines differ in rate by far less than a thousandth.
fn lasting(ttl: Duration) -> Duration {
    ttl - ttl / 1000
}

/// Renews until the permit is lost, and returns then.
async fn renew(context: &Arc<Context>, held: &Holding, ttl: Duration) {
    let mut pause = ttl / 3;
    loop {
        let left = held.deadline().since(context.clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(pause.min(left)).await;
        let sent = context.clock.now();
        let Ok(store) = context.coordination() else { return };
        let request = store.renew(&held.name, held.token, ttl);
        match tokio::time::timeout(context.limits.response_timeout, request).await {
            Ok(Ok(true)) if held.renewed(context.clock.now(), sent.after(lasting(ttl))) => pause = ttl / 3,
            // Renewed too late: the holder may have seen already that it lost the permit, and lost it stays.
            Ok(Ok(true)) => {
                held.lost.notify_waiters();
                context.leave_in_background(held.name.clone(), held.token, ttl);
                return;
            }
            Ok(Ok(false)) => {
                *held.deadline.lock().unwrap_or_else(PoisonError::into_inner) = sent;
                held.lost.notify_waiters();
                return;
            }
            // The store is away: again soon, for as long as the permit lasts.
            Ok(Err(_)) | Err(_) => pause = ttl / 20,
        }
    }
}

struct Taken<'a> {
    limiter: &'a ConcurrencyLimiter,
    name: &'a str,
    token: u64,
    armed: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.limiter.context.leave_in_background(self.name.to_owned(), self.token, self.limiter.ttl);
        }
    }
}

struct Holding {
    name: String,
    token: u64,
    /// Until when it is held, whoever renews it or no longer does.
    deadline: Mutex<Tick>,
    /// Given up: nobody need renew it.
    ended: Notify,
    /// Known to be lost before its time.
    lost: Notify,
}

impl Holding {
    /// Moves the end of its time, unless that has come.
    fn renewed(&self, now: Tick, end: Tick) -> bool {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        let in_time = now < *deadline;
        if in_time {
            *deadline = end;
        }
        in_time
    }

    fn deadline(&self) -> Tick {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be one of those that run. Freed by [`release`](Self::release), or in the background when dropped.
#[must_use = "a permit that is dropped is free again"]
pub struct Permit {
    limiter: ConcurrencyLimiter,
    held: Arc<Holding>,
    freed: bool,
}

impl Permit {
    /// Whether it was lost: it could not be renewed in time, and somebody else may run in its place.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.left().is_zero()
    }

    /// Waits until it is lost; for ever while it is held.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn lost(&self) {
        loop {
            let lost = self.held.lost.notified();
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // Timers stand still while the machine sleeps, so it looks again soon after that.
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), lost).await;
        }
    }

    fn left(&self) -> Duration {
        self.held.deadline().since(self.limiter.context.clock.now())
    }

    /// Frees it; whether it was still held. One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. It is then freed in the background, or at the end of its time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call frees it in the background.
    pub async fn release(mut self) -> Result<bool> {
        let limiter = self.limiter.clone();
        let work = async {
            let left = limiter.context.coordination()?.leave(&self.held.name, self.held.token).await?;
            self.freed = true;
            Ok(left)
        };
        Call::new(limiter.timeout(), &limiter.shared.meter.release, work).await
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.ended.notify_one();
        let limiter = &self.limiter;
        if !self.freed {
            limiter.context.leave_in_background(self.held.name.clone(), self.held.token, limiter.ttl);
        }
        limiter.shared.freed(&self.held.name);
    }
}

impl fmt::Debug for ConcurrencyLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimiter")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_permit_that_was_lost_is_not_renewed() {
        let micros = Arc::new(AtomicU64::new(0));
        let clock = Clock::Manual(micros.clone());
        let later = |span| clock.now().after(Duration::from_micros(span));
        let held = Holding {
            name: String::new(),
            token: 1,
            deadline: Mutex::new(later(10)),
            ended: Notify::new(),
            lost: Notify::new(),
        };
        micros.store(9, Ordering::Release);
        assert!(held.renewed(clock.now(), later(10)));
        micros.store(19, Ordering::Release);
        assert!(!held.renewed(clock.now(), later(10)));
        assert!(held.deadline() <= clock.now());
    }
}
