//! A forced refresh, beside callers that accept what is cached, and an invalidation that detaches flights.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::{Flights, NAME, Tags, lock, outcome, wait};

/// What a caller is promised.
pub const FORCED: &str = "a caller that arrives after a forced refresh has returned gets nothing older";

/// What a forced refresh does with other flights for the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Detached,
    Left,
}

#[derive(Default)]
struct World {
    flights: Flights<u64>,
    row: Mutex<u64>,
    cached: Mutex<u64>,
    /// The result of the newest refresh that has returned.
    floor: Mutex<u64>,
}

impl World {
    fn call(&self) {
        let floor = *lock(&self.floor);
        let (waiter, leader) = self.flights.join(NAME, &Tags::default());
        if let Some(leader) = leader {
            let cached = *lock(&self.cached);
            leader.finish(outcome(cached));
        }
        assert!(wait(waiter).is_some_and(|value| value >= floor), "{FORCED}");
    }

    fn refresh(&self, beside: Beside) {
        let (waiter, leader) = self.flights.replace(NAME, &Tags::default());
        let row = *lock(&self.row);
        *lock(&self.cached) = row;
        if beside == Beside::Detached {
            leader.detach_others();
        }
        leader.finish(outcome(row));
        let value = wait(waiter).unwrap_or_default();
        *lock(&self.floor) = value;
    }
}

fn scenario(beside: Beside) {
    let world = Arc::new(World::default());
    let callers = [(); 2].map(|()| {
        let world = world.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| world.call()))
    });
    let tag = thread::spawn({
        let world = world.clone();
        move || world.flights.detach_all()
    });
    // Another program writes to the origin, and does not invalidate.
    *lock(&world.row) = 1;
    world.refresh(beside);
    world.call();
    for thread in callers.into_iter().chain([tag]) {
        let _ = thread.join();
    }
}

/// What larder does.
pub fn detached() {
    scenario(Beside::Detached);
}

/// The mistake: a later caller may join a flight that has found what the refresh replaced.
pub fn left() {
    scenario(Beside::Left);
}
