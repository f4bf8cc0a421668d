//! What this process knows about a limiter's keys, so that it need not ask: a refusal that still holds, permits taken
//! in a lease, and whose turn it is to ask.
//!
//! A refusal is kept for the smallest cost that was refused, for at most a sixtieth of the window that bound and until
//! it could pass, counted from before the request left; a refund, a reset or a change of quotas from here ends it. The
//! table is bounded; what it loses costs a round trip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;

use super::decision::{DecidedBy, Decision, RecordId};
use super::lease::Held;
use super::meter::LimitMeter;
use super::outage::Breaker;
use super::quota::{Plan, Quota};
use crate::clock::{Clock, RECENT, Tick};
use crate::store::limit::Stamp;
use crate::store::memory::Limits;

/// Keys that are remembered.
const KEYS: usize = 10_000;

/// What all handles of one limiter name share.
pub(super) struct Local {
    pub(super) meter: LimitMeter,
    pub(super) breakers: [Breaker; 16],
    /// Counts while the store is away.
    pub(super) share: Limits,
    /// By the key's text.
    keys: Cache<Vec<u8>, Arc<Known>>,
    /// Bytes of a record's name before its key.
    before: usize,
    /// The quotas that were used last, so that handles with the same ones share what is known.
    plan: Mutex<Option<Arc<Plan>>>,
    /// How many refunds, resets and changes of quota there were: a refusal that was asked for before one is not kept.
    changes: AtomicU64,
    /// How many resets there were: a batch that was asked for before one is not spent.
    resets: AtomicU64,
}

/// What is known about one key.
#[derive(Default)]
pub(super) struct Known {
    facts: Mutex<Facts>,
    /// Whose turn it is to wait for one.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Who takes the next batch.
    pub(super) refill: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Facts {
    pub(super) lease: Option<Held>,
    refusal: Option<Refusal>,
}

struct Refusal {
    cost: u64,
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
            plan: Mutex::default(),
            changes: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
    }

    pub(super) fn plan(&self, plan: Plan) -> Arc<Plan> {
        let mut last = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref().filter(|last| last.quotas == plan.quotas) {
            Some(same) => same.clone(),
            None => last.insert(Arc::new(plan)).clone(),
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
        let soon = recent.after(RECENT);
        let near = |end: Tick| soon >= end;
        let exact = facts.lease.as_ref().is_some_and(|lease| near(lease.deadline))
            || facts.refusal.as_ref().is_some_and(|refusal| near(refusal.until));
        let now = if exact { clock.now() } else { recent };
        if least == 0 {
            return None;
        }
        if let Some(lease) = facts.lease.as_mut()
            && let Some(decision) = lease.spend(most.min(lease.left).max(least), plan, now)
        {
            return Some(decision);
        }
        let refusal = facts.refusal.as_ref()?;
        // A cost above the limit is an error, which is said elsewhere.
        let within = (refusal.cost..=refusal.plan.most).contains(&least);
        if !within || now >= refusal.until || refusal.plan.id != plan {
            return None;
        }
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

    /// Remembers that `cost` was refused by a request that left at `sent`.
    pub(super) fn refused(
        &self,
        name: &[u8],
        cost: u64,
        plan: &Arc<Plan>,
        decision: &Decision,
        (sent, changes): (Tick, u64),
    ) {
        // The clocks of two machines differ in rate by far less than a thousandth.
        let early = |span: Duration| span - span / 1000;
        let kept = early(decision.retry_after).min(decision.binding.window() / 60);
        if kept.is_zero() {
            return;
        }
        let known = self.key(name);
        let mut facts = known.facts();
        // Within the lock: whoever changes something counts first and takes the lock to forget afterwards.
        if self.changes() != changes {
            return;
        }
        let until = sent.after(kept);
        let cost = match &facts.refusal {
            Some(other) if other.plan.id == plan.id && other.until > sent && other.cost < cost => {
                return;
            }
            _ => cost,
        };
        facts.refusal = Some(Refusal {
            cost,
            until,
            retry_at: sent.after(decision.retry_after),
            reset_at: sent.after(decision.reset_after),
            binding: decision.binding,
            remaining: decision.remaining,
            plan: plan.clone(),
        });
    }

    /// Something was given back: what was refused may pass.
    pub(super) fn forget_refusal(&self, name: &[u8]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            known.facts().refusal = None;
        }
    }

    /// The key begins anew; permits of a lease are void with it.
    pub(super) fn forget(&self, name: &[u8]) {
        self.resets.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(name) {
            *known.facts() = Facts::default();
        }
    }
}

impl Known {
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
