//! The largest limits: all sums that a record can hold fit into its four bytes.
//!
//! All of the limit can count now, as much again as debt, and as much again can be booked ahead.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Stores, histories};
use crate::store::limit::{Charge, ChargeMode, ChargeStamp, LARGEST_LIMIT, QuotaSpec, Rule};

#[derive(Debug, Clone)]
enum Step {
    Charge { mode: ChargeMode, cost: u64, max_wait: u64, charge_at: u64 },
    Refund { last: usize, permits: u64 },
    Pass(u64),
}

/// Amounts around the parts and the multiples of the largest limit.
fn amounts() -> impl Strategy<Value = u64> {
    let parts =
        prop_oneof![Just(LARGEST_LIMIT / 2), Just(LARGEST_LIMIT), Just(2 * LARGEST_LIMIT), Just(3u64)];
    (parts, 0..4u64).prop_map(|(part, more)| part - 2 + more)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![
        3 => Just(ChargeMode::All),
        2 => Just(ChargeMode::UpTo),
        4 => Just(ChargeMode::Debt),
        1 => Just(ChargeMode::Half { least: 1 }),
        4 => Just(ChargeMode::Turns { least: 1 }),
        1 => Just(ChargeMode::Peek)
    ];
    let pass = prop_oneof![1..3_000_000u64, 1..70_000_000u64];
    let charge = (mode, amounts(), any::<bool>()).prop_map(|(mode, cost, ahead)| {
        let waits = matches!(mode, ChargeMode::All | ChargeMode::Turns { .. }) && ahead;
        let batches = matches!(mode, ChargeMode::Half { .. }) && ahead;
        Step::Charge {
            mode,
            cost,
            max_wait: if waits { 70_000_000 } else { 0 },
            charge_at: if batches { 30_000_000 } else { 0 },
        }
    });
    let step = prop_oneof![
        8 => charge,
        1 => (0..3usize, amounts()).prop_map(|(last, permits)| Step::Refund { last, permits }),
        4 => pass.prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

#[test]
fn the_largest_limits_are_counted_alike_by_both_stores() {
    let stores = Stores::default();
    let buckets = |limit, width| QuotaSpec { rule: Rule::Buckets, limit, width };
    let plans = [
        vec![buckets(LARGEST_LIMIT, 1_000_000)],
        vec![buckets(LARGEST_LIMIT - 1, 1_000_000), buckets(LARGEST_LIMIT, 1_700_000)],
        vec![buckets(LARGEST_LIMIT / 2 + 1, 1_000_000), buckets(LARGEST_LIMIT, 1_000_003)],
        vec![QuotaSpec { rule: Rule::Gcra, limit: LARGEST_LIMIT, width: 1 }],
    ];
    // All of the limit, as much again as debt, and as much again booked ahead: the largest sum.
    let mut both = stores.history();
    for (mode, max_wait) in
        [(ChargeMode::All, 0), (ChargeMode::Debt, 0), (ChargeMode::Turns { least: 1 }, 70_000_000)]
    {
        let ask =
            Charge { specs: &plans[0], mode, cost: LARGEST_LIMIT, charge_at: 0, max_wait, penalty: None };
        let (expected, found) = both.charge(ask);
        assert_eq!(expected, found);
        assert_eq!(found.granted, LARGEST_LIMIT, "{mode:?}");
    }
    drop(both);
    TestRunner::new(histories(300))
        .run(&(0..plans.len(), steps()), |(plan, steps)| {
            let (mut both, specs) = (stores.history(), plans[plan].as_slice());
            let mut charges: Vec<ChargeStamp> = Vec::new();
            for step in steps {
                match step {
                    Step::Charge { mode, cost, max_wait, charge_at } => {
                        let paced = specs.iter().any(|spec| spec.rule == Rule::Gcra);
                        let charge_at = if paced { 0 } else { charge_at };
                        let (expected, found) =
                            both.charge(Charge { specs, mode, cost, charge_at, max_wait, penalty: None });
                        prop_assert_eq!(expected, found, "{:?} {}", mode, cost);
                        if found.granted > 0 && mode != ChargeMode::Peek {
                            charges.push(found.stamp);
                        }
                    }
                    Step::Refund { last, permits } => {
                        let Some(stamp) = charges.iter().rev().nth(last) else { continue };
                        let (expected, found) = both.refund(permits, *stamp);
                        prop_assert_eq!(expected, found);
                    }
                    Step::Pass(micros) => both.clock += micros,
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
