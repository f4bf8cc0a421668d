//! Decisions about one key, or about each of many keys: without a request where possible, otherwise by the store.

#[cfg(feature = "admin")]
use super::decision::DecidedBy;
use super::decision::Decision;
use super::{RateLimiter, many, text_of};
use crate::call::Call;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
#[cfg(feature = "admin")]
use crate::store::limit::ChargeStamp;
use crate::store::limit::{Charge, ChargeMode, LimitStore};

impl RateLimiter {
    /// Charges one permit if the limit allows it, and returns whether it did. As [`check`](Self::check), without
    /// the figures.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
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

    /// Charges one permit if the limit allows it, and returns the decision with its figures.
    ///
    /// One round trip; none if the same request was refused a moment ago, or a permit batch has permits left. A
    /// refusal is a decision, not an error, and charges nothing.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged.
    pub fn check(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Decision>> + Send> {
        self.check_n(key, 1)
    }

    /// As [`check`](Self::check) for a request that costs `cost` permits: charges all of them or none.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no permits, or more than the limit, which could never be
    ///   allowed. The store decides the latter, because an [override](Self::override_key) may allow more.
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
            // Boxed: the fast path above must not carry a future of this size.
            Box::pin(self.decide_unknown(&key, cost)).await
        })
    }

    /// Charges as many permits as are free, up to `most`: [`granted`](Decision::granted) returns the number. One
    /// round trip.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let limiter = larder.rate_limiter("mails", larder::Quota::per_hour(3))?;
    /// assert_eq!(limiter.take_up_to("newsletter", 100).await?.granted(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no permits. Correct the call.
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

    /// Calls [`check`](Self::check) for each key independently, in the order of the keys. Up to 1,024 requests are
    /// sent at once, which takes about one round trip. The call has `response_timeout` for every 1,024 keys.
    ///
    /// # Errors
    ///
    /// The first key that fails fails the call; other keys may have been charged.
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
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

    /// Returns how many more requests would be allowed now. Charges and writes nothing. One round trip.
    ///
    /// Permits in batches of any process and booked turns count as used.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
    pub fn remaining(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.remaining, async move {
            let name = name?;
            let plan = self.plan_for(&name)?;
            let charge = Charge {
                specs: &plan.specs,
                mode: ChargeMode::Peek,
                cost: 1,
                charge_at: 0,
                max_wait: 0,
                penalty: None,
            };
            // `remaining` belongs to the quota with the least left, which a refusal does not report.
            let peeked = self.inner.context.coordination()?.charge(name.as_str(), charge).await?;
            Ok(if peeked.granted == 0 { 0 } else { peeked.remaining })
        })
    }

    /// Returns what [`check_n`](Self::check_n) would decide, and charges nothing. One round trip.
    #[cfg(feature = "admin")]
    pub(crate) async fn peek(&self, key: impl CacheKey, cost: u64) -> Result<Decision> {
        let name = self.record(key)?;
        let plan = self.plan_for(&name)?;
        let charge = Charge {
            specs: &plan.specs,
            mode: ChargeMode::Peek,
            cost,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        let peeked = self.inner.context.coordination()?.charge(name.as_str(), charge).await?;
        plan.check_answer(cost, &peeked)?;
        // Nothing was charged, so there is nothing to give back.
        let decision = Decision::of(&name, peeked, &plan, DecidedBy::Store);
        Ok(Decision { stamp: ChargeStamp::default(), ..decision })
    }

    async fn decide_unknown(&self, key: &Name, cost: u64) -> Result<Decision> {
        self.decide_there(&self.record_of(key)?, cost).await
    }
}
