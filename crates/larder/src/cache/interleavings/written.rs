//! Callers that join flights, beside writes of their own process.

use std::sync::Arc;

use shuttle::thread;

use super::{NAME, outcome, wait};
use crate::cache::flight::{Flights, Tags};
use crate::interleavings::{breaks, holds};
use crate::sync::Mutex;

/// What a caller is promised.
const OWN: &str = "a caller that arrives after a write has returned gets nothing older";

/// When a write detaches the flights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detach {
    WhenEnded,
    WhenBegun,
    Never,
}

#[derive(Default)]
struct Scene {
    flights: Flights<u64>,
    row: Mutex<u64>,
    /// The value of the newest write that has returned.
    floor: Mutex<u64>,
}

impl Scene {
    fn call(self: &Arc<Self>) {
        let floor = *self.floor.lock();
        let (waiter, leader) = self.flights.join(NAME, &Tags::default());
        let load = leader.map(|leader| {
            let scene = self.clone();
            thread::spawn(move || {
                let row = *scene.row.lock();
                leader.finish(outcome(row));
            })
        });
        assert!(wait(waiter).is_some_and(|row| row >= floor), "{OWN}");
        if let Some(load) = load {
            let _ = load.join();
        }
    }

    fn write(&self, detach: Detach) {
        if detach == Detach::WhenBegun {
            self.flights.detach(&[NAME]);
        }
        let row = {
            let mut row = self.row.lock();
            *row += 1;
            *row
        };
        if detach == Detach::WhenEnded {
            self.flights.detach(&[NAME]);
        }
        let mut floor = self.floor.lock();
        *floor = row.max(*floor);
    }
}

fn scenario(detach: Detach) {
    let scene = Arc::new(Scene::default());
    let callers = [(); 2].map(|()| {
        let scene = scene.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| scene.call()))
    });
    scene.write(detach);
    scene.call();
    for caller in callers {
        let _ = caller.join();
    }
}

/// What larder does.
#[test]
fn callers_get_nothing_older_than_their_writes() {
    holds("flights beside writes", || scenario(Detach::WhenEnded));
}

/// The mistake: a flight may start between the detaching and the write.
#[test]
fn flights_that_are_detached_when_a_write_begins_are_caught() {
    breaks("detached when begun", &[OWN], || scenario(Detach::WhenBegun));
}

/// The mistake: a write that detaches no flight.
#[test]
fn flights_that_are_never_detached_are_caught() {
    breaks("never detached", &[OWN], || scenario(Detach::Never));
}
