//! Waiting for permits without polling the store.
//!
//! Callers of one key queue in their process; see [`WaitQueue`]. If nothing is free, the store books the earliest turn:
//! it charges the permits at the time at which the cost will fit, so later requests are queued behind it. The caller
//! sleeps until then. A caller that wakes up too late, or whose answer arrived too late, gives its turn back and asks
//! again. So does every caller when the key is reset or the quotas change. A dropped caller gives its turn back.

use std::time::Duration;

use tokio::sync::oneshot;

use super::RateLimiter;
use super::decision::Decision;
use super::wait_queue::{QueuedCaller, WaitOutcome, WaitQueue};
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;

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
    /// `response_timeout` limits each request, not the wait.
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
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
    /// available in time; it is returned as soon as that is known. A turn that comes after `within`, because the
    /// store was slow to answer or this program was stopped, is given back and the call refused. `Duration::ZERO`
    /// sends one request and does not wait for a turn.
    ///
    /// A turn can be booked as far ahead as the shortest window of the quotas, GCRA aside. A turn that is further away
    /// is asked for again when it is that near; other processes may have booked before it by then.
    ///
    /// A turn must be used within a sixtieth of the shortest window (of an override, the shortest window of all its
    /// quotas), and at most 100 ms, by a clock that keeps running while the machine sleeps; a caller that is later asks
    /// again. The [remaining](Decision::remaining) permits of a turn's decision are those at its booking: zero.
    ///
    /// # Errors
    ///
    /// `response_timeout` limits each request, not the wait.
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no permits, or more than the limit, which could never be
    ///   allowed.
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
        let batched = self.inner.local.decide(name.as_bytes(), cost, &plan, &self.inner.context.clock);
        if let Some(decision) = batched.filter(Decision::is_allowed) {
            return Ok(decision);
        }
        let queue = self.inner.local.queue(name.as_bytes());
        let ticket = queue.ticket();
        loop {
            let (answer, answered) = oneshot::channel();
            let (limiter, at_once, refused_until) = (self.clone(), within.is_zero(), None);
            queue.join(QueuedCaller { ticket, cost, deadline, at_once, refused_until, limiter, answer });
            // Waits for a turn or a decision. If this future is dropped, `_leave` wakes the booking task, which
            // removes the caller.
            let _leave = Leave(&queue);
            match queue.answer(name, answered, &self.inner.context).await? {
                None => {}
                Some(WaitOutcome::Decided(decision)) => return Ok(decision),
                Some(WaitOutcome::Turn(turn)) => {
                    let restarted = queue.restarted(turn.restarts);
                    if let Some(decision) = turn.take(restarted).await {
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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::Quota;

    #[tokio::test(start_paused = true)]
    async fn a_far_turn_is_booked_as_soon_as_it_comes_into_reach() {
        let (second, minute, hour) =
            (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600));
        // By a log, and by buckets. With one quota, the first caller's turn is booked and the second's is far. With a
        // second, shorter quota, the first caller's is far.
        for limit in [1, 30] {
            for (quotas, callers) in [
                (vec![Quota::new(limit, hour)], 2),
                (vec![Quota::new(limit, hour), Quota::new(limit, minute)], 1),
                // Paces, and does not bound how far ahead a turn is booked.
                (vec![Quota::new(limit, hour), Quota::new(limit, second).gcra(limit)], 2),
            ] {
                let (larder, world) = crate::testing::world().build();
                let limiter = larder.rate_limiter("api", quotas.clone()).unwrap();
                let other = world.process().rate_limiter("api", quotas.clone()).unwrap();
                assert!(limiter.check_n("a", limit).await.unwrap().is_allowed());
                let waiting: Vec<_> = (0..callers)
                    .map(|_| {
                        let limiter = limiter.clone();
                        tokio::spawn(async move { limiter.acquire_n("a", limit, 10 * hour).await.unwrap() })
                    })
                    .collect();
                world.advance(second).await;
                // The other process sees the turns that are booked. Of the last caller nothing is booked yet.
                let far = other.check_n("a", limit).await.unwrap().retry_after().unwrap();
                assert!(far > hour - minute, "{quotas:?}: {far:?}");
                world.advance(far - minute / 2).await;
                let behind = other.check_n("a", limit).await.unwrap();
                assert!(!behind.is_allowed(), "{quotas:?}");
                let behind = behind.retry_after().unwrap();
                assert!(behind > minute, "{quotas:?}: no turn is booked, {behind:?}");
                world.advance(minute).await;
                for one in waiting {
                    assert!(one.is_finished(), "{quotas:?}");
                    assert!(one.await.unwrap().is_allowed(), "{quotas:?}");
                }
            }
        }
    }
}
