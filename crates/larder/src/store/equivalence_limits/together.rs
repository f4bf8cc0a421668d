//! Several records in one decision: both stores answer the same, and a refusal by one charges none.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{START, connection, histories, plans, raw, tell};
use crate::store::limit::{Charge, Charged, Penalty, Take};
use crate::store::memory::Limits;

/// Which of three records, and how much.
type Asked = (usize, u64);

fn steps() -> impl Strategy<Value = Vec<(Vec<Asked>, u64)>> {
    let pass = prop_oneof![3 => Just(0u64), 3 => 1..2_000_000u64, 1 => 1..70_000_000u64];
    let asked = prop::collection::btree_map(0..3usize, 1..4u64, 1..=3);
    let asked = asked.prop_map(|all| all.into_iter().collect());
    prop::collection::vec((asked, pass), 1..30)
}

#[test]
fn several_records_are_charged_together_or_not_at_all_by_both_stores() {
    let (memory, server) = (Limits::default(), std::cell::RefCell::new(connection()));
    let script = tell(raw::together());
    let next = std::cell::Cell::new(0u64);
    let mut runner = TestRunner::new(histories(600));
    runner
        .run(&(0..plans().len(), steps()), |(usual, steps)| {
            let (history, plans) = (next.replace(next.get() + 1), plans());
            let mut clock = START;
            for (asked, pass) in steps {
                clock += pass;
                let names: Vec<String> =
                    asked.iter().map(|(key, ..)| format!("~limit.1:{{/+{history}}}{{x:{key}}}")).collect();
                let charges: Vec<(&str, Charge<'_>)> = asked
                    .iter()
                    .zip(&names)
                    .map(|((key, cost), name)| {
                        // Each record keeps to its quotas: memory forgets one that has ended, before other quotas could ask for it.
                        let terms = &plans[(usual + key) % plans.len()];
                        let most = terms.iter().map(|term| term.limit).min().unwrap_or(1);
                        let cost = (*cost).min(most);
                        // One of the three is blocked where it refuses by itself.
                        let penalty = Penalty { first: 500_000, factor: 2, most: 3_000_000 };
                        let penalty = (*key == 1).then_some(penalty);
                        let charge = Charge { terms, take: Take::All, cost, ahead: 0, patience: 0, penalty };
                        (name.as_str(), charge)
                    })
                    .collect();
                let mut command = redis::cmd("EVAL");
                command.arg(&script).arg(names.len()).arg(&names);
                raw::charge_together(&charges).iter().for_each(|request| {
                    command.arg(request);
                });
                command.arg(clock / 1_000_000).arg(clock % 1_000_000);
                let answers: Vec<Vec<u8>> =
                    command.query(&mut *server.borrow_mut()).unwrap_or_else(|error| panic!("{error}"));
                let found: Vec<Charged> = answers.iter().map(|answer| raw::answer(answer)).collect();
                let looks: Vec<Charged> = charges
                    .iter()
                    .map(|(name, charge)| memory.charge(name, Charge { take: Take::Look, ..*charge }, clock))
                    .collect();
                let expected = memory.charge_together(&charges, clock);
                // A look has no stamp on the wire that a refund could name.
                let plain = |all: &[Charged]| -> Vec<_> {
                    all.iter()
                        .map(|one| (one.granted, one.binding, one.remaining, one.wait, one.reset))
                        .collect()
                };
                prop_assert_eq!(plain(&expected), plain(&found));
                let passes = looks.iter().all(|look| look.granted > 0);
                prop_assert_eq!(passes, expected.iter().all(|one| one.granted > 0));
                if !passes {
                    for ((name, charge), look) in charges.iter().zip(&looks) {
                        let after = memory.charge(name, Charge { take: Take::Look, ..*charge }, clock);
                        if charge.penalty.is_some() && look.granted == 0 {
                            prop_assert!(after.granted == 0 && after.wait >= look.wait);
                            continue;
                        }
                        prop_assert_eq!(plain(&[after]), plain(&[*look]), "a refusal has charged {}", name);
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
