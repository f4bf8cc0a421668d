//! The memory store's limits are the specification: the scripts, on a real server, must answer the same to the
//! microsecond, and leave records that count the same.
//!
//! Time decides everything about a limit, so here it is given: the one line of the scripts that asks the server for the
//! time reads two arguments instead. Clocks step forward by little and by much, and back. Every answer is compared in
//! full. The same histories are held against the bound by a plain list of what was admitted.
//! LARDER_TEST_HISTORIES sets how many are tried.

mod booked;
mod oracle;
mod together;

use std::sync::OnceLock;

use larder_testkit::Server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::limit::{Charge, Charged, Label, Override, Penalty, Rule, Stamp, Take, Term};
use super::memory::Limits;
use super::redis::limit::raw;

/// 2026, in microseconds.
const START: u64 = 1_780_000_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    Charge {
        plan: usize,
        take: Take,
        cost: u64,
        ahead: u64,
        patience: u64,
        penalty: Option<Penalty>,
    },
    /// Gives the key these terms for so many seconds, or ends that.
    Override {
        plan: Option<usize>,
        seconds: u64,
    },
    /// Gives back part of what the nth last charge took.
    Refund {
        plan: usize,
        last: usize,
        permits: u64,
    },
    Forget,
    Pass(u64),
    Back(u64),
}

/// Windows from hours down to what sixty does not divide; the same windows with other limits; one and several.
fn plans() -> Vec<Vec<Term>> {
    let buckets = |limit, width| Term { rule: Rule::Buckets, limit, width };
    let log = |limit, window| Term { rule: Rule::Log, limit, width: window };
    let gcra = |limit, interval| Term { rule: Rule::Gcra, limit, width: interval };
    vec![
        vec![buckets(5, 1_000_000)],
        vec![buckets(9, 1_000_000)],
        vec![buckets(100_000, 1_000_000)],
        vec![buckets(4, 17), buckets(30, 1_000_000)],
        vec![log(4, 60_000_000)],
        vec![log(7, 60_000_000), buckets(40, 60_000_000)],
        vec![gcra(3, 1_000_000)],
        vec![gcra(3, 1_000_000), log(5, 10_000_001), buckets(12, 999_983)],
        vec![buckets(25, 13_000_000)],
        // Logs whose times take 5 and 6 bytes, and one that outlives what 4 bytes tell apart.
        vec![log(5, 5_000_000_000)],
        vec![log(4, 2_000_000_000_000)],
        vec![buckets(9, 1_000), buckets(70_000, 1_000_000_000), buckets(30, 3_000)],
        vec![log(30, 1_000_000), buckets(70_000, 3_600_000_000)],
    ]
}

/// Mostly of one plan. Or of that one alone and nearly without anything special, which is what charge.lua answers before
/// the whole rule begins.
fn history() -> impl Strategy<Value = Vec<Step>> {
    (0..plans().len(), prop_oneof![Just(0u32), Just(1)])
        .prop_flat_map(|(usual, special)| prop::collection::vec(steps(usual, special), 1..40))
}

fn steps(usual: usize, special: u32) -> impl Strategy<Value = Step> {
    let plan = move || prop_oneof![3 => Just(usual), special => 0..plans().len()];
    let take = prop_oneof![
        5 => Just(Take::All),
        special => Just(Take::UpTo),
        special => (1..6u64).prop_map(|least| Take::Half { least }),
        2 * special => (1..6u64).prop_map(|least| Take::Turns { least }),
        special => Just(Take::Debt),
        2 * special => Just(Take::Look)
    ];
    let ahead = prop_oneof![4 => Just(0u64), special => 0..61_000u64, special => 0..59_000_000u64];
    let patience = prop_oneof![4 => Just(0u64), special => Just(70_000_000u64)];
    // A second, two, four, five; or from 40 seconds to a quarter of an hour.
    let penalty = prop_oneof![
        2 => Just(None),
        2 => Just(Some(Penalty { first: 1_000_000, factor: 2, most: 5_000_000 })),
        1 => Just(Some(Penalty { first: 40_000_000, factor: 3, most: 900_000_000 })),
        1 => Just(Some(Penalty { first: 3_000_001, factor: 1, most: 3_000_001 }))
    ];
    let windows: Vec<u64> = plans()[usual].iter().map(|term| term.window()).collect();
    let window = move || prop::sample::select(windows.clone());
    let any = prop_oneof![
        Just(0u64),
        1..20u64,
        1..2_000_000u64,
        1..70_000_000u64,
        Just(1_000_000_000),
        Just(60_000_000),
        (0..3u64).prop_map(|more| (1 << 32) + more),
        (0..3u64).prop_map(|more| (1 << 40) + more)
    ];
    let within = (window(), prop_oneof![Just(20u64), Just(4), Just(1)])
        .prop_flat_map(|(window, part)| 1..=window / part + 2);
    let pass = prop_oneof![within, any];
    prop_oneof![
        8 => (plan(), take, prop_oneof![Just(1u64), 1..6u64], ahead, patience, penalty).prop_map(
            |(plan, take, cost, ahead, patience, penalty)| {
                // A lease lies within the shortest window; a booking is made for now.
                let within = plans()[plan].iter().map(|term| term.window()).min().unwrap_or(0);
                let ahead = if patience > 0 { 0 } else { ahead % within };
                let ahead = if plans()[plan].iter().any(|term| term.rule == Rule::Gcra) { 0 } else { ahead };
                let take = match take {
                    Take::Half { least } => Take::Half { least: least.min(cost) },
                    Take::Turns { least } => Take::Turns { least: least.min(cost) },
                    take => take,
                };
                Step::Charge { plan, take, cost, ahead, patience, penalty }
            }
        ),
        2 => (plan(), 0..4usize, 1..4u64).prop_map(|(plan, last, permits)| Step::Refund { plan, last, permits }),
        special => Just(Step::Forget),
        // Longer than the test takes: the server's own time goes on, and must not end it.
        special => (prop::option::weighted(0.8, 0..plans().len()), prop_oneof![60..90u64, 60..4000u64])
            .prop_map(|(plan, seconds)| Step::Override { plan, seconds }),
        6 => pass.prop_map(Step::Pass),
        special => prop_oneof![1..100u64, 1..50_000_000u64].prop_map(Step::Back),
    ]
}

/// The terms of an override, each with a label of its own.
fn labelled(terms: &[Term]) -> Vec<(Term, Label)> {
    terms.iter().enumerate().map(|(place, term)| (*term, [place as u8 + 1; 15])).collect()
}

/// One history of each store, at times that the test gives.
struct Both<'a> {
    memory: &'a Limits,
    server: &'a mut redis::Connection,
    charge: &'a str,
    refund: &'a str,
    name: String,
    clock: u64,
}

impl Both<'_> {
    fn run<T: redis::FromRedisValue>(&mut self, script: &str, request: &[u8], more: Option<&[u8]>) -> T {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(&self.name).arg(request).arg(more);
        command.arg(self.clock / 1_000_000).arg(self.clock % 1_000_000);
        command.query(self.server).unwrap_or_else(|error| panic!("{request:?} {error}"))
    }

    fn charge(&mut self, charge: Charge<'_>) -> (Charged, Charged) {
        let (request, more) = raw::charge(charge);
        let answer: Vec<u8> = self.run(self.charge, &request, more.as_deref());
        (self.memory.charge(&self.name, charge, self.clock), raw::answer(&answer))
    }

    /// When the record would be gone, by the clock that the script was told.
    fn lives_until(&mut self) -> u64 {
        redis::cmd("GET").arg(format!("{}:until", self.name)).query(self.server).unwrap()
    }

    fn refund(&mut self, terms: &[Term], permits: u64, stamp: Stamp) -> (u64, u64) {
        let server = self.run(self.refund, &raw::refund(terms, permits, stamp), None);
        (self.memory.refund(&self.name, terms, permits, stamp, self.clock), server)
    }
}

fn connection() -> redis::Connection {
    static SERVER: OnceLock<Server> = OnceLock::new();
    redis::Client::open(SERVER.get_or_init(Server::start).url()).unwrap().get_connection().unwrap()
}

/// The scripts, told the time by their last two arguments.
fn told_the_time() -> (String, String) {
    let (charge, refund) = raw::scripts();
    (tell(charge), tell(refund))
}

fn tell(script: &str) -> String {
    {
        let told =
            script.replacen("redis.call('TIME')", "{ table.remove(ARGV, #ARGV - 1), table.remove(ARGV) }", 1);
        assert_ne!(told, script);
        // Records must not end by the server's real time: when they would is put down beside them.
        let end = |script: String, whole: &str, milliseconds: &str| {
            let beside = format!(
                "'PX', '36000000') redis.call('SET', KEYS[1] .. ':until', clock + 1000 * {milliseconds})"
            );
            script.replace(whole, &beside)
        };
        let told = end(told, "'PX', sub(ask, 6 + 10 * terms))", "sub(ask, 6 + 10 * terms)");
        let told = end(told, "'PX', string.format('%d', lives))", "lives");
        // A block of half a second is over before a busy machine has taken the next step.
        told.replace("redis.call('PEXPIRE', KEYS[1], rest)", "redis.call('PEXPIRE', KEYS[1], '36000000')")
    }
}

fn histories(default: u32) -> Config {
    let cases = std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn both_stores_decide_the_same_at_every_time() {
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    let over = tell(raw::over());
    let next = std::cell::Cell::new(0u64);
    let server = std::cell::RefCell::new(&mut server);
    let mut runner = TestRunner::new(histories(3000));
    runner
        .run(&history(), |history| {
            let name = format!("~limit.1:{{/history:{}}}", next.replace(next.get() + 1));
            let mut server = server.borrow_mut();
            let mut both = Both {
                memory: &memory,
                server: &mut server,
                charge: &charge,
                refund: &refund,
                name,
                clock: START,
            };
            let plans = plans();
            let mut charges: Vec<Stamp> = Vec::new();
            for (at, step) in history.iter().enumerate() {
                match step {
                    Step::Charge { plan, take, cost, ahead, patience, penalty } => {
                        let (terms, take, penalty) = (plans[*plan].as_slice(), *take, *penalty);
                        let ask =
                            Charge { terms, take, cost: *cost, ahead: *ahead, patience: *patience, penalty };
                        let (expected, found) = both.charge(ask);
                        prop_assert_eq!(
                            expected,
                            found,
                            "memory left, server right, at step {}: {:?}",
                            at,
                            step
                        );
                        if found.granted > 0 && take != Take::Look {
                            prop_assert!(
                                both.lives_until() >= both.clock + found.reset,
                                "at step {}: {:?}",
                                at,
                                step
                            );
                            charges.push(found.stamp);
                        }
                    }
                    Step::Refund { plan, last, permits } => {
                        let Some(stamp) = charges.iter().rev().nth(*last) else { continue };
                        let (expected, found) = both.refund(&plans[*plan], *permits, *stamp);
                        prop_assert_eq!(
                            expected,
                            found,
                            "memory left, server right, at step {}: {:?}",
                            at,
                            step
                        );
                    }
                    Step::Forget => {
                        // The server does not end records here, and so forgets some that memory no longer counts.
                        let forgotten = memory.forget(&both.name, both.clock);
                        let found: u64 = both.run(&over, b"-", None);
                        prop_assert!(u64::from(forgotten) <= found, "at step {}", at);
                    }
                    Step::Override { plan, seconds } => {
                        let terms = plan.map(|plan| labelled(&plans[plan])).unwrap_or_default();
                        let key = Override { terms, lasts: std::time::Duration::from_secs(*seconds) };
                        memory.set_override(&both.name, &key, both.clock);
                        let _: redis::Value = both.run(&over, &raw::over_request(&key), None);
                        let (left, terms): (u64, Vec<u8>) = both.run(&over, b"", None);
                        let labels =
                            terms.chunks(25).map(|term| Label::try_from(&term[10..]).unwrap()).collect();
                        let found = (left > 0).then(|| (labels, std::time::Duration::from_micros(left)));
                        let expected = memory.override_of(&both.name, both.clock);
                        prop_assert_eq!(expected, found, "memory left, server right, at step {}", at);
                    }
                    Step::Pass(micros) => both.clock += micros,
                    Step::Back(micros) => both.clock -= micros,
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
