//! Keeps loads whose value is stored without a fence apart from the writes of this process.
//!
//! The problem: bare JSON (`Format::Plain`) has no room for a placeholder, so the server cannot refuse a value that
//! was read before a write. The mechanism: each name has a record while an unfenced load or a write of that name runs
//! in this process, independent of the flights. A write marks the record when it begins and when it ends. A load
//! stores only if no write is running and the record was not marked since before its loader began. Storing takes
//! turns: a write that begins while a value is being stored waits for that store before it is sent.
//!
//! A forced refresh does both. It marks the record like a write, so that no value that was read before it is stored
//! over its own, and it stores like a load.
//!
//! Invariant: while a load holds a record, every write of the name in this process marks that same record.
//!
//! Not covered: writes of other processes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::{AsyncMutex, AtomicBool, Mutex, MutexGuard, Ordering};

/// The records of one cache.
#[derive(Default)]
pub(crate) struct WriteRecords {
    table: Arc<Mutex<WriteRecordTable>>,
    /// Whether any handle of this cache stores without a fence.
    needed: AtomicBool,
}

type WriteRecordTable = HashMap<Box<str>, (Arc<WriteRecord>, usize)>;

#[derive(Default)]
struct WriteRecord {
    marks: Mutex<Marks>,
    /// Locked while a value is being stored.
    storing: AsyncMutex<()>,
}

#[derive(Default)]
struct Marks {
    count: u64,
    writers: usize,
}

impl WriteRecords {
    /// Turns the records on. Call it before the first unfenced load; until then writes keep no records.
    pub(super) fn need(&self) {
        self.needed.store(true, Ordering::Release);
    }

    /// Begins a load. Call it before the loader begins, and keep the result until its value is stored.
    pub(super) fn load(&self, name: &str) -> UnfencedLoad {
        let held = self.hold(name);
        let seen = held.marks().count;
        UnfencedLoad { held, seen, forced: false }
    }

    /// Begins a forced refresh: like `load`, and loads that began earlier will not be stored.
    pub(super) fn refresh(&self, name: &str) -> UnfencedLoad {
        let held = self.hold(name);
        let seen = held.mark();
        UnfencedLoad { held, seen, forced: true }
    }

    /// Begins a write of these names. Keep the result until the write was answered, has failed, or was dropped.
    pub(super) fn write(&self, names: &[&str]) -> UnfencedWrite {
        if !self.needed.load(Ordering::Acquire) {
            return UnfencedWrite(Vec::new());
        }
        let held: Vec<RecordRef> = names.iter().map(|name| self.hold(name)).collect();
        for held in &held {
            let mut marks = held.marks();
            marks.count += 1;
            marks.writers += 1;
        }
        UnfencedWrite(held)
    }

    fn hold(&self, name: &str) -> RecordRef {
        let mut table = self.table.lock();
        let (record, holders) = table.entry(name.into()).or_default();
        *holders += 1;
        RecordRef { table: self.table.clone(), name: name.into(), record: record.clone() }
    }
}

/// Keeps a record in the table while it lives.
struct RecordRef {
    table: Arc<Mutex<WriteRecordTable>>,
    name: Box<str>,
    record: Arc<WriteRecord>,
}

impl RecordRef {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.record.marks.lock()
    }

    /// Marks the record, and returns the new count.
    fn mark(&self) -> u64 {
        let mut marks = self.marks();
        marks.count += 1;
        marks.count
    }
}

impl Drop for RecordRef {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if let Some((_, holders)) = table.get_mut(&self.name) {
            *holders -= 1;
            if *holders == 0 {
                table.remove(&self.name);
            }
        }
    }
}

/// A load whose value will be stored without a fence.
pub(super) struct UnfencedLoad {
    held: RecordRef,
    seen: u64,
    forced: bool,
}

impl UnfencedLoad {
    /// Waits until no other value is being stored under the name. While the returned turn lives, a write that begins
    /// waits.
    pub(super) async fn turn(&self) -> WriteTurn<'_> {
        let storing = self.held.record.storing.lock().await;
        let marks = self.held.marks();
        let may_store = marks.writers == 0 && marks.count == self.seen;
        drop(marks);
        WriteTurn { may_store, _storing: storing }
    }
}

impl Drop for UnfencedLoad {
    fn drop(&mut self) {
        if self.forced {
            // A load that began during the refresh may have read before the refresh's loader did: this mark keeps it
            // from storing.
            self.held.mark();
        }
    }
}

/// The exclusive right, in this process, to store under a name.
pub(super) struct WriteTurn<'a> {
    may_store: bool,
    _storing: tokio::sync::MutexGuard<'a, ()>,
}

impl WriteTurn<'_> {
    /// Whether no write has run since before the loader began.
    pub(super) fn may_store(&self) -> bool {
        self.may_store
    }
}

/// A write under way.
pub(super) struct UnfencedWrite(Vec<RecordRef>);

impl UnfencedWrite {
    /// Waits for the values that are being stored under these names, because they were read before this write.
    pub(super) async fn settled(&self) {
        for held in &self.0 {
            drop(held.record.storing.lock().await);
        }
    }
}

impl Drop for UnfencedWrite {
    fn drop(&mut self) {
        for held in &self.0 {
            let mut marks = held.marks();
            marks.count += 1;
            marks.writers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn records() -> WriteRecords {
        let records = WriteRecords::default();
        records.need();
        records
    }

    #[tokio::test]
    async fn a_write_that_begins_or_ends_during_a_load_keeps_it_from_storing() {
        let records = records();
        let load = records.load("a");
        assert!(load.turn().await.may_store());
        drop(records.write(&["b"]));
        assert!(load.turn().await.may_store(), "another name was written");
        let write = records.write(&["a"]);
        assert!(!load.turn().await.may_store(), "stored during a write");
        let during = records.load("a");
        assert!(!during.turn().await.may_store(), "begun during a write, and stored during it");
        drop(write);
        assert!(!load.turn().await.may_store() && !during.turn().await.may_store());
        assert!(records.load("a").turn().await.may_store(), "begun after the write");
    }

    #[tokio::test]
    async fn a_write_waits_for_a_value_that_is_being_stored() {
        let records = records();
        let load = records.load("a");
        let turn = load.turn().await;
        assert!(turn.may_store());
        let write = records.write(&["a"]);
        assert!(write.settled().now_or_never().is_none(), "sent while a value is being stored");
        drop(turn);
        write.settled().await;
    }

    #[tokio::test]
    async fn a_refresh_outdates_the_loads_before_it_and_those_during_it() {
        let records = records();
        let before = records.load("a");
        let refresh = records.refresh("a");
        let during = records.load("a");
        assert!(refresh.turn().await.may_store() && !before.turn().await.may_store());
        drop(refresh);
        assert!(!during.turn().await.may_store());
    }

    #[tokio::test]
    async fn no_record_is_left_behind() {
        let records = records();
        let load = records.load("a");
        drop(records.write(&["a", "b"]));
        drop(records.refresh("a"));
        drop(load);
        assert!(records.table.lock().is_empty());
    }
}
