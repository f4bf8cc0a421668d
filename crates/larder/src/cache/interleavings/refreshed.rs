//! A forced refresh, beside callers that accept what is cached, and an invalidation that detaches flights.

use std::sync::Arc;

use shuttle::thread;

use super::{NAME, outcome, wait};
use crate::cache::flight::{Flights, Tags};
use crate::interleavings::{breaks, holds};
use crate::sync::Mutex;

/// What a caller is promised.
const FORCED: &str = "a caller that arrives after a forced refresh has returned gets nothing older";

/// What a forced refresh does with other flights for the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Detached,
    Left,
}

#[derive(Default)]
struct Scene {
    flights: Flights<u64>,
    row: Mutex<u64>,
    cached: Mutex<u64>,
    /// The result of the newest refresh that has returned.
    floor: Mutex<u64>,
}

impl Scene {
    fn call(&self) {
        let floor = *self.floor.lock();
        let (waiter, leader) = self.flights.join(NAME, &Tags::default());
        if let Some(leader) = leader {
            let cached = *self.cached.lock();
            leader.finish(outcome(cached));
        }
        assert!(wait(waiter).is_some_and(|value| value >= floor), "{FORCED}");
    }

    fn refresh(&self, beside: Beside) {
        let (waiter, leader) = self.flights.replace(NAME, &Tags::default());
        let row = *self.row.lock();
        *self.cached.lock() = row;
        if beside == Beside::Detached {
            leader.detach_others();
        }
        leader.finish(outcome(row));
        let value = wait(waiter).unwrap_or_default();
        *self.floor.lock() = value;
    }
}

fn scenario(beside: Beside) {
    let scene = Arc::new(Scene::default());
    let callers = [(); 2].map(|()| {
        let scene = scene.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| scene.call()))
    });
    let tag = thread::spawn({
        let scene = scene.clone();
        move || scene.flights.detach_all()
    });
    // Another program writes to the origin, and does not invalidate.
    *scene.row.lock() = 1;
    scene.refresh(beside);
    scene.call();
    for thread in callers.into_iter().chain([tag]) {
        let _ = thread.join();
    }
}

/// What larder does.
#[test]
fn callers_get_nothing_older_than_a_forced_refresh() {
    holds("forced refresh", || scenario(Beside::Detached));
}

/// The mistake: a later caller may join a flight that has found what the refresh replaced.
#[test]
fn flights_left_beside_a_forced_refresh_are_caught() {
    breaks("left beside a refresh", &[FORCED], || scenario(Beside::Left));
}
