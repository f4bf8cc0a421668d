//! Local knowledge about one key: refusals that still hold, and permits of a batch.
//!
//! A refusal answers requests with the same cost and the same quotas. It is kept until the cost could be allowed,
//! counted from before the request was sent. It is kept for at most a sixtieth of the binding window and at most
//! [`LONGEST_REFUSAL`], because another process may have reset the key or given permits back. A refund, a reset or
//! a change of quotas in this process ends it at once, and so does a charge, after which
//! the wait is longer. Its `retry_after` counts from the reply, so that a caller
//! that waits for it is not refused again.
//!
//! A refusal of several keys that were decided together only answers for the same keys together. A refusal of one
//! of them alone does not, because another key may have a longer wait. It is kept with the key that has the longest
//! wait, and has the change count of each key: a charge or refund of any of them ends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::Plan;
use super::super::decision::{DecidedBy, Decision, RecordId};
use super::super::quota::Quota;
use super::batch::LocalBatch;
use crate::clock::{RECENT, Tick, drift};
use crate::store::limit::ChargeStamp;

/// How long a refusal is repeated without a request: permits given back by other processes are seen after this
/// time.
const LONGEST_REFUSAL: Duration = Duration::from_secs(1);
/// A refusal is not repeated this close to its end; the store is asked instead. Clocks count in microseconds, and a
/// caller that has waited for `retry_after` must not be refused because of one microsecond.
const LAST_MOMENT: Duration = Duration::from_millis(1);
/// The number of refusals kept for one key: each is for one cost and one set of quotas, or for one set of keys.
const REFUSALS: usize = 4;

#[derive(Default)]
pub(in super::super) struct KeyState {
    facts: Mutex<Facts>,
    /// Held by the caller that takes the next batch.
    pub(in super::super) refill: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(in super::super) struct Facts {
    pub(in super::super) batch: Option<LocalBatch>,
    /// At most [`REFUSALS`].
    refusals: Vec<KnownRefusal>,
    /// Refusals of this key together with others: at most [`REFUSALS`].
    together: Vec<JointRefusal>,
}

/// A refusal, and the figures to repeat later.
struct KnownRefusal {
    /// The cost that was refused. The refusal says nothing about other costs.
    cost: u64,
    /// The quotas that refused it.
    plan: Arc<Plan>,
    /// When it stops being repeated.
    until: Tick,
    figures: RefusalFigures,
}

struct JointRefusal {
    /// A hash of the keys, their costs and quotas.
    keys: u64,
    /// The change count of each key, read before the request.
    changes: Vec<u64>,
    until: Tick,
    /// One for each key, in order.
    figures: Vec<RefusalFigures>,
}

/// The figures of a refusal, at any later time. A key that would have passed alone has no wait.
struct RefusalFigures {
    retry_at: Tick,
    reset_at: Tick,
    binding: Quota,
    remaining: u64,
}

/// When a request was sent, and when it was answered.
pub(in super::super) type SentAndAnswered = (Tick, Tick);

impl RefusalFigures {
    /// Counts the server's spans from the reply. They started before it, so they have ended by the times computed
    /// here.
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
        Some(refusal.figures.at(now))
    }

    /// Returns one decision for each key, if these keys are known to be refused together.
    pub(super) fn together(&self, keys: u64, changes: &[u64], now: Tick) -> Option<Vec<Decision>> {
        let asked = |one: &&JointRefusal| one.keys == keys && one.changes == changes;
        let known = self.together.iter().find(asked).filter(|one| now < one.until)?;
        Some(known.figures.iter().map(|figures| figures.at(now)).collect())
    }

    /// Whether a batch or a refusal ends so soon that the precise time is needed.
    #[inline]
    pub(super) fn ends_soon(&self, recent: Tick) -> bool {
        let soon = recent.after(RECENT);
        self.batch.as_ref().is_some_and(|batch| soon >= batch.deadline)
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
        if refusals.capacity() == 0 {
            // Most keys have one: the vector would begin with room for four.
            refusals.reserve_exact(1);
        }
        refusals.push(KnownRefusal {
            cost,
            plan: plan.clone(),
            until,
            figures: RefusalFigures::of(decision, kept, answered),
        });
    }

    /// Remembers that these keys were refused together, and that `longest` is the decision with the longest wait.
    pub(super) fn refused_together<'a>(
        &mut self,
        keys: u64,
        changes: &[u64],
        longest: &Decision,
        all: impl Iterator<Item = &'a Decision>,
        (sent, answered): SentAndAnswered,
    ) {
        let (kept, until) = repeated(longest, sent);
        self.together.retain(|old| old.until > answered && old.keys != keys);
        if self.together.len() >= REFUSALS {
            self.together.remove(0);
        }
        let figures = all.map(|decision| RefusalFigures::of(decision, kept, answered)).collect();
        self.together.push(JointRefusal { keys, changes: changes.to_owned(), until, figures });
    }

    pub(super) fn forget_refusals(&mut self) {
        self.refusals.clear();
    }
}

impl KeyState {
    pub(in super::super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal is worth keeping.
pub(super) fn is_repeated(decision: &Decision, (sent, answered): SentAndAnswered) -> bool {
    repeated(decision, sent).1 > answered
}

/// Returns how long a refusal is repeated, and until when.
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
        /// All in microseconds: when the request was sent, how long it took there and back, the server's figures,
        /// and the time of the next request.
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
            let name = b"~limit.1:{/api:a}";
            let (sent, changes) = (clock.now(), local.changes(name));
            let decided = left + there;
            hand.store(decided + back, Ordering::Release);
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
    fn what_is_given_back_or_granted_while_a_refusal_is_on_its_way_ends_it() {
        let clock = Clock::Manual(Arc::default());
        let local = Local::new("api", "~limit.1:{/api:");
        let plan = local.plans.share(Plan::new(Quota::per_hour(100).into()).unwrap());
        let name = b"~limit.1:{/api:a}";
        let forget = |local: &Local, name: &[u8]| drop(local.forget(name));
        for change in [forget, Local::forget_refusal, Local::granted] {
            let changes = local.changes(name);
            change(&local, name);
            let (sent, wait) = (clock.now(), 60_000_000);
            local.refused(name, 1, &plan, &refusal(&plan, wait), (sent, sent), changes);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
            local.refused(name, 1, &plan, &refusal(&plan, wait), (sent, sent), local.changes(name));
            assert!(local.decide(name, 1, &plan, &clock).is_some());
            change(&local, name);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
        }
    }

    #[test]
    fn a_change_of_one_key_ends_no_joint_refusal_of_others_in_a_busy_limiter() {
        let local = Local::new("api", "~limit.1:{/api:");
        // As many keys as a busy limiter charges while a joint refusal holds.
        let same = (0..1_000).filter(|key| {
            let before = local.changes(b"~limit.1:{/api:a}");
            local.granted(format!("~limit.1:{{/api:{key}}}").as_bytes());
            local.changes(b"~limit.1:{/api:a}") > before
        });
        let same = same.count();
        assert!(same <= 2, "{same} of 1,000");
    }

    #[test]
    fn a_key_with_one_known_refusal_has_memory_for_one() {
        let clock = Clock::Manual(Arc::default());
        let local = Local::new("api", "~limit.1:{/api:");
        let plan = local.plans.share(Plan::new(Quota::per_hour(100).into()).unwrap());
        let (name, now) = (b"~limit.1:{/api:a}", clock.now());
        let changes = local.changes(name);
        local.refused(name, 1, &plan, &refusal(&plan, 60_000_000), (now, now), changes);
        assert_eq!(local.known(name).unwrap().facts().refusals.capacity(), 1);
    }
}
