//! A value that is stored without a fence, as bare JSON is, beside a write, while an invalidation detaches
//! flights.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::{NAME, outcome, wait};
use crate::cache::flight::{Flights, Tags};
use crate::cache::unfenced::{UnfencedLoad, WriteRecords};
use crate::interleavings::{breaks, holds};
use crate::sync::Mutex;

/// What a writer is promised.
const KEPT: &str = "an old row does not replace a write";

struct World {
    flights: Flights<u64>,
    records: WriteRecords,
    row: Mutex<u64>,
    cached: Mutex<Option<u64>>,
}

type Store = fn(&World, &UnfencedLoad, u64);
type Write = fn(&World);

impl World {
    fn call(&self, store: Store) {
        let (waiter, leader) = self.flights.join(NAME, &Tags::default());
        if let Some(leader) = leader {
            let load = self.records.load(NAME);
            let row = *self.row.lock();
            store(self, &load, row);
            leader.finish(outcome(row));
        }
        let _ = wait(waiter);
    }

    /// Writes the row first, and then the cache.
    fn write(&self) {
        *self.row.lock() = 1;
        let writing = self.records.write(&[NAME]);
        block_on(writing.settled());
        *self.cached.lock() = Some(1);
        drop(writing);
        self.flights.detach(&[NAME]);
    }

    /// Writes the cache first, and the row before the write has ended.
    fn write_through(&self) {
        let writing = self.records.write(&[NAME]);
        block_on(writing.settled());
        *self.cached.lock() = Some(1);
        *self.row.lock() = 1;
        drop(writing);
    }
}

/// With a single call, a later call does not repair a mistake.
fn scenario(store: Store, write: Write, calls: usize) {
    let world = Arc::new(World {
        flights: Flights::default(),
        records: WriteRecords::default(),
        row: Mutex::new(0),
        cached: Mutex::new(None),
    });
    world.records.need();
    let callers = (0..calls).map(|_| {
        let world = world.clone();
        thread::spawn(move || (0..calls).for_each(|_| world.call(store)))
    });
    let mut threads: Vec<_> = callers.collect();
    if calls > 1 {
        let world = world.clone();
        threads.push(thread::spawn(move || world.flights.detach_all()));
    }
    write(&world);
    for thread in threads {
        let _ = thread.join();
    }
    assert!(*world.cached.lock() == Some(1), "{KEPT}");
}

fn in_turn(world: &World, load: &UnfencedLoad, row: u64) {
    let turn = block_on(load.turn());
    if turn.may_store() {
        *world.cached.lock() = Some(row);
    }
}

/// What larder does.
#[test]
fn no_old_row_replaces_a_write() {
    holds("stores without a fence", || scenario(in_turn, World::write, 2));
}

/// What larder does, if a load may begin during the write and read the old row.
#[test]
fn no_old_row_that_was_read_during_a_write_replaces_it() {
    holds("stores without a fence, read during a write", || scenario(in_turn, World::write_through, 2));
}

/// The mistake: a load may begin after the mark, and read before the write.
#[test]
fn a_write_that_marks_only_when_it_begins_is_caught() {
    let write: Write = |world| {
        drop(world.records.write(&[NAME]));
        *world.cached.lock() = Some(1);
        *world.row.lock() = 1;
    };
    breaks("marked when begun", &[KEPT], move || scenario(in_turn, write, 1));
}

/// The mistake: a write may begin between the check and the store.
#[test]
fn a_store_that_checks_before_its_turn_is_caught() {
    let store: Store = |world, load, row| {
        let may_store = block_on(load.turn()).may_store();
        // Another thread may continue here. The turn's own lock is tokio's, and dropping it is not a step.
        drop(world.row.lock());
        if may_store {
            *world.cached.lock() = Some(row);
        }
    };
    breaks("checked before", &[KEPT], move || scenario(store, World::write, 1));
}
