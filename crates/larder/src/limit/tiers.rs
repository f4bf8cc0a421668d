//! Other quotas for some keys: by a closure in the limiter, or by a handle.

use super::quota::{Quota, Quotas};
use super::{Plan, RateLimiter};
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Returns the quotas of a key; `None` for the limiter's own quotas.
pub(super) type QuotaByKey = Arc<dyn Fn(&str) -> Option<Quotas> + Send + Sync>;

impl RateLimiter {
    /// Changes the quotas of this handle and its clones. Earlier charges still count, also if a window changes:
    /// each charge counts from the latest time that the record allows for it, and of a GCRA quota counts what its
    /// pace has not recovered.
    ///
    /// Programs that use one name at the same time may have different limits. If they have different windows, each
    /// charge converts the record, and charges before the reach of the shorter windows are forgotten. Each conversion
    /// can move the other charges later, by up to a bucket.
    ///
    /// Permit batches that were taken before are not spent by the new quotas. They are given back when they end or when
    /// the next batch replaces them. If a window or a counting method has changed, nothing is given back to a record
    /// that was charged by the new quotas meanwhile: the unspent permits count until their window has passed.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the quotas are invalid, alone or together with the
    /// limiter's permit batch. Correct them.
    pub fn set_quotas(&self, quotas: impl Into<Quotas>) -> Result<()> {
        let plan = Plan::new(quotas.into())?;
        if let Some((batch, span)) = self.inner.batch {
            batch.span(span).checked(&plan)?;
        }
        let mut current = self.inner.plan.write().unwrap_or_else(PoisonError::into_inner);
        *current = self.inner.local.plans.share(plan);
        self.inner.plan_id.store(current.id, Ordering::Release);
        drop(current);
        self.inner.local.quotas_changed();
        Ok(())
    }

    /// Returns the quotas, in the order in which they were given.
    #[must_use]
    pub fn quotas(&self) -> Vec<Quota> {
        self.plan().quotas.clone()
    }

    /// Sets quotas by key: those that `quotas` returns, or the limiter's own for `None`. The closure returns one
    /// [`Quota`], an array or a `Vec` of several, or [`Quotas`]. It is called for every decision, so it should only
    /// read memory and must not block.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    ///
    /// let limiter = larder
    ///     .rate_limiter("api", Quota::per_minute(10))?
    ///     .quotas_by(|key| key.starts_with("paid:").then_some(Quota::per_minute(1000)));
    /// assert_eq!(limiter.remaining("paid:ann").await?, 1000);
    /// assert_eq!(limiter.remaining("free:bob").await?, 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The key is the text that is in the name of its record ([wire format]): a tuple's parts are joined by
    /// `:`. Invalid quotas are an `InvalidSetting` error of the call.
    ///
    /// [wire format]: crate::guide::wire_format
    #[must_use]
    pub fn quotas_by<Q>(self, quotas: impl Fn(&str) -> Option<Q> + Send + Sync + 'static) -> Self
    where
        Q: Into<Quotas> + 'static,
    {
        self.with(|inner| inner.by_key = Some(Arc::new(move |key| quotas(key).map(Into::into))))
    }

    /// Returns a handle of this limiter with other quotas, for example those of a customer's plan. All handles
    /// share this process's local knowledge, and charges by other handles count.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the quotas are invalid, alone or together with the
    /// limiter's permit batch. Correct them.
    pub fn with_quotas(&self, quotas: impl Into<Quotas>) -> Result<Self> {
        let plan = self.plan_of(quotas.into())?;
        if plan.id == self.plan_id() && self.inner.by_key.is_none() {
            return Ok(self.clone());
        }
        Ok(self.clone().with(|inner| {
            (inner.plan_id, inner.plan) = (AtomicU64::new(plan.id), RwLock::new(plan));
            inner.by_key = None;
        }))
    }

    /// Returns the plan for these quotas, if the limiter can use them.
    pub(super) fn plan_of(&self, quotas: Quotas) -> Result<Arc<Plan>> {
        let local = &self.inner.local;
        let plan = match local.plans.known(&quotas) {
            Some(known) => known,
            None => local.plans.share(Plan::new(quotas)?),
        };
        if let Some((batch, span)) = self.inner.batch {
            batch.span(span).checked(&plan)?;
        }
        Ok(plan)
    }

    /// Returns the quotas that responses list: the key's quotas if the binding one is among them. Otherwise an
    /// override decided, and only the binding quota is listed.
    #[cfg(feature = "tower")]
    pub(crate) fn quotas_of(&self, key: &str, bound: Option<Quota>) -> Vec<Quota> {
        let plan = self.plan_for_key(super::text_of(key).as_str()).unwrap_or_else(|_| self.plan());
        match bound.filter(|bound| !plan.quotas.contains(bound)) {
            Some(bound) => vec![bound],
            None => plan.quotas.clone(),
        }
    }

    /// Returns the largest cost of one request about a key, unless an override on the store allows more.
    #[cfg(feature = "tower")]
    pub(crate) fn largest_cost(&self, key: &str) -> u64 {
        self.plan_for_key(super::text_of(key).as_str()).map_or(u64::MAX, |plan| plan.most)
    }

    /// Returns whether the key is short enough for the store.
    #[cfg(feature = "tower")]
    pub(crate) fn takes(&self, key: &str) -> bool {
        // Escaping makes at most three bytes of one.
        let most = self.inner.prefix.len() + 3 * key.len() + 1;
        most <= self.inner.context.limits.max_key_bytes || self.record(key).is_ok()
    }

    /// Returns a random part of a span.
    #[cfg(feature = "tower")]
    pub(crate) fn jitter(&self, most: std::time::Duration) -> std::time::Duration {
        self.inner.context.random.part_of(most)
    }
}
