//! A small tier with the same protocol, which can leave out a part of it.

use std::collections::HashMap;
use std::sync::PoisonError;

use shuttle::sync::{Mutex, MutexGuard};

use super::Copies;

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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copies for Mistaken {
    type Ticket = u64;

    fn get(&self, name: &str) -> Option<u64> {
        lock(&self.copies).get(name).copied()
    }

    fn ticket(&self, _name: &str) -> u64 {
        *lock(&self.sequence)
    }

    fn insert(&self, name: &str, ticket: u64, value: u64) {
        let sequence = lock(&self.sequence);
        if *sequence != ticket && self.mistake != Mistake::Unchecked {
            return;
        }
        let guard = (self.mistake != Mistake::Unguarded).then_some(sequence);
        lock(&self.copies).insert(name.to_owned(), value);
        drop(guard);
    }

    fn invalidate(&self, name: &str) {
        if self.mistake == Mistake::RemovesFirst {
            lock(&self.copies).remove(name);
            *lock(&self.sequence) += 1;
            return;
        }
        let mut sequence = lock(&self.sequence);
        *sequence += 1;
        lock(&self.copies).remove(name);
    }

    fn invalidate_all(&self) {
        if self.mistake == Mistake::ClearsFirst {
            lock(&self.copies).clear();
            *lock(&self.sequence) += 1;
            return;
        }
        *lock(&self.sequence) += 1;
        lock(&self.copies).clear();
    }
}
