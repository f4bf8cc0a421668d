//! When a refused request passes: a refusal's time is true to the microsecond, pacing keeps its bound, and a
//! clock that steps back admits nothing more.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::oracle::most_in_a_window;
use super::{START, Stores, histories, plans};
use crate::store::limit::{Charge, ChargeMode, Penalty, QuotaSpec, Rule};

#[test]
fn after_retry_after_the_cost_fits_and_a_microsecond_before_it_does_not() {
    let shapes = [
        vec![QuotaSpec { rule: Rule::Buckets, limit: 10, width: 17 }],
        vec![QuotaSpec { rule: Rule::Log, limit: 4, width: 999_999 }],
        vec![QuotaSpec { rule: Rule::Gcra, limit: 3, width: 1_001 }],
        vec![
            QuotaSpec { rule: Rule::Log, limit: 4, width: 50_000 },
            QuotaSpec { rule: Rule::Buckets, limit: 9, width: 10_007 },
        ],
    ];
    let stores = Stores::default();
    for specs in &shapes {
        let mut both = stores.history();
        for round in 0..200u64 {
            both.clock += round * round * 37 % 5_003;
            // Every second refusal blocks the key, each time for longer.
            let penalty = Penalty { first: 700 + 90_000 * (round % 5), factor: 3, most: 600_000 };
            let penalty = (round % 2 == 0).then_some(penalty);
            let cost = 1 + round % 3;
            let ask = Charge { specs, mode: ChargeMode::All, cost, charge_at: 0, max_wait: 0, penalty };
            let (_, found) = both.charge(ask);
            if found.granted > 0 {
                continue;
            }
            let (clock, peek) = (both.clock, Charge { mode: ChargeMode::Peek, ..ask });
            both.clock = clock + found.wait - 1;
            assert_eq!(both.charge(peek).1.granted, 0, "{specs:?}");
            both.clock = clock + found.wait;
            assert_eq!(both.charge(peek).1.granted, ask.cost, "{specs:?}");
            both.clock = clock + found.wait * (round % 2);
        }
    }
}

#[test]
fn gcra_admits_its_pace_and_its_burst_and_no_more() {
    let stores = Stores::default();
    let (burst, interval) = (5, 10_000);
    let specs = [QuotaSpec { rule: Rule::Gcra, limit: burst, width: interval }];
    let mut both = stores.history();
    let mut times = Vec::new();
    for step in 0..4_000u64 {
        both.clock += if step % 1000 == 999 { 200_000 } else { step * 31 % 3_001 };
        let (expected, found) = both.charge(Charge {
            specs: &specs,
            mode: ChargeMode::All,
            cost: 1,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        });
        assert_eq!(expected, found);
        times.extend((found.granted > 0).then_some(both.clock));
    }
    for window in [interval, 100_000, 1_000_000] {
        let most = most_in_a_window(&mut times, window);
        assert!(most <= window / interval + burst, "{most} in {window}");
    }
    // The bound is reached: a burst after a pause, and then the pace.
    assert!(most_in_a_window(&mut times, 100_000) > 10 + burst - 2);
}

#[test]
fn a_server_clock_that_steps_back_opens_nothing_and_says_how_long() {
    let stores = Stores::default();
    let shapes = [
        vec![QuotaSpec { rule: Rule::Buckets, limit: 30, width: 1_000 }],
        vec![QuotaSpec { rule: Rule::Log, limit: 30, width: 60_000 }],
        vec![
            QuotaSpec { rule: Rule::Buckets, limit: 30, width: 1_000 },
            QuotaSpec { rule: Rule::Gcra, limit: 30, width: 1_000_000 },
        ],
    ];
    for specs in &shapes {
        let mut both = stores.history();
        let all = Charge { specs, mode: ChargeMode::All, cost: 30, charge_at: 0, max_wait: 0, penalty: None };
        assert_eq!(both.charge(all).1.granted, 30);
        for back in [1, 1_000, 3_600_000_000] {
            both.clock = START - back;
            for mode in [ChargeMode::All, ChargeMode::UpTo, ChargeMode::Half { least: 1 }] {
                let (expected, found) = both.charge(Charge { mode, cost: 1, ..all });
                assert_eq!((expected, found.granted), (found, 0), "{specs:?}, {back} back");
                assert!(found.wait > back && found.reset > back, "{found:?}");
            }
            let (_, found) = both.charge(Charge { cost: 1, ..all });
            both.clock += found.wait;
            assert_eq!(both.charge(Charge { mode: ChargeMode::Peek, cost: 1, ..all }).1.granted, 1);
        }
    }
}

/// A key was charged by some quotas and is then asked for with others, or has an override for a while:
/// `retry_after` takes into account what holds when that is over.
#[test]
fn after_retry_after_the_cost_fits_also_where_quotas_change_or_an_override_ends_meanwhile() {
    let charges =
        || prop::collection::vec((0..3u64, prop_oneof![Just(0u64), 1..900_000u64, 1..9_000_000u64]), 0..12);
    let which = || 0..plans().len();
    let over = prop::option::weighted(0.7, (which(), prop_oneof![1..3_000_000u64, 1..90_000_000u64]));
    let cases = (which(), which(), charges(), over, charges(), 1..4u64);
    let stores = Stores::default();
    let asked = std::cell::Cell::new((0, 0));
    TestRunner::new(histories(2000))
        .run(&cases, |(first, second, before, over, after, cost)| {
            let (mut both, plans) = (stores.history(), plans());
            let charge = |specs, cost| Charge {
                specs,
                mode: ChargeMode::All,
                cost,
                charge_at: 0,
                max_wait: 0,
                penalty: None,
            };
            // A record of one plan, perhaps with an override, is charged by another plan.
            for (cost, pass) in before {
                both.charge(charge(&plans[first], cost + 1));
                both.clock += pass;
            }
            if let Some((which, lasts)) = over {
                both.set_override(&plans[which], &plans[second], Duration::from_micros(lasts));
            }
            for (cost, pass) in after {
                both.charge(charge(&plans[second], cost + 1));
                both.clock += pass;
            }
            let ask = charge(&plans[second], cost);
            let (expected, found) = both.charge(ask);
            prop_assert_eq!(expected, found);
            // Granted, or never possible: there is nothing to wait for.
            if found.granted > 0 || plans[second].iter().any(|spec| cost > spec.limit) {
                return Ok(());
            }
            let (of_override, own) = asked.get();
            asked.set(if found.label.is_some() { (of_override + 1, own) } else { (of_override, own + 1) });
            // One microsecond before the time that the refusal gave, the cost must not fit; at that time it
            // must.
            let (clock, peek) = (both.clock, Charge { mode: ChargeMode::Peek, ..ask });
            both.clock = clock + found.wait - 1;
            prop_assert_eq!(both.charge(peek).1.granted, 0, "too long: {:?}", found);
            both.clock = clock + found.wait;
            prop_assert_eq!(both.charge(peek).1.granted, cost, "too short: {:?}", found);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let (of_override, own) = asked.get();
    assert!(of_override > 50 && own > 50, "{of_override} refused by an override, {own} by changed quotas");
}
