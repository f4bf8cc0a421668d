//! Limits of single keys that are changed while programs run, stored on the server.
//!
//! An override is kept with the key's record and read by the same script, so a decision is still one round trip,
//! and keys without an override cost nothing more. Earlier charges still count, as after a change of quotas.

use std::time::Duration;

use super::Plan;
use super::RateLimiter;
use super::key_change::KeyChange;
use super::quota::{Quota, Quotas};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{Label, LimitStore, Override, QuotaSpec};

const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The quotas that one key has for a while, in place of its limiter's own quotas.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaOverride {
    /// The quotas, in the order in which they were given.
    pub quotas: Vec<Quota>,
    /// How long they still apply.
    pub expires_in: Duration,
}

impl RateLimiter {
    /// Gives one key other quotas, for all programs, for the duration `lasts` or until
    /// [`end_override`](Self::end_override). Replaces an earlier override. One round trip, and one more if this process
    /// has a permit batch of the key: what is left of it is given back first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    ///
    /// let limiter = larder.rate_limiter("api", Quota::per_minute(100))?;
    /// let day = Duration::from_secs(24 * 3600);
    /// limiter.override_key("ann", Quota::per_minute(500), day).await?;
    /// assert_eq!(limiter.remaining("ann").await?, 500);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Decisions name the override's quotas. Other processes use it from their next request on, which is up to a
    /// second later for a key whose refusal they know; they spend their permit batches first. A cost above the
    /// override's limits is refused until the override ends, and not treated as an error as a cost above the
    /// limiter's own limits is. While the store is down, overrides do not apply.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the quotas are invalid, or the duration is below a
    ///   millisecond or above 366 days.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have set the override.
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
            self.replace_override(&name, plan.specs.iter().copied().zip(plan.labels()).collect(), lasts).await
        })
    }

    /// Ends a key's override. One round trip, and one more if this process has a permit batch of the key: what is left
    /// of it is given back first.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended the override.
    pub fn end_override(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.overrides, async move {
            self.replace_override(&name?, Vec::new(), Duration::ZERO).await
        })
    }

    /// Sets a key's override; without specs, ends it. Permits of a batch are given back first: the store finds them
    /// only in a record of the quotas by which they were charged.
    async fn replace_override(
        &self,
        name: &Name,
        specs: Vec<(QuotaSpec, Label)>,
        lasts: Duration,
    ) -> Result<()> {
        let (store, own) = (self.inner.context.coordination()?, self.plan_for(name)?.specs.clone());
        let mut change = KeyChange::begin(self, name);
        change.give_back().await?;
        change.end(store.set_override(name.as_str(), &Override { specs, own, lasts }).await)
    }

    /// Returns a key's override, if it has one. One round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
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
