//! A small tier with the same protocol, which can leave out a part of it.

use std::collections::HashMap;

use super::Copies;
use crate::sync::Mutex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// Inserts without comparing the ticket.
    Unchecked,
    /// Compares the ticket, and releases the lock before it inserts.
    Unguarded,
    /// Removes first and then increments the number, without one lock over both.
    RemovesFirst,
    /// The same when all copies are removed.
    ClearsFirst,
}

pub(super) struct Mistaken {
    mistake: Mistake,
    copies: Mutex<HashMap<String, u64>>,
    sequence: Mutex<u64>,
}

impl Mistaken {
    pub(super) fn new(mistake: Mistake) -> Self {
        Self { mistake, copies: Mutex::new(HashMap::new()), sequence: Mutex::new(0) }
    }
}

impl Copies for Mistaken {
    type Ticket = u64;

    fn get(&self, name: &str) -> Option<u64> {
        self.copies.lock().get(name).copied()
    }

    fn ticket(&self, _name: &str) -> u64 {
        *self.sequence.lock()
    }

    fn insert(&self, name: &str, ticket: u64, value: u64) {
        let sequence = self.sequence.lock();
        if *sequence != ticket && self.mistake != Mistake::Unchecked {
            return;
        }
        let guard = (self.mistake != Mistake::Unguarded).then_some(sequence);
        self.copies.lock().insert(name.to_owned(), value);
        drop(guard);
    }

    fn invalidate(&self, name: &str) {
        if self.mistake == Mistake::RemovesFirst {
            self.copies.lock().remove(name);
            *self.sequence.lock() += 1;
            return;
        }
        let mut sequence = self.sequence.lock();
        *sequence += 1;
        self.copies.lock().remove(name);
    }

    fn invalidate_all(&self) {
        if self.mistake == Mistake::ClearsFirst {
            self.copies.lock().clear();
            *self.sequence.lock() += 1;
            return;
        }
        *self.sequence.lock() += 1;
        self.copies.lock().clear();
    }
}
