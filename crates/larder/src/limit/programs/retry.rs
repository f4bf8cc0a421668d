//! A caller that waits for `retry_after` and then asks alone is always admitted. This holds wherever the decision
//! was made (by the store, by a known refusal, by the share of a program whose store is down) and for every kind of
//! request: for one key, for several keys together, for a turn, for blocked keys, and for keys with an override.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::Plan;
use super::super::outage::{Away, together_without_store};
use super::super::{Block, DecidedBy, Decision, Quota, RateLimiter};
use super::{Act, Program, Scene};
use crate::error::{Error, ErrorKind};
use crate::name::Name;
use crate::store::limit::ChargeMode;

/// How the last request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Check,
    Batched,
    UpTo,
    /// A turn that must be free at once.
    Turn,
    Together,
    /// While the store is down.
    Away,
    AwayTogether,
}

const ASKS: [Ask; 7] =
    [Ask::Check, Ask::Batched, Ask::UpTo, Ask::Turn, Ask::Together, Ask::Away, Ask::AwayTogether];

/// `None` if it is allowed; otherwise when to ask again, and where that was decided.
type Answer = Option<(Duration, DecidedBy)>;

fn answer(decisions: &[Decision]) -> Answer {
    // A policy that counts nothing knows no time.
    if decisions
        .iter()
        .any(|one| !one.is_allowed() && one.decided_by == DecidedBy::Outage && !one.counted_here)
    {
        return None;
    }
    let longest = decisions.iter().filter(|one| !one.is_allowed()).max_by_key(|one| one.retry_after)?;
    Some((longest.retry_after, longest.decided_by))
}

fn record(limiter: &RateLimiter, key: &str) -> (Name, Arc<Plan>) {
    let name = limiter.record(key).unwrap();
    let plan = limiter.plan_for(&name).unwrap();
    (name, plan)
}

impl Program {
    async fn ask(&self, ask: Ask, cost: u64, beside: u64) -> Answer {
        let away = || Error::new(ErrorKind::Refused, "away");
        let decision = match ask {
            Ask::Check => self.plain.check_n("a", cost).await.unwrap(),
            Ask::Batched => self.batched.check_n("a", cost).await.unwrap(),
            Ask::UpTo => self.plain.take_up_to("a", cost).await.unwrap(),
            Ask::Turn => self.plain.acquire_n("a", cost, Duration::ZERO).await.unwrap(),
            Ask::Together => {
                let keys = [self.plain.key("a").cost(cost), self.beside.key("b").cost(beside)];
                return answer(self.larder.check_together(keys).await.unwrap().decisions());
            }
            Ask::Away => {
                let (name, plan) = record(&self.plain, "a");
                self.plain.without_store(&name, &plan, ChargeMode::All, cost, away()).unwrap()
            }
            Ask::AwayTogether => {
                let records = [record(&self.plain, "a"), record(&self.beside, "b")];
                let [a, b] = &records;
                let keys = [
                    Away { limiter: &self.plain, name: &a.0, plan: &a.1, cost },
                    Away { limiter: &self.beside, name: &b.0, plan: &b.1, cost: beside },
                ];
                return answer(&together_without_store(&keys, &away()).unwrap());
            }
        };
        answer(&[decision])
    }
}

#[derive(Debug, Clone)]
struct Case {
    quota: usize,
    schedule: Vec<Act>,
    /// The requests at the start of an outage.
    away: Vec<u64>,
    block: Option<u64>,
    ask: Ask,
    who: usize,
    cost: u64,
    beside: u64,
    /// Asks once more this many milliseconds after a refusal, when the refusal may be known.
    again: Option<u64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let who = 0..3usize;
    let act = prop_oneof![
        6 => (1..150u64).prop_map(Act::Pass),
        12 => (who.clone(), 1..4u64).prop_map(|(who, cost)| Act::Check(who, cost)),
        2 => (who.clone(), 1..9u64).prop_map(|(who, most)| Act::UpTo(who, most)),
        4 => who.clone().prop_map(Act::Plain),
        2 => (0..4usize).prop_map(Act::Refund),
        1 => (who.clone(), 1..4u64, 0..6u64).prop_map(|(who, estimate, used)| Act::Reserve(who, estimate, used)),
        2 => (who.clone(), 1..4u64, 1..12u64).prop_map(|(who, cost, beside)| Act::Together(who, cost, beside)),
        1 => (0..4usize, 1..1500u64).prop_map(|(which, share)| Act::Override(which, share)),
    ];
    let asks = prop::sample::select(ASKS.to_vec());
    (
        (0..3usize, prop::collection::vec(act, 1..60), prop::collection::vec(1..4u64, 0..6)),
        (prop::option::weighted(0.3, 1..3u64), asks, who, 1..5u64, 1..8u64),
        prop::option::weighted(0.6, 0..900u64),
    )
        .prop_map(|((quota, schedule, away), (block, ask, who, cost, beside), again)| Case {
            quota,
            schedule,
            away,
            block,
            ask,
            who,
            cost: cost.min(4),
            beside,
            again,
        })
}

#[test]
fn after_retry_after_a_caller_that_asks_alone_is_admitted_wherever_the_decision_was_made() {
    // Long enough that refusals are repeated. One quota counts by the time of each permit, one in buckets.
    let window = Duration::from_secs(90);
    let quotas = [Quota::new(6, window), Quota::new(25, window), Quota::new(10, window).gcra(4)];
    let counts: RefCell<BTreeMap<String, u64>> = RefCell::default();
    let config = Config { cases: 2500, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&cases(), |case| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let Case { schedule, ask, who, cost, beside, .. } = case.clone();
                let block = case.block.map(|factor| {
                    Block::lasting(window / 20).escalating(factor.try_into().unwrap(), window / 3)
                });
                let mut scene = Scene::new(quotas[case.quota], window / 10, block, [999, 1000, 1001]);
                for act in schedule {
                    scene.play(act).await;
                }
                // A known refusal does not include later charges by others, so nothing else is charged from here
                // on.
                scene.pass(1_200_000).await;
                for cost in case.away {
                    scene.programs[who].ask(Ask::Away, cost.min(2), 1).await;
                }
                let mut asked = scene.programs[who].ask(ask, cost, beside).await;
                if let Some(later) = case.again.filter(|_| asked.is_some()) {
                    scene.pass(later * 1000).await;
                    asked = scene.programs[who].ask(ask, cost, beside).await;
                }
                let Some((wait, by)) = asked else { return Ok(()) };
                let over = scene.programs[who].plain.override_of("a").await.unwrap();
                if ask == Ask::Together && over.is_some_and(|over| over.expires_in <= wait) {
                    *counts.borrow_mut().entry("Together behind an override".to_owned()).or_default() += 1;
                }
                *counts.borrow_mut().entry(format!("{ask:?} by {}", by.as_str())).or_default() += 1;
                let wait_micros = u64::try_from(wait.as_nanos().div_ceil(1000)).unwrap();
                // A share counts by the clock of its program, which is a thousandth slow here.
                let slow = if by == DecidedBy::Outage { wait_micros / 990 } else { 0 };
                scene.pass(wait_micros + slow).await;
                // A caller that waited for a turn asks with a plain check.
                let ask = if ask == Ask::Turn { Ask::Check } else { ask };
                let again = scene.programs[who].ask(ask, cost, beside).await;
                prop_assert!(again.is_none(), "after {:?} as {:?} said: {:?}", wait, by, again);
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let counts = counts.into_inner();
    for expected in [
        "Check by store",
        "Check by refusal",
        "Batched by store",
        "Batched by refusal",
        "UpTo by store",
        "Turn by store",
        "Together by store",
        "Together by refusal",
        "Together behind an override",
        "Away by outage",
        "AwayTogether by outage",
    ] {
        assert!(counts.get(expected).is_some_and(|count| *count > 20), "{expected}: {counts:?}");
    }
}
