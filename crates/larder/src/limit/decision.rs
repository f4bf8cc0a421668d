//! What a limiter decided.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::quota::{Plan, Quota};
use crate::name::Name;
use crate::store::limit::{ChargeStamp, Charged};

/// What a limiter decided, and what is left.
///
/// A refusal is a decision like another, not an error. Not `Clone`, so that what it charged is given back
/// ([`refund`](super::RateLimiter::refund)) once at most.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    pub(super) granted: u64,
    pub(super) binding: Quota,
    pub(super) remaining: u64,
    pub(super) retry_after: Duration,
    pub(super) reset_after: Duration,
    pub(super) decided_by: DecidedBy,
    /// Where it was charged.
    pub(super) stamp: ChargeStamp,
    /// Of which record: a refund of another is refused. Zero where nothing was granted.
    pub(super) record: RecordId,
    /// Whether it was counted by this program's own share.
    pub(super) counted_here: bool,
}

/// Where a decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecidedBy {
    /// By the store, in one round trip.
    Store,
    /// Here, without a round trip: the store has just refused this key as much or less.
    Refusal,
    /// Here, without a round trip, out of a batch that was taken before ([`leased`](super::RateLimiter::leased)).
    Lease,
    /// Here, by the limiter's [`OutagePolicy`](super::OutagePolicy): the store did not answer.
    Outage,
}

/// Which record a decision is about: a hash of its name, in which the namespace, the limiter and the key stand. It is made
/// once an answer of the store, so that decisions without a round trip only copy it.
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
    pub(super) const ALL: [Self; 4] = [Self::Store, Self::Refusal, Self::Lease, Self::Outage];

    /// The name used in metrics' labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Refusal => "refusal",
            Self::Lease => "lease",
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

    /// Some refusal.
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

    /// It would have passed, but not the others that it was decided with.
    pub(super) fn refused_with_others(self) -> Self {
        let retry_after = if self.is_allowed() { Duration::ZERO } else { self.retry_after };
        Self { granted: 0, retry_after, stamp: ChargeStamp::default(), record: RecordId::default(), ..self }
    }

    /// Whether it may pass; if so it was charged.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.granted > 0
    }

    /// How many permits were granted, and charged: all that were asked for or none; of
    /// [`take_up_to`](super::RateLimiter::take_up_to) as many as there were.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// The limit of the quota that [bound](Self::quota).
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.binding.limit()
    }

    /// How many more may pass now, after this one, by the quota that [bound](Self::quota).
    ///
    /// Out of a lease: what the lease has left, and what the store had when it was taken. After waiting for a turn: none, as
    /// when the turn was booked; what has come free since, [`RateLimiter::remaining`](super::RateLimiter::remaining) tells.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The quota that bound: the one that has to be waited for longest, or, where it passed, the one that has least left.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.binding
    }

    /// When the same request would pass if nobody else asks; `None` where it passed. Leases, reservations and turns that
    /// are given back meanwhile can only make it sooner. Of a refusal that was known here it is counted by a clock that
    /// lags by up to a tick of the kernel (10 ms at most), and so much longer.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.granted == 0).then_some(self.retry_after)
    }

    /// When the whole limit is there again if nobody else asks, of all quotas.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.reset_after
    }

    /// The same figures, with nothing to give back: where somebody else settles what was charged.
    #[cfg(feature = "tower")]
    pub(crate) fn without_charge(&self) -> Self {
        Self { stamp: ChargeStamp::default(), ..*self }
    }

    /// Whether the store or this program's share has counted, and not a policy alone has decided.
    #[cfg(feature = "tower")]
    pub(crate) fn was_counted(&self) -> bool {
        self.decided_by != DecidedBy::Outage || self.counted_here
    }

    /// Where it was decided.
    #[must_use]
    pub fn decided_by(&self) -> DecidedBy {
        self.decided_by
    }
}
