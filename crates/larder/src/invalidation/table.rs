//! The table of queued invalidations: plain data, changed under the lock of the [queue](super::queue).
//!
//! Its size is bounded in bytes. When it is full, the largest part of it is replaced by something smaller:
//! the deletions of one cache by a clear of that cache, or the tags by a clear of all caches. Caches of
//! `Format::Plain` have no version that could clear them, and count together as one cache. If they are the
//! largest part, deletions of theirs are lost, counted and logged.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::throttle::Throttle;
use crate::telemetry::target;

/// The most bytes of all items: some two hundred thousand names of the usual length.
const MOST_BYTES: usize = 32 << 20;
/// What an item costs in addition to its name, roughly, in bytes.
const OVERHEAD: usize = 128;

/// What to do to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalidation {
    /// Delete an entry. Has the name of its cache's clear version; `None` for a cache without versions.
    Delete(Option<Arc<str>>),
    /// Replace the version that clears a cache.
    Clear,
    /// Replace the epoch.
    Epoch,
    /// Replace a tag's version, after the epoch.
    Tag,
}

pub(super) struct QueuedItem {
    pub(super) kind: Invalidation,
    pub(super) generation: u64,
    /// A request for it is under way.
    pub(super) in_flight: bool,
    /// The sender has the name, or will get it from `fresh`.
    pub(super) listed: bool,
}

/// The items, and how much room they take.
#[derive(Default)]
pub(super) struct QueueTable {
    pub(super) items: HashMap<Arc<str>, QueuedItem>,
    /// The last generation that was assigned.
    pub(super) generation: u64,
    /// Tags with a generation up to this one may be sent.
    pub(super) epoch_replaced: u64,
    /// The bytes of each cache's deletions, by its clear version, and the bytes of tags.
    pub(super) deletes: HashMap<Option<Arc<str>>, usize>,
    pub(super) tags: usize,
    /// The bytes of other versions. There is at most one for each cache, so they do not count.
    pub(super) versions: usize,
    /// Names to which a write is under way, and by how many calls. Their items wait for the end of the write.
    pub(super) writers: HashMap<Box<str>, usize>,
    /// Names that the sender has not taken yet.
    pub(super) fresh: Vec<Arc<str>>,
    pub(super) sending: bool,
    /// How many items were dropped because the queue was full, with nothing in their place.
    pub(super) lost: u64,
    pub(super) losses: Throttle,
}

impl QueueTable {
    /// Queues an item, or gives the queued one a new generation.
    pub(super) fn put(&mut self, name: &str, kind: Invalidation) {
        self.generation += 1;
        let generation = self.generation;
        if let Some(item) = self.items.get_mut(name) {
            item.generation = generation;
            return;
        }
        let name: Arc<str> = name.into();
        *self.size_of(&kind) += name.len() + OVERHEAD;
        self.fresh.push(name.clone());
        self.items.insert(name, QueuedItem { kind, generation, in_flight: false, listed: true });
    }

    pub(super) fn list(&mut self, name: &str) {
        let Some(name) = self.items.get_key_value(name).map(|(name, _)| name.clone()) else { return };
        if let Some(item) = self.items.get_mut(&name) {
            item.listed = true;
        }
        self.fresh.push(name);
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(item) = self.items.remove(name) {
            let size = self.size_of(&item.kind);
            *size = size.saturating_sub(name.len() + OVERHEAD);
            if let Invalidation::Delete(clear) = &item.kind
                && *size == 0
            {
                self.deletes.remove(clear);
            }
        }
    }

    /// Returns the counter of bytes for items of this kind.
    fn size_of(&mut self, kind: &Invalidation) -> &mut usize {
        match kind {
            Invalidation::Delete(clear) => self.deletes.entry(clear.clone()).or_default(),
            Invalidation::Tag => &mut self.tags,
            Invalidation::Clear | Invalidation::Epoch => &mut self.versions,
        }
    }

    /// Replaces or drops the largest part of the queue while it takes too many bytes. `newest` was queued
    /// last.
    pub(super) fn make_room(&mut self, newest: &str, all_clears: impl Fn() -> Vec<String>) {
        while self.taken() > MOST_BYTES {
            let largest = self.deletes.iter().max_by_key(|(_, size)| **size);
            match largest.map(|(clear, size)| (clear.clone(), *size)) {
                Some((Some(clear), size)) if size >= self.tags => {
                    // Log the cache's name alone, without the namespace.
                    let cache = clear.rsplit('/').next().unwrap_or_default().trim_end_matches('}');
                    tracing::warn!(target: target::INVALIDATION, %cache, "the queue of invalidations is full: a cache will be cleared");
                    self.drop_all(|kind| matches!(kind, Invalidation::Delete(Some(own)) if *own == clear));
                    self.deletes.remove(&Some(clear.clone()));
                    self.put(&clear, Invalidation::Clear);
                }
                Some((None, size)) if size >= self.tags => {
                    if !self.lose_plain(newest) {
                        return;
                    }
                }
                _ => {
                    // It is not known which entries carry the tags.
                    tracing::warn!(target: target::INVALIDATION, "the queue of invalidations is full: all caches will be cleared");
                    self.drop_all(|kind| *kind == Invalidation::Tag);
                    self.tags = 0;
                    all_clears().iter().for_each(|clear| self.put(clear, Invalidation::Clear));
                }
            }
        }
    }

    /// Returns the bytes of all items that count.
    pub(super) fn taken(&self) -> usize {
        self.tags + self.deletes.values().sum::<usize>()
    }

    /// Drops a name of a cache without versions: `newest` if it is one, or else any. None matters more than
    /// another.
    fn lose_plain(&mut self, newest: &str) -> bool {
        let is_plain = |item: &QueuedItem| item.kind == Invalidation::Delete(None);
        let name = match self.items.get_key_value(newest) {
            Some((name, item)) if is_plain(item) => Some(name),
            _ => self.items.iter().find(|(_, item)| is_plain(item)).map(|(name, _)| name),
        };
        let Some(name) = name.cloned() else { return false };
        self.remove(&name);
        self.lost += 1;
        if let Some(times) = self.losses.note(Instant::now()) {
            tracing::error!(
                target: target::INVALIDATION,
                times,
                "the queue of invalidations is full: deletions of Format::Plain caches are lost"
            );
        }
        true
    }

    fn drop_all(&mut self, which: impl Fn(&Invalidation) -> bool) {
        self.items.retain(|_, item| !which(&item.kind));
    }
}
