//! The version that `clear` replaces in one cache, as it was last looked up.
//!
//! Every read and every write of a cache needs this version. [`VersionSlot`] keeps the last result of its lookup in
//! the table of versions, with the number of changes of that table before the lookup. While the table has not changed
//! since, the slot answers in place of the table, without hashing the name and without a lock.
//!
//! The fields of a slot are written and read together by the rule of a sequence lock: a reader that comes while they
//! are written, or finds that they were written meanwhile, takes nothing and looks the version up.

use std::ops::Deref;

use crate::clock::Tick;
use crate::name::Name;
use crate::store::session::ReadStamp;
use crate::sync::{AtomicU64, Ordering};

/// A cached version, and the session that vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownVersion {
    pub(crate) version: u64,
    pub(crate) stamp: ReadStamp,
    /// How long the server keeps it at least, if that is known.
    pub(super) kept_until: Option<Tick>,
}

/// The name of a cache's clear version, and the version itself as it was last looked up.
pub(crate) struct ClearVersion {
    name: Name,
    pub(super) slot: VersionSlot,
}

impl ClearVersion {
    pub(crate) fn new(name: Name) -> Self {
        Self { name, slot: VersionSlot::default() }
    }
}

impl Deref for ClearVersion {
    type Target = Name;

    #[inline]
    fn deref(&self) -> &Name {
        &self.name
    }
}

#[derive(Default)]
pub(super) struct VersionSlot {
    /// Odd while the other fields are written.
    turn: AtomicU64,
    /// The number of changes of the table before the lookup; 0 before the first lookup.
    changes: AtomicU64,
    version: AtomicU64,
    stamp: AtomicU64,
    /// Microseconds; 0 if it is not known.
    kept_until: AtomicU64,
}

impl VersionSlot {
    /// Returns the version, if the table has changed `changes` times and it was looked up since the last change.
    #[inline]
    pub(super) fn get(&self, changes: u64) -> Option<KnownVersion> {
        let turn = self.turn.load(Ordering::Acquire);
        // These loads are `Acquire`, and the stores in `put` `Release`: a load that sees a field of a later turn also
        // sees that turn, in the last load below.
        let looked_up = self.changes.load(Ordering::Acquire);
        let version = self.version.load(Ordering::Acquire);
        let stamp = self.stamp.load(Ordering::Acquire);
        let kept_until = self.kept_until.load(Ordering::Acquire);
        let whole = turn.is_multiple_of(2) && self.turn.load(Ordering::Acquire) == turn;
        let kept_until = (kept_until != 0).then(|| Tick::from_micros(kept_until));
        (whole && looked_up == changes).then(|| KnownVersion {
            version,
            stamp: ReadStamp::unpacked(stamp),
            kept_until,
        })
    }

    /// Keeps the result of a lookup that began when the table had changed `changes` times. If another thread writes at
    /// the same time, only one of the two is kept.
    pub(super) fn put(&self, changes: u64, known: KnownVersion) {
        let turn = self.turn.load(Ordering::Relaxed);
        if !turn.is_multiple_of(2)
            || self.turn.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return;
        }
        self.changes.store(changes, Ordering::Release);
        self.version.store(known.version, Ordering::Release);
        self.stamp.store(known.stamp.packed(), Ordering::Release);
        self.kept_until.store(known.kept_until.map_or(0, Tick::as_micros), Ordering::Release);
        self.turn.store(turn + 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_answers_for_the_state_of_the_table_that_was_looked_up() {
        let slot = VersionSlot::default();
        assert_eq!(slot.get(1), None, "never looked up");
        for kept_until in [None, Some(Tick::from_micros(5))] {
            let known = KnownVersion { version: 7, stamp: ReadStamp::unpacked(3 << 32 | 9), kept_until };
            slot.put(2, known);
            assert_eq!((slot.get(1), slot.get(2), slot.get(3)), (None, Some(known), None));
        }
    }
}
