//! How one decision is made: from what is known here, else by the store, else by what the program wants in an outage.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::decision::{DecidedBy, Decision, RecordId};
use super::lease::Held;
use super::local::Known;
use super::outage::{Outage, is_outage};
use super::quota::Plan;
use super::{Inner, RateLimiter};
use crate::call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::limit::{Charge, Charged, LimitStore, Stamp, Take};

/// A share of a pause or a lease that clocks of different rates may cost.
pub(super) fn drift(span: Duration) -> Duration {
    span / 1000
}

impl RateLimiter {
    pub(super) async fn decide(&self, name: Name, cost: u64) -> Result<Decision> {
        if let Some(decision) = self.at_once(self.inner.local.key_of(name.as_bytes()), cost) {
            return Ok(decision);
        }
        // What asks the store is boxed: what is known here must not carry a future of its size.
        Box::pin(self.decide_there(&name, cost)).await
    }

    /// What is known here, without so much as a look at the quotas; the key is its text alone.
    #[inline]
    pub(super) fn at_once(&self, key: &[u8], cost: u64) -> Option<Decision> {
        let Inner { local, context, plan_id, by_key, .. } = &*self.inner;
        let plan = match by_key {
            None => plan_id.load(Ordering::Acquire),
            Some(_) => self.plan_for_key(std::str::from_utf8(key).ok()?).ok()?.id,
        };
        let decision = local.decide_key(key, (cost, cost), plan, &context.clock)?;
        local.meter.decided(decision.granted > 0, decision.decided_by);
        Some(decision)
    }

    /// What is not known here.
    pub(super) async fn decide_there(&self, name: &Name, cost: u64) -> Result<Decision> {
        let plan = self.plan_for(name)?;
        plan.check_some(cost)?;
        let decision = if self.inner.lease.is_some() {
            self.lease(name, &plan, cost).await?
        } else {
            self.ask_store(name, &plan, Take::All, cost).await?
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

    /// Asks the store, remembers a refusal, and falls back on the policy.
    pub(super) async fn ask_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        take: Take,
        cost: u64,
    ) -> Result<Decision> {
        let asked = (self.now(), self.inner.local.changes());
        let penalty = self.inner.penalty;
        let charge = Charge { terms: &plan.terms, take, cost, ahead: 0, patience: 0, penalty };
        match self.send(name, charge).await {
            Ok(charged) if take == Take::All => {
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
        take: Take,
        cost: u64,
        charged: Charged,
        asked: (Tick, u64),
    ) -> Decision {
        let decision = Decision::of(name, charged, plan, DecidedBy::Store);
        // One that waits for no time is refused because of others.
        if !decision.is_allowed() && charged.wait > 0 {
            let cost = if take == Take::All { cost } else { 1 };
            let (sent, changes) = asked;
            let local = &self.inner.local;
            local.refused(name.as_bytes(), cost, plan, &decision, (sent, self.now()), changes);
        } else if decision.is_allowed() {
            self.inner.local.granted(name.as_bytes());
        }
        decision
    }

    /// One request, unless the store is known to be away.
    pub(super) async fn send(&self, name: &Name, charge: Charge<'_>) -> Result<Charged> {
        let request = async { self.inner.context.coordination()?.charge(name.as_str(), charge).await };
        self.send_request(name.as_str(), request).await
    }

    /// The same for any request about a record.
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
            // One of many keys, whose turn to be sent did not come within the call's time.
            return Err(Error::new(ErrorKind::Refused, "not sent: the call's time was over before"));
        }
        let sent = self.now();
        let mut request = pin!(request);
        let mut hurried = false;
        let answer = poll_fn(|cx| match request.as_mut().poll(cx) {
            // The call's time is over: this is the last poll, in which to decide without the store.
            Poll::Pending if call::is_late() => {
                let waited = self.now().since(sent);
                // A caller in a hurry says nothing about the store. The call's time began a moment before.
                hurried = waited < self.timeout() - self.timeout() / 10;
                Poll::Ready(Err(Error::timed_out(waited)))
            }
            answer => answer,
        })
        .await;
        if let Some(breaker) = breaker {
            match &answer {
                Ok(_) => breaker.answered(),
                Err(_) if hurried => {}
                Err(error) => breaker.failed(error, self.now()),
            }
        }
        answer
    }

    /// [`ask_store`](Self::ask_store) outside of a call, with the connection's timeout.
    pub(super) async fn ask_in_time(&self, name: &Name, plan: &Arc<Plan>, cost: u64) -> Result<Decision> {
        let asked = (self.now(), self.changes());
        let charge =
            Charge { terms: &plan.terms, take: Take::All, cost, ahead: 0, patience: 0, penalty: None };
        match self.send_in_time(name, charge).await {
            Ok(charged) => {
                plan.check_answer(cost, &charged)?;
                Ok(self.decided(name, plan, Take::All, cost, charged, asked))
            }
            Err(error) => self.without_store(name, plan, Take::All, cost, error),
        }
    }

    /// To be taken before a request that may be refused.
    pub(super) fn changes(&self) -> u64 {
        self.inner.local.changes()
    }

    /// [`send`](Self::send) outside of a call, with the connection's timeout.
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

    /// What the program wants while the store is away.
    pub(super) fn without_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        take: Take,
        cost: u64,
        error: Error,
    ) -> Result<Decision> {
        if take == Take::All {
            plan.check_cost(cost)?;
        }
        if !is_outage(&error) {
            return Err(error);
        }
        let blunt = |granted| Decision {
            granted,
            binding: plan.quota(0),
            remaining: 0,
            // Nobody knows; not to come back at once is the point.
            retry_after: Duration::from_secs(1),
            reset_after: Duration::from_secs(1),
            decided_by: DecidedBy::Outage,
            stamp: Stamp::default(),
            record: RecordId::of(name),
            counted_here: false,
        };
        match self.inner.outage {
            Outage::Error => Err(error),
            Outage::Deny => Ok(blunt(0)),
            // As much as there is, is never more than the limit.
            Outage::Allow if take != Take::All => Ok(blunt(cost.min(plan.most))),
            Outage::Allow => Ok(blunt(cost)),
            Outage::LocalShare(instances) => {
                let Some(terms) = plan.share(instances) else { return Ok(blunt(0)) };
                let penalty = self.inner.penalty;
                let charge = Charge { terms: &terms, take, cost, ahead: 0, patience: 0, penalty };
                let clock = self.now().as_micros();
                let charged = self.inner.local.share.charge(name.as_str(), charge, clock);
                let decision = Decision::of(name, charged, plan, DecidedBy::Outage);
                Ok(Decision { stamp: Stamp::default(), counted_here: true, ..decision })
            }
        }
    }

    /// A permit out of a new batch; one caller a key takes it, and those who wait meanwhile spend of it.
    async fn lease(&self, name: &Name, plan: &Arc<Plan>, cost: u64) -> Result<Decision> {
        let Some((lease, span)) = self.inner.lease else {
            return self.ask_store(name, plan, Take::All, cost).await;
        };
        let local = &self.inner.local;
        let known = local.key(name.as_bytes());
        let mut turn = pin!(known.refill.lock());
        let turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
            Poll::Pending if call::is_late() => Poll::Ready(None),
            turn => turn.map(Some),
        });
        let Some(_turn) = turn.await else {
            return self.without_store(name, plan, Take::All, cost, Error::timed_out(self.timeout()));
        };
        if let Some(decision) = local.decide(name.as_bytes(), cost, plan, &self.inner.context.clock) {
            return Ok(decision);
        }
        let (asked, resets) = ((self.now(), local.changes()), local.resets());
        let ahead = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let batch = lease.batch.max(cost);
        let take = Take::Half { least: cost };
        let penalty = self.inner.penalty;
        let charge = Charge { terms: &plan.terms, take, cost: batch, ahead, patience: 0, penalty };
        let charged = match self.send(name, charge).await {
            Ok(charged) if charged.granted == 0 => {
                plan.check_answer(cost, &charged)?;
                return Ok(self.decided(name, plan, Take::All, cost, charged, asked));
            }
            Ok(charged) => charged,
            Err(error) => return self.without_store(name, plan, Take::All, cost, error),
        };
        let held = Held {
            left: charged.granted,
            deadline: asked.0.after(span - drift(span)),
            stamp: charged.stamp,
            record: RecordId::of(name),
            plan: plan.clone(),
            binding: plan.quota(charged.binding),
            remaining: charged.remaining,
            reset_at: asked.0.after(Duration::from_micros(charged.reset)),
        };
        let decision = self.keep(name, &known, held, cost, resets);
        match decision {
            Some(decision) => Ok(Decision { decided_by: DecidedBy::Store, ..decision }),
            // Its time was over before it came, or the key was reset meanwhile.
            None => self.ask_store(name, plan, Take::All, cost).await,
        }
    }

    /// Puts a batch where it can be spent, spends of it, and sees to it that what is left is given back.
    fn keep(
        &self,
        name: &Name,
        known: &Arc<Known>,
        mut held: Held,
        cost: u64,
        resets: u64,
    ) -> Option<Decision> {
        let (now, plan, stamp) = (self.now(), held.plan.clone(), held.stamp);
        let rest = held.deadline.since(now);
        let mut facts = known.facts();
        // Whoever resets counts first and takes the lock to forget afterwards.
        if self.inner.local.resets() != resets {
            drop(facts);
            self.give_back_later(name, &plan, stamp, held.left);
            return None;
        }
        let decision = held.spend(cost, plan.id, now);
        let replaced = facts.lease.replace(held);
        drop(facts);
        if let Some(old) = replaced.filter(|old| old.left > 0) {
            self.give_back_later(name, &old.plan, old.stamp, old.left);
        }
        let end = LeaseEnd { limiter: self.clone(), known: known.clone(), name: name.clone(), stamp };
        self.inner.context.background.spawn_until_close(async move {
            tokio::time::sleep(rest).await;
            drop(end);
        });
        decision
    }

    /// Gives permits back to the lease or to the store that they came from.
    pub(super) async fn give_back(&self, name: &Name, stamp: Stamp, permits: u64) -> Result<u64> {
        if stamp == Stamp::default() || permits == 0 {
            return Ok(0);
        }
        if let Some(known) = self.inner.local.known(name.as_bytes())
            && let Some(lease) = known.facts().lease.as_mut()
            && lease.stamp == stamp
            && self.now() < lease.deadline
        {
            lease.left += permits;
            return Ok(permits);
        }
        let plan = self.plan_for(name)?;
        let given =
            self.inner.context.coordination()?.refund(name.as_str(), &plan.terms, permits, stamp).await;
        self.inner.local.forget_refusal(name.as_bytes());
        given
    }

    /// The same without waiting for it.
    pub(super) fn give_back_later(&self, name: &Name, plan: &Plan, stamp: Stamp, permits: u64) {
        let (local, key) = (self.inner.local.clone(), name.clone());
        // Not before: until then the store refuses what it has just refused.
        let done = move || local.forget_refusal(key.as_bytes());
        let name = name.as_str().to_owned();
        self.inner.context.refund_in_background(name, plan.terms.clone(), permits, stamp, done);
    }
}

/// Gives back what a lease did not spend, when its time is over or the larder is closed.
struct LeaseEnd {
    limiter: RateLimiter,
    /// Kept here too: the table of what is known may lose it before.
    known: Arc<Known>,
    name: Name,
    stamp: Stamp,
}

impl Drop for LeaseEnd {
    fn drop(&mut self) {
        let ended = self.known.facts().lease.take_if(|lease| lease.stamp == self.stamp);
        if let Some(ended) = ended.filter(|ended| ended.left > 0) {
            self.limiter.give_back_later(&self.name, &ended.plan, ended.stamp, ended.left);
        }
    }
}
