//! Waiting for permits without polling the store.
//!
//! Callers of one key queue in their process; see [`WaitQueue`]. If nothing is free, the store books the earliest turn:
//! it charges the permits at the time at which the cost will fit, so later requests are queued behind it. The caller
//! sleeps until then. A caller that wakes up too late, or whose answer arrived too late, gives its turn back and asks
//! again. So does every caller when the key is reset or the quotas change. A dropped caller gives its turn back.

use std::time::Duration;

use tokio::sync::oneshot;

use super::RateLimiter;
use super::decision::{DecidedBy, Decision};
use super::quota::Plan;
use super::request::drift;
use super::wait_queue::{QueuedCaller, WaitOutcome, WaitQueue};
use crate::clock::Tick;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{Charged, LimitStore};

/// The longest delay after which a turn may still be used.
const LATEST: Duration = Duration::from_millis(100);
/// The resolution of timers, and the delay that is always accepted, also for windows so short that a sixtieth is
/// less.
const TIMER: Duration = Duration::from_millis(2);

impl RateLimiter {
    /// Waits for a permit for at most `within`, in the order of the waiting callers.
    ///
    /// As [`acquire_n`](Self::acquire_n) with a cost of one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("mails", larder::Quota::new(1, Duration::from_millis(20)))?;
    /// for _ in 0..3 {
    ///     assert!(limiter.acquire("out", Duration::from_secs(5)).await?.is_allowed());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check). `response_timeout` limits each request, not the wait.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_n`](Self::acquire_n).
    pub async fn acquire(&self, key: impl CacheKey + Send, within: Duration) -> Result<Decision> {
        self.acquire_n(key, 1, within).await
    }

    /// Waits for `cost` permits for at most `within`, in the order of the waiting callers.
    ///
    /// The store books a turn and the caller sleeps until then. Callers of one key that wait at the same time share
    /// requests, so each costs at most one round trip. A decision that is not allowed means that no turn is
    /// available in time; it is returned as soon as that is known.
    ///
    /// A turn must be used within a sixtieth of the shortest window, and at most 100 ms, by a clock that keeps
    /// running while the machine sleeps; a caller that is later asks again. The [remaining](Decision::remaining)
    /// permits of a turn's decision are those at its booking: zero.
    ///
    /// # Errors
    ///
    /// As [`check_n`](Self::check_n). `response_timeout` limits each request, not the wait.
    ///
    /// # Cancel safety
    ///
    /// A dropped call gives its turn back in the background.
    pub async fn acquire_n(
        &self,
        key: impl CacheKey + Send,
        cost: u64,
        within: Duration,
    ) -> Result<Decision> {
        let started = std::time::Instant::now();
        let name = self.record(key);
        let decision = match name {
            Ok(name) => self.wait(&name, cost, within).await,
            Err(error) => Err(error),
        };
        self.inner.local.meter.acquire.finished(started.elapsed(), decision.as_ref().err());
        decision.map(|decision| self.counted(decision))
    }

    async fn wait(&self, name: &Name, cost: u64, within: Duration) -> Result<Decision> {
        let (deadline, plan) = (self.now().after(within), self.plan_for(name)?);
        plan.check_some(cost)?;
        let leased = self.inner.local.decide(name.as_bytes(), cost, &plan, &self.inner.context.clock);
        if let Some(decision) = leased.filter(Decision::is_allowed) {
            return Ok(decision);
        }
        let queue = self.inner.local.queue(name.as_bytes());
        let ticket = queue.ticket();
        loop {
            let (answer, answered) = oneshot::channel();
            queue.join(QueuedCaller { ticket, cost, deadline, limiter: self.clone(), answer });
            // Waits for a turn or a decision. If this future is dropped, `_leave` wakes the booking task, which
            // removes the caller.
            let _leave = Leave(&queue);
            match queue.answer(name, answered, &self.inner.context).await? {
                None => {}
                Some(WaitOutcome::Decided(decision)) => return Ok(decision),
                Some(WaitOutcome::Turn(turn)) => {
                    if let Some(decision) = turn.take(&queue).await {
                        return Ok(decision);
                    }
                }
            }
        }
    }
}

/// Wakes the booking task when a caller has left.
struct Leave<'a>(&'a WaitQueue);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Permits that a caller may use from a given time. Given back unless they are taken.
pub(super) struct BookedTurn {
    pub(super) limiter: RateLimiter,
    pub(super) name: Name,
    pub(super) plan: std::sync::Arc<Plan>,
    /// The charge, as far as it belongs to this caller.
    pub(super) charged: Charged,
    /// When the request left, and when its answer came.
    pub(super) sent: Tick,
    pub(super) answered: Tick,
    /// The queue's restart count when the turn was requested.
    pub(super) restarts: u64,
    pub(super) taken: bool,
}

impl BookedTurn {
    /// Sleeps until the turn. Returns `None`, after giving the turn back, if the caller must ask again because it
    /// woke up too late, the key was reset or the quotas changed.
    async fn take(mut self, queue: &WaitQueue) -> Option<Decision> {
        let span = Duration::from_micros(self.charged.wait);
        // Count from the arrival of the reply, which is later than the booking. `drift` covers a local clock that
        // is fast.
        let due = self.answered.after(span + drift(span));
        let latest = self.latest(due);
        if due > latest {
            return self.give_back().await;
        }
        if !span.is_zero() {
            tokio::select! {
                () = queue.restarted(self.restarts) => return self.give_back().await,
                () = tokio::time::sleep(due.since(self.limiter.now())) => {}
            }
        }
        // A turn that was free at once may also be late: the task that books it runs even while this caller's runtime
        // is blocked.
        if self.limiter.now() > latest {
            return self.give_back().await;
        }
        self.taken = true;
        let slept = u64::try_from(self.limiter.now().since(self.answered).as_micros()).unwrap_or(u64::MAX);
        let charged = Charged { reset: self.charged.reset.saturating_sub(slept), ..self.charged };
        Some(Decision::of(&self.name, charged, &self.plan, DecidedBy::Store))
    }

    /// Returns the last moment at which the turn may be used. `due` is the turn's time, counted from the arrival of the
    /// answer. If the answer took long, it may have been late, so the store's clock limits the time, too. A permit that
    /// was free at once may be used when its answer arrives, however long that took.
    fn latest(&self, due: Tick) -> Tick {
        let late = tolerance(&self.plan);
        let by_answer = due.after(late);
        if self.charged.wait == 0 || self.answered.since(self.sent) <= late {
            return by_answer;
        }
        let store = self.limiter.inner.context.coordination();
        let known = store.ok().and_then(|store| store.local_time(&self.name, self.charged.stamp.when));
        known.map_or(by_answer, |time| time.after(late).min(by_answer))
    }

    /// Gives the turn back and waits until that is done, so that the caller's next request does not find it charged.
    async fn give_back(mut self) -> Option<Decision> {
        self.taken = true;
        let given = self.limiter.give_back(&self.name, self.charged.stamp, self.charged.granted);
        if let Ok(Err(error)) = tokio::time::timeout(self.limiter.timeout(), given).await {
            tracing::debug!(target: crate::telemetry::target::LIMIT, %error, "a booked turn could not be given back and counts until its window has passed");
        }
        None
    }
}

impl Drop for BookedTurn {
    fn drop(&mut self) {
        if !self.taken {
            let Self { limiter, name, plan, charged, .. } = &*self;
            limiter.give_back_later(name, plan, charged.stamp, charged.granted);
        }
    }
}

fn tolerance(plan: &Plan) -> Duration {
    (plan.shortest / 60).min(LATEST).max(TIMER)
}
