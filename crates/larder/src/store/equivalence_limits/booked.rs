//! Refunds and booked turns, after time has passed or when the record had other quotas before.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::oracle::most_in_a_window;
use super::{Both, Stores, histories};
use crate::store::limit::{Charge, ChargeMode, Charged, Penalty, QuotaSpec, Rule};

const SECOND: u64 = 1_000_000;

fn play(play: impl FnOnce(&mut Both<'_>)) {
    play(&mut Stores::default().history());
}

fn ask(both: &mut Both<'_>, specs: &[QuotaSpec], mode: ChargeMode, cost: u64, max_wait: u64) -> Charged {
    let (expected, found) = both.charge(Charge { specs, mode, cost, charge_at: 0, max_wait, penalty: None });
    assert_eq!(expected, found, "memory left, server right");
    found
}

fn gcra(limit: u64, width: u64) -> QuotaSpec {
    QuotaSpec { rule: Rule::Gcra, limit, width }
}

fn log(limit: u64, width: u64) -> QuotaSpec {
    QuotaSpec { rule: Rule::Log, limit, width }
}

#[test]
fn what_the_pace_has_made_good_is_not_given_back() {
    play(|both| {
        let specs = [gcra(3, SECOND)];
        let first = ask(both, &specs, ChargeMode::All, 3, 0);
        both.clock += SECOND;
        assert_eq!(both.refund(3, first.stamp), (2, 2));
        assert_eq!(ask(both, &specs, ChargeMode::UpTo, 5, 0).granted, 3);
        // Nothing of the first charge is left.
        both.clock += 3 * SECOND;
        assert_eq!(ask(both, &specs, ChargeMode::All, 3, 0).granted, 3);
        assert_eq!(both.refund(3, first.stamp), (0, 0));
        assert_eq!(ask(both, &specs, ChargeMode::Peek, 1, 0).granted, 0);
    });
}

#[test]
fn a_booked_turn_is_paced_from_its_time() {
    play(|both| {
        let specs = [gcra(3, SECOND), log(1, 60 * SECOND)];
        assert_eq!(ask(both, &specs, ChargeMode::All, 1, 0).granted, 1);
        let turn = ask(both, &specs, ChargeMode::All, 1, 70 * SECOND);
        assert_eq!((turn.granted, turn.wait), (1, 60 * SECOND));
        both.clock = turn.stamp.when;
        assert_eq!(ask(both, &specs[..1], ChargeMode::UpTo, 3, 0).granted, 2);
    });
}

#[test]
fn turns_in_a_log_are_booked_a_window_ahead_and_not_charged_before_their_use() {
    play(|both| {
        let specs = [log(2, 60 * SECOND)];
        let mut granted = 0;
        for _ in 0..10 {
            let turn = ask(both, &specs, ChargeMode::All, 1, 1 << 50);
            assert!(turn.granted == 0 || turn.stamp.when >= both.clock + turn.wait + turn.wait / 1000);
            granted += turn.granted;
            both.clock += 1;
        }
        assert_eq!(granted, 4);
    });
}

#[test]
fn a_turn_after_the_clock_stepped_back_is_used_when_the_cost_fits_and_not_charged_before() {
    let buckets = QuotaSpec { rule: Rule::Buckets, limit: 30, width: SECOND };
    for (spec, back) in [(log(2, 60 * SECOND), 40), (buckets, 20), (gcra(3, 20 * SECOND), 30)] {
        play(|both| {
            assert_eq!(ask(both, &[spec], ChargeMode::All, spec.limit, 0).granted, spec.limit);
            both.clock -= back * SECOND;
            let left = ask(both, &[spec], ChargeMode::Peek, 1, 0).wait;
            let turn = ask(both, &[spec], ChargeMode::All, 1, 1 << 50);
            assert_eq!((turn.granted, turn.wait), (1, left), "{spec:?}");
            // The waiter's clock may be slow by a thousandth, and the waiter adds a thousandth itself.
            assert_eq!(turn.stamp.when, both.clock + turn.wait + turn.wait / 500, "{spec:?}");
            // No span of a window's length that begins with the use holds more than the limit.
            if spec.rule != Rule::Gcra {
                both.clock = turn.stamp.when;
                let rest = ask(both, &[spec], ChargeMode::UpTo, spec.limit, 0).granted;
                both.clock += spec.window() - 1;
                let more = ask(both, &[spec], ChargeMode::UpTo, spec.limit, 0).granted;
                assert!(1 + rest + more <= spec.limit, "{spec:?}: 1 + {rest} + {more}");
            }
        });
    }
}

#[test]
fn no_turn_is_booked_on_what_a_lower_limit_has_forgotten() {
    play(|both| {
        let many = [QuotaSpec { rule: Rule::Buckets, limit: 100, width: SECOND }];
        let few = [log(4, 60 * SECOND)];
        assert_eq!(ask(both, &many, ChargeMode::All, 50, 0).granted, 50);
        assert_eq!(ask(both, &few, ChargeMode::All, 1, 70 * SECOND).granted, 0);
        assert_eq!(ask(both, &many, ChargeMode::Peek, 51, 0).granted, 0);
        // Another quota beside it does not shorten a log either.
        both.name.push('b');
        let whole = [log(9, 60 * SECOND)];
        assert_eq!(ask(both, &whole, ChargeMode::All, 8, 0).granted, 8);
        let beside = [log(4, 60 * SECOND), many[0]];
        assert_eq!(ask(both, &beside, ChargeMode::All, 1, 70 * SECOND).granted, 1);
        assert_eq!(ask(both, &whole, ChargeMode::Peek, 1, 0).granted, 0);
    });
}

#[test]
fn buckets_that_end_leave_those_of_the_next_quota_alone() {
    play(|both| {
        let specs = [(9, 1_000), (70_000, 1_000_000_000), (30, 3_000)].map(|(limit, width)| QuotaSpec {
            rule: Rule::Buckets,
            limit,
            width,
        });
        for pass in [0, 20_000, 45_000, 3_000, 20_000, 45_000] {
            both.clock += pass;
            assert_eq!(ask(both, &specs, ChargeMode::All, 1, 0).granted, 1);
            let wait = ask(both, &specs, ChargeMode::Peek, 9, 0).wait;
            for cost in [8, 7] {
                assert!(ask(both, &specs, ChargeMode::Peek, cost, 0).wait <= wait);
            }
        }
    });
}

#[test]
fn buckets_become_a_large_log_in_no_time() {
    play(|both| {
        let buckets = [QuotaSpec { rule: Rule::Buckets, limit: 10_000, width: SECOND }];
        assert_eq!(ask(both, &buckets, ChargeMode::All, 10_000, 0).granted, 10_000);
        let started = Instant::now();
        assert_eq!(ask(both, &[log(10_000, 60 * SECOND)], ChargeMode::Peek, 1, 0).granted, 0);
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    });
}

#[test]
fn gcra_keeps_its_bound_with_refunds_and_booked_turns() {
    let (burst, interval) = (5, 10_000u64);
    let specs = [gcra(burst, interval)];
    for seed in 0..40u64 {
        play(|both| {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut used, mut unused) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                both.clock += [0, random(interval), random(6 * interval)][random(3) as usize];
                match random(5) {
                    0 => {
                        let turn = ask(both, &specs, ChargeMode::All, 1, 3 * interval);
                        used.extend((turn.granted > 0).then_some(both.clock + turn.wait + turn.wait / 1000));
                    }
                    1 | 2 if !unused.is_empty() => {
                        let (stamp, permits) = unused.swap_remove(random(unused.len() as u64) as usize);
                        let (expected, found) = both.refund(permits, stamp);
                        assert_eq!(expected, found);
                    }
                    _ => {
                        let charged = ask(both, &specs, ChargeMode::UpTo, 1 + random(burst), 0);
                        if charged.granted > 0 {
                            let kept = random(charged.granted + 1);
                            used.extend((kept..charged.granted).map(|_| both.clock));
                            unused.push((charged.stamp, kept));
                        }
                    }
                }
            }
            for window in [interval, 5 * interval, 30 * interval] {
                let most = most_in_a_window(&mut used, window);
                assert!(most <= window / interval + burst, "{most} in {window}, seed {seed}");
            }
        });
    }
}

#[test]
fn no_turn_is_booked_by_an_override_for_a_time_after_its_end() {
    let charge = |both: &mut Both<'_>, specs: &[QuotaSpec], cost| {
        assert_eq!(ask(both, specs, ChargeMode::All, cost, 0).granted, cost);
    };
    for mode in [ChargeMode::All, ChargeMode::Turns { least: 1 }] {
        // The override admits more than the key's own quota.
        play(|both| {
            let own = [log(1, 60 * SECOND)];
            both.set_override(&[log(10, 60 * SECOND)], &own, Duration::from_secs(10));
            charge(both, &own, 10);
            let (cost, end) = (if mode == ChargeMode::All { 1 } else { 10 }, both.clock + 10 * SECOND);
            let refused = ask(both, &own, mode, cost, 3600 * SECOND);
            assert_eq!((refused.granted, refused.wait), (0, 60 * SECOND), "{mode:?}");
            both.clock = end;
            let own = ask(both, &own, ChargeMode::Turns { least: 1 }, 10, 3600 * SECOND);
            assert_eq!((own.granted, own.wait), (1, 50 * SECOND), "{mode:?}");
        });
        // The override admits less.
        play(|both| {
            let own = [log(100, SECOND)];
            both.set_override(&[log(1, 3600 * SECOND)], &own, Duration::from_secs(10));
            charge(both, &own, 1);
            let refused = ask(both, &own, mode, 1, 7200 * SECOND);
            assert_eq!((refused.granted, refused.wait), (0, 10 * SECOND), "{mode:?}");
        });
        // The cost fits before the end, but the turn would be used after it.
        for (lasts, granted) in [(60 * SECOND + 119_999, 0), (60 * SECOND + 120_001, 1)] {
            play(|both| {
                let own = [log(1, 30 * SECOND)];
                both.set_override(&[log(1, 60 * SECOND)], &own, Duration::from_micros(lasts));
                charge(both, &own, 1);
                let turn = ask(both, &own, mode, 1, 3600 * SECOND);
                assert_eq!((turn.granted, turn.wait), (granted, 60 * SECOND), "{mode:?}");
            });
        }
    }
}

/// Callers that cancel their turns make room for later callers. If the turns behind a cancelled one moved up, a new one
/// would be booked for a time that is taken.
#[test]
fn turns_that_are_given_back_put_no_two_turns_into_one_place() {
    let interval = 100_000;
    for (burst, cost, before, late) in [
        (1, 1, 1, 0),
        (1, 1, 1, 2_000),
        (1, 1, 1, 100_000),
        (5, 1, 5, 0),
        (5, 1, 3, 0),
        (5, 5, 5, 0),
        (5, 5, 5, 2_000),
    ] {
        let specs = [gcra(burst, interval)];
        for by_due in [false, true] {
            play(|both| {
                let told = format!("burst {burst}, cost {cost}, {before} before, {late} late, {by_due}");
                let at_once = ask(both, &specs, ChargeMode::All, before, 0);
                let book = |both: &mut Both<'_>| {
                    let turn = ask(both, &specs, ChargeMode::Turns { least: cost }, cost, 3600 * SECOND);
                    assert_eq!(turn.granted, cost);
                    turn
                };
                let mut turns: Vec<Charged> = (0..30).map(|_| book(both)).collect();
                // What was charged at once is given back, too.
                let (expected, found) = both.refund(before, at_once.stamp);
                assert_eq!(expected, found, "{told}");
                for place in 0..30 {
                    let given = turns[place].stamp;
                    if by_due {
                        both.clock = both.clock.max(given.when + late);
                    }
                    let (expected, found) = both.refund(cost, given);
                    assert_eq!(expected, found, "{told}");
                    turns.push(book(both));
                }
                let mut used: Vec<u64> =
                    turns.iter().skip(30).flat_map(|turn| vec![turn.stamp.when; cost as usize]).collect();
                for many in [burst, 10, 30] {
                    let most = most_in_a_window(&mut used, many * interval);
                    assert!(most <= many + burst, "{most} in {many} intervals, {told}");
                }
            });
        }
    }
}

#[test]
fn the_last_turn_is_given_back_whole_and_what_is_charged_at_once_as_before() {
    play(|both| {
        let specs = [gcra(1, SECOND)];
        ask(both, &specs, ChargeMode::All, 1, 0);
        let turns: Vec<Charged> =
            (0..3).map(|_| ask(both, &specs, ChargeMode::All, 1, 3600 * SECOND)).collect();
        assert_eq!(both.refund(1, turns[1].stamp), (0, 0));
        for turn in turns.iter().rev() {
            assert_eq!(both.refund(1, turn.stamp), (1, 1));
        }
        both.name.push('+');
        let specs = [gcra(10, SECOND)];
        let first = ask(both, &specs, ChargeMode::All, 5, 0);
        ask(both, &specs, ChargeMode::All, 5, 0);
        assert_eq!(both.refund(2, first.stamp), (2, 2));
        assert_eq!(ask(both, &specs, ChargeMode::UpTo, 10, 0).granted, 2);
        let turn = ask(both, &specs, ChargeMode::All, 1, 3600 * SECOND);
        assert_eq!((turn.granted, turn.wait), (1, SECOND));
        // The turn stands on what the first charge has left.
        assert_eq!(both.refund(2, first.stamp), (0, 0));
        both.clock = turn.stamp.when;
        assert_eq!(both.refund(2, first.stamp), (1, 1));
    });
    // An override may pace where the limiter's own quotas do not.
    play(|both| {
        let own = [log(10, 60 * SECOND)];
        both.set_override(&[gcra(10, SECOND)], &own, Duration::from_secs(3600));
        let first = ask(both, &own, ChargeMode::All, 5, 0);
        ask(both, &own, ChargeMode::All, 4, 0);
        assert_eq!(both.refund(2, first.stamp), (2, 2));
    });
}

#[test]
fn a_turn_behind_a_block_that_ends_before_the_records_time_is_never_less_than_nothing() {
    play(|both| {
        let specs = [gcra(3, SECOND)];
        ask(both, &specs, ChargeMode::All, 2, 0);
        let penalty = Some(Penalty { first: SECOND, factor: 2, most: 5 * SECOND });
        let (mode, charge_at, max_wait) = (ChargeMode::All, 0, 0);
        let begins = Charge { specs: &specs, mode, cost: 3, charge_at, max_wait, penalty };
        assert_eq!(both.charge(begins).1.granted, 0);
        both.clock += 3 * SECOND;
        assert_eq!(ask(both, &specs, ChargeMode::All, 2, 0).granted, 2);
        // The clock steps back to a time within the block.
        both.clock -= 2 * SECOND + SECOND / 2;
        let turn = ask(both, &specs, ChargeMode::Turns { least: 1 }, 1, 70 * SECOND);
        assert_eq!((turn.granted, turn.wait), (0, SECOND / 2));
    });
}

/// Random histories: charges, turns far ahead, and both given back, in part or whole, before their time or after it.
#[test]
fn gcra_keeps_its_bound_while_far_turns_are_given_back() {
    let interval = 100_000u64;
    let stores = Stores::default();
    let step = (0..10u8, 1..6u64, 0..1000usize, 0..1000u64);
    let histories_of = (1..6u64, prop::collection::vec(step, 1..120));
    TestRunner::new(histories(2000))
        .run(&histories_of, |(burst, steps)| {
            let (mut both, specs) = (stores.history(), [gcra(burst, interval)]);
            // The charge, when it is used, and how many of its permits are.
            let mut uses: Vec<(Charged, u64, u64)> = Vec::new();
            for (what, cost, which, share) in steps {
                let cost = cost.min(burst);
                let mode = match what {
                    0 | 1 => ChargeMode::UpTo,
                    2..=5 => ChargeMode::Turns { least: cost },
                    6 | 7 if !uses.is_empty() => {
                        let place = which % uses.len();
                        let (charge, _, left) = uses[place];
                        let permits = cost.min(left);
                        if permits > 0 {
                            let (expected, found) = both.refund(permits, charge.stamp);
                            prop_assert_eq!(expected, found);
                            uses[place].2 -= permits;
                        }
                        continue;
                    }
                    8 => {
                        both.clock += interval * share / 300;
                        continue;
                    }
                    _ => {
                        // To the time of a turn, or a little later.
                        let times = uses.iter().map(|one| one.1).filter(|time| *time > both.clock);
                        both.clock = times.min().unwrap_or(both.clock) + share * (which as u64 % 2);
                        continue;
                    }
                };
                let max_wait = if mode == ChargeMode::UpTo { 0 } else { 3600 * SECOND };
                let found = ask(&mut both, &specs, mode, cost, max_wait);
                if found.granted > 0 {
                    uses.push((found, both.clock + found.wait + found.wait / 1000, found.granted));
                }
            }
            let all = uses.iter().flat_map(|(_, time, many)| vec![*time; *many as usize]);
            let mut all: Vec<u64> = all.collect();
            for many in 1..60 {
                let most = most_in_a_window(&mut all, many * interval);
                prop_assert!(most <= many + burst, "{} in {} intervals, burst {}", most, many, burst);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Another program changes the method while turns of GCRA are awaited.
#[test]
fn turns_that_a_pace_has_booked_count_after_a_change_of_method() {
    let buckets = |limit, width| QuotaSpec { rule: Rule::Buckets, limit, width };
    for (spec, window) in [
        (log(10, 10 * SECOND), 10 * SECOND),
        (log(10, 20 * SECOND), 20 * SECOND),
        (buckets(30, SECOND / 2), 30 * SECOND),
    ] {
        for turns in [5, 20, 40] {
            play(|both| {
                let paced = [gcra(1, SECOND)];
                let mut used: Vec<u64> = (0..turns)
                    .map(|_| {
                        ask(both, &paced, ChargeMode::Turns { least: 1 }, 1, 3600 * SECOND)
                            .stamp
                            .when
                            .max(both.clock)
                    })
                    .collect();
                for _ in 0..800 {
                    both.clock += 100_000;
                    if ask(both, &[spec], ChargeMode::All, 1, 0).granted > 0 {
                        used.push(both.clock);
                    }
                }
                // What was booked by the pace fits into the window by itself, and its burst.
                let paced = window / SECOND + 1;
                let most = most_in_a_window(&mut used, window);
                assert!(most <= spec.limit.max(paced) + 1, "{most} in a window of {spec:?}, {turns} turns");
            });
        }
    }
}
