//! Several keys in one decision, all or nothing: a user and an address, or a tenant and a global limit.
//!
//! Two separate calls would charge the first key even if the second refuses, or charge a refusal until it is given
//! back. So the store decides all keys in one step. On a cluster that step needs all records in one slot:
//! [`RateLimiter::in_group`] puts them there.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::Plan;
use super::RateLimiter;
use super::decision::{DecidedBy, Decision};
use super::outage::{self, Away};
use super::quota::Quota;
use super::request::Charging;
#[cfg(feature = "tower")]
use super::reserve::Reservation;
use crate::call::Call;
use crate::clock::Tick;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, Charged, LimitStore};

/// The most keys of one decision: the server does nothing else while it decides them.
const MOST_KEYS: usize = 64;

/// A key of a limiter, and its cost. Made by [`RateLimiter::key`], for
/// [`Larder::check_together`](crate::Larder::check_together).
#[derive(Clone)]
#[must_use = "nothing is decided until it is given to check_together"]
pub struct LimitKey {
    limiter: RateLimiter,
    name: Result<Name>,
    cost: u64,
    /// A cost above the limiter's own limit is reduced to that, unless an override decides.
    reduced: bool,
}

impl LimitKey {
    /// Sets the cost. Default: 1.
    pub fn cost(self, cost: u64) -> Self {
        Self { cost, ..self }
    }

    /// Charges a cost above the limiter's own limit as the whole limit, unless an override decides.
    #[cfg(feature = "tower")]
    pub(crate) fn reduced(self) -> Self {
        Self { reduced: true, ..self }
    }
}

impl fmt::Debug for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitKey")
            .field("limiter", &self.limiter.name())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// The decision about several keys together: all of them were charged, or none.
#[derive(Debug)]
pub struct Together {
    decisions: Vec<Decision>,
}

impl Together {
    /// Returns whether the request is allowed by all keys.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decisions.iter().all(Decision::is_allowed)
    }

    /// Returns when the same request would pass if there are no other requests: the longest wait of all keys. `None` if
    /// the request was allowed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.decisions.iter().filter_map(Decision::retry_after).max()
    }

    /// Returns the place of the key with the longest wait; `None` if the request was allowed.
    #[must_use]
    pub fn refused_by(&self) -> Option<usize> {
        if self.is_allowed() {
            return None;
        }
        let waits = self.decisions.iter().map(Decision::retry_after).enumerate();
        waits.max_by_key(|(_, wait)| *wait).map(|(place, _)| place)
    }

    /// Returns the binding quota of the key that [refused](Self::refused_by), or otherwise of the key with the
    /// least left.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        let place = self.refused_by();
        let least = || self.decisions.iter().min_by_key(|decision| decision.remaining());
        place.map_or_else(least, |place| self.decisions.get(place)).map(Decision::quota)
    }

    /// Returns one decision per key, in the order of the keys. If the request was refused, the decision of a key that
    /// would have passed has a `retry_after` of zero, and says how much the key has left. If such a key passes only
    /// under an [override](RateLimiter::override_key) that ends before the other keys pass, its decision says when it
    /// passes without the override.
    #[must_use]
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Returns the decisions. Each of them can be given back by its limiter.
    #[must_use]
    pub fn into_decisions(self) -> Vec<Decision> {
        self.decisions
    }
}

impl RateLimiter {
    /// Makes a key of this limiter, to be decided together with others.
    pub fn key(&self, key: impl CacheKey) -> LimitKey {
        LimitKey { limiter: self.clone(), name: self.record(key), cost: 1, reduced: false }
    }

    /// Makes a limiter with the same limits whose records are in one place for each group, so that on a cluster
    /// they can be decided [together](crate::Larder::check_together). An example is the group of a tenant, for the
    /// tenant's limit and those of its users. A key counts separately in each group and outside of groups.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the group's name is longer than 128 bytes. Shorten it.
    pub fn in_group(&self, group: impl CacheKey) -> Result<Self> {
        let prefix = self.inner.context.keyspace.limit_group(&self.inner.name, group)?;
        let local =
            self.inner.context.shared_of_limiter(&prefix, || super::Local::new(&self.inner.name, &prefix))?;
        Ok(self.clone().with(|inner| {
            (inner.prefix, inner.local) = (prefix, local);
        }))
    }
}

/// A key that is being decided.
struct KeyRequest {
    limiter: RateLimiter,
    name: Name,
    plan: Arc<Plan>,
    cost: u64,
    reduced: bool,
}

impl KeyRequest {
    /// Returns the key with a cost that its own quotas can allow, unless an override has decided.
    fn again(&self, answer: &Charged) -> LimitKey {
        let most = if answer.label.is_some() { u64::MAX } else { self.plan.most };
        let (limiter, name) = (self.limiter.clone(), Ok(self.name.clone()));
        LimitKey { limiter, name, cost: self.cost.min(most), reduced: self.reduced }
    }
}

/// Decides all keys: charges all of them or none.
pub(crate) fn check<'a>(
    context: &'a Arc<Context>,
    keys: Vec<LimitKey>,
) -> Call<'a, impl Future<Output = Result<Together>> + Send + use<'a>> {
    let timeout = context.limits.response_timeout;
    Call::new(timeout, &context.together_meter, async move {
        Ok(Together { decisions: decide(context, keys).await? })
    })
}

#[cfg(feature = "tower")]
impl RateLimiter {
    /// Decides keys of this and other limiters together.
    pub(crate) async fn check_keys(&self, keys: Vec<LimitKey>) -> Result<Vec<Decision>> {
        check(&self.inner.context, keys).await.map(Together::into_decisions)
    }

    /// As `check_keys`, with a reservation for each key. A refused request has no reservations.
    pub(crate) async fn reserve_keys(
        &self,
        keys: Vec<LimitKey>,
    ) -> Result<(Vec<Decision>, Vec<Reservation>)> {
        let decisions = self.check_keys(keys.clone()).await?;
        if !decisions.iter().all(Decision::is_allowed) {
            return Ok((decisions, Vec::new()));
        }
        let views = decisions.iter().map(Decision::without_charge).collect();
        let reserved = keys.into_iter().zip(decisions);
        let reserved = reserved.map(|(key, decision)| Ok(Reservation::new(key.limiter, key.name?, decision)));
        Ok((views, reserved.collect::<Result<_>>()?))
    }
}

async fn decide(context: &Arc<Context>, keys: Vec<LimitKey>) -> Result<Vec<Decision>> {
    // Check the keys: each may occur once.
    if keys.len() > MOST_KEYS {
        return Err(Error::invalid(format!(
            "one decision has at most {MOST_KEYS} keys, not {}; check_many decides any number, each by itself",
            keys.len()
        )));
    }
    let asked = keys.into_iter().map(|key| checked(context, key)).collect::<Result<Vec<_>>>()?;
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    for (place, one) in asked.iter().enumerate() {
        if asked.iter().skip(place + 1).any(|other| other.name == one.name) {
            return Err(Error::invalid(
                "a key is given twice in one decision: use it once, with the sum of the costs",
            ));
        }
    }
    // A refusal of exactly these keys may still hold: then no request is needed.
    let keys = identity(&asked);
    let changes: Vec<u64> = asked.iter().map(|one| one.limiter.changes(&one.name)).collect();
    let known = asked.iter().find_map(|KeyRequest { limiter, name, .. }| {
        limiter.inner.local.refusal_together(name.as_bytes(), keys, &changes, &context.clock)
    });
    if let Some(known) = known {
        return Ok(known.into_iter().zip(&asked).map(|(one, asked)| asked.limiter.counted(one)).collect());
    }
    // Otherwise ask the store in one request.
    let charges: Vec<(&str, Charge<'_>)> = asked
        .iter()
        .map(|one| {
            let (specs, cost, penalty) = (&one.plan.specs, one.cost, one.limiter.inner.penalty);
            let charge = Charge { specs, mode: ChargeMode::All, cost, charge_at: 0, max_wait: 0, penalty };
            (one.name.as_str(), charge)
        })
        .collect();
    let sent = first.limiter.now();
    let request = async { context.coordination()?.charge_together(&charges).await };
    let mut charging: Vec<_> =
        asked.iter().map(|one| Charging::of(&one.limiter.inner.local, &one.name)).collect();
    let answer = first.limiter.send_request(first.name.as_str(), request).await;
    let charged = answer.as_ref().map(|answers| answers.iter().all(|answer| answer.granted > 0));
    charging.iter_mut().for_each(|one| one.answered(charged));
    drop(charging);
    let decisions = match answer {
        Ok(answers) => {
            for (one, answer) in asked.iter().zip(&answers) {
                match one.plan.check_answer(one.cost, answer) {
                    Ok(()) => {}
                    // Nothing is charged yet. Each further round reduces the cost of a key for good.
                    Err(_) if one.reduced => {
                        let keys = asked.iter().zip(&answers).map(|(one, answer)| one.again(answer));
                        return Box::pin(decide(context, keys.collect())).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            let passes = answers.iter().all(|answer| answer.granted > 0);
            let each = asked.iter().zip(answers).zip(&changes).map(|((one, mut answer), changes)| {
                // If one key refuses, a key that would have passed is not granted, and has nothing to wait for.
                if answer.granted > 0 && !passes {
                    (answer.granted, answer.wait) = (0, 0);
                }
                if answer.label.is_some() && !passes {
                    // Its wait may be due to the other keys, so the refusal is not remembered for this key alone.
                    return Decision::of(&one.name, answer, &one.plan, DecidedBy::Store);
                }
                one.limiter.decided(&one.name, &one.plan, ChargeMode::All, one.cost, answer, (sent, *changes))
            });
            let decisions: Vec<Decision> = each.collect();
            if !passes {
                remember(&asked, keys, &decisions, sent, &changes);
            }
            decisions
        }
        Err(error) => {
            let keys = asked.iter().map(|KeyRequest { limiter, name, plan, cost, .. }| Away {
                limiter,
                name,
                plan,
                cost: *cost,
            });
            outage::together_without_store(&keys.collect::<Vec<_>>(), &error)?
        }
    };
    Ok(decisions.into_iter().zip(&asked).map(|(one, asked)| asked.limiter.counted(one)).collect())
}

fn checked(context: &Arc<Context>, key: LimitKey) -> Result<KeyRequest> {
    let LimitKey { limiter, name, cost, reduced } = key;
    let name = name?;
    if !Arc::ptr_eq(&limiter.inner.context, context) {
        return Err(Error::invalid("keys that are decided together must belong to limiters of one Larder"));
    }
    let plan = limiter.plan_for(&name)?;
    plan.check_some(cost)?;
    Ok(KeyRequest { limiter, name, plan, cost, reduced })
}

/// A hash of the keys, their costs and their quotas.
fn identity(asked: &[KeyRequest]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for KeyRequest { name, plan, cost, .. } in asked {
        (name, plan.id, cost).hash(&mut hasher);
    }
    hasher.finish()
}

/// Remembers a refusal with the key that has the longest wait.
fn remember(asked: &[KeyRequest], keys: u64, decisions: &[Decision], sent: Tick, changes: &[u64]) {
    let waits = decisions.iter().map(Decision::retry_after).enumerate();
    let Some((longest, _)) = waits.max_by_key(|(_, wait)| *wait) else { return };
    if let (Some(one), Some(decision)) = (asked.get(longest), decisions.get(longest)) {
        let times = (sent, one.limiter.now());
        let name = one.name.as_bytes();
        one.limiter.inner.local.refused_together(name, (keys, decision), decisions.iter(), times, changes);
    }
}
