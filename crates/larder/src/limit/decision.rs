//! The decision of a limiter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::Plan;
use super::quota::Quota;
use crate::name::Name;
use crate::store::limit::{ChargeStamp, Charged};

/// The decision of a limiter, and what is left.
///
/// A refusal is a decision, not an error. The type is not `Clone`, so that a charge is given back
/// ([`refund`](super::RateLimiter::refund)) at most once.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    pub(super) granted: u64,
    pub(super) binding: Quota,
    pub(super) remaining: u64,
    pub(super) retry_after: Duration,
    pub(super) reset_after: Duration,
    pub(super) decided_by: DecidedBy,
    /// Where the permits were charged.
    pub(super) stamp: ChargeStamp,
    /// The record that was charged: a refund to another one is refused. Zero if nothing was granted.
    pub(super) record: RecordId,
    /// Whether this program's own share counted it.
    pub(super) counted_here: bool,
}

/// Where a decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecidedBy {
    /// By the store, in one round trip.
    Store,
    /// Without a round trip: the store has just refused the same request.
    Refusal,
    /// Without a round trip, from a permit batch that was taken before ([`batched`](super::RateLimiter::batched)).
    Batch,
    /// By the limiter's [`OutagePolicy`](super::OutagePolicy), because the store did not answer.
    Outage,
}

/// The record of a decision, as a hash of its name (which contains the namespace, the limiter and the key). It is
/// computed once for each reply of the store; decisions without a round trip copy it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RecordId(u64);

impl RecordId {
    pub(super) fn of(name: &Name) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl DecidedBy {
    #[cfg(feature = "metrics")]
    pub(super) const ALL: [Self; 4] = [Self::Store, Self::Refusal, Self::Batch, Self::Outage];

    /// Returns the name used in metrics' labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Refusal => "refusal",
            Self::Batch => "batch",
            Self::Outage => "outage",
        }
    }
}

impl Decision {
    pub(super) fn of(name: &Name, charged: Charged, plan: &Plan, decided_by: DecidedBy) -> Self {
        let granted = charged.granted > 0;
        Self {
            granted: charged.granted,
            binding: charged.label.map_or_else(|| plan.quota(charged.binding), Quota::from_label),
            remaining: charged.remaining,
            retry_after: if granted { Duration::ZERO } else { Duration::from_micros(charged.wait) },
            reset_after: Duration::from_micros(charged.reset),
            decided_by,
            stamp: if granted { charged.stamp } else { ChargeStamp::default() },
            record: if granted { RecordId::of(name) } else { RecordId::default() },
            counted_here: false,
        }
    }

    /// A refusal for tests.
    #[cfg(test)]
    pub(super) fn refused(binding: Quota) -> Self {
        Self {
            granted: 0,
            binding,
            remaining: 0,
            retry_after: Duration::ZERO,
            reset_after: Duration::ZERO,
            decided_by: DecidedBy::Refusal,
            stamp: ChargeStamp::default(),
            record: RecordId::default(),
            counted_here: false,
        }
    }

    /// Turns the decision of a key that would have passed into a refusal, because another key was refused.
    pub(super) fn refused_with_others(self) -> Self {
        let retry_after = if self.is_allowed() { Duration::ZERO } else { self.retry_after };
        Self { granted: 0, retry_after, stamp: ChargeStamp::default(), record: RecordId::default(), ..self }
    }

    /// Returns whether the request is allowed; if so it was charged.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.granted > 0
    }

    /// Returns the number of permits that were granted and charged: all or none, or for
    /// [`take_up_to`](super::RateLimiter::take_up_to) as many as were free.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Returns the limit of the [binding quota](Self::quota).
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.binding.limit()
    }

    /// Returns how many more permits the [binding quota](Self::quota) has now, after this decision.
    ///
    /// For a decision from a permit batch: what the batch has left, plus what the store had when the batch was
    /// taken. After waiting for a turn: zero, the state when the turn was booked. Use
    /// [`RateLimiter::remaining`](super::RateLimiter::remaining) for the current number.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the binding quota: the one with the longest wait or, for an allowed request, the one with the least
    /// left.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.binding
    }

    /// Returns how long to wait until the same request would be allowed if there are no other requests; `None` if
    /// it was allowed. Batches, reservations and turns that are given back meanwhile can only shorten the wait. For
    /// a refusal that was decided without a round trip, the wait is counted by a clock that lags by up to one
    /// kernel tick (at most 10 ms), so it may be longer by that much.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.granted == 0).then_some(self.retry_after)
    }

    /// Returns the time until the full limit of all quotas is available again if there are no other requests.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.reset_after
    }

    /// Copies the figures without the charge, for a request whose charge is settled elsewhere.
    #[cfg(feature = "tower")]
    pub(crate) fn without_charge(&self) -> Self {
        Self { stamp: ChargeStamp::default(), ..*self }
    }

    /// Returns whether the store or this program's share counted the request, rather than the policy alone.
    #[cfg(feature = "tower")]
    pub(crate) fn was_counted(&self) -> bool {
        self.decided_by != DecidedBy::Outage || self.counted_here
    }

    /// Returns where the decision was made.
    #[must_use]
    pub fn decided_by(&self) -> DecidedBy {
        self.decided_by
    }
}
