//! What a limiter decided.

use std::time::Duration;

use super::quota::{Plan, Quota};
use crate::store::limit::Charged;

/// What a limiter decided, and what is left.
///
/// A refusal is a decision like another, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub(super) granted: u64,
    pub(super) binding: Quota,
    pub(super) remaining: u64,
    pub(super) retry_after: Duration,
    pub(super) reset_after: Duration,
    pub(super) decided_by: DecidedBy,
    /// The store's time that was charged; 0 where nothing was.
    pub(super) stamp: u64,
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
    /// Here, by the limiter's [`Outage`](super::Outage): the store did not answer.
    Outage,
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
    pub(super) fn of(charged: Charged, plan: &Plan, decided_by: DecidedBy) -> Self {
        let granted = charged.granted > 0;
        Self {
            granted: charged.granted,
            binding: plan.quota(charged.binding),
            remaining: charged.remaining,
            retry_after: if granted { Duration::ZERO } else { Duration::from_micros(charged.wait) },
            reset_after: Duration::from_micros(charged.reset),
            decided_by,
            stamp: if granted { charged.stamp } else { 0 },
        }
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
    /// are given back meanwhile can only make it sooner.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.granted == 0).then_some(self.retry_after)
    }

    /// When the whole limit is there again if nobody else asks, of all quotas.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.reset_after
    }

    /// Where it was decided.
    #[must_use]
    pub fn decided_by(&self) -> DecidedBy {
        self.decided_by
    }
}
