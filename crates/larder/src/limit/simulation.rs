//! Permit batches under every schedule: the proof of docs/rate-limits.md as a simulation.
//!
//! Processes take batches, spend, check without a batch, give back, and die. A request takes time to arrive, and so
//! does its reply. Each process has a clock with its own rate, off by less than the thousandth that a batch allows
//! for. The store and the spending are real ([`LocalBatch::spend`]); only time is simulated. Every admission is
//! recorded with the store's time, and no window may hold more than the limit. Short schedules are all played, long
//! ones at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Plan;
use super::decision::RecordId;
use super::local::LocalBatch;
use super::quota::Quota;
use crate::clock::{Clock, drift};
use crate::store::limit::{Charge, ChargeMode};
use crate::store::memory::MemoryLimits;

const START: u64 = 1_780_000_000_000_000;

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Time passes, in thousandths of a window.
    Pass(u64),
    /// A request for a batch is sent, is executed after this many thousandths of a window, and is answered after as
    /// many more.
    Batch(usize, u64),
    Spend(usize),
    /// A plain check, without a batch.
    Check,
    /// The process gives back what it has left, and spends no more of it.
    Return(usize),
    /// The process dies: what it has left is neither spent nor given back.
    Die(usize),
}

struct Process {
    /// Local microseconds for a thousand of the store's.
    rate: u64,
    clock: Arc<AtomicU64>,
    held: Option<LocalBatch>,
}

struct Scene {
    store: MemoryLimits,
    plan: Arc<Plan>,
    /// How long a batch may be spent, in microseconds.
    span: u64,
    now: u64,
    processes: Vec<Process>,
    admitted: Vec<u64>,
}

impl Scene {
    fn new(quota: Quota, span: u64) -> Self {
        let process = |rate| Process { rate, clock: Arc::new(AtomicU64::new(7_000_000)), held: None };
        Self {
            store: MemoryLimits::default(),
            plan: Arc::new(Plan::new(quota.into()).unwrap()),
            span,
            now: START,
            // The slow process sees its batches end late.
            processes: [999, 1000, 1001].map(process).into(),
            admitted: Vec::new(),
        }
    }

    fn window(&self) -> u64 {
        u64::try_from(self.plan.shortest.as_micros()).unwrap()
    }

    fn pass(&mut self, micros: u64) {
        self.now += micros;
        for process in &self.processes {
            process.clock.fetch_add(micros * process.rate / 1000, Ordering::AcqRel);
        }
    }

    fn play(&mut self, act: Act) {
        let plan = self.plan.clone();
        match act {
            Act::Pass(share) => self.pass(self.window() * share / 1000),
            // A process takes a batch. Its request and the answer take `delay` each; its deadline counts from before
            // the request was sent.
            Act::Batch(who, delay) => {
                let delay = self.window() * delay / 1000;
                let sent = Clock::Manual(self.processes[who].clock.clone()).now();
                self.pass(delay);
                let charge = Charge {
                    specs: &plan.specs,
                    mode: ChargeMode::Half { least: 1 },
                    cost: 4,
                    charge_at: self.span,
                    max_wait: 0,
                    penalty: None,
                };
                let charged = self.store.charge("a", charge, self.now);
                self.pass(delay);
                if charged.granted == 0 {
                    return;
                }
                // The process ends the batch early, by what its clock may be slow.
                let span = Duration::from_micros(self.span);
                let held = LocalBatch {
                    left: charged.granted,
                    deadline: sent.after(span - drift(span)),
                    stamp: charged.stamp,
                    record: RecordId::default(),
                    plan: plan.clone(),
                    binding: plan.quota(0),
                    remaining: charged.remaining,
                    reset_at: sent,
                };
                // What was left of the batch before is given back.
                if let Some(old) = self.processes[who].held.replace(held) {
                    self.store.refund("a", old.left, old.stamp, self.now);
                }
            }
            // A process admits a use by its own batch and clock. The use counts at the true time.
            Act::Spend(who) => {
                let process = &mut self.processes[who];
                let local = Clock::Manual(process.clock.clone()).now();
                let spent = process.held.as_mut().and_then(|held| held.spend(1, plan.id, local));
                if spent.is_some() {
                    self.admitted.push(self.now);
                }
            }
            // A plain decision of the store.
            Act::Check => {
                let charge = Charge {
                    specs: &plan.specs,
                    mode: ChargeMode::All,
                    cost: 1,
                    charge_at: 0,
                    max_wait: 0,
                    penalty: None,
                };
                if self.store.charge("a", charge, self.now).granted > 0 {
                    self.admitted.push(self.now);
                }
            }
            // A process gives its batch back, or dies with it: the permits of a dead process stay charged.
            Act::Return(who) => {
                if let Some(old) = self.processes[who].held.take() {
                    self.store.refund("a", old.left, old.stamp, self.now);
                }
            }
            Act::Die(who) => self.processes[who].held = None,
        }
    }

    /// The largest number of admissions in any window.
    fn most(&self) -> usize {
        let starts = self.admitted.iter().enumerate();
        starts
            .map(|(first, start)| {
                self.admitted[first..].iter().filter(|time| **time < start + self.window()).count()
            })
            .max()
            .unwrap_or(0)
    }
}

fn quotas() -> [(Quota, u64); 3] {
    let window = Duration::from_millis(60);
    [
        (Quota::new(3, window), 20_000),
        (Quota::new(25, window), 59_000),
        // Sixty does not divide this window, and a batch lasts all of it.
        (Quota::new(25, Duration::from_micros(60_007)), 60_007),
    ]
}

#[test]
fn every_short_schedule_keeps_the_limit() {
    let acts = [
        Act::Pass(330),
        Act::Pass(980),
        Act::Batch(0, 0),
        Act::Batch(2, 150),
        Act::Spend(0),
        Act::Spend(2),
        Act::Check,
        Act::Return(0),
    ];
    let length = 6;
    let (quota, span) = quotas()[0];
    for schedule in 0..acts.len().pow(length) {
        let mut scene = Scene::new(quota, span);
        let mut rest = schedule;
        for _ in 0..length {
            scene.play(acts[rest % acts.len()]);
            rest /= acts.len();
        }
        // Spend everything at once, and again as soon as a window has passed.
        for act in [Act::Spend(0), Act::Spend(2), Act::Spend(0), Act::Pass(1000), Act::Check, Act::Spend(2)] {
            scene.play(act);
        }
        assert!(scene.most() <= 3, "{} admitted by schedule {schedule}", scene.most());
    }
}

#[test]
fn long_schedules_keep_the_limit() {
    let who = 0..3usize;
    let act = prop_oneof![
        4 => (1..400u64).prop_map(Act::Pass),
        1 => (950..1050u64).prop_map(Act::Pass),
        4 => (who.clone(), 0..200u64).prop_map(|(who, delay)| Act::Batch(who, delay)),
        12 => who.clone().prop_map(Act::Spend),
        3 => Just(Act::Check),
        1 => who.clone().prop_map(Act::Return),
        1 => who.prop_map(Act::Die),
    ];
    let schedules = (0..3usize, prop::collection::vec(act, 1..150));
    let config = Config { cases: 2000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&schedules, |(quota, schedule)| {
            let (quota, span) = quotas()[quota];
            let mut scene = Scene::new(quota, span);
            for act in schedule {
                scene.play(act);
            }
            let most = scene.most() as u64;
            prop_assert!(most <= quota.limit(), "{} admitted of {}", most, quota.limit());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn charged_when_it_is_taken_a_batch_would_pass_the_limit() {
    // The same store, but charged at the time of taking, as other limiters with batches do: it shows why expiry is
    // charged.
    let (quota, span) = quotas()[1];
    let mut scene = Scene::new(quota, span);
    let specs = scene.plan.specs.clone();
    let batch =
        Charge { specs: &specs, mode: ChargeMode::All, cost: 25, charge_at: 0, max_wait: 0, penalty: None };
    assert_eq!(scene.store.charge("a", batch, scene.now).granted, 25);
    // Spent just before the batch ends, while the charged bucket leaves the window.
    scene.pass(58_999);
    scene.admitted.extend([scene.now; 25]);
    scene.pass(2_500);
    for _ in 0..25 {
        scene.play(Act::Check);
    }
    assert!(scene.most() > 25, "{}", scene.most());
}
