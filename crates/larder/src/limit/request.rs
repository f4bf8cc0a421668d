//! How one decision is made: locally if possible, otherwise by the store, or by the policy in an outage.
//!
//! A request that fails or exceeds `response_timeout` opens the [breaker](super::breaker) of its domain. While that is
//! open, decisions are made locally at once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::Plan;
use super::decision::{DecidedBy, Decision};
use super::local::Local;
use super::{LimiterShared, RateLimiter};
use crate::call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, Charged, LimitStore};

impl RateLimiter {
    pub(super) async fn decide(&self, name: Name, cost: u64) -> Result<Decision> {
        if let Some(decision) = self.at_once(self.inner.local.key_of(name.as_bytes()), cost) {
            return Ok(decision);
        }
        // Boxed: the fast path above must not carry a future of this size.
        Box::pin(self.decide_there(&name, cost)).await
    }

    /// Decides without a request, and without reading the quotas, if possible. `key` is the key's text alone.
    #[inline]
    pub(super) fn at_once(&self, key: &[u8], cost: u64) -> Option<Decision> {
        let LimiterShared { local, context, plan_id, by_key, .. } = &*self.inner;
        let plan = match by_key {
            None => plan_id.load(Ordering::Acquire),
            Some(_) => self.plan_for_key(std::str::from_utf8(key).ok()?).ok()?.id,
        };
        let decision = local.decide_key(key, (cost, cost), plan, &context.clock)?;
        local.meter.decided(decision.granted > 0, decision.decided_by);
        Some(decision)
    }

    /// Decides a request that could not be decided locally.
    pub(super) async fn decide_there(&self, name: &Name, cost: u64) -> Result<Decision> {
        let plan = self.plan_for(name)?;
        plan.check_some(cost)?;
        let decision = if self.inner.batch.is_some() {
            self.take_batch(name, &plan, cost).await?
        } else {
            self.ask_store(name, &plan, ChargeMode::All, cost).await?
        };
        Ok(self.counted(decision))
    }

    pub(super) fn now(&self) -> Tick {
        self.inner.context.clock.now()
    }

    pub(super) fn counted(&self, decision: Decision) -> Decision {
        self.inner.local.meter.decided(decision.is_allowed(), decision.decided_by);
        decision
    }

    /// Asks the store, remembers a refusal, and uses the outage policy if the store fails.
    pub(super) async fn ask_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        mode: ChargeMode,
        cost: u64,
    ) -> Result<Decision> {
        let asked = (self.now(), self.changes(name));
        let penalty = self.inner.penalty;
        let charge = Charge { specs: &plan.specs, mode, cost, charge_at: 0, max_wait: 0, penalty };
        match self.send(name, charge).await {
            Ok(charged) if mode == ChargeMode::All => {
                plan.check_answer(cost, &charged)?;
                Ok(self.decided(name, plan, mode, cost, charged, asked))
            }
            Ok(charged) => Ok(self.decided(name, plan, mode, cost, charged, asked)),
            Err(error) => self.without_store(name, plan, mode, cost, error),
        }
    }

    pub(super) fn decided(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        mode: ChargeMode,
        cost: u64,
        charged: Charged,
        asked: (Tick, u64),
    ) -> Decision {
        let decision = Decision::of(name, charged, plan, DecidedBy::Store);
        // A refusal without a wait is one because of other keys: it says nothing about this key.
        if !decision.is_allowed() && charged.wait > 0 {
            let cost = if mode == ChargeMode::All { cost } else { 1 };
            let (sent, changes) = asked;
            let local = &self.inner.local;
            local.refused(name.as_bytes(), cost, plan, &decision, (sent, self.now()), changes);
        }
        decision
    }

    /// Sends one request, unless the store is known to be down.
    pub(super) async fn send(&self, name: &Name, charge: Charge<'_>) -> Result<Charged> {
        let request = async { self.inner.context.coordination()?.charge(name.as_str(), charge).await };
        let mut charging = Charging::of(&self.inner.local, name);
        let answer = self.send_request(name.as_str(), request).await;
        charging.answered(answer.as_ref().map(|charged| charged.granted > 0));
        answer
    }

    /// Sends any request about a record, unless the store is known to be down.
    pub(super) async fn send_request<T>(
        &self,
        name: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let store = self.inner.context.coordination()?;
        let breaker = self.inner.local.breakers.get(store.domain(name) % 16);
        if let Some(error) = breaker.and_then(|breaker| breaker.refusal(self.now())) {
            return Err(error);
        }
        if call::is_late() {
            // One of many keys that was not sent before the call timed out.
            return Err(Error::new(ErrorKind::Refused, "not sent: the call timed out before"));
        }
        let sent = self.now();
        let mut request = pin!(request);
        let mut short_timeout = false;
        let answer = poll_fn(|cx| match request.as_mut().poll(cx) {
            // The call has timed out. This is the last poll, in which to decide without the store.
            Poll::Pending if call::is_late() => {
                let waited = self.now().since(sent);
                // A call with a short timeout says nothing about the store. The tenth is for the time before
                // `sent`.
                short_timeout = waited < self.timeout() - self.timeout() / 10;
                Poll::Ready(Err(Error::timed_out(waited)))
            }
            answer => answer,
        })
        .await;
        if let Some(breaker) = breaker {
            match &answer {
                Ok(_) => breaker.answered(),
                Err(_) if short_timeout => {}
                Err(error) => breaker.failed(error, self.now()),
            }
        }
        answer
    }

    /// Returns the change count of a key. Read it before a request that may be refused.
    pub(super) fn changes(&self, name: &Name) -> u64 {
        self.inner.local.changes(name.as_bytes())
    }

    /// As [`send`](Self::send) outside a call, with `response_timeout`.
    pub(super) async fn send_in_time(&self, name: &Name, charge: Charge<'_>) -> Result<Charged> {
        let timeout = self.timeout();
        match tokio::time::timeout(timeout, self.send(name, charge)).await {
            Ok(answer) => answer,
            Err(_) => {
                let error = Error::timed_out(timeout);
                let domain = self.inner.context.coordination()?.domain(name.as_str());
                if let Some(breaker) = self.inner.local.breakers.get(domain % 16) {
                    breaker.failed(&error, self.now());
                }
                Err(error)
            }
        }
    }
}

/// A request that charges a key unless it is refused. At its end it notes the charge in the local knowledge about the
/// key. A request that is dropped, or has failed after it was sent, may have charged.
pub(super) struct Charging<'a> {
    local: &'a Local,
    name: &'a Name,
    charges: bool,
}

impl<'a> Charging<'a> {
    pub(super) fn of(local: &'a Local, name: &'a Name) -> Self {
        Self { local, name, charges: true }
    }

    /// Takes the answer: whether the key was charged.
    pub(super) fn answered(&mut self, charged: Result<bool, &Error>) {
        self.charges = charged.unwrap_or_else(|error| error.is_indeterminate());
    }
}

impl Drop for Charging<'_> {
    fn drop(&mut self) {
        if self.charges {
            self.local.granted(self.name.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    /// A refusal that is known here has too short a wait once more is charged.
    #[tokio::test]
    async fn every_way_to_charge_a_key_ends_the_refusal_that_is_known_of_it() {
        let larder = crate::Larder::connect("memory:").await.unwrap();
        let ways =
            ["check", "take_up_to", "acquire", "booked", "batched", "together", "settle", "debt", "dropped"];
        for way in ways {
            let limiter = larder.rate_limiter(way, crate::Quota::per_hour(10)).unwrap();
            let name = limiter.record("a").unwrap();
            let (local, clock) = (&limiter.inner.local, &limiter.inner.context.clock);
            let known = |cost| local.decide(name.as_bytes(), cost, &limiter.plan(), clock).is_some();
            let reserved = limiter.reserve("a", 5).await.unwrap().granted().unwrap();
            assert!(!limiter.check_n("a", 8).await.unwrap().is_allowed() && known(8), "{way}");
            let granted = match way {
                "check" => limiter.check_n("a", 3).await.unwrap().granted(),
                "take_up_to" => limiter.take_up_to("a", 3).await.unwrap().granted(),
                "acquire" => limiter.acquire_n("a", 3, Duration::from_secs(1)).await.unwrap().granted(),
                "batched" => limiter.clone().batched(2).unwrap().check_n("a", 2).await.unwrap().granted(),
                "together" => {
                    let keys = [limiter.key("a").cost(3), limiter.key("b")];
                    larder.check_together(keys).await.unwrap().into_decisions().remove(0).granted()
                }
                "settle" => reserved.settle(7).await.unwrap().charged,
                "debt" => reserved.settle_with_debt(17).await.unwrap().charged,
                "booked" => {
                    // The caller waits; the store has booked its turn when the key has nothing left.
                    let waits = limiter.acquire_n("a", 9, Duration::from_secs(8000));
                    let _ = tokio::time::timeout(Duration::from_millis(20), waits).await;
                    1
                }
                _ => {
                    use futures_util::FutureExt;
                    // The store may have charged a call that was dropped.
                    drop(limiter.check_n("a", 3).now_or_never());
                    1
                }
            };
            assert!(granted > 0 && !known(8), "{way}");
        }
    }
}
