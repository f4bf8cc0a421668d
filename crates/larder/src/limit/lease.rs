//! Leases: permits that are taken in batches and spent here, without asking.
//!
//! A batch is charged to the bucket of the lease's *expiry*, and every decision counts what lies ahead, so that no
//! window admits more than the limit (the proof is in docs/rate-limits.md). A batch is at most half of what is left,
//! or the cost that asked for it, so that leases shrink as the limit is neared. Its time counts here from before the request left, less a thousandth
//! for clocks that differ in rate. What is not spent by then is given back; what a dead process held counts until its
//! window has passed.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::RateLimiter;
use super::ask::drift;
use super::decision::{DecidedBy, Decision, RecordId};
use super::local::KeyState;
use super::quota::{Plan, Quota};
use crate::call;
use crate::clock::Tick;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, ChargeStamp, Rule};

/// How permits are taken in advance: how many at once, and for how long.
///
/// ```
/// use std::time::Duration;
/// use larder::Lease;
///
/// let fifty = Lease::batch(50);
/// let short = Lease::batch(50).span(Duration::from_millis(200));
/// # let _ = (fifty, short);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitBatch {
    pub(super) batch: u64,
    span: Option<Duration>,
}

impl PermitBatch {
    /// At most so many permits at once.
    #[must_use]
    pub const fn batch(permits: u64) -> Self {
        Self { batch: permits, span: None }
    }

    /// How long they may be spent, from 10 ms to the shortest window. Default: a tenth of the shortest window, a second at
    /// most. Capacity returns as much later as permits are charged later.
    #[must_use]
    pub const fn span(self, span: Duration) -> Self {
        Self { span: Some(span), ..self }
    }

    /// The span, or why it makes no sense with these quotas.
    pub(super) fn checked(self, plan: &Plan) -> Result<Duration> {
        const LEAST: Duration = Duration::from_millis(10);
        let span = self.span.unwrap_or((plan.shortest / 10).min(Duration::from_secs(1)));
        if self.batch == 0 {
            return Err(Error::invalid("a lease takes at least one permit"));
        }
        if plan.terms.iter().any(|term| term.rule == Rule::Gcra) {
            return Err(Error::invalid("GCRA paces permit by permit: what it admits cannot be leased"));
        }
        if span < LEAST || span > plan.shortest {
            return Err(Error::invalid(format!(
                "a lease lasts from {LEAST:?} to the shortest window of {:?}, not {span:?}",
                plan.shortest
            )));
        }
        Ok(span)
    }
}

impl From<u64> for PermitBatch {
    fn from(permits: u64) -> Self {
        Self::batch(permits)
    }
}

/// Permits of one key that may be spent here.
pub(super) struct LocalBatch {
    pub(super) left: u64,
    pub(super) deadline: Tick,
    /// What was charged for them.
    pub(super) stamp: ChargeStamp,
    pub(super) record: RecordId,
    pub(super) plan: Arc<Plan>,
    /// What the store said when they were taken.
    pub(super) binding: Quota,
    pub(super) remaining: u64,
    pub(super) reset_at: Tick,
}

impl LocalBatch {
    /// Takes `cost` of them, if they are enough and may still be spent.
    #[inline]
    pub(super) fn spend(&mut self, cost: u64, plan: u64, now: Tick) -> Option<Decision> {
        if now >= self.deadline || self.left < cost || self.plan.id != plan {
            return None;
        }
        self.left -= cost;
        Some(Decision {
            granted: cost,
            binding: self.binding,
            remaining: self.remaining.saturating_add(self.left),
            retry_after: Duration::ZERO,
            reset_after: self.reset_at.since(now),
            decided_by: DecidedBy::Lease,
            stamp: self.stamp,
            record: self.record,
            counted_here: false,
        })
    }
}

impl RateLimiter {
    /// Takes permits in batches and spends them here, for keys that are very hot: no round trip for most decisions.
    ///
    /// A number is a [`PermitBatch::batch`] of so many. What is leased counts as admitted until its window has passed, counted
    /// from the end of the lease; what is not spent is given back then. So no window holds more than the limit, and
    /// somewhat less than the limit may be used.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for an empty batch, a span that is no part of the shortest window, and with [`Quota::gcra`].
    pub fn leased(self, lease: impl Into<PermitBatch>) -> Result<Self> {
        let lease = lease.into();
        let span = lease.checked(&self.plan())?;
        Ok(self.with(|inner| inner.lease = Some((lease, span))))
    }

    /// A permit out of a new batch; one caller a key takes it, and those who wait meanwhile spend of it.
    pub(super) async fn lease(&self, name: &Name, plan: &Arc<Plan>, cost: u64) -> Result<Decision> {
        let Some((lease, span)) = self.inner.lease else {
            return self.ask_store(name, plan, ChargeMode::All, cost).await;
        };
        let local = &self.inner.local;
        let known = local.key(name.as_bytes());
        let mut turn = pin!(known.refill.lock());
        let turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
            Poll::Pending if call::is_late() => Poll::Ready(None),
            turn => turn.map(Some),
        });
        let Some(_turn) = turn.await else {
            return self.without_store(name, plan, ChargeMode::All, cost, Error::timed_out(self.timeout()));
        };
        if let Some(decision) = local.decide(name.as_bytes(), cost, plan, &self.inner.context.clock) {
            return Ok(decision);
        }
        let (asked, resets) = ((self.now(), local.changes()), local.resets());
        let charge_at = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let batch = lease.batch.max(cost);
        let take = ChargeMode::Half { least: cost };
        let penalty = self.inner.penalty;
        let charge = Charge { terms: &plan.terms, take, cost: batch, charge_at, max_wait: 0, penalty };
        let charged = match self.send(name, charge).await {
            Ok(charged) if charged.granted == 0 => {
                plan.check_answer(cost, &charged)?;
                return Ok(self.decided(name, plan, ChargeMode::All, cost, charged, asked));
            }
            Ok(charged) => charged,
            Err(error) => return self.without_store(name, plan, ChargeMode::All, cost, error),
        };
        let held = LocalBatch {
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
            None => self.ask_store(name, plan, ChargeMode::All, cost).await,
        }
    }

    /// Puts a batch where it can be spent, spends of it, and sees to it that what is left is given back.
    fn keep(
        &self,
        name: &Name,
        known: &Arc<KeyState>,
        mut held: LocalBatch,
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
}

/// Gives back what a lease did not spend, when its time is over or the larder is closed.
struct LeaseEnd {
    limiter: RateLimiter,
    /// Kept here too: the table of what is known may lose it before.
    known: Arc<KeyState>,
    name: Name,
    stamp: ChargeStamp,
}

impl Drop for LeaseEnd {
    fn drop(&mut self) {
        let ended = self.known.facts().lease.take_if(|lease| lease.stamp == self.stamp);
        if let Some(ended) = ended.filter(|ended| ended.left > 0) {
            self.limiter.give_back_later(&self.name, &ended.plan, ended.stamp, ended.left);
        }
    }
}
