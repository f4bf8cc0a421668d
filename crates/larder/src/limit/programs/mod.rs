//! Whole limiters of several programs under random schedules: the parts that [`simulation`](super::simulation)
//! leaves out.
//!
//! There only the store and the spending are real. Here everything is: taking, keeping, replacing and returning a
//! batch, known refusals, refunds, reservations, and closing a `Larder`. Only time is simulated: the store has a
//! clock that is set by hand, each program has one with another rate, and tokio's timers follow the store's clock.
//! Requests take no time here and no program dies; the simulation covers both.

mod retry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Block, Decision, OutagePolicy, PermitBatch, Quota, RateLimiter, Reserve};
use crate::Larder;
use crate::clock::Clock;
use crate::context::{CallLimits, Context};
use crate::keyspace::Keyspace;
use crate::near::Invalidations;
use crate::random::Random;
use crate::store::AnyStore;
use crate::store::memory::{Bounds, MemoryStore};

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Time passes, in thousandths of a window.
    Pass(u64),
    /// A check of this cost, from a batch if there is one or one can be taken.
    Check(usize, u64),
    /// Takes as much as is free.
    UpTo(usize, u64),
    /// Checks by a handle that takes no batches.
    Plain(usize),
    /// Gives back the nth last decision.
    Refund(usize),
    /// An estimate, and what was used of it or beyond it.
    Reserve(usize, u64, u64),
    /// The program closes its `Larder`, and starts again.
    Restart(usize),
    /// Decides the key together with one of another limiter.
    Together(usize, u64, u64),
    /// Sets the nth alternative quotas for the key, for this many thousandths of a window.
    Override(usize, u64),
}

struct Program {
    /// Microseconds of its clock for a thousand of the store's.
    rate: u64,
    hand: Arc<AtomicU64>,
    larder: Larder,
    batched: RateLimiter,
    plain: RateLimiter,
    /// Another limiter, whose keys are decided together with those of the first.
    beside: RateLimiter,
}

struct Used {
    when: u64,
    permits: u64,
    /// The program and its decision, unless it can no longer be given back.
    by: Option<(usize, Decision)>,
}

struct Scene {
    store: Arc<MemoryStore>,
    changes: Arc<Invalidations>,
    hand: Arc<AtomicU64>,
    quota: Quota,
    span: Duration,
    /// The block of a key that exceeds its limit.
    block: Option<Block>,
    programs: Vec<Program>,
    used: Vec<Used>,
    /// The number of decisions made without the store.
    here: u64,
}

impl Scene {
    /// Makes programs whose clocks have these rates.
    fn new(quota: Quota, span: Duration, block: Option<Block>, rates: [u64; 3]) -> Self {
        let (hand, changes) = (Arc::new(AtomicU64::new(0)), Arc::new(Invalidations::default()));
        let store = MemoryStore::new(Bounds::default(), Clock::Manual(hand.clone()), changes.clone());
        let (store, programs) = (Arc::new(store), Vec::new());
        let mut scene =
            Self { store, changes, hand, quota, span, block, programs, used: Vec::new(), here: 0 };
        scene.programs = rates.map(|rate| scene.program(rate)).into();
        scene
    }

    fn program(&self, rate: u64) -> Program {
        let hand = Arc::new(AtomicU64::new(rate * 1_000_000));
        let limits = CallLimits {
            response_timeout: Duration::from_secs(1),
            max_value_bytes: 1000,
            max_key_bytes: 1000,
        };
        let (store, clock) = (AnyStore::Memory(self.store.clone()), Clock::Manual(hand.clone()));
        let (changes, keyspace) = (self.changes.clone(), Keyspace::default());
        let context = Context::new(store, changes, keyspace, limits, clock, Random::default());
        let larder = Larder::new(Arc::new(context), None);
        let plain =
            larder.rate_limiter("api", self.quota).unwrap().outage(OutagePolicy::LocalShare(2)).unwrap();
        let plain = self.block.map_or(plain.clone(), |block| plain.block_for(block).unwrap());
        // A GCRA quota cannot be batched.
        let batched = plain.clone().batched(PermitBatch::batch(5).span(self.span)).unwrap_or(plain.clone());
        let beside =
            larder.rate_limiter("beside", Quota::new(2 * self.quota.limit(), self.quota.window() / 2));
        let beside = beside.unwrap().outage(OutagePolicy::LocalShare(2)).unwrap();
        Program { rate, hand, larder, batched, plain, beside }
    }

    /// The alternative quotas of an override: more, less, a shorter window, a pace.
    fn others(&self) -> [Quota; 4] {
        let (limit, window) = (self.quota.limit(), self.quota.window());
        [
            Quota::new(3 * limit, window),
            Quota::new(4, window),
            Quota::new(30, window / 7),
            Quota::new(limit, window).gcra(5),
        ]
    }

    fn window(&self) -> u64 {
        u64::try_from(self.quota.window().as_micros()).unwrap()
    }

    fn now(&self) -> u64 {
        self.hand.load(Ordering::Acquire)
    }

    async fn pass(&mut self, micros: u64) {
        self.hand.fetch_add(micros, Ordering::AcqRel);
        for program in &self.programs {
            // Round up: a clock is at most a thousandth slow, which is what limiters allow for.
            program.hand.fetch_add((micros * program.rate).div_ceil(1000), Ordering::AcqRel);
        }
        tokio::time::advance(Duration::from_micros(micros)).await;
        settle().await;
    }

    fn note(&mut self, who: usize, decision: Decision) {
        self.here += u64::from(decision.decided_by() != super::DecidedBy::Store);
        if decision.is_allowed() {
            let (when, permits) = (self.now(), decision.granted());
            self.used.push(Used { when, permits, by: Some((who, decision)) });
        }
    }

    async fn play(&mut self, act: Act) {
        match act {
            Act::Pass(share) => self.pass(self.window() * share / 1000).await,
            Act::Check(who, cost) => {
                let decision = self.programs[who].batched.check_n("a", cost).await.unwrap();
                self.note(who, decision);
            }
            Act::UpTo(who, most) => {
                let decision = self.programs[who].batched.take_up_to("a", most).await.unwrap();
                self.note(who, decision);
            }
            Act::Plain(who) => {
                let decision = self.programs[who].plain.check("a").await.unwrap();
                self.note(who, decision);
            }
            Act::Refund(last) => {
                let one = self.used.iter_mut().rev().filter(|used| used.by.is_some()).nth(last);
                if let Some(one) = one
                    && let Some((who, decision)) = one.by.take()
                {
                    let granted = std::mem::take(&mut one.permits);
                    self.programs[who].batched.refund("a", decision, granted).await.unwrap();
                }
            }
            Act::Reserve(who, estimate, used) => {
                if let Reserve::Granted(held) =
                    self.programs[who].batched.reserve("a", estimate).await.unwrap()
                {
                    let settled = held.settle(used).await.unwrap();
                    let permits = used - settled.uncovered;
                    self.used.push(Used { when: self.now(), permits, by: None });
                }
            }
            Act::Together(who, cost, beside) => {
                let Program { larder, plain, beside: other, .. } = &self.programs[who];
                let keys = [plain.key("a").cost(cost), other.key("b").cost(beside)];
                let mut decisions = larder.check_together(keys).await.unwrap().into_decisions();
                self.note(who, decisions.swap_remove(0));
            }
            Act::Override(which, share) => {
                let quota = self.others()[which % 4];
                let lasts = self.quota.window() * u32::try_from(share).unwrap() / 1000;
                self.programs[0].plain.override_key("a", quota, lasts).await.unwrap();
            }
            Act::Restart(who) => {
                self.programs[who].larder.close().await.unwrap();
                settle().await;
                let again = self.program(self.programs[who].rate);
                self.programs[who] = again;
                // The decisions of the old program can no longer be given back.
                for used in &mut self.used {
                    used.by.take_if(|(whose, _)| *whose == who);
                }
            }
        }
    }

    /// The largest number of permits in any window.
    fn most(&self) -> u64 {
        let within = |(first, start): (usize, &Used)| -> u64 {
            let end = start.when + self.window();
            self.used[first..].iter().take_while(|used| used.when < end).map(|used| used.permits).sum()
        };
        self.used.iter().enumerate().map(within).max().unwrap_or(0)
    }
}

/// Lets background tasks finish.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn whole_limiters_of_several_programs_keep_the_limit_and_lose_nothing() {
    let who = 0..3usize;
    let act = prop_oneof![
        6 => (1..150u64).prop_map(Act::Pass),
        2 => (900..1050u64).prop_map(Act::Pass),
        12 => (who.clone(), prop_oneof![4 => Just(1u64), 1 => 1..4u64]).prop_map(|(who, cost)| Act::Check(who, cost)),
        2 => (who.clone(), 1..9u64).prop_map(|(who, most)| Act::UpTo(who, most)),
        3 => who.clone().prop_map(Act::Plain),
        3 => (0..4usize).prop_map(Act::Refund),
        2 => (who.clone(), 1..4u64, 0..6u64).prop_map(|(who, estimate, used)| Act::Reserve(who, estimate, used)),
        2 => (who.clone(), 1..4u64, 1..9u64).prop_map(|(who, cost, beside)| Act::Together(who, cost, beside)),
        1 => who.prop_map(Act::Restart),
    ];
    let window = Duration::from_millis(600);
    let quotas = [
        (Quota::new(6, window), window / 3),
        (Quota::new(25, window), window / 10),
        // Sixty does not divide this window, and a batch lasts all of it.
        (Quota::new(25, Duration::from_micros(600_007)), Duration::from_micros(600_007)),
    ];
    let schedules = (0..quotas.len(), prop::collection::vec(act, 1..120));
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    let here = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&schedules, |(place, schedule)| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let (quota, span) = quotas[place];
                // The slow program sees its batches end late.
                let mut scene = Scene::new(quota, span, None, [999, 1000, 1200]);
                for act in schedule {
                    scene.play(act).await;
                }
                let most = scene.most();
                prop_assert!(most <= quota.limit(), "{} used of {}", most, quota.limit());
                here.set(here.get() + scene.here);
                // After a batch, a window and a bucket, the full limit is available again.
                scene.pass(3 * scene.window()).await;
                let left = scene.programs[0].plain.remaining("a").await.unwrap();
                prop_assert_eq!(left, quota.limit());
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(here.get() > 1000, "only {} decisions were made without the store", here.get());
}
