//! Rate limits that never admit more than their limit.
//!
//! A limiter charges a record on the store, in the store's time, in one atomic step that decides all its quotas together;
//! `store/memory/limits/mod.rs` explains the rules. What can be known here is decided here: a refusal that still holds
//! (`local`), permits of a lease (`lease`), and what the program wants while the store is away (`outage`). A refusal
//! charges nothing. Whatever is given back goes to where it was charged.
//!
//! Not guaranteed: anything on a server that evicts or loses what it stored; see docs/rate-limits.md.

mod acquire;
mod ask;
mod block;
mod decision;
mod lease;
mod local;
mod many;
mod meter;
mod outage;
mod overrides;
#[cfg(test)]
mod programs;
mod quota;
mod reserve;
#[cfg(test)]
mod simulation;
#[cfg(all(test, feature = "redis"))]
mod skewed;
mod tiers;
pub(crate) mod together;
mod wait_queue;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::call::Call;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::name::Name;
use crate::store::limit::{Charge, LimitStore, Penalty, Take};
use decision::RecordId;
use local::Local;
use quota::Plan;

pub use block::Block;
pub use decision::{DecidedBy, Decision};
pub use lease::Lease;
pub use outage::Outage;
pub use quota::{Quota, Quotas};
pub use reserve::{Reservation, Reserve, Settled};
pub use together::{LimitKey, Together};

/// A rate limiter under a name. Made by [`Larder::rate_limiter`](crate::Larder::rate_limiter); cheap to clone.
///
/// In no span of a window's length is more than the limit admitted, by the store's own clock, however many programs ask
/// and whatever their clocks say. A refusal charges nothing. Several quotas are decided together in one round trip, all or
/// nothing. How each [`Quota`] counts, and when capacity returns, is said there. Records expire by themselves. A server
/// that evicts can forget what it has admitted: give limits one that does not.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use larder::Quota;
///
/// let limiter = larder.rate_limiter("api", [Quota::per_second(2), Quota::per_minute(100)])?;
/// assert!(limiter.allow("endpoint1").await?);
/// assert_eq!(limiter.remaining("endpoint1").await?, 1);
/// assert!(limiter.check("endpoint1").await?.is_allowed());
///
/// let refused = limiter.check("endpoint1").await?;
/// assert!(!refused.is_allowed() && refused.retry_after().is_some());
/// assert_eq!(refused.quota(), Quota::per_second(2));
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<Context>,
    local: Arc<Local>,
    name: String,
    /// What the names of its records begin with.
    prefix: String,
    plan: RwLock<Arc<Plan>>,
    /// Which plan that is: all that a decision made here asks of it.
    plan_id: AtomicU64,
    outage: Outage,
    lease: Option<(Lease, Duration)>,
    by_key: Option<tiers::ByKey>,
    penalty: Option<Penalty>,
}

impl RateLimiter {
    pub(crate) fn new(context: Arc<Context>, name: &str, quotas: Quotas) -> Result<Self> {
        let plan = Plan::new(quotas)?;
        let whole = context.keyspace.limit(name, "")?;
        let prefix = whole.trim_end_matches('}').to_owned();
        let local = context.shared_of_limiter(&prefix, || Local::new(name, &prefix))?;
        let plan = local.plan(plan);
        let (plan_id, plan) = (AtomicU64::new(plan.id), RwLock::new(plan));
        let (outage, lease, by_key, penalty) = (Outage::Error, None, None, None);
        let name = name.to_owned();
        let inner = Inner { context, local, name, prefix, plan, plan_id, outage, lease, by_key, penalty };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What to decide while the store does not answer. Default: [`Outage::Error`].
    ///
    /// A call is decided by it as soon as its timeout is over or its request has failed; the ones after that at once,
    /// until the store answers again.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for a share among no programs.
    pub fn outage(self, outage: Outage) -> Result<Self> {
        if outage == Outage::LocalShare(0) {
            return Err(Error::invalid("a share is that of at least one program"));
        }
        Ok(self.with(|inner| inner.outage = outage))
    }

    /// Takes permits in batches and spends them here, for keys that are very hot: no round trip for most decisions.
    ///
    /// A number is a [`Lease::batch`] of so many. What is leased counts as admitted until its window has passed, counted
    /// from the end of the lease; what is not spent is given back then. So no window holds more than the limit, and
    /// somewhat less than the limit may be used.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for an empty batch, a span that is no part of the shortest window, and with [`Quota::gcra`].
    pub fn leased(self, lease: impl Into<Lease>) -> Result<Self> {
        let lease = lease.into();
        let span = lease.checked(&self.plan())?;
        Ok(self.with(|inner| inner.lease = Some((lease, span))))
    }

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
        *current = self.inner.local.plan(plan);
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

    /// The name that it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

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
            self.ask_store(&name, &plan, Take::UpTo, most).await.map(|decision| self.counted(decision))
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
                take: Take::Look,
                cost: 1,
                ahead: 0,
                patience: 0,
                penalty: None,
            };
            // What remains is that of the quota with least left, which a refusal does not name.
            let looked = self.inner.context.coordination()?.charge(name.as_str(), charge).await?;
            Ok(if looked.granted == 0 { 0 } else { looked.remaining })
        })
    }

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

    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let plan = self.plan();
        let mut inner = Inner {
            context: self.inner.context.clone(),
            local: self.inner.local.clone(),
            name: self.inner.name.clone(),
            prefix: self.inner.prefix.clone(),
            plan_id: AtomicU64::new(plan.id),
            plan: RwLock::new(plan),
            outage: self.inner.outage,
            lease: self.inner.lease,
            by_key: self.inner.by_key.clone(),
            penalty: self.inner.penalty,
        };
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    fn plan_id(&self) -> u64 {
        self.inner.plan_id.load(Ordering::Acquire)
    }

    async fn decide_unknown(&self, key: &Name, cost: u64) -> Result<Decision> {
        self.decide_there(&self.record_of(key)?, cost).await
    }

    fn record(&self, key: impl CacheKey) -> Result<Name> {
        self.record_of(&text_of(key))
    }

    /// The name of the record of a key.
    fn record_of(&self, key: &Name) -> Result<Name> {
        let mut name = Name::from(self.inner.prefix.as_str());
        name.push_str(key);
        name.push_str("}");
        self.inner.context.limits.check_key(&name)?;
        Ok(name)
    }

    /// Whether the key is short enough for the store.
    #[cfg(feature = "tower")]
    pub(crate) fn takes(&self, key: &str) -> bool {
        // Escaping makes three bytes of one at most.
        let most = self.inner.prefix.len() + 3 * key.len() + 1;
        most <= self.inner.context.limits.max_key_bytes || self.record(key).is_ok()
    }

    fn timeout(&self) -> Duration {
        self.inner.context.limits.response_timeout
    }
}

fn text_of(key: impl CacheKey) -> Name {
    let mut text = Name::new();
    key.write(&mut KeyText::new(&mut text));
    text
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.inner.name)
            .field("quotas", &self.plan())
            .field("outage", &self.inner.outage)
            .field("lease", &self.inner.lease)
            .field("penalty", &self.inner.penalty)
            .finish_non_exhaustive()
    }
}
