//! Several records in one decision: both stores answer the same, and a refusal by one record charges none.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Stores, histories, plans};
use crate::store::limit::{Charge, ChargeMode, Charged, Penalty, QuotaSpec};

/// Which of three records, and how much.
type Asked = (usize, u64);

#[derive(Debug, Clone)]
enum Step {
    Ask(Vec<Asked>),
    /// Raises or lowers the limits of a record by an amount, for a number of microseconds.
    Override(usize, i64, u64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asked = prop::collection::btree_map(0..3usize, 1..4u64, 1..=3);
    let pass = prop_oneof![3 => 1..2_000_000u64, 1 => 1..70_000_000u64];
    let step = prop_oneof![
        8 => asked.prop_map(|all| Step::Ask(all.into_iter().collect())),
        1 => (0..3usize, -3..6i64, 1..90_000_000u64)
            .prop_map(|(key, more, lasts)| Step::Override(key, more, lasts)),
        4 => pass.prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..50)
}

/// On the wire, a look has no stamp that a refund could name.
fn plain(all: &[Charged]) -> Vec<Charged> {
    all.iter().map(|one| Charged { stamp: Default::default(), ..*one }).collect()
}

#[test]
fn several_records_are_charged_together_or_not_at_all_by_both_stores() {
    let stores = Stores::default();
    let mut runner = TestRunner::new(histories(800));
    runner
        .run(&(0..plans().len(), steps()), |(usual, steps)| {
            let (mut both, plans) = (stores.history(), plans());
            let names: Vec<String> = (0..3).map(|key| format!("{}{key}", both.name)).collect();
            for step in steps {
                let asked = match step {
                    Step::Ask(asked) => asked,
                    Step::Override(key, more, lasts) => {
                        let own = plans[(usual + key) % plans.len()].iter();
                        let limit = |spec: &QuotaSpec| spec.limit.saturating_add_signed(more).max(1);
                        let specs: Vec<QuotaSpec> =
                            own.map(|spec| QuotaSpec { limit: limit(spec), ..*spec }).collect();
                        both.name.clone_from(&names[key]);
                        both.set_override(
                            &specs,
                            &plans[(usual + key) % plans.len()],
                            Duration::from_micros(lasts),
                        );
                        continue;
                    }
                    Step::Pass(pass) => {
                        both.clock += pass;
                        continue;
                    }
                };
                let charges: Vec<(&str, Charge<'_>)> = asked
                    .iter()
                    .map(|(key, cost)| {
                        // Each record keeps its quotas: the memory store forgets a record that has ended,
                        // before other quotas could be asked for.
                        let specs = &plans[(usual + key) % plans.len()];
                        let most = specs.iter().map(|spec| spec.limit).min().unwrap_or(1);
                        let cost = (*cost).min(most);
                        // One of the three is blocked if it refuses by itself.
                        let penalty = Penalty { first: 500_000, factor: 2, most: 3_000_000 };
                        let penalty = (*key == 1).then_some(penalty);
                        let charge =
                            Charge { specs, mode: ChargeMode::All, cost, charge_at: 0, max_wait: 0, penalty };
                        (names[*key].as_str(), charge)
                    })
                    .collect();
                let peek = |name, charge| {
                    stores.memory.charge(name, Charge { mode: ChargeMode::Peek, ..charge }, both.clock)
                };
                let peeks: Vec<Charged> = charges.iter().map(|(name, charge)| peek(name, *charge)).collect();
                let (expected, found) = both.charge_together(&charges);
                prop_assert_eq!(plain(&expected), plain(&found), "memory left, server right");
                let passes = peeks.iter().all(|peek| peek.granted > 0);
                prop_assert_eq!(passes, expected.iter().all(|one| one.granted > 0));
                if !passes {
                    let waits = found.iter().filter(|one| one.granted == 0).map(|one| one.wait);
                    let wait = waits.max().unwrap_or(0);
                    let all_pass = |clock| {
                        charges.iter().all(|(name, charge)| {
                            let peek = Charge { mode: ChargeMode::Peek, penalty: None, ..*charge };
                            stores.memory.charge(name, peek, clock).granted > 0
                        })
                    };
                    prop_assert!(all_pass(both.clock + wait), "too short: {:?}", found);
                    prop_assert!(!all_pass(both.clock + wait - 1), "too long: {:?}", found);
                    for ((name, charge), peek) in charges.iter().zip(&peeks) {
                        let again = Charge { mode: ChargeMode::Peek, ..*charge };
                        let after = stores.memory.charge(name, again, both.clock);
                        if charge.penalty.is_some() && peek.granted == 0 {
                            prop_assert!(after.granted == 0 && after.wait >= peek.wait);
                            continue;
                        }
                        prop_assert_eq!(plain(&[after]), plain(&[*peek]), "a refusal has charged {}", name);
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
