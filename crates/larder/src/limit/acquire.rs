//! Waiting for permits, without asking again and again.
//!
//! Callers of one key queue in their process; see [`WaitQueue`]. Where nothing is free, the store books the earliest turn:
//! it charges the time at which the cost will fit, so that later requests are behind it. The caller sleeps until then. A
//! caller that wakes up too late gives its turn back and asks again, and so does every caller when the key is reset or the
//! quotas change. A caller that goes away gives its turn back.

use std::time::Duration;

use tokio::sync::oneshot;

use super::RateLimiter;
use super::ask::drift;
use super::decision::{DecidedBy, Decision};
use super::quota::Plan;
use super::wait_queue::{QueuedCaller, WaitOutcome, WaitQueue};
use crate::clock::Tick;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::Charged;

/// How late a turn may be used at most.
const LATEST: Duration = Duration::from_millis(100);
/// Timers are this coarse: where the window is so short that a sixtieth of it is less, a turn may be used so late.
const TIMER: Duration = Duration::from_millis(2);

impl RateLimiter {
    /// Waits for a permit, `within` so long, in the order of the callers that wait.
    ///
    /// As [`acquire_n`](Self::acquire_n) with a cost of one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("mails", larder::Quota::new(1, Duration::from_millis(20)))?;
    /// for _ in 0..3 {
    ///     assert!(limiter.acquire("out", Duration::from_secs(5)).await?.is_allowed());
    /// }
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check). Each request has `response_timeout`; the waiting has not.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_n`](Self::acquire_n).
    pub async fn acquire(&self, key: impl CacheKey + Send, within: Duration) -> Result<Decision> {
        self.acquire_n(key, 1, within).await
    }

    /// Waits for permits for something that costs more than one, `within` so long, in the order of the callers that wait.
    ///
    /// The store books a turn and the caller sleeps until then. Callers of one key that wait at the same time share a
    /// request, so each costs one round trip at most. A decision that is not allowed means that no turn comes up in
    /// time; it is given as soon as that is known. A turn is used at most a sixtieth of the shortest window late, 100 ms
    /// at most, by a clock that goes on while the machine sleeps; a caller that is later than that asks again. What the
    /// decision of a turn says to [remain](Decision::remaining) is as of its booking: nothing.
    ///
    /// # Errors
    ///
    /// As [`check_n`](Self::check_n). Each request has `response_timeout`; the waiting has not.
    ///
    /// # Cancel safety
    ///
    /// A dropped call gives its turn back, in the background.
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
            // Its turn has come, or what is known instead. A caller that is dropped here leaves the queue.
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

/// Tells the task that books when a caller has left.
struct Leave<'a>(&'a WaitQueue);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Permits that a caller may use from a time on. Given back unless they are taken.
pub(super) struct BookedTurn {
    pub(super) limiter: RateLimiter,
    pub(super) name: Name,
    pub(super) plan: std::sync::Arc<Plan>,
    /// What was charged, as far as it is this caller's.
    pub(super) charged: Charged,
    pub(super) answered: Tick,
    /// How often the queue had been restarted when the turn was asked for.
    pub(super) restarts: u64,
    pub(super) taken: bool,
}

impl BookedTurn {
    /// Sleeps until the turn has come. Returns nothing, and has given the turn back, where the caller must ask again: it
    /// woke up too late, the key was reset or the quotas changed.
    async fn take(mut self, queue: &WaitQueue) -> Option<Decision> {
        let span = Duration::from_micros(self.charged.wait);
        // The span is counted from the arrival of the answer, which is late; a clock that is fast must not make it early.
        let due = self.answered.after(span + drift(span));
        if !span.is_zero() {
            tokio::select! {
                () = queue.restarted(self.restarts) => return self.give_back().await,
                () = tokio::time::sleep(due.since(self.limiter.now())) => {}
            }
        }
        // A turn that was free at once may be late, too: the task that books goes on while the caller's runtime is blocked.
        if self.limiter.now().since(due) > tolerance(&self.plan) {
            return self.give_back().await;
        }
        self.taken = true;
        let slept = u64::try_from(self.limiter.now().since(self.answered).as_micros()).unwrap_or(u64::MAX);
        let charged = Charged { reset: self.charged.reset.saturating_sub(slept), ..self.charged };
        Some(Decision::of(&self.name, charged, &self.plan, DecidedBy::Store))
    }

    /// Gives the turn back and waits until that is done, so that the caller's next request does not find it charged.
    async fn give_back(mut self) -> Option<Decision> {
        self.taken = true;
        let given = self.limiter.give_back(&self.name, self.charged.stamp, self.charged.granted);
        if let Ok(Err(error)) = tokio::time::timeout(self.limiter.timeout(), given).await {
            tracing::debug!(target: crate::telemetry::target::LIMIT, %error, "a turn could not be given back and counts until its window has passed");
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
