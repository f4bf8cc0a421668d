//! Tables by name, each with its own mutex, so that work on one name rarely waits for work on another.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 32;

pub(super) struct Shards<T> {
    first: Mutex<T>,
    rest: Vec<Mutex<T>>,
    hasher: RandomState,
}

impl<T: Default> Default for Shards<T> {
    fn default() -> Self {
        let rest = std::iter::repeat_with(Mutex::default).take(SHARDS - 1).collect();
        Self { first: Mutex::default(), rest, hasher: RandomState::new() }
    }
}

impl<T> Shards<T> {
    /// Locks the table of `name`.
    pub(super) fn of(&self, name: &str) -> MutexGuard<'_, T> {
        let place = usize::try_from(self.hasher.hash_one(name) % (SHARDS as u64)).unwrap_or_default();
        self.rest.get(place).unwrap_or(&self.first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks each table in turn.
    #[cfg(any(test, feature = "admin"))]
    pub(super) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        let shards = self.rest.iter().chain([&self.first]);
        shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
