//! Other quotas for some keys: by a closure in the limiter, or by a handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::RateLimiter;
use super::quota::{Plan, Quota, Quotas};
use crate::error::Result;
use crate::name::Name;

/// The quotas of a key; nothing for the limiter's own.
pub(super) type ByKey = Arc<dyn Fn(&str) -> Option<Quotas> + Send + Sync>;

impl RateLimiter {
    /// Changes the quotas of this handle and its clones from now on. What was charged counts on, also where a window is
    /// changed: each charge at the latest time at which it can have been, and of GCRA what its pace has not made good yet.
    ///
    /// Programs that use one name at the same time may differ in their limits. If they differ in their windows, each
    /// charge translates the record, and what the shorter windows do not reach back to is forgotten.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for quotas that make no sense, alone or with the limiter's lease.
    pub fn set_quotas(&self, quotas: impl Into<Quotas>) -> Result<()> {
        let plan = Plan::new(quotas.into())?;
        if let Some((lease, span)) = self.inner.lease {
            lease.span(span).checked(&plan)?;
        }
        let mut current = self.inner.plan.write().unwrap_or_else(PoisonError::into_inner);
        *current = self.inner.local.plans.share(plan);
        self.inner.plan_id.store(current.id, Ordering::Release);
        drop(current);
        self.inner.local.quotas_changed();
        Ok(())
    }

    /// The quotas, in the order in which they were given.
    #[must_use]
    pub fn quotas(&self) -> Vec<Quota> {
        self.plan().quotas.clone()
    }

    /// Quotas by key: those that `quotas` returns, or the limiter's own for `None`. Called for every decision, so it looks
    /// something up in memory and does not block.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::{Quota, Quotas};
    ///
    /// let limiter = larder
    ///     .rate_limiter("api", Quota::per_minute(10))?
    ///     .quotas_by(|key| key.starts_with("paid:").then(|| Quota::per_minute(1000).into()));
    /// assert_eq!(limiter.remaining("paid:ann").await?, 1000);
    /// assert_eq!(limiter.remaining("free:bob").await?, 10);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// The key is the text that stands in the name of its record ([wire format]): a tuple's parts are joined by
    /// `:`. Quotas that make no sense are an `InvalidSetting` of the call.
    ///
    /// [wire format]: crate::guide::wire_format
    #[must_use]
    pub fn quotas_by(self, quotas: impl Fn(&str) -> Option<Quotas> + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.by_key = Some(Arc::new(quotas)))
    }

    /// A handle of this limiter with other quotas, say those of a customer's plan. It shares what is known in this process
    /// with all handles, and what was charged by others counts.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for quotas that make no sense, alone or with the limiter's lease.
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

    /// The plan for these quotas, if the limiter can use them.
    pub(super) fn plan_of(&self, quotas: Quotas) -> Result<Arc<Plan>> {
        let local = &self.inner.local;
        let plan = match local.plans.known(&quotas) {
            Some(known) => known,
            None => local.plans.share(Plan::new(quotas)?),
        };
        if let Some((lease, span)) = self.inner.lease {
            lease.span(span).checked(&plan)?;
        }
        Ok(plan)
    }

    /// The plan of a key, by its text.
    pub(super) fn plan_for_key(&self, key: &str) -> Result<Arc<Plan>> {
        match self.inner.by_key.as_ref().and_then(|by_key| by_key(key)) {
            Some(quotas) => self.plan_of(quotas),
            None => Ok(self.plan()),
        }
    }

    /// The plan of a key, by the name of its record.
    pub(super) fn plan_for(&self, name: &Name) -> Result<Arc<Plan>> {
        if self.inner.by_key.is_none() {
            return Ok(self.plan());
        }
        let key = self.inner.local.key_of(name.as_bytes());
        self.plan_for_key(std::str::from_utf8(key).unwrap_or_default())
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        self.inner.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What responses say: the key's quotas, among which is the one that bound. An override on the store may have another.
    #[cfg(feature = "tower")]
    pub(crate) fn quotas_of(&self, key: &str, bound: Option<Quota>) -> Vec<Quota> {
        let plan = self.plan_for_key(super::text_of(key).as_str()).unwrap_or_else(|_| self.plan());
        match bound.filter(|bound| !plan.quotas.contains(bound)) {
            Some(bound) => vec![bound],
            None => plan.quotas.clone(),
        }
    }

    /// The most that one request about a key can cost, unless an override on the store allows more.
    #[cfg(feature = "tower")]
    pub(crate) fn largest_cost(&self, key: &str) -> u64 {
        self.plan_for_key(super::text_of(key).as_str()).map_or(u64::MAX, |plan| plan.most)
    }

    /// A random part of a span.
    #[cfg(feature = "tower")]
    pub(crate) fn jitter(&self, most: std::time::Duration) -> std::time::Duration {
        if most.is_zero() { most } else { most.mul_f64(self.inner.context.random.fraction()) }
    }
}
