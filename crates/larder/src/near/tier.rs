//! Copies by name, and the one race that matters: a copy is inserted after its name has changed.
//!
//! Between a read's request and the moment its caller inserts the answer, the change may be told and find nothing to drop.
//! So a reader takes a [`InsertTicket`] before it asks, and inserts with it: every change moves the sequence number of the
//! name's stripe, and a ticket of another number is refused. Checking the number and inserting, and moving it and
//! removing, each happen under the stripe's lock. Names that share a stripe now and then refuse each other's inserts,
//! which costs one more read and nothing else; so a stripe needs no list of readers.
//!
//! Invariant: what [`Tier::find`] returns was read after the last change of its name that was told.
//! Expiry and trust are not looked at here.

use std::hash::BuildHasher;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::sync::{Mutex, MutexGuard, PoisonError};

const STRIPES: usize = 1024;

/// What a copy takes beside its name and value.
const OVERHEAD: u64 = 128;

/// A copy and what it weighs.
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

/// The right to insert what is about to be read, unless it changes meanwhile.
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
        // Each shard holds a part of the bytes: a value must fit one.
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
            // Only reached if an option above were left out.
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

    /// To be taken before the read that is to be inserted is sent.
    pub(crate) fn ticket(&self, name: &str) -> InsertTicket {
        let stripe = self.stripe(name);
        let sequence = self.stripes.get(stripe).map(|stripe| *lock(stripe)).unwrap_or_default();
        InsertTicket { stripe, sequence }
    }

    /// Keeps a copy, unless its name changed since the ticket was taken; whether it does.
    pub(crate) fn insert(&self, name: &str, ticket: InsertTicket, copy: Copied<T>) -> bool {
        let Some(stripe) = self.stripes.get(ticket.stripe) else { return false };
        let sequence = lock(stripe);
        let unchanged = *sequence == ticket.sequence;
        if unchanged {
            self.copies.insert(name.into(), copy);
        }
        unchanged
    }

    /// The name has changed.
    pub(crate) fn invalidate(&self, name: &str) {
        if let Some(stripe) = self.stripes.get(self.stripe(name)) {
            let mut sequence = lock(stripe);
            *sequence += 1;
            self.copies.remove(name);
        }
    }

    /// Any name may have changed.
    pub(crate) fn invalidate_all(&self) {
        // The numbers first: an insert that has looked at its number already is done before its stripe's turn.
        for stripe in &self.stripes {
            *lock(stripe) += 1;
        }
        self.copies.clear();
    }

    /// The names of all copies.
    pub(crate) fn names(&self) -> impl Iterator<Item = Box<str>> {
        self.copies.iter().map(|(name, _)| name)
    }

    /// How many copies there are, and what they weigh.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.copies.len(), self.copies.weight())
    }

    fn stripe(&self, name: &str) -> usize {
        let hash = self.hasher.hash_one(name);
        let stripes = u64::try_from(self.stripes.len()).unwrap_or(1).max(1);
        usize::try_from(hash % stripes).unwrap_or(0)
    }
}

fn lock(stripe: &Mutex<u64>) -> MutexGuard<'_, u64> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
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
