//! Leases: permits that are taken in batches and spent here, without asking.
//!
//! A batch is charged to the bucket of the lease's *expiry*, and every decision counts what lies ahead, so that no
//! window admits more than the limit (the proof is in docs/rate-limits.md). A batch is at most half of what is left,
//! or the cost that asked for it, so that leases shrink as the limit is neared. Its time counts here from before the request left, less a thousandth
//! for clocks that differ in rate. What is not spent by then is given back; what a dead process held counts until its
//! window has passed.

use std::sync::Arc;
use std::time::Duration;

use super::decision::{DecidedBy, Decision, RecordId};
use super::quota::{Plan, Quota};
use crate::clock::Tick;
use crate::error::{Error, Result};
use crate::store::limit::{Rule, Stamp};

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
pub struct Lease {
    pub(super) batch: u64,
    span: Option<Duration>,
}

impl Lease {
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

impl From<u64> for Lease {
    fn from(permits: u64) -> Self {
        Self::batch(permits)
    }
}

/// Permits of one key that may be spent here.
pub(super) struct Held {
    pub(super) left: u64,
    pub(super) deadline: Tick,
    /// What was charged for them.
    pub(super) stamp: Stamp,
    pub(super) record: RecordId,
    pub(super) plan: Arc<Plan>,
    /// What the store said when they were taken.
    pub(super) binding: Quota,
    pub(super) remaining: u64,
    pub(super) reset_at: Tick,
}

impl Held {
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
