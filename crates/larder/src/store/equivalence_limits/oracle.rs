//! An exact oracle: a plain list of what was used and when, by the server's clock, says how many any window held.
//!
//! Histories of charges, leases that are spent at any time until they end, turns that are booked, refunds of what was
//! not used, and limits that change; both stores decide each, and must agree. Of everything that was used no window may
//! hold more than the highest limit that was in force. Whatever was refused must have been refused with reason: the
//! cost would not have fit with what was charged in the window and a sixtieth of it before.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Both, START, connection, histories, told_the_time};
use crate::store::limit::{BUCKETS, Charge, Penalty, Rule, Stamp, Take, Term};
use crate::store::memory::Limits;

#[derive(Debug, Clone)]
enum Event {
    Charge {
        take: Take,
        cost: u64,
        limits: usize,
    },
    /// A lease of so many thousandths of the shortest window; each permit is spent at some thousandth of its time.
    Lease {
        batch: u64,
        span: u64,
        spent: Vec<u64>,
        limits: usize,
    },
    /// For several who wait together, so many at least.
    Book {
        within: u64,
        cost: u64,
        least: u64,
        limits: usize,
    },
    /// Gives back part of the nth last charge, which then was not used.
    Refund {
        last: usize,
        permits: u64,
    },
    Pass(u64),
}

/// Something that was charged, and what of it was used when.
struct Use {
    charged: Stamp,
    granted: u64,
    used: Vec<u64>,
}

fn events(window: u64) -> impl Strategy<Value = Vec<Event>> {
    let take = prop_oneof![4 => Just(Take::All), 1 => Just(Take::UpTo), 1 => Just(Take::Half { least: 1 })];
    let limits = || prop_oneof![4 => Just(0usize), 1 => 0..3usize];
    // Bursts at one microsecond, a steady stream, and pauses around the window's end.
    let pass = prop_oneof![
        2 => Just(0u64),
        4 => 1..window / 50 + 2,
        2 => 1..window / 4 + 2,
        1 => (window - window / 100)..(window + window / 50 + 2)
    ];
    let one = prop_oneof![
        6 => (take, 1..6u64, limits()).prop_map(|(take, cost, limits)| Event::Charge { take, cost, limits }),
        2 => (1..8u64, 1..1000u64, prop::collection::vec(0..1000u64, 8), limits())
            .prop_map(|(batch, span, spent, limits)| Event::Lease { batch, span, spent, limits }),
        2 => (0..2 * window, 1..12u64, 1..3u64, limits())
            .prop_map(|(within, cost, least, limits)| Event::Book { within, cost, least, limits }),
        1 => (0..5usize, 1..4u64).prop_map(|(last, permits)| Event::Refund { last, permits }),
        7 => pass.prop_map(Event::Pass),
    ];
    prop::collection::vec(one, 1..60)
}

/// What any window of this length held at most, of permits used at these times.
pub(super) fn most_in_a_window(times: &mut [u64], window: u64) -> u64 {
    times.sort_unstable();
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        let first = times.partition_point(|earlier| earlier + window <= *time);
        most = most.max(last + 1 - first);
    }
    most as u64
}

/// Three sets of limits over the same windows; with leases and bookings no GCRA, whose bound is another.
fn limits_of(windows: &[u64], rules: &[Rule], base: u64) -> [Vec<Term>; 3] {
    [base, base + 3, base * 2].map(|limit| {
        let term = |(place, (window, rule)): (usize, (&u64, &Rule))| Term {
            rule: *rule,
            limit: limit * (place as u64 * 2 + 1),
            width: if *rule == Rule::Log { *window } else { window.div_ceil(BUCKETS) },
        };
        windows.iter().zip(rules).enumerate().map(term).collect()
    })
}

#[test]
fn no_window_of_the_servers_clock_holds_more_than_the_limit_and_no_refusal_is_without_reason() {
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    let next = std::cell::Cell::new(0u64);
    let server = std::cell::RefCell::new(&mut server);
    // Windows that sixty divides and does not, of a millisecond and of hours.
    let shapes = prop_oneof![
        (Just(vec![1_000u64]), Just(vec![Rule::Buckets])),
        (Just(vec![59_999]), Just(vec![Rule::Buckets])),
        (Just(vec![1_000_003]), Just(vec![Rule::Log])),
        (Just(vec![1_000_000, 7_000_001]), Just(vec![Rule::Buckets, Rule::Buckets])),
        (Just(vec![3_600_000_000, 61_000_000]), Just(vec![Rule::Buckets, Rule::Log])),
    ];
    let histories_of = (shapes, 1..12u64).prop_flat_map(|((windows, rules), base)| {
        let shortest = *windows.iter().min().unwrap_or(&1);
        (Just((windows, rules, base)), events(shortest))
    });
    let mut runner = TestRunner::new(histories(1500));
    runner
        .run(&histories_of, |((windows, rules, base), history)| {
            let name = format!("~limit.1:{{/oracle:{}}}", next.replace(next.get() + 1));
            let mut server = server.borrow_mut();
            let mut both = Both {
                memory: &memory,
                server: &mut server,
                charge: &charge,
                refund: &refund,
                name,
                clock: START,
            };
            let sets = limits_of(&windows, &rules, base);
            let shortest = *windows.iter().min().unwrap_or(&1);
            let mut uses: Vec<Use> = Vec::new();
            for event in &history {
                let (set, ask) = match event {
                    Event::Pass(micros) => {
                        both.clock += micros;
                        continue;
                    }
                    Event::Refund { last, permits } => {
                        let Some(place) = uses.len().checked_sub(last + 1) else { continue };
                        // Only what is not used yet can be given back.
                        let (stamp, clock) = (uses[place].charged, both.clock);
                        let unused = uses[place].used.iter().filter(|time| **time >= clock).count() as u64;
                        let permits = (*permits).min(unused);
                        if permits == 0 {
                            continue;
                        }
                        let (expected, found) = both.refund(&sets[0], permits, stamp);
                        prop_assert_eq!(expected, found);
                        let mut left = found;
                        uses[place].used.retain(|time| {
                            *time < clock || left == 0 || {
                                left -= 1;
                                false
                            }
                        });
                        uses[place].granted -= found;
                        continue;
                    }
                    Event::Charge { take, cost, limits } => {
                        let set = &sets[*limits];
                        let cost = (*cost).min(set.iter().map(|term| term.limit).min().unwrap_or(1));
                        (set, Charge { terms: set, take: *take, cost, ahead: 0, patience: 0, penalty: None })
                    }
                    Event::Lease { batch, span, limits, .. } => {
                        let set = &sets[*limits];
                        let ahead = (shortest * span / 1000).max(1);
                        (
                            set,
                            Charge {
                                terms: set,
                                take: Take::Half { least: 1 },
                                cost: *batch,
                                ahead,
                                patience: 0,
                                penalty: None,
                            },
                        )
                    }
                    Event::Book { within, cost, least, limits } => {
                        let set = &sets[*limits];
                        let least = (*least).min(set.iter().map(|term| term.limit).min().unwrap_or(1));
                        let (take, cost) = (Take::Turns { least }, (*cost).max(least));
                        (set, Charge { terms: set, take, cost, ahead: 0, patience: *within, penalty: None })
                    }
                };
                let (expected, found) = both.charge(ask);
                prop_assert_eq!(expected, found, "{:?}", event);
                let now = both.clock;
                if found.granted == 0 {
                    let wanted = match ask.take {
                        Take::All => ask.cost,
                        Take::Turns { least } => least,
                        _ => 1,
                    };
                    let with_reason = set.iter().zip(&windows).any(|(term, window)| {
                        let late = if term.rule == Rule::Log { 0 } else { term.width };
                        let counted: u64 = uses
                            .iter()
                            .filter(|one| one.charged.when + window.max(&term.window()) + late > now)
                            .map(|one| one.granted)
                            .sum();
                        counted + wanted > term.limit
                    });
                    prop_assert!(with_reason, "refused without reason: {:?}", event);
                    continue;
                }
                let used = match event {
                    Event::Lease { spent, .. } => {
                        let span = found.stamp.when - now;
                        (0..found.granted as usize).map(|n| now + span * spent[n % 8] / 1000).collect()
                    }
                    // A turn is waited for by a clock that may be slow by a thousandth.
                    _ => vec![now + found.wait + found.wait / 1000; found.granted as usize],
                };
                uses.push(Use { charged: found.stamp, granted: found.granted, used });
            }
            let mut times: Vec<u64> = uses.iter().flat_map(|one| one.used.iter().copied()).collect();
            for (place, window) in windows.iter().enumerate() {
                let highest = sets.iter().map(|set| set[place].limit).max().unwrap_or(0);
                let most = most_in_a_window(&mut times, *window);
                prop_assert!(most <= highest, "{} in a window of {}, of at most {}", most, window, highest);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Changes to windows that the former ones look back at least as far as: everything that still counts is converted, each
/// charge at the latest time at which it can have been. So whatever passes after the change passes with all uses of the
/// window before it.
#[test]
fn after_a_change_to_shorter_windows_none_holds_more_than_its_limit() {
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    let next = std::cell::Cell::new(0u64);
    let server = std::cell::RefCell::new(&mut server);
    let buckets = |limit, width| Term { rule: Rule::Buckets, limit, width };
    let log = |limit, width| Term { rule: Rule::Log, limit, width };
    // From coarse to fine, in each chain.
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
        6 => (1..4u64).prop_map(|cost| (cost, 0u64, false)),
        6 => prop_oneof![1..200_000u64, 1..3_000_000u64].prop_map(|pass| (0, pass, false)),
        1 => Just((0u64, 0u64, true)),
    ];
    let histories_of = (0..chains.len(), prop::collection::vec(step, 1..80));
    TestRunner::new(histories(800))
        .run(&histories_of, |(chain, steps)| {
            let name = format!("~limit.1:{{/conversion:{}}}", next.replace(next.get() + 1));
            let mut server = server.borrow_mut();
            let mut both = Both {
                memory: &memory,
                server: &mut server,
                charge: &charge,
                refund: &refund,
                name,
                clock: START,
            };
            let (mut place, mut uses) = (0, Vec::new());
            for (cost, pass, change) in steps {
                both.clock += pass;
                place = (place + usize::from(change)).min(chains[chain].len() - 1);
                let terms = &chains[chain][place];
                if cost == 0 {
                    continue;
                }
                let ask = Charge { terms, take: Take::All, cost, ahead: 0, patience: 0, penalty: None };
                let (expected, found) = both.charge(ask);
                prop_assert_eq!(expected, found);
                uses.extend((0..found.granted).map(|_| both.clock));
                for term in terms.iter().filter(|_| found.granted > 0) {
                    let within =
                        uses.iter().filter(|time| **time + term.window() > both.clock).count() as u64;
                    prop_assert!(within <= term.limit, "{} in a window of {:?}", within, term);
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn after_retry_after_the_cost_fits_and_a_microsecond_before_it_does_not() {
    let shapes = [
        vec![Term { rule: Rule::Buckets, limit: 10, width: 17 }],
        vec![Term { rule: Rule::Log, limit: 4, width: 999_999 }],
        vec![Term { rule: Rule::Gcra, limit: 3, width: 1_001 }],
        vec![
            Term { rule: Rule::Log, limit: 4, width: 50_000 },
            Term { rule: Rule::Buckets, limit: 9, width: 10_007 },
        ],
    ];
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    for (number, terms) in shapes.iter().enumerate() {
        let name = format!("~limit.1:{{/retry:{number}}}");
        let mut both = Both {
            memory: &memory,
            server: &mut server,
            charge: &charge,
            refund: &refund,
            name,
            clock: START,
        };
        for round in 0..200u64 {
            both.clock += round * round * 37 % 5_003;
            // Every other refusal blocks the key, longer each time.
            let penalty = Penalty { first: 700 + 90_000 * (round % 5), factor: 3, most: 600_000 };
            let penalty = (round % 2 == 0).then_some(penalty);
            let cost = 1 + round % 3;
            let ask = Charge { terms, take: Take::All, cost, ahead: 0, patience: 0, penalty };
            let (_, found) = both.charge(ask);
            if found.granted > 0 {
                continue;
            }
            let (clock, look) = (both.clock, Charge { take: Take::Look, ..ask });
            both.clock = clock + found.wait - 1;
            assert_eq!(both.charge(look).1.granted, 0, "{terms:?}");
            both.clock = clock + found.wait;
            assert_eq!(both.charge(look).1.granted, ask.cost, "{terms:?}");
            both.clock = clock + found.wait * (round % 2);
        }
    }
}

#[test]
fn gcra_admits_its_pace_and_its_burst_and_no_more() {
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    let (burst, interval) = (5, 10_000);
    let terms = [Term { rule: Rule::Gcra, limit: burst, width: interval }];
    let name = "~limit.1:{/gcra}".to_owned();
    let mut both =
        Both { memory: &memory, server: &mut server, charge: &charge, refund: &refund, name, clock: START };
    let mut times = Vec::new();
    for step in 0..4_000u64 {
        both.clock += if step % 1000 == 999 { 200_000 } else { step * 31 % 3_001 };
        let (expected, found) = both.charge(Charge {
            terms: &terms,
            take: Take::All,
            cost: 1,
            ahead: 0,
            patience: 0,
            penalty: None,
        });
        assert_eq!(expected, found);
        times.extend((found.granted > 0).then_some(both.clock));
    }
    for window in [interval, 100_000, 1_000_000] {
        let most = most_in_a_window(&mut times, window);
        assert!(most <= window / interval + burst, "{most} in {window}");
    }
    // The bound is reached: a burst after a pause, and the pace after it.
    assert!(most_in_a_window(&mut times, 100_000) > 10 + burst - 2);
}

#[test]
fn a_server_clock_that_steps_back_opens_nothing_and_says_how_long() {
    let (memory, mut server) = (Limits::default(), connection());
    let (charge, refund) = told_the_time();
    let shapes = [
        vec![Term { rule: Rule::Buckets, limit: 30, width: 1_000 }],
        vec![Term { rule: Rule::Log, limit: 30, width: 60_000 }],
        vec![
            Term { rule: Rule::Buckets, limit: 30, width: 1_000 },
            Term { rule: Rule::Gcra, limit: 30, width: 1_000_000 },
        ],
    ];
    for (number, terms) in shapes.iter().enumerate() {
        let name = format!("~limit.1:{{/back:{number}}}");
        let mut both = Both {
            memory: &memory,
            server: &mut server,
            charge: &charge,
            refund: &refund,
            name,
            clock: START,
        };
        let all = Charge { terms, take: Take::All, cost: 30, ahead: 0, patience: 0, penalty: None };
        assert_eq!(both.charge(all).1.granted, 30);
        for back in [1, 1_000, 3_600_000_000] {
            both.clock = START - back;
            for take in [Take::All, Take::UpTo, Take::Half { least: 1 }] {
                let (expected, found) = both.charge(Charge { take, cost: 1, ..all });
                assert_eq!((expected, found.granted), (found, 0), "{terms:?}, {back} back");
                assert!(found.wait > back && found.reset > back, "{found:?}");
            }
            let (_, found) = both.charge(Charge { cost: 1, ..all });
            both.clock += found.wait;
            assert_eq!(both.charge(Charge { take: Take::Look, cost: 1, ..all }).1.granted, 1);
        }
    }
}
