//! Permit batches: permits that are taken in advance and spent locally, without a request.
//!
//! A batch is charged to the bucket of its *expiry*, and every decision counts the buckets ahead, so that no window
//! admits more than the limit (docs/rate-limits.md has the proof). A batch is at most half of what is left, or the
//! cost that asked for it, so batches shrink as the limit gets near. Its local deadline counts from before the
//! request was sent, less a thousandth for clocks of different rates. Unspent permits are given back at the
//! deadline; the permits of a dead process count until their window has passed.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Plan;
use super::RateLimiter;
use super::decision::{DecidedBy, Decision, RecordId};
use super::local::{KeyState, LocalBatch};
use super::quota::Quota;
use crate::call;
use crate::clock::drift;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, ChargeStamp, Rule};

/// How permits are taken in advance: how many at once, and how long they may be spent.
///
/// ```
/// use std::time::Duration;
/// use larder::limit::PermitBatch;
///
/// let fifty = PermitBatch::batch(50);
/// let short = PermitBatch::batch(50).span(Duration::from_millis(200));
/// # let _ = (fifty, short);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitBatch {
    pub(super) batch: u64,
    span: Option<Duration>,
}

impl PermitBatch {
    /// Takes at most this many permits at once.
    #[must_use]
    pub const fn batch(permits: u64) -> Self {
        Self { batch: permits, span: None }
    }

    /// Sets how long the permits may be spent, from 10 ms to the shortest window. Default: a tenth of the shortest
    /// window, at most a second. Capacity returns later by this span, because the permits are charged at its end.
    #[must_use]
    pub const fn span(self, span: Duration) -> Self {
        Self { span: Some(span), ..self }
    }

    /// Returns the span, or fails if it is invalid with these quotas.
    pub(super) fn checked(self, plan: &Plan) -> Result<Duration> {
        const LEAST: Duration = Duration::from_millis(10);
        let span = self.span.unwrap_or((plan.shortest / 10).min(Duration::from_secs(1)));
        if self.batch == 0 {
            return Err(Error::invalid("a permit batch has at least 1 permit, not 0"));
        }
        if plan.specs.iter().any(|spec| spec.rule == Rule::Gcra) {
            return Err(Error::invalid(
                "a GCRA quota spaces single permits: it cannot be combined with batched()",
            ));
        }
        if span < LEAST || span > plan.shortest {
            return Err(Error::invalid(format!(
                "the span of a permit batch is {LEAST:?} to the shortest window of {:?}, not {span:?}",
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

impl RateLimiter {
    /// Takes permits in batches and spends them locally, for very hot keys: most decisions need no round trip.
    ///
    /// A number is a [`PermitBatch::batch`] of that size. Permits in a batch count as admitted until their window
    /// has passed, counted from the end of the batch; unspent permits are given back at its end. So no window holds
    /// more than the limit, and slightly less than the limit may be usable.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting) for an empty batch, for a span below 10 ms or above the
    /// shortest window, and with [`Quota::gcra`].
    pub fn batched(self, batch: impl Into<PermitBatch>) -> Result<Self> {
        let batch = batch.into();
        let span = batch.checked(&self.plan())?;
        Ok(self.with(|inner| inner.batch = Some((batch, span))))
    }

    /// Takes a permit from a new batch. One caller of a key at a time refills; those that wait meanwhile spend from
    /// its batch.
    pub(super) async fn take_batch(&self, name: &Name, plan: &Arc<Plan>, cost: u64) -> Result<Decision> {
        let Some((setting, span)) = self.inner.batch else {
            return self.ask_store(name, plan, ChargeMode::All, cost).await;
        };
        let local = &self.inner.local;
        let known = local.key(name.as_bytes());
        // Wait to be the caller that refills. If the call times out meanwhile, the outage policy decides.
        let mut turn = pin!(known.refill.lock());
        let turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
            Poll::Pending if call::is_late() => Poll::Ready(None),
            turn => turn.map(Some),
        });
        let Some(turn) = turn.await else {
            return self.without_store(name, plan, ChargeMode::All, cost, Error::timed_out(self.timeout()));
        };
        // Another caller may have refilled while this one waited.
        if let Some(decision) = local.decide(name.as_bytes(), cost, plan, &self.inner.context.clock) {
            return Ok(decision);
        }
        let (asked, resets) = ((self.now(), self.changes(name)), local.resets());
        if local.is_changing(name.as_bytes()) {
            // The store may charge a batch before it resets the key, and answer the batch first.
            drop(turn);
            return self.ask_store(name, plan, ChargeMode::All, cost).await;
        }
        // Take a new batch.
        let charge_at = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let batch = setting.batch.max(cost);
        let mode = ChargeMode::Half { least: cost };
        let penalty = self.inner.penalty;
        let charge = Charge { specs: &plan.specs, mode, cost: batch, charge_at, max_wait: 0, penalty };
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
            // An override may have decided.
            binding: charged.label.map_or_else(|| plan.quota(charged.binding), Quota::from_label),
            remaining: charged.remaining,
            reset_at: asked.0.after(Duration::from_micros(charged.reset)),
        };
        let decision = self.keep(name, &known, held, cost, resets);
        match decision {
            Some(decision) => Ok(Decision { decided_by: DecidedBy::Store, ..decision }),
            // The batch had expired when it arrived, or the key was reset meanwhile.
            None => self.ask_store(name, plan, ChargeMode::All, cost).await,
        }
    }

    /// Stores a batch so that it can be spent, spends `cost` of it, and makes sure that the rest is given back.
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
        // Compare while holding the lock. A reset first counts and then takes this lock to forget: either the new
        // count is seen here, or the reset removes the batch that is stored here.
        if self.inner.local.resets() != resets {
            drop(facts);
            self.give_back_later(name, stamp, held.left);
            return None;
        }
        let decision = held.spend(cost, plan.id, now);
        let replaced = facts.batch.replace(held);
        drop(facts);
        if let Some(old) = replaced.filter(|old| old.left > 0) {
            self.give_back_later(name, old.stamp, old.left);
        }
        let end = BatchEnd { limiter: self.clone(), known: known.clone(), name: name.clone(), stamp };
        self.inner.context.background.spawn_until_close(async move {
            tokio::time::sleep(rest).await;
            drop(end);
        });
        decision
    }
}

/// Gives back the unspent permits of a batch at its deadline, or when the `Larder` is closed.
struct BatchEnd {
    limiter: RateLimiter,
    /// A reference of its own, because the table of known keys may evict the key earlier.
    known: Arc<KeyState>,
    name: Name,
    stamp: ChargeStamp,
}

impl Drop for BatchEnd {
    fn drop(&mut self) {
        let ended = self.known.facts().batch.take_if(|batch| batch.stamp == self.stamp);
        if let Some(ended) = ended.filter(|ended| ended.left > 0) {
            self.limiter.give_back_later(&self.name, ended.stamp, ended.left);
        }
    }
}
