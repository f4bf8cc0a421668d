//! Waiting for a turn, without asking again and again.
//!
//! Where nothing is free, the store books the earliest turn: it charges the time at which the cost will fit, so that
//! whoever comes later is behind. The waiter sleeps until then. Within a process one caller a key asks at a time, in the
//! order in which they came. A turn that lies further ahead than a record can book (a window) is asked for again when
//! it is nearer. A waiter that goes away gives its turn back.

use std::time::Duration;

use super::RateLimiter;
use super::ask::drift;
use super::decision::{DecidedBy, Decision};
use crate::clock::Tick;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{Charge, Charged, Stamp, Take};

impl RateLimiter {
    /// Waits for a permit, `within` so long, in the order of those who wait.
    ///
    /// The store books a turn, which is one round trip, and the caller sleeps until then. A decision that is not allowed
    /// means that no turn came up in time; it is given as soon as that is known. One permit. What the decision of a turn
    /// says to [remain](Decision::remaining) is as of its booking: nothing.
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
    /// A dropped call gives its turn back, in the background. What was being asked at that moment may have been charged.
    pub async fn acquire(&self, key: impl CacheKey + Send, within: Duration) -> Result<Decision> {
        let started = std::time::Instant::now();
        let name = self.record(key);
        let decision = match name {
            Ok(name) => self.wait(&name, within).await,
            Err(error) => Err(error),
        };
        self.inner.local.meter.acquire.finished(started.elapsed(), decision.as_ref().err());
        decision.map(|decision| self.counted(decision))
    }

    async fn wait(&self, name: &Name, within: Duration) -> Result<Decision> {
        let deadline = self.now().after(within);
        let known = self.inner.local.key(name.as_bytes());
        // None where others wait for as long as this one could: then it only asks, and does not book.
        let turn = tokio::time::timeout(within, known.turn.clone().lock_owned()).await.ok();
        loop {
            let (plan, now) = (self.plan(), self.now());
            let leased = self.inner.local.decide(name.as_bytes(), 1, &plan, &self.inner.context.clock);
            if let Some(decision) = leased.filter(Decision::is_allowed) {
                return Ok(decision);
            }
            let asked = (now, self.inner.local.changes());
            let patience = if turn.is_some() { left(deadline, now) } else { 0 };
            let charge = Charge { terms: &plan.terms, take: Take::All, cost: 1, ahead: 0, patience };
            let charged = match self.send_in_time(name, charge).await {
                Ok(charged) => charged,
                Err(error) => return self.without_store(name, &plan, Take::All, 1, error),
            };
            let span = Duration::from_micros(charged.wait);
            if charged.granted > 0 {
                drop(turn);
                let booked = self.now();
                self.sleep_until_turn(name, &charged, span).await;
                let slept = u64::try_from(self.now().since(booked).as_micros()).unwrap_or(u64::MAX);
                let reset = charged.reset.saturating_sub(slept);
                return Ok(Decision::of(name, Charged { reset, ..charged }, &plan, DecidedBy::Store));
            }
            if turn.is_none() || charged.wait > left(deadline, self.now()) {
                return Ok(self.decided(name, &plan, Take::All, 1, charged, asked));
            }
            tokio::time::sleep(span).await;
        }
    }

    async fn sleep_until_turn(&self, name: &Name, charged: &Charged, span: Duration) {
        if span.is_zero() {
            return;
        }
        let mut turn = Turn { limiter: self, name, stamp: charged.stamp, taken: false };
        // The span is counted from the arrival of the answer, which is late; a clock that is fast must not make it early.
        tokio::time::sleep(span + drift(span)).await;
        turn.taken = true;
    }
}

/// A turn that was booked and is given back unless it is taken.
struct Turn<'a> {
    limiter: &'a RateLimiter,
    name: &'a Name,
    stamp: Stamp,
    taken: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.taken {
            let plan = self.limiter.plan();
            self.limiter.give_back_later(self.name, &plan, self.stamp, 1);
        }
    }
}

fn left(deadline: Tick, now: Tick) -> u64 {
    u64::try_from(deadline.since(now).as_micros()).unwrap_or(u64::MAX).min(1 << 50)
}
