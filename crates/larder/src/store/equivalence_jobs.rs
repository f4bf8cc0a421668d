//! The memory store is also the specification of jobs: a real server that is driven through the same random
//! history must give the same answers. Days pass by the schedule's offset, so that both stores' clocks need
//! no change.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::equivalence::real_store;
use super::job::{Began, BeginJob, JobSchedule, JobStore, LastRun, RunName};
use super::lock::LockStore;
use super::memory::{Bounds, MemoryStore};
use crate::clock::Clock;
use crate::store::NoSink;
use std::sync::Arc;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const DAYS: u32 = 6;

#[derive(Debug, Clone)]
enum Step {
    Begin {
        day: u32,
        slot: Option<u8>,
        catch_up: u32,
        attempts: u32,
        at_most_once: bool,
        patient: bool,
        /// Counts for the next day.
        early: bool,
    },
    /// Ends a run with the last token or an earlier one, for the last run's period or another.
    End {
        behind: u64,
        slot: Option<u8>,
        completed: bool,
    },
    /// The time of the run's lock ends.
    Die,
    Status,
    /// A run that was cancelled before it arrives.
    Late,
}

fn steps() -> impl Strategy<Value = Step> {
    let slot = || prop::option::weighted(0.3, 0..2u8);
    let rarely = || prop::bool::weighted(0.1);
    prop_oneof![
        6 => (0..DAYS, slot(), prop_oneof![2 => Just(0), 1 => 1..4u32], 1..4u32, prop::bool::weighted(0.2), rarely(), rarely())
            .prop_map(|(day, slot, catch_up, attempts, at_most_once, patient, early)| Step::Begin {
                day, slot, catch_up, attempts, at_most_once, patient, early
            }),
        4 => (prop_oneof![5 => Just(0), 2 => 1..24u64], slot(), any::<bool>())
            .prop_map(|(behind, slot, completed)| Step::End { behind, slot, completed }),
        2 => Just(Step::Die),
        1 => Just(Step::Status),
        1 => Just(Step::Late),
    ]
}

#[derive(Debug, PartialEq)]
enum Answer {
    /// The period, counted from the first day.
    Started(i64),
    FenceFell,
    Done,
    Running,
    BackingOff,
    GaveUp(u32),
    Ended(bool),
    Status(Option<(bool, bool, bool)>),
    Nothing,
    Gone,
}

struct Player {
    job: String,
    boundary: Duration,
    first: i64,
    tokens: Cell<u64>,
    period: Cell<i64>,
    fence: Cell<u64>,
}

impl Player {
    fn run(&self, slot: Option<u8>) -> RunName {
        RunName { job: self.job.clone(), slot: slot.map(|slot| format!("s{slot}")) }
    }

    async fn play(&self, store: &(impl JobStore + LockStore), step: &Step) -> Answer {
        match step {
            Step::Begin { day, slot, catch_up, attempts, at_most_once, patient, early } => {
                self.tokens.set(self.tokens.get() + 1);
                let offset = self.boundary + (DAYS - 1 - day) * DAY;
                // The boundary is half a day away.
                let tolerance = if *early { 13 * HOUR } else { Duration::ZERO };
                let schedule = JobSchedule { every: DAY, offset, tolerance, catch_up: *catch_up };
                let begin = BeginJob {
                    token: self.tokens.get(),
                    ttl: HOUR,
                    schedule: slot.is_none().then_some(schedule),
                    attempts: *attempts,
                    backoff: if *patient { HOUR } else { Duration::ZERO },
                    at_most_once: *at_most_once,
                    keep: DAY,
                    quarantine: None,
                };
                match store.begin_job(&self.run(*slot), begin).await.unwrap() {
                    Began::Started { fence, .. } if fence <= self.fence.get() => Answer::FenceFell,
                    Began::Started { fence, period } => {
                        self.fence.set(fence);
                        self.period.set(period);
                        Answer::Started(if slot.is_some() { period } else { period - self.first })
                    }
                    Began::Done { at, by } => {
                        assert!(at > 0 && !by.is_empty());
                        Answer::Done
                    }
                    Began::Running { since, .. } => {
                        assert!(since > 0);
                        Answer::Running
                    }
                    Began::BackingOff { .. } => Answer::BackingOff,
                    Began::GaveUp { attempts } => Answer::GaveUp(attempts),
                    Began::Gone | Began::Quarantined { .. } => Answer::Gone,
                }
            }
            Step::End { behind, slot, completed } => {
                let token = self.tokens.get().saturating_sub(*behind);
                let run = self.run(*slot);
                Answer::Ended(store.end_job(&run, token, self.period.get(), *completed, DAY).await.unwrap())
            }
            Step::Late => {
                self.tokens.set(self.tokens.get() + 1);
                let (run, token) = (self.run(None), self.tokens.get());
                store.give_up(&run.lock(), token, HOUR).await.unwrap();
                let begin = BeginJob {
                    token,
                    ttl: HOUR,
                    schedule: None,
                    attempts: 1,
                    backoff: Duration::ZERO,
                    at_most_once: true,
                    keep: DAY,
                    quarantine: None,
                };
                match store.begin_job(&run, begin).await.unwrap() {
                    Began::Gone => Answer::Gone,
                    other => panic!("{other:?}"),
                }
            }
            Step::Die => Answer::Nothing,
            Step::Status => {
                let seen = |LastRun { ended, completed, held, .. }| (ended.is_some(), completed, held);
                Answer::Status(store.last_run(&self.job).await.unwrap().map(seen))
            }
        }
    }
}

#[test]
fn both_stores_answer_the_same_to_every_history_of_a_job() {
    let histories = std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(real_store());
    let memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(NoSink));
    // No boundary is near.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let boundary = Duration::from_secs((now.as_secs() + DAY.as_secs() / 2) % DAY.as_secs());
    let last = (now.as_secs() - boundary.as_secs()) / DAY.as_secs();
    let first = i64::try_from(last).unwrap() - i64::from(DAYS - 1);
    let next = Cell::new(1u64);
    let mut runner =
        TestRunner::new(Config { cases: histories, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(steps(), 1..32), |history| {
            let number = next.replace(next.get() + 1);
            let player = || Player {
                job: format!("~job.1:{{h{number}}}"),
                boundary,
                first,
                tokens: Cell::new(number * 1000),
                period: Cell::default(),
                fence: Cell::default(),
            };
            let (of_memory, of_server) = (player(), player());
            runtime.block_on(async {
                for (at, step) in history.iter().enumerate() {
                    // The time of a run's lock ends in both stores; then each store gets the same step.
                    if let Step::Die = step {
                        let lock = super::job::lock_of_job(&of_memory.job);
                        memory.end(&lock);
                        server.end(&lock).await;
                    }
                    let expected = of_memory.play(&memory, step).await;
                    let found = of_server.play(&server, step).await;
                    prop_assert_ne!(&expected, &Answer::FenceFell);
                    prop_assert_eq!(expected, found, "memory left, server right, at step {}: {:?}", at, step);
                }
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
