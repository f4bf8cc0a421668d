//! Records what this process uses without asking the server.
//!
//! A server that evicts keys considers when, or how often, each key was read. Versions and near copies are
//! read from this process's memory, so the server sees their keys as unused. It would evict the version of a
//! cache that is read ten thousand times a second, and so invalidate every entry of that cache. Therefore the
//! uses are recorded here, sampled and bounded, and a task of the `Larder` reads the keys from the server now
//! and then.
//!
//! Tags are recorded in a bitmap, by a hash: no allocation and no lock, and two tags that share a bit only
//! cost one more read. One near hit in [`SAMPLED`](crate::telemetry::SAMPLED) is recorded, by name.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use quick_cache::DefaultHashBuilder;

use crate::error::Result;
use crate::name::Name;
use crate::sync::Mutex;

/// How many names of near copies are recorded between two rounds.
const MOST_COPIES: usize = 128;
const WORDS: usize = 128;

/// What was used since the last round.
#[derive(Default)]
pub(crate) struct Recency {
    /// Whether uses are recorded: only if the server evicts keys.
    wanted: AtomicBool,
    tags: Bits,
    copies: Mutex<HashSet<Name>>,
}

struct Bits {
    words: [AtomicU64; WORDS],
    hasher: DefaultHashBuilder,
}

impl Default for Bits {
    fn default() -> Self {
        Self { words: [const { AtomicU64::new(0) }; WORDS], hasher: DefaultHashBuilder::default() }
    }
}

impl Bits {
    /// Returns the index of a name's word, and the name's bit in it.
    fn place(&self, name: &str) -> (usize, u64) {
        let hash = self.hasher.hash_one(name);
        (usize::try_from(hash >> 6).unwrap_or(0) % WORDS, 1 << (hash & 63))
    }

    fn set(&self, name: &str) {
        let (word, bit) = self.place(name);
        if let Some(word) = self.words.get(word)
            && word.load(Relaxed) & bit == 0
        {
            word.fetch_or(bit, Relaxed);
        }
    }
}

/// The tags that were used, as far as the bitmap can tell.
pub(crate) struct UsedTags<'a> {
    bits: &'a Bits,
    words: Vec<u64>,
}

impl UsedTags<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn contains(&self, version: &str) -> bool {
        let (word, bit) = self.bits.place(version);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl Recency {
    /// Turns recording on or off.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }

    /// Records a use of a version.
    #[inline]
    pub(super) fn used_version(&self, name: &str) {
        if self.wanted.load(Relaxed) && name.starts_with("~tag") {
            self.tags.set(name);
        }
    }

    /// Records a use of a near copy, whose name `name` makes. Call it for one hit in
    /// [`SAMPLED`](crate::telemetry::SAMPLED).
    pub(crate) fn used_copy(&self, name: impl FnOnce() -> Result<Name>) {
        if !self.wanted.load(Relaxed) {
            return;
        }
        // If another thread has the lock, this use is skipped; frequently used names are recorded another
        // time.
        if let Some(mut copies) = self.copies.try_lock()
            && copies.len() < MOST_COPIES
            && let Ok(name) = name()
        {
            copies.insert(name);
        }
    }

    /// Takes the recorded tags.
    pub(crate) fn take_tags(&self) -> UsedTags<'_> {
        let words = self.tags.words.iter().map(|word| word.swap(0, Relaxed)).collect();
        UsedTags { bits: &self.tags, words }
    }

    /// Takes the recorded names of near copies.
    pub(crate) fn take_copies(&self) -> HashSet<Name> {
        std::mem::take(&mut *self.copies.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_noted_once_it_is_wanted_and_until_it_is_taken() {
        let recency = Recency::default();
        recency.used_version("~tag.1:{/a}");
        recency.used_copy(|| Ok("user:1".into()));
        assert!(recency.take_tags().is_empty() && recency.take_copies().is_empty());
        recency.want(true);
        recency.used_version("~tag.1:{/a}");
        recency.used_version("~clear.1:{/user}");
        recency.used_copy(|| Ok("user:1".into()));
        let tags = recency.take_tags();
        assert!(tags.contains("~tag.1:{/a}"));
        let others = (0..100).filter(|other| tags.contains(&format!("~tag.1:{{/{other}}}"))).count();
        assert!(others < 3, "{others} tags share one bit of thousands");
        assert_eq!(recency.take_copies(), HashSet::from(["user:1".into()]));
        assert!(recency.take_tags().is_empty() && recency.take_copies().is_empty());
    }

    #[test]
    fn what_is_noted_of_copies_is_bounded() {
        let recency = Recency::default();
        recency.want(true);
        (0..1000).for_each(|key| recency.used_copy(|| Ok(Name::from(&*format!("user:{key}")))));
        assert_eq!(recency.take_copies().len(), MOST_COPIES);
    }
}
