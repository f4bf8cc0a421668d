//! What is known about one key: refusals that still hold, and permits taken in a lease.
//!
//! A refusal answers requests of the same cost and the same quotas. It is kept until the cost could pass, counted from
//! before the request left, and for at most a sixtieth of the window that bound and at most [`LONGEST_REFUSAL`]: another
//! process may have reset the key or given permits back. A refund, a reset or a change of quotas from here ends it at
//! once. Its `retry_after` is counted from the answer, so that a caller that waits for it is not refused again.
//!
//! A refusal of several keys that were decided together answers only for the same keys together. A refusal of one of them by
//! itself does not: the others may have to be waited for longer. It is kept with the key that must be waited for longest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::decision::{DecidedBy, Decision, RecordId};
use super::super::lease::LocalBatch;
use super::super::quota::{Plan, Quota};
use crate::clock::{RECENT, Tick};
use crate::store::limit::ChargeStamp;

/// How long a refusal is repeated without asking: what other processes give back is seen after so long.
const LONGEST_REFUSAL: Duration = Duration::from_secs(1);
/// So close to its end a refusal is not repeated, but the store asked: clocks count in microseconds, and a caller that
/// has waited for `retry_after` must not be refused because of one.
const LAST_MOMENT: Duration = Duration::from_millis(1);
/// Refusals of one key: each is for one cost and one set of quotas, or for one set of keys.
const REFUSALS: usize = 4;

#[derive(Default)]
pub(in super::super) struct KeyState {
    facts: Mutex<Facts>,
    /// Who takes the next batch.
    pub(in super::super) refill: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(in super::super) struct Facts {
    pub(in super::super) lease: Option<LocalBatch>,
    /// At most [`REFUSALS`].
    refusals: Vec<KnownRefusal>,
    /// Of keys that were decided together with this one: at most [`REFUSALS`].
    together: Vec<JointRefusal>,
}

/// What was refused, and what may be said of it later.
struct KnownRefusal {
    /// The cost that was refused, and the only one that this says anything about.
    cost: u64,
    /// The quotas that it was refused by.
    plan: Arc<Plan>,
    /// Until when it is repeated here.
    until: Tick,
    told: RefusalFigures,
}

struct JointRefusal {
    /// Which keys, at which costs and quotas.
    keys: u64,
    until: Tick,
    /// One a key, in their order.
    told: Vec<RefusalFigures>,
}

/// The figures of a refusal, at any later time. Of a key that would have passed by itself, nothing has to be waited for.
struct RefusalFigures {
    retry_at: Tick,
    reset_at: Tick,
    binding: Quota,
    remaining: u64,
}

/// When a request left, and when it was answered.
pub(in super::super) type SentAndAnswered = (Tick, Tick);

impl RefusalFigures {
    /// The server counted its spans from some time before the answer, so from the answer on they are over by then.
    fn of(decision: &Decision, kept: Duration, answered: Tick) -> Self {
        let late = answered.after(drift(kept));
        Self {
            retry_at: if decision.retry_after.is_zero() {
                answered
            } else {
                late.after(decision.retry_after)
            },
            reset_at: late.after(decision.reset_after),
            binding: decision.binding,
            remaining: decision.remaining,
        }
    }

    #[inline]
    fn at(&self, now: Tick) -> Decision {
        Decision {
            granted: 0,
            binding: self.binding,
            remaining: self.remaining,
            retry_after: self.retry_at.since(now),
            reset_after: self.reset_at.since(now),
            decided_by: DecidedBy::Refusal,
            stamp: ChargeStamp::default(),
            record: RecordId::default(),
            counted_here: false,
        }
    }
}

impl Facts {
    #[inline]
    pub(super) fn refusal(&self, cost: u64, plan: u64, now: Tick) -> Option<Decision> {
        let asked = |refusal: &&KnownRefusal| refusal.cost == cost && refusal.plan.id == plan;
        let refusal = self.refusals.iter().find(asked).filter(|refusal| now < refusal.until)?;
        Some(refusal.told.at(now))
    }

    /// Whether these keys are known to be refused together: a decision each.
    pub(super) fn together(&self, keys: u64, now: Tick) -> Option<Vec<Decision>> {
        let known = self.together.iter().find(|one| one.keys == keys && now < one.until)?;
        Some(known.told.iter().map(|told| told.at(now)).collect())
    }

    /// Whether something that is known ends so soon that the precise time is needed.
    #[inline]
    pub(super) fn ends_soon(&self, recent: Tick) -> bool {
        let soon = recent.after(RECENT);
        self.lease.as_ref().is_some_and(|lease| soon >= lease.deadline)
            || self.refusals.iter().any(|refusal| soon >= refusal.until)
    }

    /// Remembers that `cost` was refused.
    pub(super) fn refused(
        &mut self,
        cost: u64,
        plan: &Arc<Plan>,
        decision: &Decision,
        (sent, answered): SentAndAnswered,
    ) {
        let (kept, until) = repeated(decision, sent);
        let refusals = &mut self.refusals;
        refusals.retain(|old| old.until > answered && (old.cost != cost || old.plan.id != plan.id));
        if refusals.len() >= REFUSALS {
            refusals.remove(0);
        }
        refusals.push(KnownRefusal {
            cost,
            plan: plan.clone(),
            until,
            told: RefusalFigures::of(decision, kept, answered),
        });
    }

    /// Remembers that these keys were refused together: this one for longest, by `longest`.
    pub(super) fn refused_together<'a>(
        &mut self,
        keys: u64,
        longest: &Decision,
        all: impl Iterator<Item = &'a Decision>,
        (sent, answered): SentAndAnswered,
    ) {
        let (kept, until) = repeated(longest, sent);
        self.together.retain(|old| old.until > answered && old.keys != keys);
        if self.together.len() >= REFUSALS {
            self.together.remove(0);
        }
        let told = all.map(|decision| RefusalFigures::of(decision, kept, answered)).collect();
        self.together.push(JointRefusal { keys, until, told });
    }

    pub(super) fn forget_refusals(&mut self) {
        self.refusals.clear();
        self.together.clear();
    }
}

impl KeyState {
    pub(in super::super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clocks of two machines differ in rate by far less than a thousandth.
fn drift(span: Duration) -> Duration {
    span / 1000
}

/// Whether a refusal is worth keeping.
pub(super) fn is_repeated(decision: &Decision, (sent, answered): SentAndAnswered) -> bool {
    repeated(decision, sent).1 > answered
}

/// For how long a refusal is repeated, and until when.
fn repeated(decision: &Decision, sent: Tick) -> (Duration, Tick) {
    let span = decision.retry_after - drift(decision.retry_after);
    let kept = span.min(decision.binding.window() / 60).min(LONGEST_REFUSAL);
    (kept, sent.after(kept.saturating_sub(LAST_MOMENT)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::super::Local;
    use super::*;
    use crate::clock::Clock;
    use crate::store::limit::Charged;

    fn refusal(plan: &Plan, wait: u64) -> Decision {
        let charged = Charged {
            granted: 0,
            binding: 0,
            remaining: 3,
            wait,
            reset: 2 * wait,
            stamp: ChargeStamp::default(),
            label: None,
        };
        Decision::of(&"~limit.1:{/api:a}".into(), charged, plan, DecidedBy::Store)
    }

    proptest! {
        /// All in microseconds: when the request left, how long it took to get there and back, what the server said, and
        /// when the next request is made.
        #[test]
        fn a_refusal_that_is_repeated_is_for_its_cost_short_and_never_says_too_little(
            (left, there, back) in (0..1_000_000u64, 0..600_000u64, 0..600_000u64),
            (wait, window) in (1..90_000_000u64, prop_oneof![1_000..1_000_000u64, 1_000_000..90_000_000_000u64]),
            later in prop_oneof![0..2_000u64, 0..3_000_000u64],
            cost in 1..5u64,
        ) {
            let hand = Arc::new(AtomicU64::new(left));
            let clock = Clock::Manual(hand.clone());
            let local = Local::new("api", "~limit.1:{/api:");
            let quota = Quota::new(100, Duration::from_micros(window.max(1_000)));
            let plan = local.plans.share(Plan::new(quota.into()).unwrap());
            let (sent, changes) = (clock.now(), local.changes());
            let decided = left + there;
            hand.store(decided + back, Ordering::Release);
            let name = b"~limit.1:{/api:a}";
            local.refused(name, cost, &plan, &refusal(&plan, wait), (sent, clock.now()), changes);
            let now = decided + back + later;
            hand.store(now, Ordering::Release);
            for other in (1..6).filter(|other| *other != cost) {
                prop_assert!(local.decide(name, other, &plan, &clock).is_none());
            }
            let Some(repeated) = local.decide(name, cost, &plan, &clock) else { return Ok(()) };
            prop_assert!(now < left + 1_000_000, "a second after the request left it is asked again");
            prop_assert!(now < left + window.max(1_000) / 60 + 1 && now < left + wait);
            let retry = repeated.retry_after().unwrap();
            prop_assert!(now + retry.as_micros() as u64 >= decided + wait, "{retry:?} is too little");
            prop_assert!(now + retry.as_micros() as u64 <= decided + back + wait + 1_000, "{retry:?} is too much");
        }
    }

    #[test]
    fn what_is_given_back_while_a_refusal_is_on_its_way_ends_it() {
        let clock = Clock::Manual(Arc::default());
        let local = Local::new("api", "~limit.1:{/api:");
        let plan = local.plans.share(Plan::new(Quota::per_hour(100).into()).unwrap());
        let name = b"~limit.1:{/api:a}";
        for change in [Local::forget, Local::forget_refusal] {
            let changes = local.changes();
            change(&local, name);
            let (sent, wait) = (clock.now(), 60_000_000);
            local.refused(name, 1, &plan, &refusal(&plan, wait), (sent, sent), changes);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
            local.refused(name, 1, &plan, &refusal(&plan, wait), (sent, sent), local.changes());
            assert!(local.decide(name, 1, &plan, &clock).is_some());
            change(&local, name);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
        }
    }
}
