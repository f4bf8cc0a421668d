//! Rate limits that never admit more than their limit.
//!
//! A limiter charges a record on the store, by the store's clock. One atomic step decides all its quotas together;
//! `store/memory/limits/mod.rs` explains the rules. Some decisions need no request: a refusal that still holds
//! (`local`), permits of a batch (`batch`), and the outage policy while the store is down (`outage`). A refusal
//! charges nothing. Permits that are given back return to the place where they were charged.
//!
//! Not guaranteed: anything on a server that evicts or loses data; see docs/rate-limits.md.

mod acquire;
mod batch;
mod block;
mod breaker;
mod check;
mod decision;
mod key_change;
mod local;
mod many;
mod meter;
mod outage;
mod overrides;
#[cfg(test)]
mod programs;
mod quota;
mod refund;
mod request;
mod reserve;
#[cfg(test)]
mod simulation;
#[cfg(all(test, feature = "redis"))]
mod skewed;
mod tiers;
pub(crate) mod together;
mod turn;
mod wait_queue;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::name::Name;
use crate::store::limit::{Charged, Label, Penalty, QuotaSpec, Rule};
use local::Local;

pub use batch::PermitBatch;
pub use block::Block;
pub use decision::{DecidedBy, Decision};
pub use outage::OutagePolicy;
pub use overrides::QuotaOverride;
pub use quota::{Quota, Quotas};
pub use reserve::{Reservation, Reserve, Settled};
pub use together::{LimitKey, Together};

/// The most quotas of one limiter.
const MOST_QUOTAS: usize = 8;

/// A rate limiter with a name. Made by [`Larder::rate_limiter`](crate::Larder::rate_limiter); cheap to clone.
///
/// No span of a window's length admits more than the limit, by the store's own clock, for any number of programs
/// and whatever their clocks show. A refusal charges nothing. Several quotas are decided together in one round
/// trip, all or nothing. [`Quota`] explains how permits are counted and when capacity returns. Records expire by
/// themselves. A server that evicts keys can forget what it has admitted: keep limits on a server that does not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
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
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<LimiterShared>,
}

struct LimiterShared {
    context: Arc<Context>,
    local: Arc<Local>,
    name: String,
    /// The prefix of its records' names.
    prefix: String,
    plan: RwLock<Arc<Plan>>,
    /// The id of `plan`: all that a decision without a request needs.
    plan_id: AtomicU64,
    outage: OutagePolicy,
    batch: Option<(PermitBatch, Duration)>,
    by_key: Option<tiers::QuotaByKey>,
    penalty: Option<Penalty>,
}

impl RateLimiter {
    pub(crate) fn new(context: Arc<Context>, name: &str, quotas: Quotas) -> Result<Self> {
        let plan = Plan::new(quotas)?;
        let whole = context.keyspace.limit(name, "")?;
        let prefix = whole.trim_end_matches('}').to_owned();
        let local = context.shared_of_limiter(&prefix, || Local::new(name, &prefix))?;
        let plan = local.plans.share(plan);
        let (plan_id, plan) = (AtomicU64::new(plan.id), RwLock::new(plan));
        let (outage, batch, by_key, penalty) = (OutagePolicy::Error, None, None, None);
        let name = name.to_owned();
        let inner =
            LimiterShared { context, local, name, prefix, plan, plan_id, outage, batch, by_key, penalty };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets what to decide while the store does not answer. Default: [`OutagePolicy::Error`].
    ///
    /// The policy decides a call as soon as it times out or its request fails. Later calls are decided at once
    /// until the store answers again.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): a share among no programs. Correct the policy.
    pub fn outage(self, outage: OutagePolicy) -> Result<Self> {
        if outage == OutagePolicy::LocalShare(0) {
            return Err(Error::invalid("OutagePolicy::LocalShare needs at least 1 program, not 0"));
        }
        Ok(self.with(|inner| inner.outage = outage))
    }

    /// Returns the name that the limiter was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    fn with(self, change: impl FnOnce(&mut LimiterShared)) -> Self {
        let plan = self.plan();
        let mut inner = LimiterShared {
            context: self.inner.context.clone(),
            local: self.inner.local.clone(),
            name: self.inner.name.clone(),
            prefix: self.inner.prefix.clone(),
            plan_id: AtomicU64::new(plan.id),
            plan: RwLock::new(plan),
            outage: self.inner.outage,
            batch: self.inner.batch,
            by_key: self.inner.by_key.clone(),
            penalty: self.inner.penalty,
        };
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    fn plan_id(&self) -> u64 {
        self.inner.plan_id.load(Ordering::Acquire)
    }

    /// Returns the plan of a key, by its text.
    fn plan_for_key(&self, key: &str) -> Result<Arc<Plan>> {
        match self.inner.by_key.as_ref().and_then(|by_key| by_key(key)) {
            Some(quotas) => self.plan_of(quotas),
            None => Ok(self.plan()),
        }
    }

    /// Returns the plan of a key, by the name of its record.
    fn plan_for(&self, name: &Name) -> Result<Arc<Plan>> {
        if self.inner.by_key.is_none() {
            return Ok(self.plan());
        }
        let key = self.inner.local.key_of(name.as_bytes());
        self.plan_for_key(std::str::from_utf8(key).unwrap_or_default())
    }

    fn plan(&self) -> Arc<Plan> {
        self.inner.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, key: impl CacheKey) -> Result<Name> {
        self.record_of(&text_of(key))
    }

    /// Makes the name of a key's record.
    fn record_of(&self, key: &Name) -> Result<Name> {
        let mut name = Name::from(self.inner.prefix.as_str());
        name.push_str(key);
        name.push_str("}");
        self.inner.context.limits.check_key(&name)?;
        Ok(name)
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

/// Valid quotas, with the specs that the store gets.
struct Plan {
    /// A hash of the quotas: local knowledge belongs to them, however many sets a program uses.
    id: u64,
    quotas: Vec<Quota>,
    specs: Vec<QuotaSpec>,
    /// The largest cost that can ever be allowed.
    most: u64,
    /// The shortest window.
    shortest: Duration,
}

impl Plan {
    fn new(quotas: Quotas) -> Result<Self> {
        let quotas = quotas.0;
        if quotas.is_empty() || quotas.len() > MOST_QUOTAS {
            return Err(Error::invalid(format!(
                "a limiter has 1 to {MOST_QUOTAS} quotas, not {}",
                quotas.len()
            )));
        }
        // Quotas of one record are told apart by their windows, so each window occurs once.
        for (place, quota) in quotas.iter().enumerate() {
            if quotas.iter().skip(place + 1).any(|other| other.window() == quota.window()) {
                return Err(Error::invalid(format!(
                    "two quotas of one limiter have the window {:?}: keep the one with the lower limit",
                    quota.window()
                )));
            }
        }
        let specs: Vec<QuotaSpec> = quotas.iter().map(|quota| quota.spec()).collect::<Result<_>>()?;
        // The plan's number: what is known here of a key was decided under one plan, and ends with it.
        let mut hasher = DefaultHasher::new();
        quotas.hash(&mut hasher);
        Ok(Self {
            id: hasher.finish(),
            most: specs.iter().map(|spec| spec.limit).min().unwrap_or_default(),
            shortest: quotas.iter().map(|quota| quota.window()).min().unwrap_or_default(),
            quotas,
            specs,
        })
    }

    fn quota(&self, place: usize) -> Quota {
        self.quotas.get(place).copied().unwrap_or(Quota::new(0, Duration::ZERO))
    }

    /// Returns what a store keeps beside each spec if these are the quotas of an override.
    fn labels(&self) -> impl Iterator<Item = Label> {
        self.quotas.iter().map(|quota| quota.label(self.shortest))
    }

    /// Returns how far ahead a turn can be booked. GCRA alone sets no bound. `label` is that of the override's quota if
    /// an override decided; it is too little if a GCRA quota has the shortest window of the override.
    fn reach(&self, label: Option<Label>) -> Duration {
        let windows = self.specs.iter().filter(|spec| spec.rule != Rule::Gcra).map(|spec| spec.window());
        let own = || windows.min().map_or(Duration::MAX, Duration::from_micros);
        label.map_or_else(own, Quota::shortest_of)
    }

    /// Refuses a cost of zero.
    fn check_some(&self, cost: u64) -> Result<()> {
        if cost == 0 {
            return Err(Error::invalid("a cost is at least 1; remaining() asks without charging"));
        }
        Ok(())
    }

    /// Refuses a cost that could never be allowed, unless the store decided by other quotas.
    fn check_answer(&self, cost: u64, charged: &Charged) -> Result<()> {
        if charged.label.is_some() { Ok(()) } else { self.check_cost(cost) }
    }

    /// Refuses a cost that could never be allowed.
    fn check_cost(&self, cost: u64) -> Result<()> {
        self.check_some(cost)?;
        if cost > self.most {
            return Err(Error::invalid(format!(
                "a cost of {cost} is more than the limit of {} and would never be allowed",
                self.most
            )));
        }
        Ok(())
    }

    /// Returns the share of one of `instances` programs; `None` if it is less than one permit.
    fn share(&self, instances: u32) -> Option<Vec<QuotaSpec>> {
        let share = |spec: &QuotaSpec| {
            let limit = spec.limit / u64::from(instances.max(1));
            let width = match spec.rule {
                // The limit divides the burst, the interval divides the pace.
                Rule::Gcra => spec.width.saturating_mul(u64::from(instances.max(1))),
                Rule::Buckets | Rule::Log => spec.width,
            };
            (limit > 0).then_some(QuotaSpec { limit, width, ..*spec })
        };
        self.specs.iter().map(share).collect()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.quotas.fmt(f)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.inner.name)
            .field("quotas", &self.plan())
            .field("outage", &self.inner.outage)
            .field("batch", &self.inner.batch)
            .field("penalty", &self.inner.penalty)
            .finish_non_exhaustive()
    }
}
