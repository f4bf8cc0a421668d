//! Callers that join flights and lead them, without any writes.

use std::collections::HashSet;
use std::sync::Arc;

use shuttle::thread;

use super::mistaken::{Mistake, Mistaken, Table};
use super::{outcome, wait};
use crate::cache::flight::Flights;
use crate::interleavings::{breaks, holds};
use crate::sync::Mutex;

/// What the table is promised.
const ONE: &str = "at most one flight can be joined";
/// What a caller is promised.
const ONCE: &str = "a caller that arrives after a waiter got an outcome does not get the same one";
/// And no caller waits forever.
const ANSWERED: &str = "a caller that joins a flight which ends gets its outcome";

#[derive(Default)]
struct Observed {
    /// The number of the last flight.
    flights: u64,
    in_the_air: u32,
    reported: HashSet<u64>,
}

fn call<T: Table>(table: &T, observed: &Mutex<Observed>) {
    let reported = observed.lock().reported.clone();
    let (waiter, leader) = table.join();
    let leading = leader.map(|leader| {
        let flight = {
            let mut observed = observed.lock();
            observed.flights += 1;
            observed.in_the_air += 1;
            assert!(observed.in_the_air == 1, "{ONE}");
            observed.flights
        };
        (leader, flight)
    });
    if let Some((leader, flight)) = leading {
        observed.lock().in_the_air -= 1;
        T::finish(leader, outcome(flight));
    }
    let flight = wait(waiter);
    assert!(flight.is_some(), "{ANSWERED}");
    if let Some(flight) = flight {
        assert!(!reported.contains(&flight), "{ONCE}");
        observed.lock().reported.insert(flight);
    }
}

fn scenario<T: Table>(table: T) {
    let (table, observed) = (Arc::new(table), Arc::new(Mutex::new(Observed::default())));
    let callers = [(); 3].map(|()| {
        let (table, observed) = (table.clone(), observed.clone());
        thread::spawn(move || [(); 2].into_iter().for_each(|()| call(&*table, &observed)))
    });
    for caller in callers {
        let _ = caller.join();
    }
}

/// larder's table.
#[test]
fn one_flight_at_a_time_and_each_outcome_once() {
    holds("flights", || scenario(Flights::default()));
}

/// The table in which the mistakes are made, without any mistake.
#[test]
fn the_small_table_is_sound_without_its_mistakes() {
    holds("the small table", || scenario(Mistaken::new(Mistake::None)));
}

/// The mistake: waiters get the outcome before the flight has left the table.
#[test]
fn an_outcome_that_is_published_before_the_flight_has_left_is_caught() {
    breaks("publishes first", &[ONCE], || scenario(Mistaken::new(Mistake::PublishesFirst)));
}

/// The mistake: another flight may start between the check that there is none and the start of one.
#[test]
fn a_second_flight_is_caught() {
    breaks("start without the lock", &[ONE], || scenario(Mistaken::new(Mistake::Unguarded)));
}
