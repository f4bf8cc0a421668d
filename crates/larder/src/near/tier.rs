//! Copies by name, and the one race that matters: a copy that is inserted after its name has changed.
//!
//! Between a read's request and the insertion of its answer, a change may be reported and find no copy to
//! drop. So a reader takes an [`InsertTicket`] before it sends its request, and inserts with that ticket.
//! Every change increments the sequence number of its name's stripe, and a ticket with an older number is
//! refused. Both "compare the number and insert" and "increment the number and remove" run under the stripe's
//! lock. Names that share a stripe sometimes refuse each other's inserts. That costs one more read and
//! nothing else, so a stripe needs no list of readers.
//!
//! Invariant: a copy that [`Tier::find`] returns was read after the last reported change of its name. Expiry
//! and sessions are not checked here.

use std::hash::BuildHasher;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::sync::Mutex;

const STRIPES: usize = 1024;

/// What a copy costs in addition to its name and value, in bytes.
const OVERHEAD: u64 = 128;

/// A copy and its weight.
#[derive(Clone)]
pub(crate) struct Copied<T> {
    pub(crate) what: T,
    pub(crate) bytes: u32,
}

#[derive(Clone)]
struct CopyWeight;

impl<T> Weighter<Box<str>, Copied<T>> for CopyWeight {
    fn weight(&self, name: &Box<str>, copy: &Copied<T>) -> u64 {
        let name = u64::try_from(name.len()).unwrap_or(u64::MAX);
        u64::from(copy.bytes).saturating_add(name).saturating_add(OVERHEAD)
    }
}

/// The right to insert what is about to be read, unless it changes in the meantime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InsertTicket {
    stripe: usize,
    sequence: u64,
}

type Copies<T> =
    Cache<Box<str>, Copied<T>, CopyWeight, DefaultHashBuilder, DefaultLifecycle<Box<str>, Copied<T>>>;

pub(crate) struct Tier<T> {
    copies: Copies<T>,
    stripes: Vec<Mutex<u64>>,
    hasher: DefaultHashBuilder,
}

impl<T: Clone> Tier<T> {
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
    pub(crate) fn find(&self, name: &str) -> Option<Copied<T>> {
        self.copies.get(name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<T> {
        self.find(name).map(|copy| copy.what)
    }

    /// Takes a ticket. Call it before sending the read whose answer is to be inserted.
    pub(crate) fn ticket(&self, name: &str) -> InsertTicket {
        let stripe = self.stripe(name);
        let sequence = self.stripes.get(stripe).map(|stripe| *stripe.lock()).unwrap_or_default();
        InsertTicket { stripe, sequence }
    }

    /// Keeps a copy unless its name has changed since the ticket was taken. Returns whether it was kept.
    pub(crate) fn insert(&self, name: &str, ticket: InsertTicket, copy: Copied<T>) -> bool {
        let Some(stripe) = self.stripes.get(ticket.stripe) else { return false };
        let sequence = stripe.lock();
        let unchanged = *sequence == ticket.sequence;
        if unchanged {
            self.copies.insert(name.into(), copy);
        }
        unchanged
    }

    /// Drops the copy of a name that has changed.
    pub(crate) fn invalidate(&self, name: &str) {
        if let Some(stripe) = self.stripes.get(self.stripe(name)) {
            let mut sequence = stripe.lock();
            *sequence += 1;
            self.copies.remove(name);
        }
    }

    /// Drops all copies: any name may have changed.
    pub(crate) fn invalidate_all(&self) {
        // Increment the numbers before clearing. An insert that has compared its number before finishes
        // before its stripe's lock is taken here, so `clear` removes its copy. An insert that comes later has
        // an old number and is refused.
        for stripe in &self.stripes {
            *stripe.lock() += 1;
        }
        self.copies.clear();
    }

    /// Returns the names of all copies.
    pub(crate) fn names(&self) -> impl Iterator<Item = Box<str>> {
        self.copies.iter().map(|(name, _)| name)
    }

    /// Returns how many copies there are, and their weight.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.copies.len(), self.copies.weight())
    }

    fn stripe(&self, name: &str) -> usize {
        let hash = self.hasher.hash_one(name);
        let stripes = u64::try_from(self.stripes.len()).unwrap_or(1).max(1);
        usize::try_from(hash % stripes).unwrap_or(0)
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
        let tier = Tier::new(1 << 20);
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
        let tier = Tier::new(1 << 20);
        for i in 0..10_000u32 {
            let name = i.to_string();
            let ticket = tier.ticket(&name);
            tier.insert(&name, ticket, Copied { what: i, bytes: 1000 });
        }
        let (count, weight) = tier.size();
        assert!(weight <= 1 << 20 && count > 500, "{count} {weight}");
    }
}
