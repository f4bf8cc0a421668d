//! How one decision is made: locally if possible, otherwise by the store, or by the policy in an outage.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::decision::{DecidedBy, Decision};
use super::quota::Plan;
use super::{LimiterShared, RateLimiter};
use crate::call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, Charged, LimitStore};

/// The amount by which clocks of different rates may disagree about a span.
pub(super) fn drift(span: Duration) -> Duration {
    span / 1000
}

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
        let decision = if self.inner.lease.is_some() {
            self.lease(name, &plan, cost).await?
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
        take: ChargeMode,
        cost: u64,
    ) -> Result<Decision> {
        let asked = (self.now(), self.inner.local.changes());
        let penalty = self.inner.penalty;
        let charge = Charge { terms: &plan.terms, take, cost, charge_at: 0, max_wait: 0, penalty };
        match self.send(name, charge).await {
            Ok(charged) if take == ChargeMode::All => {
                plan.check_answer(cost, &charged)?;
                Ok(self.decided(name, plan, take, cost, charged, asked))
            }
            Ok(charged) => Ok(self.decided(name, plan, take, cost, charged, asked)),
            Err(error) => self.without_store(name, plan, take, cost, error),
        }
    }

    pub(super) fn decided(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        take: ChargeMode,
        cost: u64,
        charged: Charged,
        asked: (Tick, u64),
    ) -> Decision {
        let decision = Decision::of(name, charged, plan, DecidedBy::Store);
        // A refusal without a wait is one because of other keys: it says nothing about this key.
        if !decision.is_allowed() && charged.wait > 0 {
            let cost = if take == ChargeMode::All { cost } else { 1 };
            let (sent, changes) = asked;
            let local = &self.inner.local;
            local.refused(name.as_bytes(), cost, plan, &decision, (sent, self.now()), changes);
        } else if decision.is_allowed() {
            self.inner.local.granted(name.as_bytes());
        }
        decision
    }

    /// Sends one request, unless the store is known to be down.
    pub(super) async fn send(&self, name: &Name, charge: Charge<'_>) -> Result<Charged> {
        let request = async { self.inner.context.coordination()?.charge(name.as_str(), charge).await };
        self.send_request(name.as_str(), request).await
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

    /// As [`ask_store`](Self::ask_store) outside a call, with `response_timeout`.
    pub(super) async fn ask_in_time(&self, name: &Name, plan: &Arc<Plan>, cost: u64) -> Result<Decision> {
        let asked = (self.now(), self.changes());
        let charge = Charge {
            terms: &plan.terms,
            take: ChargeMode::All,
            cost,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        match self.send_in_time(name, charge).await {
            Ok(charged) => {
                plan.check_answer(cost, &charged)?;
                Ok(self.decided(name, plan, ChargeMode::All, cost, charged, asked))
            }
            Err(error) => self.without_store(name, plan, ChargeMode::All, cost, error),
        }
    }

    /// Returns the change count. Read it before a request that may be refused.
    pub(super) fn changes(&self) -> u64 {
        self.inner.local.changes()
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
