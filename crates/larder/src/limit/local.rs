//! What this process knows about a limiter's keys, so that it need not ask: a refusal that still holds, permits taken
//! in a lease, and whose turn it is to ask.
//!
//! A refusal answers requests of the same cost and the same quotas. It is kept until the cost could pass, counted from
//! before the request left, and for at most a sixtieth of the window that bound and at most [`LONGEST_REFUSAL`]: another
//! process may have reset the key or given permits back. A refund, a reset or a change of quotas from here ends it at
//! once. Its `retry_after` is counted from the answer, so that a caller that waits for it is not refused again. The table
//! is bounded; what it loses costs a round trip.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quick_cache::sync::Cache;

use super::decision::{DecidedBy, Decision, RecordId};
use super::lease::Held;
use super::meter::LimitMeter;
use super::outage::Breaker;
use super::quota::{Plan, Quota, Quotas};
use super::wait_queue::WaitQueue;
use crate::clock::{Clock, RECENT, Tick};
use crate::store::limit::Stamp;
use crate::store::memory::Limits;

/// Keys that are remembered.
const KEYS: usize = 10_000;
/// How long a refusal is repeated without asking: what other processes give back is seen after so long.
const LONGEST_REFUSAL: Duration = Duration::from_secs(1);
/// So close to its end a refusal is not repeated, but the store asked: clocks count in microseconds, and a caller that
/// has waited for `retry_after` must not be refused because of one.
const LAST_MOMENT: Duration = Duration::from_millis(1);
/// Refusals of one key: each is for one cost and one set of quotas.
const REFUSALS: usize = 4;
/// Sets of quotas that are shared by handles with the same ones.
const PLANS: usize = 64;

/// What all handles of one limiter name share.
pub(super) struct Local {
    pub(super) meter: LimitMeter,
    pub(super) breakers: [Breaker; 16],
    /// Counts while the store is away.
    pub(super) share: Limits,
    /// By the key's text.
    keys: Cache<Vec<u8>, Arc<Known>>,
    /// Of keys that callers wait for.
    queues: Mutex<Queues>,
    /// Bytes of a record's name before its key.
    before: usize,
    /// The quotas that were used last, latest at the end, so that handles with the same ones share what is known.
    plans: Mutex<Vec<Arc<Plan>>>,
    /// How many refunds, resets and changes of quota there were: a refusal that was asked for before one is not kept.
    changes: AtomicU64,
    /// How many resets there were: a batch that was asked for before one is not spent.
    resets: AtomicU64,
}

#[derive(Default)]
struct Queues {
    by_key: HashMap<Vec<u8>, Weak<WaitQueue>>,
    /// At this size those that are no longer used are removed.
    sweep_at: usize,
}

/// What is known about one key.
#[derive(Default)]
pub(super) struct Known {
    facts: Mutex<Facts>,
    /// Who takes the next batch.
    pub(super) refill: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Facts {
    pub(super) lease: Option<Held>,
    /// At most [`REFUSALS`].
    refusals: Vec<Refusal>,
}

impl Facts {
    #[inline]
    fn refusal(&self, cost: u64, plan: u64, now: Tick) -> Option<Decision> {
        let asked = |refusal: &&Refusal| refusal.cost == cost && refusal.plan.id == plan;
        let refusal = self.refusals.iter().find(asked).filter(|refusal| now < refusal.until)?;
        Some(Decision {
            granted: 0,
            binding: refusal.binding,
            remaining: refusal.remaining,
            retry_after: refusal.retry_at.since(now),
            reset_after: refusal.reset_at.since(now),
            decided_by: DecidedBy::Refusal,
            stamp: Stamp::default(),
            record: RecordId::default(),
            counted_here: false,
        })
    }
}

struct Refusal {
    /// The cost that was refused, and the only one that this says anything about.
    cost: u64,
    /// Until when it is repeated here.
    until: Tick,
    retry_at: Tick,
    reset_at: Tick,
    binding: Quota,
    remaining: u64,
    /// The quotas that it was refused by.
    plan: Arc<Plan>,
}

impl Local {
    /// `prefix` is what the names of its records begin with.
    pub(super) fn new(name: &str, prefix: &str) -> Self {
        Self {
            before: prefix.len(),
            meter: LimitMeter::new(name),
            breakers: Default::default(),
            share: Limits::default(),
            keys: Cache::new(KEYS),
            plans: Mutex::default(),
            queues: Mutex::default(),
            changes: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
    }

    /// The plan that handles with these quotas share.
    pub(super) fn plan(&self, plan: Plan) -> Arc<Plan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match plans.iter().position(|known| known.quotas == plan.quotas) {
            Some(place) => plans.remove(place),
            None => Arc::new(plan),
        };
        if plans.len() >= PLANS {
            plans.remove(0);
        }
        plans.push(same.clone());
        same
    }

    /// The plan of these quotas, if handles share one. Makes it the one that was used last.
    pub(super) fn known_plan(&self, quotas: &Quotas) -> Option<Arc<Plan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let place = plans.iter().rposition(|known| known.quotas == quotas.0)?;
        let known = plans.remove(place);
        plans.push(known.clone());
        Some(known)
    }

    /// A key's text within the name of its record, which the names of all records of this limiter have around it.
    pub(super) fn key_of<'a>(&self, name: &'a [u8]) -> &'a [u8] {
        name.get(self.before..name.len().saturating_sub(1)).unwrap_or(name)
    }

    /// What can be decided without asking: all of a cost.
    pub(super) fn decide(&self, name: &[u8], cost: u64, plan: &Plan, clock: &Clock) -> Option<Decision> {
        self.decide_key(self.key_of(name), (cost, cost), plan.id, clock)
    }

    /// The same for as much as there is, between two bounds, by the key's text.
    #[inline]
    pub(super) fn decide_key(
        &self,
        key: &[u8],
        (least, most): (u64, u64),
        plan: u64,
        clock: &Clock,
    ) -> Option<Decision> {
        let known = self.keys.get(key)?;
        let mut facts = known.facts();
        // Only near an end is the precise time needed.
        let recent = clock.recent();
        let soon = recent.after(RECENT);
        let near = |end: Tick| soon >= end;
        let exact = facts.lease.as_ref().is_some_and(|lease| near(lease.deadline))
            || facts.refusals.iter().any(|refusal| near(refusal.until));
        let now = if exact { clock.now() } else { recent };
        if least == 0 {
            return None;
        }
        if let Some(lease) = facts.lease.as_mut()
            && let Some(decision) = lease.spend(most.min(lease.left).max(least), plan, now)
        {
            return Some(decision);
        }
        facts.refusal(least, plan, now)
    }

    /// Whether a cost is known to be refused.
    pub(super) fn refusal(&self, name: &[u8], cost: u64, plan: &Plan, clock: &Clock) -> Option<Decision> {
        self.known(name)?.facts().refusal(cost, plan.id, clock.now())
    }

    pub(super) fn known(&self, name: &[u8]) -> Option<Arc<Known>> {
        self.keys.get(self.key_of(name))
    }

    pub(super) fn key(&self, name: &[u8]) -> Arc<Known> {
        let key = self.key_of(name);
        if let Some(known) = self.keys.get(key) {
            return known;
        }
        let made = self.keys.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        made.unwrap_or_default()
    }

    /// To be taken before a request that may be refused.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// To be taken before a batch is asked for, and compared within the lock of its key's facts.
    pub(super) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Remembers that `cost` was refused by a request that left at `sent` and was answered at `answered`.
    pub(super) fn refused(
        &self,
        name: &[u8],
        cost: u64,
        plan: &Arc<Plan>,
        decision: &Decision,
        (sent, answered): (Tick, Tick),
        changes: u64,
    ) {
        // The clocks of two machines differ in rate by far less than a thousandth.
        let drift = |span: Duration| span / 1000;
        let span = decision.retry_after - drift(decision.retry_after);
        let kept = span.min(decision.binding.window() / 60).min(LONGEST_REFUSAL);
        let until = sent.after(kept.saturating_sub(LAST_MOMENT));
        if until <= answered {
            return;
        }
        let known = self.key(name);
        let mut facts = known.facts();
        // Compare within the lock. A change counts first and takes the lock to forget afterwards: either it is seen here,
        // or it removes what is stored here.
        if self.changes() != changes {
            return;
        }
        let refusals = &mut facts.refusals;
        refusals.retain(|old| old.until > answered && (old.cost != cost || old.plan.id != plan.id));
        if refusals.len() >= REFUSALS {
            refusals.remove(0);
        }
        // The server counted its wait from some time before the answer, so from the answer on it is over by then.
        let late = answered.after(drift(kept));
        refusals.push(Refusal {
            cost,
            until,
            retry_at: late.after(decision.retry_after),
            reset_at: late.after(decision.reset_after),
            binding: decision.binding,
            remaining: decision.remaining,
            plan: plan.clone(),
        });
    }

    /// More was charged: what is known to be refused has to be waited for longer.
    pub(super) fn granted(&self, name: &[u8]) {
        if let Some(known) = self.known(name) {
            known.facts().refusals.clear();
        }
    }

    /// Something was given back: what was refused may pass.
    pub(super) fn forget_refusal(&self, name: &[u8]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            known.facts().refusals.clear();
        }
        if let Some(queue) = self.queue_if_any(name) {
            queue.given_back();
        }
    }

    /// Forgets all that is known of a key. Permits of a lease are not spent after this.
    pub(super) fn forget(&self, name: &[u8]) {
        self.resets.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            *known.facts() = Facts::default();
        }
        if let Some(queue) = self.queue_if_any(name) {
            queue.restart();
        }
    }

    /// The quotas of a handle have changed: its callers that wait ask again.
    pub(super) fn quotas_changed(&self) {
        let queues: Vec<_> = self.queues().by_key.values().filter_map(Weak::upgrade).collect();
        queues.iter().for_each(|queue| queue.restart());
    }

    /// The queue of a key's callers.
    pub(super) fn queue(&self, name: &[u8]) -> Arc<WaitQueue> {
        let key = self.key_of(name);
        let mut queues = self.queues();
        if let Some(queue) = queues.by_key.get(key).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.by_key.len() >= queues.sweep_at {
            queues.by_key.retain(|_, queue| queue.strong_count() > 0);
            queues.sweep_at = 2 * queues.by_key.len() + 16;
        }
        let queue = Arc::default();
        queues.by_key.insert(key.to_owned(), Arc::downgrade(&queue));
        queue
    }

    fn queue_if_any(&self, name: &[u8]) -> Option<Arc<WaitQueue>> {
        self.queues().by_key.get(self.key_of(name)).and_then(Weak::upgrade)
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;
    use crate::store::limit::Charged;

    fn refusal(plan: &Plan, wait: u64) -> Decision {
        let charged = Charged {
            granted: 0,
            binding: 0,
            remaining: 3,
            wait,
            reset: 2 * wait,
            stamp: Stamp::default(),
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
            let plan = local.plan(Plan::new(quota.into()).unwrap());
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
        let plan = local.plan(Plan::new(Quota::per_hour(100).into()).unwrap());
        let name = b"~limit.1:{/api:a}";
        for change in [Local::forget, Local::forget_refusal] {
            let changes = local.changes();
            change(&local, name);
            local.refused(name, 1, &plan, &refusal(&plan, 9), (clock.now(), clock.now()), changes);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
            let (sent, wait) = (clock.now(), 60_000_000);
            local.refused(name, 1, &plan, &refusal(&plan, wait), (sent, sent), local.changes());
            assert!(local.decide(name, 1, &plan, &clock).is_some());
            change(&local, name);
            assert!(local.decide(name, 1, &plan, &clock).is_none());
        }
    }

    #[test]
    fn handles_with_the_same_quotas_share_a_plan_whatever_others_use_between() {
        let local = Local::new("api", "~limit.1:{/api:");
        let plan = |limit| local.plan(Plan::new(Quota::per_hour(limit).into()).unwrap());
        let (free, paid) = (plan(5), plan(10));
        for _ in 0..3 {
            assert_eq!((plan(5).id, plan(10).id), (free.id, paid.id));
        }
        (100..1000).for_each(|limit| drop(plan(limit)));
        assert!(local.plans.lock().unwrap().len() <= PLANS);
    }
}
