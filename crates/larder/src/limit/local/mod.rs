//! What this process knows about a limiter's keys, so that it need not ask: a refusal that still holds, permits taken in a
//! lease ([`known`]), and whose turn it is to ask ([`queues`]). The table is bounded; what it loses costs a round trip.

mod known;
mod plans;
mod queues;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

use super::decision::Decision;
use super::meter::LimitMeter;
use super::outage::Breaker;
use super::quota::Plan;
use super::wait_queue::WaitQueue;
use crate::clock::Clock;
use crate::store::share::Share;

pub(super) use known::{KeyState, SentAndAnswered};
use plans::Plans;
use queues::Queues;

/// Keys that are remembered.
const KEYS: usize = 10_000;

/// What all handles of one limiter name share.
pub(super) struct Local {
    pub(super) meter: LimitMeter,
    pub(super) breakers: [Breaker; 16],
    /// Counts while the store is away.
    pub(super) share: Share,
    pub(super) plans: Plans,
    /// By the key's text.
    keys: Cache<Vec<u8>, Arc<KeyState>>,
    queues: Queues,
    /// Bytes of a record's name before its key.
    before: usize,
    /// How many refunds, resets and changes of quota there were: a refusal that was asked for before one is not kept.
    changes: AtomicU64,
    /// How many resets there were: a batch that was asked for before one is not spent.
    resets: AtomicU64,
}

impl Local {
    /// `prefix` is what the names of its records begin with.
    pub(super) fn new(name: &str, prefix: &str) -> Self {
        Self {
            before: prefix.len(),
            meter: LimitMeter::new(name),
            breakers: Default::default(),
            share: Share::default(),
            plans: Plans::default(),
            keys: Cache::new(KEYS),
            queues: Queues::default(),
            changes: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
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
        let now = if facts.ends_soon(recent) { clock.now() } else { recent };
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

    pub(super) fn known(&self, name: &[u8]) -> Option<Arc<KeyState>> {
        self.keys.get(self.key_of(name))
    }

    pub(super) fn key(&self, name: &[u8]) -> Arc<KeyState> {
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

    /// Remembers that `cost` was refused. `changes` was taken before the request left.
    pub(super) fn refused(
        &self,
        name: &[u8],
        cost: u64,
        plan: &Arc<Plan>,
        decision: &Decision,
        times: SentAndAnswered,
        changes: u64,
    ) {
        if !known::is_repeated(decision, times) {
            return;
        }
        let known = self.key(name);
        let mut facts = known.facts();
        // Compare within the lock. A change counts first and takes the lock to forget afterwards: either it is seen here,
        // or it removes what is stored here.
        if self.changes() == changes {
            facts.refused(cost, plan, decision, times);
        }
    }

    /// Whether these keys are known to be refused together, by what is kept with this one: a decision each.
    pub(super) fn refusal_together(&self, name: &[u8], keys: u64, clock: &Clock) -> Option<Vec<Decision>> {
        self.known(name)?.facts().together(keys, clock.now())
    }

    /// Remembers that several keys were refused together, this one for longest.
    pub(super) fn refused_together<'a>(
        &self,
        name: &[u8],
        (keys, longest): (u64, &Decision),
        all: impl Iterator<Item = &'a Decision>,
        times: SentAndAnswered,
        changes: u64,
    ) {
        if !known::is_repeated(longest, times) {
            return;
        }
        let known = self.key(name);
        let mut facts = known.facts();
        // As in `refused`.
        if self.changes() == changes {
            facts.refused_together(keys, longest, all, times);
        }
    }

    /// More was charged: what is known to be refused has to be waited for longer.
    pub(super) fn granted(&self, name: &[u8]) {
        if let Some(known) = self.known(name) {
            known.facts().forget_refusals();
        }
    }

    /// Something was given back: what was refused may pass.
    pub(super) fn forget_refusal(&self, name: &[u8]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            known.facts().forget_refusals();
        }
        if let Some(queue) = self.queues.get(self.key_of(name)) {
            queue.given_back();
        }
    }

    /// Forgets all that is known of a key. Permits of a lease are not spent after this.
    pub(super) fn forget(&self, name: &[u8]) {
        self.resets.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            *known.facts() = Default::default();
        }
        if let Some(queue) = self.queues.get(self.key_of(name)) {
            queue.restart();
        }
    }

    /// The quotas of a handle have changed: its callers that wait ask again.
    pub(super) fn quotas_changed(&self) {
        self.queues.live().iter().for_each(|queue| queue.restart());
    }

    /// The queue of a key's callers.
    pub(super) fn queue(&self, name: &[u8]) -> Arc<WaitQueue> {
        self.queues.queue(self.key_of(name))
    }
}
