//! Limits of single keys that are changed while programs run, stored on the server.
//!
//! An override is kept with the key's record and read by the same script, so a decision still is one round trip, and keys
//! without one cost nothing more. What was charged counts on, as where quotas change.

use std::time::Duration;

use super::RateLimiter;
use super::quota::{Plan, Quota, Quotas};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::store::limit::{LimitStore, Override};

const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The quotas that one key has for a while, in place of its limiter's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaOverride {
    /// The quotas, in the order in which they were given.
    pub quotas: Vec<Quota>,
    /// How long they still hold.
    pub expires_in: Duration,
}

impl RateLimiter {
    /// Gives one key other quotas, for all programs and for so long, or until [`end_override`](Self::end_override).
    /// One round trip. It replaces an earlier override.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    ///
    /// let limiter = larder.rate_limiter("api", Quota::per_minute(100))?;
    /// let day = Duration::from_secs(24 * 3600);
    /// limiter.override_key("ann", Quota::per_minute(500), day).await?;
    /// assert_eq!(limiter.remaining("ann").await?, 500);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// Decisions name the override's quotas. Other processes see it with their next request, at most a second later where
    /// they know a refusal; their leases are spent to their end. A cost above the override's limits is refused until it ends,
    /// and so longer than a cost above the limiter's own, which is an error. While the store is away, overrides do not count.
    ///
    /// # Errors
    ///
    /// As [`remaining`](Self::remaining); `InvalidSetting` for quotas that make no sense, and for a time of less than a
    /// millisecond or more than 366 days.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have set it.
    pub fn override_key(
        &self,
        key: impl CacheKey,
        quotas: impl Into<Quotas>,
        lasts: Duration,
    ) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        let (name, plan) = (self.record(key), Plan::new(quotas.into()));
        Call::new(self.timeout(), &self.inner.local.meter.overrides, async move {
            let (name, plan) = (name?, plan?);
            if lasts < Duration::from_millis(1) || lasts > LONGEST {
                return Err(Error::invalid(format!(
                    "an override lasts from 1 ms to 366 days, not {lasts:?}"
                )));
            }
            let labels = plan.quotas.iter().map(|quota| quota.label());
            let terms = Override { terms: plan.terms.iter().copied().zip(labels).collect(), lasts };
            let set = self.inner.context.coordination()?.set_override(name.as_str(), &terms).await;
            self.inner.local.forget(name.as_bytes());
            set
        })
    }

    /// Ends a key's override. One round trip.
    ///
    /// # Errors
    ///
    /// As [`remaining`](Self::remaining).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended it.
    pub fn end_override(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.overrides, async move {
            let (name, none) = (name?, Override { terms: Vec::new(), lasts: Duration::ZERO });
            let ended = self.inner.context.coordination()?.set_override(name.as_str(), &none).await;
            self.inner.local.forget(name.as_bytes());
            ended
        })
    }

    /// A key's override, if it has one. One round trip.
    ///
    /// # Errors
    ///
    /// As [`remaining`](Self::remaining).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn override_of(
        &self,
        key: impl CacheKey,
    ) -> Call<'_, impl Future<Output = Result<Option<QuotaOverride>>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.overrides, async move {
            let found = self.inner.context.coordination()?.override_of(name?.as_str()).await?;
            Ok(found.map(|(labels, expires_in)| {
                let quotas = labels.into_iter().map(Quota::from_label).collect();
                QuotaOverride { quotas, expires_in }
            }))
        })
    }
}
