//! Gives permits back to the place where they were charged, and resets keys.

use super::RateLimiter;
use super::decision::{Decision, RecordId};
use super::key_change::KeyChange;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{ChargeStamp, LimitStore};

impl RateLimiter {
    /// Forgets everything that was charged to a key. Returns whether anything was. One round trip.
    ///
    /// Permits that other processes hold in batches can still be spent. Those of this process are not spent from the
    /// call on, unless it certainly failed.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have reset the key.
    pub fn reset(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.reset, async move {
            let (name, store) = (name?, self.inner.context.coordination()?);
            let change = KeyChange::begin(self, &name);
            change.end(store.forget(name.as_str()).await)
        })
    }

    /// Gives back unused permits of a decision, to the place where they were charged. Returns how many were given
    /// back. One round trip; none for permits of a batch that can still be spent.
    ///
    /// It consumes the decision, which cannot be cloned, so nothing is given back twice. Use the same key, and a
    /// limiter with the same name and namespace; otherwise nothing is sent. Permits that no longer count are not
    /// given back: after their window, after a reset, after a change of windows, or, with GCRA, after the pace has
    /// recovered them. Nor are those that a booked turn stands on: with GCRA, while a turn is booked behind them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("export", larder::Quota::per_hour(3))?;
    /// let decision = limiter.check_n("ann", 3).await?;
    /// assert_eq!(limiter.refund("ann", decision, 2).await?, 2); // one was used
    /// assert_eq!(limiter.remaining("ann").await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// After an error the decision is consumed, and stays charged.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): more permits than were granted, or a decision about
    ///   another key or by another limiter.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have given the permits back.
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

    /// Gives permits back to the batch or to the store that they were taken from.
    pub(super) async fn give_back(&self, name: &Name, stamp: ChargeStamp, permits: u64) -> Result<u64> {
        if stamp == ChargeStamp::default() || permits == 0 {
            return Ok(0);
        }
        if let Some(known) = self.inner.local.known(name.as_bytes())
            && let Some(batch) = known.facts().batch.as_mut()
            && batch.stamp == stamp
            && self.now() < batch.deadline
        {
            batch.left += permits;
            return Ok(permits);
        }
        let given = self.inner.context.coordination()?.refund(name.as_str(), permits, stamp).await;
        self.inner.local.forget_refusal(name.as_bytes());
        given
    }

    /// As `give_back`, without waiting for the result.
    pub(super) fn give_back_later(&self, name: &Name, stamp: ChargeStamp, permits: u64) {
        self.give_back_in_background(name, stamp, permits, drop);
    }

    /// As `give_back_later`, with a function that gets the result.
    pub(super) fn give_back_in_background(
        &self,
        name: &Name,
        stamp: ChargeStamp,
        permits: u64,
        given: impl FnOnce(Result<u64>) + Send + 'static,
    ) {
        let (local, key) = (self.inner.local.clone(), name.clone());
        // Only after the refund: before it, the store would still refuse what it has just refused.
        let done = move |result| {
            local.forget_refusal(key.as_bytes());
            given(result);
        };
        let name = name.as_str().to_owned();
        self.inner.context.refund_in_background(name, permits, stamp, done);
    }
}
