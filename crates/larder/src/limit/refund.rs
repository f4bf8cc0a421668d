//! Giving permits back, to the very place where they were charged; and forgetting a key.

use super::RateLimiter;
use super::decision::{Decision, RecordId};
use super::quota::Plan;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{ChargeStamp, LimitStore};

impl RateLimiter {
    /// Forgets what was charged to a key; whether anything was. One round trip.
    ///
    /// Permits of it that other processes hold in leases can still be spent.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have reset the key.
    pub fn reset(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.reset, async move {
            let name = name?;
            let forgotten = self.inner.context.coordination()?.forget(name.as_str()).await;
            self.inner.local.forget(name.as_bytes());
            forgotten
        })
    }

    /// Gives back permits that a decision granted and that were not used, to the very place where they were charged; how
    /// many that was. One round trip; none for permits of a lease that still stands.
    ///
    /// It takes the decision, which cannot be cloned: so nothing is given back twice. It is given back under the key that
    /// it was made for, by a limiter of the same name and namespace; under another, nothing is sent. Nothing comes back
    /// that no longer counts: after its window, a reset, or a change of windows; with GCRA what the pace has made good
    /// since.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("export", larder::Quota::per_hour(3))?;
    /// let decision = limiter.check_n("ann", 3).await?;
    /// assert_eq!(limiter.refund("ann", decision, 2).await?, 2); // one was used
    /// assert_eq!(limiter.remaining("ann").await?, 2);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for more permits than were granted, and for a decision
    /// about another key or by another limiter. The decision is gone then, and stays charged.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have given them back.
    pub fn refund(
        &self,
        key: impl CacheKey,
        decision: Decision,
        permits: u64,
    ) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.refund, async move {
            if permits > decision.granted {
                let granted = decision.granted;
                return Err(Error::invalid(format!("{permits} of {granted} permits cannot be given back")));
            }
            let name = name?;
            if decision.is_allowed() && decision.record != RecordId::of(&name) {
                return Err(Error::invalid("the decision was made for another key or by another limiter"));
            }
            self.give_back(&name, decision.stamp, permits).await
        })
    }

    /// Gives permits back to the lease or to the store that they came from.
    pub(super) async fn give_back(&self, name: &Name, stamp: ChargeStamp, permits: u64) -> Result<u64> {
        if stamp == ChargeStamp::default() || permits == 0 {
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
    pub(super) fn give_back_later(&self, name: &Name, plan: &Plan, stamp: ChargeStamp, permits: u64) {
        let (local, key) = (self.inner.local.clone(), name.clone());
        // Not before: until then the store refuses what it has just refused.
        let done = move || local.forget_refusal(key.as_bytes());
        let name = name.as_str().to_owned();
        self.inner.context.refund_in_background(name, plan.terms.clone(), permits, stamp, done);
    }
}
