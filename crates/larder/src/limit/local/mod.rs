//! Local knowledge about a limiter's keys that saves requests: refusals that still hold and permits of a batch
//! ([`known`]), and the queues of waiting callers ([`queues`]). The table is bounded; an evicted entry costs a
//! round trip.

mod batch;
mod known;
mod plans;
mod queues;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quick_cache::sync::Cache;

use super::Plan;
use super::breaker::Breaker;
use super::decision::Decision;
use super::meter::LimitMeter;
use super::wait_queue::WaitQueue;
use crate::clock::Clock;
use crate::store::share::Share;

pub(super) use batch::LocalBatch;
pub(super) use known::{KeyState, SentAndAnswered};
use plans::Plans;
use queues::KeyQueues;

/// The number of keys that are remembered.
const KEYS: usize = 10_000;

/// The number of counts of changes. The keys of a limiter share them, by a hash of the key. A charge of one key ends
/// the joint refusals of all keys with its count, so there are as many as a busy limiter charges keys in that time.
const COUNTS: usize = 4096;

/// The state that all handles of one limiter name share.
pub(super) struct Local {
    pub(super) meter: LimitMeter,
    pub(super) breakers: [Breaker; 16],
    /// Counts while the store is down.
    pub(super) share: Share,
    pub(super) plans: Plans,
    /// By the key's text.
    keys: Cache<Vec<u8>, Arc<KeyState>>,
    queues: KeyQueues,
    /// The number of bytes before the key in a record's name.
    before: usize,
    /// The numbers of charges, refunds and resets. A refusal that was requested before a change is not kept.
    /// Allocated by the first.
    changes: OnceLock<Box<[AtomicU64]>>,
    /// The keys of resets and overrides whose outcome is not known yet, and how many each has. No batch of such a key
    /// is taken.
    changing: Mutex<HashMap<Vec<u8>, u64>>,
    /// The number of resets. A batch that was requested before a reset is not spent.
    resets: AtomicU64,
}

impl Local {
    /// `prefix` is the prefix of its records' names.
    pub(super) fn new(name: &str, prefix: &str) -> Self {
        Self {
            before: prefix.len(),
            meter: LimitMeter::new(name),
            breakers: Default::default(),
            share: Share::default(),
            plans: Plans::default(),
            keys: Cache::new(KEYS),
            queues: KeyQueues::default(),
            changes: OnceLock::new(),
            changing: Mutex::default(),
            resets: AtomicU64::new(0),
        }
    }

    /// Returns a key's text within the name of its record.
    pub(super) fn key_of<'a>(&self, name: &'a [u8]) -> &'a [u8] {
        name.get(self.before..name.len().saturating_sub(1)).unwrap_or(name)
    }

    /// Decides all of a cost without a request, if possible.
    pub(super) fn decide(&self, name: &[u8], cost: u64, plan: &Plan, clock: &Clock) -> Option<Decision> {
        self.decide_key(self.key_of(name), (cost, cost), plan.id, clock)
    }

    /// Decides an amount between two bounds without a request, if possible. `key` is the key's text.
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
        // The precise time is needed only near an end.
        let recent = clock.recent();
        let now = if facts.ends_soon(recent) { clock.now() } else { recent };
        if least == 0 {
            return None;
        }
        if let Some(batch) = facts.batch.as_mut()
            && let Some(decision) = batch.spend(most.min(batch.left).max(least), plan, now)
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

    /// Returns the change count of a key. Read it before a request that may be refused.
    pub(super) fn changes(&self, name: &[u8]) -> u64 {
        let count = self.changes.get().and_then(|counts| self.count(counts, name));
        count.map_or(0, |count| count.load(Ordering::Acquire))
    }

    fn count<'a>(&self, counts: &'a [AtomicU64], name: &[u8]) -> Option<&'a AtomicU64> {
        let mut hasher = DefaultHasher::new();
        self.key_of(name).hash(&mut hasher);
        let hash = usize::try_from(hasher.finish() % COUNTS as u64).unwrap_or_default();
        counts.get(hash)
    }

    /// Returns the reset count. Read it before a batch is requested, and compare it while holding the lock of the
    /// key's facts.
    pub(super) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Notes that a reset or an override of a key begins. Call it before [`forget`](Self::forget).
    pub(super) fn change_begins(&self, name: &[u8]) {
        *self.changing().entry(self.key_of(name).to_owned()).or_default() += 1;
    }

    /// Notes that a reset or an override of a key has ended. Call it after [`forget`](Self::forget).
    pub(super) fn change_ended(&self, name: &[u8]) {
        let mut changing = self.changing();
        if let Some(pending) = changing.get_mut(self.key_of(name)) {
            *pending -= 1;
            if *pending == 0 {
                changing.remove(self.key_of(name));
            }
        }
    }

    /// Whether a reset or an override of a key is under way. Ask after [`resets`](Self::resets) was read: either a
    /// change is seen here, or it is counted after that.
    pub(super) fn is_changing(&self, name: &[u8]) -> bool {
        self.changing().contains_key(self.key_of(name))
    }

    fn changing(&self) -> MutexGuard<'_, HashMap<Vec<u8>, u64>> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that `cost` was refused. `changes` was read before the request was sent.
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
        // Compare while holding the lock. A change first counts and then takes this lock to forget: either the new
        // count is seen here, or the change removes the refusal that is stored here.
        if self.changes(name) == changes {
            facts.refused(cost, plan, decision, times);
        }
    }

    /// Returns one decision for each key if these keys are known to be refused together, from the entry of this
    /// key. `changes` has the change count of each.
    pub(super) fn refusal_together(
        &self,
        name: &[u8],
        keys: u64,
        changes: &[u64],
        clock: &Clock,
    ) -> Option<Vec<Decision>> {
        self.known(name)?.facts().together(keys, changes, clock.now())
    }

    /// Remembers that several keys were refused together, and that this one has the longest wait. `changes` has the
    /// change count of each, read before the request was sent.
    pub(super) fn refused_together<'a>(
        &self,
        name: &[u8],
        (keys, longest): (u64, &Decision),
        all: impl Iterator<Item = &'a Decision>,
        times: SentAndAnswered,
        changes: &[u64],
    ) {
        if known::is_repeated(longest, times) {
            self.key(name).facts().refused_together(keys, changes, longest, all, times);
        }
    }

    /// Notes that a key was or may have been charged: the waits of known refusals are too short now. A refusal whose
    /// answer is still under way is not kept either, because the store may have decided it before the charge.
    pub(super) fn granted(&self, name: &[u8]) {
        let counts = self.changes.get_or_init(|| (0..COUNTS).map(|_| AtomicU64::new(0)).collect());
        if let Some(count) = self.count(counts, name) {
            count.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(known) = self.known(name) {
            known.facts().forget_refusals();
        }
    }

    /// Notes that permits were given back: a refused request may be allowed now.
    pub(super) fn forget_refusal(&self, name: &[u8]) {
        self.granted(name);
        if let Some(queue) = self.queues.get(self.key_of(name)) {
            queue.given_back();
        }
    }

    /// Forgets everything about a key, and returns its batch. Permits of a batch that was requested before are not
    /// spent after this.
    pub(super) fn forget(&self, name: &[u8]) -> Option<LocalBatch> {
        self.resets.fetch_add(1, Ordering::AcqRel);
        self.granted(name);
        let forgotten = self.known(name).map(|known| std::mem::take(&mut *known.facts()));
        if let Some(queue) = self.queues.get(self.key_of(name)) {
            queue.restart();
        }
        forgotten?.batch
    }

    /// Makes the waiting callers ask again, because the quotas of a handle have changed.
    pub(super) fn quotas_changed(&self) {
        self.queues.live().iter().for_each(|queue| queue.restart());
    }

    /// Returns the queue of a key's callers.
    pub(super) fn queue(&self, name: &[u8]) -> Arc<WaitQueue> {
        self.queues.queue(self.key_of(name))
    }
}
