//! Copies by key, and the one race that matters: a copy that is inserted after its entry has changed.
//!
//! Between a read's request and the insertion of its answer, a change may be reported and find no copy to
//! drop. So a reader takes an [`InsertTicket`] before it sends its request, and inserts with that ticket.
//! Every change increments the sequence number of its key's stripe, and a ticket with an older number is
//! refused. Both "compare the number and insert" and "increment the number and remove" run under the stripe's
//! lock. Keys that share a stripe sometimes refuse each other's inserts. That costs one more read and
//! nothing else, so a stripe needs no list of readers.
//!
//! Invariant: a copy that [`Tier::find`] returns was read after the last reported change of its key. Expiry
//! and sessions are not checked here.

use std::hash::{BuildHasher, Hash};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, Weighter};

use super::key::{EntryKey, EntryKeyRef, TierKey};
use crate::sync::Mutex;

const STRIPES: usize = 1024;

/// What a copy costs in addition to its key and value, in bytes.
const OVERHEAD: u64 = 128;

/// A near tier of any type of value.
pub(crate) trait AnyTier: Send + Sync {
    fn invalidate(&self, key: EntryKeyRef<'_>);
    fn invalidate_all(&self);
}

/// A copy and its weight.
#[derive(Clone)]
pub(crate) struct Copied<T> {
    pub(crate) bytes: u32,
    pub(crate) what: T,
}

#[derive(Clone)]
struct CopyWeight;

impl<K: TierKey, T> Weighter<K, Copied<T>> for CopyWeight {
    fn weight(&self, key: &K, copy: &Copied<T>) -> u64 {
        let key = u64::try_from(key.bytes()).unwrap_or(u64::MAX);
        u64::from(copy.bytes).saturating_add(key).saturating_add(OVERHEAD)
    }
}

/// The right to insert what is about to be read, unless it changes in the meantime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InsertTicket {
    stripe: usize,
    sequence: u64,
}

type Copies<K, T> = Cache<K, Copied<T>, CopyWeight, DefaultHashBuilder, DefaultLifecycle<K, Copied<T>>>;

pub(crate) struct Tier<K, T> {
    copies: Copies<K, T>,
    stripes: Vec<Mutex<u64>>,
    hasher: DefaultHashBuilder,
}

impl<K: TierKey, T: Clone> Tier<K, T> {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self::with_stripes(max_bytes, STRIPES)
    }

    pub(super) fn with_stripes(max_bytes: u64, stripes: usize) -> Self {
        let estimate = usize::try_from(max_bytes / 512).unwrap_or(usize::MAX).clamp(16, 100_000);
        // Each shard holds a part of the bytes, and a value must fit into one shard.
        let shards = (max_bytes / (4 << 20)).clamp(1, 64);
        let options = OptionsBuilder::new()
            .shards(1usize << shards.ilog2())
            .weight_capacity(max_bytes)
            .estimated_items_capacity(estimate)
            .build();
        let copies = match options {
            Ok(options) => {
                Cache::with_options(options, CopyWeight, DefaultHashBuilder::default(), Default::default())
            }
            // Reached only if one of the options above is removed.
            Err(_) => Cache::with_weighter(estimate, max_bytes, CopyWeight),
        };
        let stripes = (0..stripes).map(|_| Mutex::new(0)).collect();
        Self { copies, stripes, hasher: DefaultHashBuilder::default() }
    }

    #[inline]
    pub(crate) fn find<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Copied<T>> {
        self.copies.get(key)
    }

    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<T> {
        self.find(key).map(|copy| copy.what)
    }

    /// Takes a ticket. Call it before sending the read whose answer is to be inserted.
    pub(crate) fn ticket<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> InsertTicket {
        let stripe = self.stripe(key);
        let sequence = self.stripes.get(stripe).map(|stripe| *stripe.lock()).unwrap_or_default();
        InsertTicket { stripe, sequence }
    }

    /// Keeps a copy unless its entry has changed since the ticket was taken. Returns whether it was kept.
    pub(crate) fn insert(&self, key: impl Into<K>, ticket: InsertTicket, copy: Copied<T>) -> bool {
        let Some(stripe) = self.stripes.get(ticket.stripe) else { return false };
        let sequence = stripe.lock();
        let unchanged = *sequence == ticket.sequence;
        if unchanged {
            self.copies.insert(key.into(), copy);
        }
        unchanged
    }

    /// Drops the copy of an entry that has changed.
    pub(crate) fn invalidate<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) {
        if let Some(stripe) = self.stripes.get(self.stripe(key)) {
            let mut sequence = stripe.lock();
            *sequence += 1;
            self.copies.remove(key);
        }
    }

    /// Drops all copies: any entry may have changed.
    pub(crate) fn invalidate_all(&self) {
        // Increment the numbers before clearing. An insert that has compared its number before finishes
        // before its stripe's lock is taken here, so `clear` removes its copy. An insert that comes later has
        // an old number and is refused.
        for stripe in &self.stripes {
            *stripe.lock() += 1;
        }
        self.copies.clear();
    }

    /// Returns the keys of all copies.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.copies.iter().map(|(key, _)| key)
    }

    /// Returns how many copies there are, and their weight.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.copies.len(), self.copies.weight())
    }

    fn stripe<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.hasher.hash_one(key);
        let stripes = u64::try_from(self.stripes.len()).unwrap_or(1).max(1);
        usize::try_from(hash % stripes).unwrap_or(0)
    }
}

impl<T: Clone + Send + Sync> AnyTier for Tier<EntryKey, T> {
    fn invalidate(&self, key: EntryKeyRef<'_>) {
        Tier::invalidate(self, &key);
    }

    fn invalidate_all(&self) {
        Tier::invalidate_all(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(what: u32) -> Copied<u32> {
        Copied { what, bytes: 100 }
    }

    #[test]
    fn what_changed_between_the_question_and_the_answer_is_not_kept() {
        let tier = Tier::<Box<str>, u32>::new(1 << 20);
        let ticket = tier.ticket("a");
        assert!(tier.insert("a", ticket, copy(1)));
        assert_eq!(tier.get("a"), Some(1));

        let ticket = tier.ticket("a");
        tier.invalidate("a");
        assert_eq!(tier.get("a"), None);
        assert!(!tier.insert("a", ticket, copy(1)));
        assert_eq!(tier.get("a"), None);

        let ticket = tier.ticket("a");
        tier.invalidate_all();
        assert!(!tier.insert("a", ticket, copy(1)));
    }

    #[test]
    fn the_bound_in_bytes_holds() {
        let tier = Tier::<Box<str>, u32>::new(1 << 20);
        for i in 0..10_000u32 {
            let name = i.to_string();
            let ticket = tier.ticket(name.as_str());
            tier.insert(name, ticket, Copied { what: i, bytes: 1000 });
        }
        let (count, weight) = tier.size();
        assert!(weight <= 1 << 20 && count > 500, "{count} {weight}");
    }
}
