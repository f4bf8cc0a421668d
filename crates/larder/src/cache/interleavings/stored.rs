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

struct Scene {
    flights: Flights<u64>,
    records: WriteRecords,
    row: Mutex<u64>,
    cached: Mutex<Option<u64>>,
}

type StoreStep = fn(&Scene, &UnfencedLoad, u64);
type Write = fn(&Scene);

impl Scene {
    fn call(&self, store: StoreStep) {
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
fn scenario(store: StoreStep, write: Write, calls: usize) {
    let scene = Arc::new(Scene {
        flights: Flights::default(),
        records: WriteRecords::default(),
        row: Mutex::new(0),
        cached: Mutex::new(None),
    });
    scene.records.need();
    let callers = (0..calls).map(|_| {
        let scene = scene.clone();
        thread::spawn(move || (0..calls).for_each(|_| scene.call(store)))
    });
    let mut threads: Vec<_> = callers.collect();
    if calls > 1 {
        let scene = scene.clone();
        threads.push(thread::spawn(move || scene.flights.detach_all()));
    }
    write(&scene);
    for thread in threads {
        let _ = thread.join();
    }
    assert!(*scene.cached.lock() == Some(1), "{KEPT}");
}

fn in_turn(scene: &Scene, load: &UnfencedLoad, row: u64) {
    let turn = block_on(load.turn());
    if turn.may_store() {
        *scene.cached.lock() = Some(row);
    }
}

/// What larder does.
#[test]
fn no_old_row_replaces_a_write() {
    holds("stores without a fence", || scenario(in_turn, Scene::write, 2));
}

/// What larder does, if a load may begin during the write and read the old row.
#[test]
fn no_old_row_that_was_read_during_a_write_replaces_it() {
    holds("stores without a fence, read during a write", || scenario(in_turn, Scene::write_through, 2));
}

/// The mistake: a load may begin after the mark, and read before the write.
#[test]
fn a_write_that_marks_only_when_it_begins_is_caught() {
    let write: Write = |scene| {
        drop(scene.records.write(&[NAME]));
        *scene.cached.lock() = Some(1);
        *scene.row.lock() = 1;
    };
    breaks("marked when begun", &[KEPT], move || scenario(in_turn, write, 1));
}

/// The mistake: a write may begin between the check and the store.
#[test]
fn a_store_that_checks_before_its_turn_is_caught() {
    let store: StoreStep = |scene, load, row| {
        let may_store = block_on(load.turn()).may_store();
        // Another thread may continue here. The turn's own lock is tokio's, and dropping it is not a step.
        drop(scene.row.lock());
        if may_store {
            *scene.cached.lock() = Some(row);
        }
    };
    breaks("checked before", &[KEPT], move || scenario(store, Scene::write, 1));
}
