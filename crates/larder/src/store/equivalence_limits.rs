//! The memory store is also the specification of limits: the scripts, on a real server, must give the same
//! answers to the microsecond, and leave records that count the same.
//!
//! Time decides everything about a limit, so the tests set it: the line of the scripts that asks the server
//! for the time is replaced and reads two arguments instead. Clocks step forward by little and by much, and
//! back. Every answer is compared in full. The same histories are checked against the bound by a plain list
//! of what was admitted. LARDER_TEST_HISTORIES sets how many histories are tried.

mod booked;
mod both;
mod largest;
mod oracle;
mod retry;
mod together;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::limit::{Charge, ChargeMode, ChargeStamp, Label, Penalty, QuotaSpec, Rule};
use both::{Both, Stores};

/// 2026, in microseconds.
const START: u64 = 1_780_000_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    Charge {
        plan: usize,
        mode: ChargeMode,
        cost: u64,
        charge_at: u64,
        max_wait: u64,
        penalty: Option<Penalty>,
    },
    /// Gives the key these specs for some microseconds, or ends that.
    Override {
        plan: Option<usize>,
        lasts: u64,
    },
    /// Gives back part of what the nth last charge took.
    Refund {
        last: usize,
        permits: u64,
    },
    Forget,
    Pass(u64),
    Back(u64),
}

/// Windows from hours down to one that is not divisible by sixty; the same windows with other limits; one and
/// several.
fn plans() -> Vec<Vec<QuotaSpec>> {
    let buckets = |limit, width| QuotaSpec { rule: Rule::Buckets, limit, width };
    let log = |limit, window| QuotaSpec { rule: Rule::Log, limit, width: window };
    let gcra = |limit, interval| QuotaSpec { rule: Rule::Gcra, limit, width: interval };
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
        // Logs with times of 5 and 6 bytes, and one that outlives what 4 bytes distinguish.
        vec![log(5, 5_000_000_000)],
        vec![log(4, 2_000_000_000_000)],
        vec![buckets(9, 1_000), buckets(70_000, 1_000_000_000), buckets(30, 3_000)],
        vec![log(30, 1_000_000), buckets(70_000, 3_600_000_000)],
    ]
}

/// Mostly one plan; or that plan alone with hardly any options, which charge.lua decides before
/// charge_any.lua begins.
fn history() -> impl Strategy<Value = Vec<Step>> {
    (0..plans().len(), prop_oneof![Just(0u32), Just(1)])
        .prop_flat_map(|(usual, special)| prop::collection::vec(steps(usual, special), 1..40))
}

fn steps(usual: usize, special: u32) -> impl Strategy<Value = Step> {
    let plan = move || prop_oneof![3 => Just(usual), special => 0..plans().len()];
    let mode = prop_oneof![
        5 => Just(ChargeMode::All),
        special => Just(ChargeMode::UpTo),
        special => (1..6u64).prop_map(|least| ChargeMode::Half { least }),
        2 * special => (1..6u64).prop_map(|least| ChargeMode::Turns { least }),
        special => Just(ChargeMode::Debt),
        2 * special => Just(ChargeMode::Peek)
    ];
    let charge_at = prop_oneof![4 => Just(0u64), special => 0..61_000u64, special => 0..59_000_000u64];
    let max_wait = prop_oneof![4 => Just(0u64), special => Just(70_000_000u64)];
    // A second, two, four, five; or from 40 seconds to a quarter of an hour.
    let penalty = prop_oneof![
        2 => Just(None),
        2 => Just(Some(Penalty { first: 1_000_000, factor: 2, most: 5_000_000 })),
        1 => Just(Some(Penalty { first: 40_000_000, factor: 3, most: 900_000_000 })),
        1 => Just(Some(Penalty { first: 3_000_001, factor: 1, most: 3_000_001 }))
    ];
    let windows: Vec<u64> = plans()[usual].iter().map(|spec| spec.window()).collect();
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
        8 => (plan(), mode, prop_oneof![Just(1u64), 1..6u64], charge_at, max_wait, penalty).prop_map(
            |(plan, mode, cost, charge_at, max_wait, penalty)| {
                // A batch is within the shortest window; a booking is made for now.
                let within = plans()[plan].iter().map(|spec| spec.window()).min().unwrap_or(0);
                let charge_at = if max_wait > 0 { 0 } else { charge_at % within };
                let charge_at = if plans()[plan].iter().any(|spec| spec.rule == Rule::Gcra) { 0 } else { charge_at };
                let mode = match mode {
                    ChargeMode::Half { least } => ChargeMode::Half { least: least.min(cost) },
                    ChargeMode::Turns { least } => ChargeMode::Turns { least: least.min(cost) },
                    mode => mode,
                };
                Step::Charge { plan, mode, cost, charge_at, max_wait, penalty }
            }
        ),
        2 => (0..4usize, 1..4u64).prop_map(|(last, permits)| Step::Refund { last, permits }),
        special => Just(Step::Forget),
        special => (prop::option::weighted(0.8, 0..plans().len()), prop_oneof![1..90_000_000u64, 1..4_000_000_000u64])
            .prop_map(|(plan, lasts)| Step::Override { plan, lasts }),
        6 => pass.prop_map(Step::Pass),
        special => prop_oneof![1..100u64, 1..50_000_000u64].prop_map(Step::Back),
    ]
}

/// The specs of an override, each with its own label.
fn labelled(specs: &[QuotaSpec]) -> Vec<(QuotaSpec, Label)> {
    specs.iter().enumerate().map(|(place, spec)| (*spec, [place as u8 + 1; 15])).collect()
}

fn histories(default: u32) -> Config {
    let cases = std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn both_stores_decide_the_same_at_every_time() {
    let stores = Stores::default();
    let mut runner = TestRunner::new(histories(3000));
    runner
        .run(&history(), |history| {
            let (mut both, plans) = (stores.history(), plans());
            let mut charges: Vec<ChargeStamp> = Vec::new();
            let mut own: &[QuotaSpec] = &plans[0];
            for (at, step) in history.iter().enumerate() {
                let told = || format!("memory left, server right, at step {at}: {step:?}");
                match step {
                    Step::Charge { plan, mode, cost, charge_at, max_wait, penalty } => {
                        let (specs, mode, penalty) = (plans[*plan].as_slice(), *mode, *penalty);
                        own = specs;
                        let ask = Charge {
                            specs,
                            mode,
                            cost: *cost,
                            charge_at: *charge_at,
                            max_wait: *max_wait,
                            penalty,
                        };
                        let (expected, found) = both.charge(ask);
                        prop_assert_eq!(expected, found, "{}", told());
                        if found.granted > 0 && mode != ChargeMode::Peek {
                            prop_assert!(both.lives_until() >= both.clock + found.reset, "{}", told());
                            charges.push(found.stamp);
                        }
                    }
                    Step::Refund { last, permits } => {
                        let Some(stamp) = charges.iter().rev().nth(*last) else { continue };
                        let (expected, found) = both.refund(*permits, *stamp);
                        prop_assert_eq!(expected, found, "{}", told());
                    }
                    Step::Forget => {
                        // The server does not end records here, and so forgets some that the memory store no
                        // longer counts.
                        let (forgotten, found) = both.forget();
                        prop_assert!(!forgotten || found, "{}", told());
                    }
                    Step::Override { plan, lasts } => {
                        let specs = plan.map(|plan| plans[plan].as_slice()).unwrap_or_default();
                        both.set_override(specs, own, Duration::from_micros(*lasts));
                        let (expected, found) = both.override_of();
                        prop_assert_eq!(expected, found, "{}", told());
                        // The record lives until nothing in it counts any more.
                        let peek = ChargeMode::Peek;
                        let peek = Charge {
                            specs: own,
                            mode: peek,
                            cost: 1,
                            charge_at: 0,
                            max_wait: 0,
                            penalty: None,
                        };
                        let (expected, found) = both.charge(peek);
                        prop_assert_eq!(expected.reset, found.reset, "{}", told());
                        let lives = found.reset == 0 || both.lives_until() >= both.clock + found.reset;
                        prop_assert!(lives, "{}", told());
                    }
                    Step::Pass(micros) => both.clock += micros,
                    Step::Back(micros) => both.clock -= micros,
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// A handle of other quotas ends an override, or there was none: the charges of the record's own quotas, and the turns
/// booked by them, are not forgotten before they are back, though most charges do not set the time to live.
#[test]
fn an_override_ended_by_other_quotas_lets_no_record_expire_early() {
    let stores = Stores::default();
    let own = |rule, limit, width| [QuotaSpec { rule, limit, width }];
    let other = own(Rule::Gcra, 3, 1_000_000);
    for specs in [
        own(Rule::Buckets, 5, 1_000_000),
        own(Rule::Buckets, 70_000, 1_000_000),
        own(Rule::Log, 5, 60_000_000),
        own(Rule::Log, 5, 10_000_001),
    ] {
        for later in [1, 999_999, 1_666_666, 1_666_667, 9_999_999, 10_000_001] {
            let mut both = stores.history();
            let charge = |both: &mut Both<'_>, mode, cost, max_wait| {
                let ask = Charge { specs: &specs, mode, cost, charge_at: 0, max_wait, penalty: None };
                let (expected, found) = both.charge(ask);
                assert_eq!(expected, found, "memory left, server right, {specs:?} {later}");
                assert!(
                    both.lives_until() >= both.clock + found.reset,
                    "{specs:?}, {later} microseconds later"
                );
                found
            };
            let first = charge(&mut both, ChargeMode::All, 2, 0);
            both.set_override(&[], &other, Duration::from_micros(1));
            // What rewrites the record without a charge leaves it so that the next charge sets its expiry.
            assert_eq!(both.refund(1, first.stamp), (1, 1), "{specs:?}");
            both.clock += later;
            charge(&mut both, ChargeMode::All, specs[0].limit - 1, 0);
            let turn = charge(&mut both, ChargeMode::Turns { least: 1 }, 1, 70_000_000);
            both.clock += later;
            both.set_override(&[], &other, Duration::from_micros(1));
            assert_eq!(turn.granted, 1, "{specs:?}");
            assert!(both.lives_until() + later >= both.clock + turn.reset, "{specs:?}, a turn, {later}");
        }
    }
}
