//! Callers that join flights and lead them, without any writes.

use std::collections::HashSet;
use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::mistaken::{Mistake, Mistaken, Table};
use super::{Flights, lock, outcome, wait};

/// What the table is promised.
pub const ONE: &str = "at most one flight can be joined";
/// What a caller is promised.
pub const ONCE: &str = "a caller that arrives after a waiter got an outcome does not get the same one";
/// And no caller waits for ever.
pub const ANSWERED: &str = "a caller that joins a flight which ends gets its outcome";

#[derive(Default)]
struct ReadStamp {
    /// The number of the last flight.
    flights: u64,
    in_the_air: u32,
    told: HashSet<u64>,
}

fn call<T: Table>(table: &T, seen: &Mutex<ReadStamp>) {
    let told = lock(seen).told.clone();
    let (waiter, leader) = table.join();
    let leading = leader.map(|leader| {
        let flight = {
            let mut seen = lock(seen);
            seen.flights += 1;
            seen.in_the_air += 1;
            assert!(seen.in_the_air == 1, "{ONE}");
            seen.flights
        };
        (leader, flight)
    });
    if let Some((leader, flight)) = leading {
        lock(seen).in_the_air -= 1;
        T::finish(leader, outcome(flight));
    }
    let flight = wait(waiter);
    assert!(flight.is_some(), "{ANSWERED}");
    if let Some(flight) = flight {
        assert!(!told.contains(&flight), "{ONCE}");
        lock(seen).told.insert(flight);
    }
}

fn scenario<T: Table>(table: T) {
    let (table, seen) = (Arc::new(table), Arc::new(Mutex::new(ReadStamp::default())));
    let callers = [(); 3].map(|()| {
        let (table, seen) = (table.clone(), seen.clone());
        thread::spawn(move || [(); 2].into_iter().for_each(|()| call(&*table, &seen)))
    });
    for caller in callers {
        let _ = caller.join();
    }
}

/// larder's table.
pub fn in_order() {
    scenario(Flights::default());
}

/// The table in which the mistakes are made, without any mistake.
pub fn unmistaken() {
    scenario(Mistaken::new(Mistake::None));
}

/// The mistake: waiters get the outcome before the flight has left the table.
pub fn told_first() {
    scenario(Mistaken::new(Mistake::TellsFirst));
}

/// The mistake: another flight may start between the check that there is none and the start of one.
pub fn unguarded() {
    scenario(Mistaken::new(Mistake::Unguarded));
}
