//! An exact oracle: a plain list of what was charged and used and when, by the server's clock, tells how many
//! permits any window held.
//!
//! A history has two keys, with charges, batches that are spent at any time until they end, turns that are
//! booked, refunds of what was not used, debts, requests of both keys together, keys that are blocked, and
//! limits that change or are overridden for a while. Both stores decide each step, and must agree. What is
//! granted must fit into the limit in force together with all that was charged in the window before; and no
//! window may hold more uses than the highest limit that was in force. What is refused must be refused for a
//! reason: the key is blocked, or the cost would not fit with what was charged in the window and a sixtieth
//! of it before.

mod conversion;
mod list;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Stores, histories};
use crate::store::limit::{BUCKETS, Charge, ChargeMode, Charged, Penalty, QuotaSpec, Rule};
use list::{List, Use};

#[derive(Debug, Clone)]
enum LimitEvent {
    Charge {
        mode: ChargeMode,
        cost: u64,
        limits: usize,
        penalty: Option<usize>,
    },
    /// A batch of some thousandths of the shortest window; each permit is spent at some thousandth of that
    /// time.
    Batch {
        batch: u64,
        span: u64,
        spent: Vec<u64>,
        limits: usize,
    },
    /// For several callers that wait together, with the least that they take.
    Book {
        within: u64,
        cost: u64,
        least: u64,
        limits: usize,
    },
    /// Both keys, at these costs.
    Together {
        costs: [u64; 2],
        limits: usize,
        penalty: Option<usize>,
    },
    /// Gives back part of the nth last charge, which was not used.
    Refund {
        last: usize,
        permits: u64,
    },
    /// Other limits for the key, for some thousandths of the shortest window; or the end of them.
    Override {
        limits: Option<usize>,
        lasts: u64,
    },
    Forget,
    Pass(u64),
}

/// Which of the two keys, and what happens to it.
type Step = (usize, LimitEvent);

fn events(window: u64) -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![
        4 => Just(ChargeMode::All),
        1 => Just(ChargeMode::UpTo),
        1 => Just(ChargeMode::Half { least: 1 }),
        1 => Just(ChargeMode::Debt)
    ];
    let limits = || prop_oneof![4 => Just(0usize), 1 => 0..3usize];
    let penalty = || prop::option::weighted(0.15, 0..3usize);
    // Bursts at one microsecond, a steady stream, and pauses around the window's end.
    let pass = prop_oneof![
        2 => Just(0u64),
        4 => 1..window / 50 + 2,
        2 => 1..window / 4 + 2,
        1 => (window - window / 100)..(window + window / 50 + 2)
    ];
    let one = prop_oneof![
        6 => (mode, 1..6u64, limits(), penalty())
            .prop_map(|(mode, cost, limits, penalty)| LimitEvent::Charge { mode, cost, limits, penalty }),
        2 => (1..8u64, 1..1000u64, prop::collection::vec(0..1000u64, 8), limits())
            .prop_map(|(batch, span, spent, limits)| LimitEvent::Batch { batch, span, spent, limits }),
        2 => (0..2 * window, 1..12u64, 1..3u64, limits())
            .prop_map(|(within, cost, least, limits)| LimitEvent::Book { within, cost, least, limits }),
        2 => ([1..6u64, 1..6u64], limits(), penalty())
            .prop_map(|(costs, limits, penalty)| LimitEvent::Together { costs, limits, penalty }),
        1 => (0..5usize, 1..4u64).prop_map(|(last, permits)| LimitEvent::Refund { last, permits }),
        1 => (prop::option::weighted(0.8, 0..3usize), 1..3000u64)
            .prop_map(|(limits, lasts)| LimitEvent::Override { limits, lasts }),
        7 => pass.prop_map(LimitEvent::Pass),
    ];
    let one = prop_oneof![60 => one, 1 => Just(LimitEvent::Forget)];
    prop::collection::vec((prop_oneof![3 => Just(0usize), 1 => Just(1)], one), 1..60)
}

/// The most permits in any window of this length, for permits used at these times.
pub(super) fn most_in_a_window(times: &mut [u64], window: u64) -> u64 {
    times.sort_unstable();
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        let first = times.partition_point(|earlier| earlier + window <= *time);
        most = most.max(last + 1 - first);
    }
    most as u64
}

/// Three sets of limits over the same windows. With batches and bookings there is no GCRA, which has another
/// bound.
fn limits_of(windows: &[u64], rules: &[Rule], base: u64) -> [Vec<QuotaSpec>; 3] {
    [base, base + 3, base * 2].map(|limit| {
        let spec = |(place, (window, rule)): (usize, (&u64, &Rule))| QuotaSpec {
            rule: *rule,
            limit: limit * (place as u64 * 2 + 1),
            width: if *rule == Rule::Log { *window } else { window.div_ceil(BUCKETS) },
        };
        windows.iter().zip(rules).enumerate().map(spec).collect()
    })
}

#[derive(Debug, Clone)]
struct QuotaShape {
    windows: Vec<u64>,
    rules: Vec<Rule>,
    base: u64,
}

impl QuotaShape {
    fn shortest(&self) -> u64 {
        self.windows.iter().copied().min().unwrap_or(1)
    }

    /// A share of a window, ten times, twice as long each time.
    fn penalty(&self, which: usize) -> Penalty {
        let first = self.shortest() / [50, 7, 1][which] + 1;
        Penalty { first, factor: [1, 2, 3][which], most: first * [1, 10, 4][which] }
    }
}

/// A history, with the list that it is checked against.
struct Play<'a> {
    stores: &'a Stores,
    shape: QuotaShape,
    sets: [Vec<QuotaSpec>; 3],
    lists: [List; 2],
}

impl Play<'_> {
    /// Records when a grant is used: a turn is waited for by a clock that may be slow by a thousandth.
    fn note(&mut self, key: usize, charge: Charge<'_>, found: Charged, now: u64, used: Option<Vec<u64>>) {
        let at_once = || vec![now + found.wait + found.wait / 1000; found.granted as usize];
        let used = used.unwrap_or_else(at_once);
        self.lists[key].in_debt |= charge.mode == ChargeMode::Debt;
        self.lists[key].uses.push(Use { charged: found.stamp, granted: found.granted, used });
    }

    fn check(
        &mut self,
        key: usize,
        charge: Charge<'_>,
        found: Charged,
        now: u64,
    ) -> Result<(), TestCaseError> {
        let checked = self.lists[key].check(charge, &self.shape.windows, found, now);
        checked.map_err(|why| TestCaseError::fail(format!("{why}: {found:?} of {charge:?}")))
    }

    /// A cost that every limit allows by itself.
    fn payable(&self, cost: u64, limits: usize) -> u64 {
        cost.min(self.sets[limits].iter().map(|spec| spec.limit).min().unwrap_or(1))
    }

    fn run(&mut self, history: &[Step]) -> Result<(), TestCaseError> {
        let mut both = self.stores.history();
        let names = [both.name.clone(), format!("{}+", both.name)];
        let sets = self.sets.clone();
        // Each event leads to a charge, or is complete in itself.
        for (key, event) in history {
            let key = *key;
            both.name.clone_from(&names[key]);
            let now = both.clock;
            let ask = |limits: &usize, mode, cost| {
                let specs = sets[*limits].as_slice();
                Charge { specs, mode, cost, charge_at: 0, max_wait: 0, penalty: None }
            };
            let charge = match event {
                LimitEvent::Pass(micros) => {
                    both.clock += micros;
                    continue;
                }
                LimitEvent::Forget => {
                    both.forget();
                    // What was used before no longer counts.
                    let over = self.lists[key].over.take();
                    self.check_windows(key)?;
                    self.lists[key] = List::default();
                    self.lists[key].over = over;
                    continue;
                }
                LimitEvent::Override { limits, lasts } => {
                    let lasts = (self.shape.shortest() * lasts / 1000).max(1);
                    let specs = limits.map(|limits| sets[limits].clone()).unwrap_or_default();
                    both.set_override(&specs, &sets[0], Duration::from_micros(lasts));
                    self.lists[key].over = limits.map(|_| (specs, now + lasts));
                    continue;
                }
                LimitEvent::Refund { last, permits } => {
                    let uses = &mut self.lists[key].uses;
                    let Some(place) = uses.len().checked_sub(last + 1) else { continue };
                    let one = &mut uses[place];
                    // Only what is not used yet can be given back.
                    let unused = one.used.iter().filter(|time| **time >= now).count() as u64;
                    let permits = (*permits).min(unused);
                    if permits == 0 {
                        continue;
                    }
                    let (expected, found) = both.refund(permits, one.charged);
                    prop_assert_eq!(expected, found);
                    let mut left = found;
                    one.used.retain(|time| {
                        *time < now || left == 0 || {
                            left -= 1;
                            false
                        }
                    });
                    one.granted -= found;
                    continue;
                }
                LimitEvent::Together { costs, limits, penalty } => {
                    let penalty = penalty.map(|which| self.shape.penalty(which));
                    let charge = |cost: u64| {
                        let charge = ask(limits, ChargeMode::All, self.payable(cost, *limits));
                        Charge { penalty, ..charge }
                    };
                    let charges = costs.map(charge);
                    let asked: Vec<_> = names.iter().map(String::as_str).zip(charges).collect();
                    let (expected, found) = both.charge_together(&asked);
                    let passes = found.iter().all(|one| one.granted > 0);
                    for (key, (expected, found)) in expected.into_iter().zip(found).enumerate() {
                        // For a key that would have passed by itself, only the memory store names no charge.
                        let charge = if passes { expected.stamp } else { found.stamp };
                        prop_assert_eq!(Charged { stamp: charge, ..expected }, found);
                        // A key may be refused because its override ends before the other passes: what it is by
                        // itself is judged.
                        let peek = Charge { mode: ChargeMode::Peek, penalty: None, ..charges[key] };
                        let alone = self.stores.memory.charge(&names[key], peek, now);
                        let behind = found.granted == 0 && found.label.is_some() && alone.granted > 0;
                        self.check(key, charges[key], if behind { alone } else { found }, now)?;
                        if passes {
                            self.note(key, charges[key], found, now, None);
                        }
                    }
                    continue;
                }
                LimitEvent::Charge { mode, cost, limits, penalty } => {
                    let penalty = penalty.map(|which| self.shape.penalty(which));
                    Charge { penalty, ..ask(limits, *mode, self.payable(*cost, *limits)) }
                }
                LimitEvent::Batch { batch, span, limits, .. } => {
                    let charge_at = (self.shape.shortest() * span / 1000).max(1);
                    Charge { charge_at, ..ask(limits, ChargeMode::Half { least: 1 }, *batch) }
                }
                LimitEvent::Book { within, cost, least, limits } => {
                    let least = self.payable(*least, *limits);
                    let charge = ask(limits, ChargeMode::Turns { least }, (*cost).max(least));
                    Charge { max_wait: *within, ..charge }
                }
            };
            // Both stores decide, and the list judges the decision and records what is used.
            let (expected, found) = both.charge(charge);
            prop_assert_eq!(expected, found, "{:?}", event);
            self.check(key, charge, found, now)?;
            if found.granted > 0 {
                let used = match event {
                    LimitEvent::Batch { spent, .. } => {
                        let span = found.stamp.when - now;
                        let times = (0..found.granted as usize).map(|n| now + span * spent[n % 8] / 1000);
                        Some(times.collect())
                    }
                    _ => None,
                };
                self.note(key, charge, found, now, used);
            }
        }
        // At the end, no window may hold too much.
        (0..2).try_for_each(|key| self.check_windows(key))
    }

    /// No window held more uses than the highest limit that was in force; with debts, than twice that.
    fn check_windows(&self, key: usize) -> Result<(), TestCaseError> {
        let list = &self.lists[key];
        let mut times: Vec<u64> = list.uses.iter().flat_map(|one| one.used.iter().copied()).collect();
        for (place, window) in self.shape.windows.iter().enumerate() {
            let highest = self.sets.iter().map(|set| set[place].limit).max().unwrap_or(0);
            let highest = if list.in_debt { 2 * highest } else { highest };
            let most = most_in_a_window(&mut times, *window);
            prop_assert!(most <= highest, "{} in a window of {}, of at most {}", most, window, highest);
        }
        Ok(())
    }
}

#[test]
fn no_window_of_the_servers_clock_holds_more_than_the_limit_and_no_refusal_is_without_reason() {
    let stores = Stores::default();
    // Windows that are divisible by sixty and that are not, from a millisecond to hours.
    let shapes = prop_oneof![
        (Just(vec![1_000u64]), Just(vec![Rule::Buckets])),
        (Just(vec![59_999]), Just(vec![Rule::Buckets])),
        (Just(vec![1_000_003]), Just(vec![Rule::Log])),
        (Just(vec![1_000_000, 7_000_001]), Just(vec![Rule::Buckets, Rule::Buckets])),
        (Just(vec![3_600_000_000, 61_000_000]), Just(vec![Rule::Buckets, Rule::Log])),
    ];
    let histories_of = (shapes, 1..12u64).prop_flat_map(|((windows, rules), base)| {
        let shape = QuotaShape { windows, rules, base };
        let shortest = shape.shortest();
        (Just(shape), events(shortest))
    });
    TestRunner::new(histories(2000))
        .run(&histories_of, |(shape, history)| {
            let sets = limits_of(&shape.windows, &shape.rules, shape.base);
            Play { stores: &stores, shape, sets, lists: Default::default() }.run(&history)
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
