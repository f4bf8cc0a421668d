//! A value that is stored without a fence, as bare JSON is, beside a write.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;

use super::{Flights, Leader, NAME, Tags, lock, outcome, wait};

/// What a writer is promised.
pub const KEPT: &str = "an old row does not come to lie over a write";

#[derive(Default)]
struct World {
    flights: Flights<u64>,
    row: Mutex<u64>,
    cached: Mutex<Option<u64>>,
}

type Store = fn(&World, &Leader<u64>, u64);

impl World {
    fn call(&self, store: Store) {
        let (waiter, leader) = self.flights.join(NAME, &Tags::default());
        if let Some(leader) = leader {
            let row = *lock(&self.row);
            store(self, &leader, row);
            leader.finish(outcome(row));
        }
        let _ = wait(waiter);
    }

    /// The row first, and the cache then.
    fn write(&self) {
        *lock(&self.row) = 1;
        block_on(self.flights.begin_write(&[NAME]).stores_ended());
        *lock(&self.cached) = Some(1);
        self.flights.detach(&[NAME]);
    }
}

fn scenario(store: Store) {
    let world = Arc::new(World::default());
    let callers = [(); 2].map(|()| {
        let world = world.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| world.call(store)))
    });
    world.write();
    for caller in callers {
        let _ = caller.join();
    }
    assert!(*lock(&world.cached) == Some(1), "{KEPT}");
}

/// larder's way.
pub fn unless_void() {
    scenario(|world, leader, row| {
        let _ = block_on(leader.store_unless_void(async { *lock(&world.cached) = Some(row) }));
    });
}

/// A write may begin between the look and the store.
pub fn looked_before() {
    scenario(|world, leader, row| {
        if !leader.is_void() {
            *lock(&world.cached) = Some(row);
        }
    });
}
