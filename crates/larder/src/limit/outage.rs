//! Decisions while the store does not answer.
//!
//! While the [breaker](super::breaker) of a key's domain is open, the limiter's policy decides at once,
//! without a request.

use std::sync::Arc;
use std::time::Duration;

use super::Plan;
use super::RateLimiter;
use super::decision::{DecidedBy, Decision, RecordId};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, ChargeStamp};

/// What a limiter decides while the store does not answer. [`Decision::decided_by`](super::Decision::decided_by)
/// shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutagePolicy {
    /// No decision: the call fails. The default.
    #[default]
    Error,
    /// Refuses all requests.
    Deny,
    /// Allows all requests.
    Allow,
    /// Allows a share of each limit, counted in this process: the limit divided by this number, rounded down. For
    /// GCRA the burst and the pace are divided.
    ///
    /// The number is the largest number of [`Larder`](crate::Larder)s that use this limit at any one time, over all
    /// processes and hosts, including the old and the new ones of a rolling deployment. larder cannot know it; if
    /// it is too low, more than the limit is admitted. All handles of one limiter name on one `Larder` share one
    /// count. A share of less than one permit is zero: such a limiter refuses everything while the store is down.
    ///
    /// While the store is down, each `Larder` admits at most its share in any window of its own clock, so all
    /// together admit at most the limit. A window in which the outage begins or ends can also hold what the store
    /// admitted and permit batches that are not spent yet, so up to twice the limit. Local admissions are not
    /// charged to the store afterwards.
    ///
    /// Its decisions are [`DecidedBy::Outage`](super::DecidedBy::Outage). `remaining`, `retry_after`
    /// and `reset_after` are those of the share; `limit` is the quota's own.
    LocalShare(u32),
}

/// Whether the limiter's policy may decide instead of this error: the store was down or not ready.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_retryable()
}

impl RateLimiter {
    /// Decides by the limiter's outage policy.
    pub(super) fn without_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        mode: ChargeMode,
        cost: u64,
        error: Error,
    ) -> Result<Decision> {
        self.decide_without_store(name, plan, mode, cost, error).map(|(decision, _)| decision)
    }

    /// As `without_store`; also returns where this program's share counted the request.
    fn decide_without_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        mode: ChargeMode,
        cost: u64,
        error: Error,
    ) -> Result<(Decision, ChargeStamp)> {
        // A cost above the limit is refused, and an error that is not an outage is the caller's.
        let whole = matches!(mode, ChargeMode::All | ChargeMode::Peek);
        if whole {
            plan.check_cost(cost)?;
        }
        if !is_outage(&error) {
            return Err(error);
        }
        // Decide without counting, or by counting against this program's share of the limit.
        let blunt = |granted| Decision {
            granted,
            binding: plan.quota(0),
            remaining: 0,
            // The real time is unknown; the client should not retry at once.
            retry_after: Duration::from_secs(1),
            reset_after: Duration::from_secs(1),
            decided_by: DecidedBy::Outage,
            stamp: ChargeStamp::default(),
            record: RecordId::of(name),
            counted_here: false,
        };
        let granted = match self.inner.outage {
            OutagePolicy::Error => return Err(error),
            OutagePolicy::Deny => 0,
            // `take_up_to` takes at most the limit.
            OutagePolicy::Allow if whole => cost,
            OutagePolicy::Allow => cost.min(plan.most),
            OutagePolicy::LocalShare(instances) => {
                // A cost above the share never fits into it: it has to wait for the store.
                let payable = |limit: u64| !whole || cost <= limit;
                let share = plan.share(instances);
                match share.filter(|share| share.iter().all(|spec| payable(spec.limit))) {
                    None => 0,
                    Some(specs) => {
                        let penalty = self.inner.penalty;
                        let charge = Charge { specs: &specs, mode, cost, charge_at: 0, max_wait: 0, penalty };
                        let charged = self.inner.local.share.charge(name.as_str(), charge, self.now());
                        let decision = Decision::of(name, charged, plan, DecidedBy::Outage);
                        let decision =
                            Decision { stamp: ChargeStamp::default(), counted_here: true, ..decision };
                        return Ok((decision, charged.stamp));
                    }
                }
            }
        };
        Ok((blunt(granted), ChargeStamp::default()))
    }

    /// Gives back what this program's share has counted.
    fn give_back_to_share(&self, name: &Name, plan: &Plan, permits: u64, stamp: ChargeStamp) {
        if let OutagePolicy::LocalShare(instances) = self.inner.outage
            && plan.share(instances).is_some()
            && stamp != ChargeStamp::default()
        {
            self.inner.local.share.refund(name.as_str(), permits, stamp, self.now());
        }
    }
}

/// A key that is decided together with others.
pub(super) struct Away<'a> {
    pub(super) limiter: &'a RateLimiter,
    pub(super) name: &'a Name,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) cost: u64,
}

/// Decides each key by the policy of its limiter. If one refuses, all are refused, and no share counts anything.
pub(super) fn together_without_store(keys: &[Away<'_>], error: &Error) -> Result<Vec<Decision>> {
    let decide = |key: &Away<'_>, mode| {
        key.limiter.decide_without_store(key.name, key.plan, mode, key.cost, error.clone())
    };
    // First look at all keys without charging.
    let peeked = keys.iter().map(|key| decide(key, ChargeMode::Peek)).collect::<Result<Vec<_>>>()?;
    if !peeked.iter().all(|(peeked, _)| peeked.is_allowed()) {
        // Ask again for a key that is refused by itself, because that may begin a block.
        let each = keys.iter().zip(peeked).map(|(key, (peeked, _))| {
            if peeked.is_allowed() {
                Ok(peeked.refused_with_others())
            } else {
                Ok(decide(key, ChargeMode::All)?.0)
            }
        });
        return each.collect();
    }
    // All would pass: charge them.
    let decided = keys.iter().map(|key| decide(key, ChargeMode::All)).collect::<Result<Vec<_>>>()?;
    if decided.iter().all(|(decision, _)| decision.is_allowed()) {
        return Ok(decided.into_iter().map(|(decision, _)| decision).collect());
    }
    // Another thread has charged in between: give everything back.
    let each = keys.iter().zip(decided).map(|(key, (decision, stamp))| {
        key.limiter.give_back_to_share(key.name, key.plan, decision.granted, stamp);
        decision.refused_with_others()
    });
    Ok(each.collect())
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_flood_of_keys_in_an_outage_is_gone_from_the_share_after_its_windows() {
        let server = larder_testkit::Server::start();
        let builder = crate::Larder::builder().url(server.url());
        let larder = builder.response_timeout(Duration::from_millis(200)).connect().await.unwrap();
        let quota = crate::Quota::new(30, Duration::from_secs(3));
        let limiter = larder.rate_limiter("api", quota).unwrap().outage(OutagePolicy::LocalShare(1)).unwrap();
        server.pause();
        for key in 0..20_000 {
            assert!(limiter.allow(key).await.unwrap(), "{key}");
        }
        let share = &limiter.inner.local.share;
        let (flood, room) = share.size();
        assert!(flood > 1000 && room >= flood, "{flood}");
        server.resume();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while share.size().0 > 0 {
            assert!(std::time::Instant::now() < end, "{} of {flood} are left", share.size().0);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(share.size().1 < 5_000, "room for {} of {room} is left", share.size().1);
    }
}
