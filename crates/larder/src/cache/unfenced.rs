//! Loads whose value is stored without a fence, beside the writes of this process.
//!
//! The problem: bare JSON (`Format::Plain`) has no room for a placeholder, so the server cannot refuse a value that was
//! read before a write. The mechanism: one record per name, which lives while an unfenced load or a write of that name
//! runs in this process, whatever becomes of the flights. A write marks it when it begins and when it ends. A load
//! stores only if no write runs and the record is unmarked since before its loader began. Storing takes turns: a write
//! that begins while a value is being stored waits for that before it is sent.
//!
//! A forced refresh is both: it marks the record like a write, so that nothing is stored over its value that was read
//! before it, and stores like a load.
//!
//! Invariant: while a load holds a record, every write of the name in this process marks that very record.
//!
//! Not promised: anything about writes of other processes.

use std::collections::HashMap;
use std::sync::Arc;

use super::sync::{AsyncMutex, AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// The records of one cache.
#[derive(Default)]
pub(crate) struct WriteRecords {
    table: Arc<Mutex<RecordTable>>,
    /// Whether any handle of this cache stores without a fence.
    needed: AtomicBool,
}

type RecordTable = HashMap<Box<str>, (Arc<WriteRecord>, usize)>;

#[derive(Default)]
struct WriteRecord {
    marks: Mutex<Marks>,
    /// Held while a value is stored.
    storing: AsyncMutex<()>,
}

#[derive(Default)]
struct Marks {
    count: u64,
    writers: usize,
}

impl WriteRecords {
    /// To be called before the first unfenced load: until then writes keep no records.
    pub(super) fn need(&self) {
        self.needed.store(true, Ordering::Release);
    }

    /// To be held by a load from before its loader begins.
    pub(super) fn load(&self, name: &str) -> UnfencedLoad {
        let held = self.hold(name);
        let seen = held.marks().count;
        UnfencedLoad { held, seen, forced: false }
    }

    /// The same for a forced refresh: loads that began before it will not be stored.
    pub(super) fn refresh(&self, name: &str) -> UnfencedLoad {
        let held = self.hold(name);
        let seen = held.mark();
        UnfencedLoad { held, seen, forced: true }
    }

    /// To be held by a write of these names until it has been answered, has failed, or was given up.
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
        let mut table = lock(&self.table);
        let (record, holders) = table.entry(name.into()).or_default();
        *holders += 1;
        RecordRef { table: self.table.clone(), name: name.into(), record: record.clone() }
    }
}

/// A record that is kept while this lives.
struct RecordRef {
    table: Arc<Mutex<RecordTable>>,
    name: Box<str>,
    record: Arc<WriteRecord>,
}

impl RecordRef {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.record.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The count after it.
    fn mark(&self) -> u64 {
        let mut marks = self.marks();
        marks.count += 1;
        marks.count
    }
}

impl Drop for RecordRef {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if let Some((_, holders)) = table.get_mut(&self.name) {
            *holders -= 1;
            if *holders == 0 {
                table.remove(&self.name);
            }
        }
    }
}

/// A load that will be stored without a fence.
pub(super) struct UnfencedLoad {
    held: RecordRef,
    seen: u64,
    forced: bool,
}

impl UnfencedLoad {
    /// Waits until nothing else is being stored under the name. Until the turn is dropped a write that begins waits.
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
            // A load that began during the refresh may have read before its loader did.
            self.held.mark();
        }
    }
}

/// The right to send something about a name, alone in this process.
pub(super) struct WriteTurn<'a> {
    may_store: bool,
    _storing: tokio::sync::MutexGuard<'a, ()>,
}

impl WriteTurn<'_> {
    /// Whether no write has begun since before the loader did.
    pub(super) fn may_store(&self) -> bool {
        self.may_store
    }
}

/// A write under way.
pub(super) struct UnfencedWrite(Vec<RecordRef>);

impl UnfencedWrite {
    /// Waits for the values that are being stored under these names: they were read before this write.
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

fn lock(table: &Mutex<RecordTable>) -> MutexGuard<'_, RecordTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(lock(&records.table).is_empty());
    }
}
