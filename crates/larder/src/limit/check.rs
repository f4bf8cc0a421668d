//! Decisions about one key, or about each of many: what is known here is decided here, and the rest by the store.

use super::decision::Decision;
use super::{RateLimiter, many, text_of};
use crate::call::Call;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, LimitStore};

impl RateLimiter {
    /// Whether one more may pass, and if so charges it: [`check`](Self::check) without the figures.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub fn allow(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let key = text_of(key);
        Call::unless_at_once(self.timeout(), &self.inner.local.meter.check, async move {
            if let Some(decision) = self.at_once(key.as_bytes(), 1) {
                return Ok(decision.is_allowed());
            }
            Ok(Box::pin(self.decide_unknown(&key, 1)).await?.is_allowed())
        })
    }

    /// Whether one more may pass, and if so charges it.
    ///
    /// One round trip; none where the answer is known here. A refusal is a decision, not an error, and charges nothing.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request, unless [`outage`](Self::outage) decides instead. After an
    /// [indeterminate](crate::Error::is_indeterminate) one it may have been charged.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged.
    pub fn check(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Decision>> + Send> {
        self.check_n(key, 1)
    }

    /// [`check`](Self::check) for something that costs more than one: all of it or nothing.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); `InvalidSetting` for a cost of zero and for one above the limit, which could never pass.
    /// The store says whether it is: an [override](Self::override_key) may allow more.
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub fn check_n(
        &self,
        key: impl CacheKey,
        cost: u64,
    ) -> Call<'_, impl Future<Output = Result<Decision>> + Send> {
        let key = text_of(key);
        Call::unless_at_once(self.timeout(), &self.inner.local.meter.check, async move {
            if let Some(decision) = self.at_once(key.as_bytes(), cost) {
                return Ok(decision);
            }
            // What asks the store is boxed: what is known here must not carry a future of its size.
            Box::pin(self.decide_unknown(&key, cost)).await
        })
    }

    /// Takes as many permits as there are, `most` at most: [`granted`](Decision::granted) says how many. One round trip.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("mails", larder::Quota::per_hour(3))?;
    /// assert_eq!(limiter.take_up_to("newsletter", 100).await?.granted(), 3);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); `InvalidSetting` for zero.
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub fn take_up_to(
        &self,
        key: impl CacheKey,
        most: u64,
    ) -> Call<'_, impl Future<Output = Result<Decision>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.take_up_to, async move {
            let name = name?;
            let plan = self.plan_for(&name)?;
            plan.check_cost(most.min(1))?;
            let local = &self.inner.local;
            let key = local.key_of(name.as_bytes());
            if let Some(decision) = local.decide_key(key, (1, most), plan.id, &self.inner.context.clock) {
                return Ok(self.counted(decision));
            }
            self.ask_store(&name, &plan, ChargeMode::UpTo, most).await.map(|decision| self.counted(decision))
        })
    }

    /// [`check`](Self::check) of each key by itself, in the order of the keys, up to 1,024 at once: 1,024 keys take the
    /// time of one round trip. The call has `response_timeout` for every 1,024 keys.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check): the first there is. Other keys may have been charged then.
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub fn check_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Call<'_, impl Future<Output = Result<Vec<Decision>>> + Send> {
        let names: Vec<_> = keys.into_iter().map(|key| self.record(key)).collect();
        let parts = u32::try_from(1 + names.len() / many::AT_ONCE).unwrap_or(u32::MAX);
        let timeout = self.timeout().saturating_mul(parts);
        Call::new(timeout, &self.inner.local.meter.check_many, async move {
            let each = names.into_iter().map(|name| Box::pin(async move { self.decide(name?, 1).await }));
            many::all_of(each).await
        })
    }

    /// How many more may pass now. Charges nothing and writes nothing. One round trip.
    ///
    /// Permits that are leased, here or elsewhere, and turns that are booked are not among them.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn remaining(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.remaining, async move {
            let name = name?;
            let plan = self.plan_for(&name)?;
            let charge = Charge {
                terms: &plan.terms,
                take: ChargeMode::Look,
                cost: 1,
                charge_at: 0,
                max_wait: 0,
                penalty: None,
            };
            // What remains is that of the quota with least left, which a refusal does not name.
            let looked = self.inner.context.coordination()?.charge(name.as_str(), charge).await?;
            Ok(if looked.granted == 0 { 0 } else { looked.remaining })
        })
    }

    async fn decide_unknown(&self, key: &Name, cost: u64) -> Result<Decision> {
        self.decide_there(&self.record_of(key)?, cost).await
    }
}
