//! Windows that change: what was charged by the earlier ones still counts.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::both::Both;
use super::super::{Stores, histories};
use crate::store::limit::{BUCKETS, Charge, ChargeMode, ChargeStamp, QuotaSpec, Rule};

/// Changes to windows that are no longer than the earlier ones look back. Then everything that still counts
/// is converted, each charge at the latest time at which it can have been. So what passes after the change
/// fits with all uses in any window around it. The requests bring the new windows, or an override does. Some
/// charges are delayed, as those of a batch are, and used when they count.
#[test]
fn after_a_change_to_shorter_windows_none_holds_more_than_its_limit() {
    let stores = Stores::default();
    let buckets = |limit, width| QuotaSpec { rule: Rule::Buckets, limit, width };
    let log = |limit, width| QuotaSpec { rule: Rule::Log, limit, width };
    // From coarse to fine in each chain.
    let chains = [
        vec![vec![buckets(30, 1_000_000)], vec![log(20, 7_000_000)], vec![buckets(30, 10_007)]],
        vec![vec![buckets(100_000, 60_000_000)], vec![buckets(40, 1_000_003)], vec![log(9, 900_001)]],
        vec![
            vec![log(20, 50_000_000), buckets(50, 1_000_000)],
            vec![buckets(25, 600_000)],
            vec![log(12, 3_000_000)],
        ],
    ];
    let step = prop_oneof![
        6 => (1..4u64, prop_oneof![2 => Just(0u64), 1 => 1..=1000u64]).prop_map(|(cost, delay)| (cost, delay, 0, false)),
        6 => prop_oneof![1..200_000u64, 1..3_000_000u64].prop_map(|pass| (0, 0, pass, false)),
        1 => Just((0, 0, 0u64, true)),
    ];
    let histories_of = (0..chains.len(), prop::collection::vec(step, 1..80), any::<bool>());
    TestRunner::new(histories(1000))
        .run(&histories_of, |(chain, steps, by_override)| {
            let (mut both, chain) = (stores.history(), &chains[chain]);
            let (mut place, mut uses) = (0, Vec::<(u64, u64)>::new());
            // A batch that is out for longer than a later window is not covered.
            let shortest = chain.iter().flatten().map(|spec| spec.window()).min().unwrap_or(0);
            for (cost, delay, pass, change) in steps {
                both.clock += pass;
                place = (place + usize::from(change)).min(chain.len() - 1);
                if change && by_override {
                    both.set_override(&chain[place], &chain[0], Duration::from_secs(3600));
                }
                if cost == 0 {
                    continue;
                }
                let specs = &chain[if by_override { 0 } else { place }];
                let charge_at = shortest * delay / 1000;
                let ask =
                    Charge { specs, mode: ChargeMode::All, cost, charge_at, max_wait: 0, penalty: None };
                let (expected, found) = both.charge(ask);
                prop_assert_eq!(expected, found);
                if found.granted == 0 {
                    continue;
                }
                let used = found.stamp.when;
                uses.push((used, found.granted));
                for spec in &chain[place] {
                    // Each window that holds this use and begins with one.
                    for (from, _) in
                        uses.iter().filter(|(from, _)| *from <= used && used < from + spec.window())
                    {
                        let until = from + spec.window();
                        let held = uses.iter().filter(|(time, _)| (*from..until).contains(time));
                        let held: u64 = held.map(|(_, count)| count).sum();
                        prop_assert!(held <= spec.limit, "{} in a window of {:?}", held, spec);
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn charge(both: &mut Both<'_>, specs: &[QuotaSpec], cost: u64) -> ChargeStamp {
    let ask = Charge { specs, mode: ChargeMode::All, cost, charge_at: 0, max_wait: 0, penalty: None };
    let (expected, found) = both.charge(ask);
    assert_eq!(expected, found);
    assert_eq!(found.granted, cost);
    found.stamp
}

/// What is left, as a request by these specs sees it.
fn left(both: &mut Both<'_>, specs: &[QuotaSpec]) -> u64 {
    let mode = ChargeMode::Peek;
    let (expected, found) =
        both.charge(Charge { specs, mode, cost: 1, charge_at: 0, max_wait: 0, penalty: None });
    assert_eq!(expected, found);
    found.remaining
}

/// A refund finds what was charged by the windows that counted it. After a conversion the counts of that time are
/// other callers', too, so nothing is given back. An override that nothing was charged by has converted nothing.
#[test]
fn a_refund_takes_nothing_from_other_callers_after_a_conversion() {
    let stores = Stores::default();
    let own = [QuotaSpec { rule: Rule::Buckets, limit: 100, width: 16_667 }];
    let hour = [QuotaSpec { rule: Rule::Buckets, limit: 1000, width: 60_000_000 }];
    for by_override in [false, true] {
        let mut both = stores.history();
        let first = charge(&mut both, &own, 100);
        both.clock += 3_000_000;
        // The bucket of the first charge is gone.
        let second = charge(&mut both, &own, 2);
        both.clock += 1_000_000;
        if by_override {
            both.set_override(&hour, &own, Duration::from_secs(3600));
            assert_eq!(both.refund(1, second), (1, 1), "nothing is converted yet");
        }
        both.clock += 1_000_000;
        let specs = if by_override { &own } else { &hour };
        let third = charge(&mut both, specs, 50);
        assert_eq!(both.refund(100, first), (0, 0), "{by_override}");
        assert_eq!(both.refund(1, second), (0, 0), "{by_override}");
        assert_eq!(both.refund(50, third), (50, 50), "{by_override}");
    }
}

/// A limit that crosses 65,535 changes how many bytes a count has, and leaves each charge in its bucket: a refund finds
/// it, and takes nothing from others.
#[test]
fn a_refund_finds_what_was_charged_before_a_limit_crossed_65_535() {
    let stores = Stores::default();
    let buckets = |limit, width| QuotaSpec { rule: Rule::Buckets, limit, width };
    let (low, high) = (buckets(60_000, 60_000_000), buckets(70_000, 60_000_000));
    let (minute, log) =
        (buckets(65_000, 1_000_000), QuotaSpec { rule: Rule::Log, limit: 50, width: 3_000_000 });
    for by_override in [false, true] {
        // The other quota is the same in both, or is another one.
        for (low, high, kept) in [
            (vec![low], vec![high], true),
            (vec![low, minute], vec![high, minute], true),
            (vec![minute, low], vec![minute, high], true),
            (vec![low, log], vec![high, log], true),
            (vec![low, minute], vec![high], false),
            (vec![low, minute], vec![high, log], false),
        ] {
            let mut both = stores.history();
            let cost = if low.contains(&log) { 20 } else { 20_000 };
            let first = charge(&mut both, &low, cost);
            let others = charge(&mut both, &low, 1);
            both.clock += 61_000_000;
            if by_override {
                both.set_override(&high, &low, Duration::from_secs(36_000));
            }
            let second = charge(&mut both, if by_override { &low } else { &high }, 2);
            let given = if kept { cost / 4 } else { 0 };
            let told = format!("{by_override} {low:?} {high:?}");
            assert_eq!(both.refund(cost / 4, first), (given, given), "{told}");
            both.clock += 61_000_000;
            if by_override {
                both.set_override(&[], &low, Duration::ZERO);
            }
            let third = charge(&mut both, &low, 3);
            let given = if kept { cost - cost / 4 } else { 0 };
            assert_eq!(both.refund(cost - cost / 4, first), (given, given), "{told}");
            if kept {
                assert_eq!(left(&mut both, &[buckets(60_000, 60_000_000)]), 60_000 - 1 - 2 - 3, "{told}");
                for (stamp, permits) in [(others, 1), (second, 2)] {
                    assert_eq!(both.refund(permits, stamp), (permits, permits), "{told}");
                }
            }
            assert_eq!(both.refund(3, third), (3, 3), "{told}");
        }
    }
}

/// However often the limit crosses 65,535, what is left is the limit less what was charged and not given back.
#[test]
fn what_is_left_is_exact_while_a_limit_crosses_65_535() {
    let stores = Stores::default();
    let width = 1_000_000;
    let specs = [60_000, 70_000].map(|limit| [QuotaSpec { rule: Rule::Buckets, limit, width }]);
    let step = prop_oneof![
        4 => (0..2usize, prop_oneof![1..100u64, 1..40_000u64]).prop_map(|(which, cost)| (which, cost, 0, 0)),
        3 => (0..4usize, prop_oneof![1..100u64, 1..40_000u64]).prop_map(|(last, permits)| (last, 0, permits, 0)),
        3 => prop_oneof![1..2_000_000u64, 1..70_000_000u64].prop_map(|pass| (0, 0, 0, pass)),
    ];
    TestRunner::new(histories(1000))
        .run(&prop::collection::vec(step, 1..40), |steps| {
            let (mut both, mut charged) = (stores.history(), Vec::<(ChargeStamp, u64)>::new());
            for (which, cost, permits, pass) in steps {
                both.clock += pass;
                if cost > 0 {
                    let mode = ChargeMode::UpTo;
                    let ask =
                        Charge { specs: &specs[which], mode, cost, charge_at: 0, max_wait: 0, penalty: None };
                    let (expected, found) = both.charge(ask);
                    prop_assert_eq!(expected, found);
                    charged.extend((found.granted > 0).then_some((found.stamp, found.granted)));
                } else if let Some((stamp, count)) =
                    charged.iter_mut().rev().nth(which).filter(|_| permits > 0)
                {
                    let permits = permits.min(*count);
                    let (expected, found) = both.refund(permits, *stamp);
                    prop_assert_eq!(expected, found);
                    // In memory and here a record never ends: what is older may still be there.
                    if stamp.when / width + BUCKETS >= both.clock / width {
                        prop_assert_eq!(found, permits);
                    }
                    *count -= found;
                }
                let oldest = both.clock / width - BUCKETS;
                let live = charged.iter().filter(|(stamp, _)| stamp.when / width >= oldest);
                let live: u64 = live.map(|(_, count)| count).sum();
                for specs in &specs {
                    prop_assert_eq!(left(&mut both, specs), specs[0].limit.saturating_sub(live));
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// What has left the window of a log is still in its record until the next charge, and a quota with a longer window
/// counts it. So the refusal lasts until it has left that window, too.
#[test]
fn a_longer_quota_beside_a_log_refuses_for_as_long_as_it_counts_what_the_log_does_not() {
    let stores = Stores::default();
    let log = QuotaSpec { rule: Rule::Log, limit: 30, width: 60_000_000 };
    let hour = QuotaSpec { rule: Rule::Buckets, limit: 25, width: 60_000_000 };
    for specs in [[log, hour], [hour, log]] {
        let mut both = stores.history();
        charge(&mut both, &[log], 25);
        both.clock += 90_000_000;
        let ask = Charge {
            specs: &specs,
            mode: ChargeMode::All,
            cost: 1,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        let (expected, refused) = both.charge(ask);
        assert_eq!(expected, refused, "{specs:?}");
        both.clock += refused.wait - 1;
        let (expected, found) = both.charge(ask);
        assert_eq!((expected, found.granted, found.wait), (found, 0, 1), "{specs:?}");
        both.clock += 1;
        charge(&mut both, &specs, 1);
    }
}
