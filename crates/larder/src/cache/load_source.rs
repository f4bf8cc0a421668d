//! The key and the loader of a load, as one type.

use super::loader::Loader;
use crate::key::CacheKey;

/// The key and the loader of a [`Load`](super::Load). Sealed: [`Cache::get_or_load`](super::Cache::get_or_load) and the
/// methods beside it make it.
pub trait LoadSource<V>: sealed::Source<V> {}

mod sealed {
    use super::{CacheKey, Loader};

    pub trait Source<V> {
        type Key: CacheKey;

        fn key(&self) -> &Self::Key;

        fn into_loader(self) -> Loader<V>;
    }
}

/// A key, and a function that makes the loader: a hit never calls it.
pub(super) struct KeyAndLoader<K, S> {
    pub(super) key: K,
    pub(super) start: S,
}

impl<V, K: CacheKey, S: FnOnce() -> Loader<V> + Send> sealed::Source<V> for KeyAndLoader<K, S> {
    type Key = K;

    fn key(&self) -> &K {
        &self.key
    }

    fn into_loader(self) -> Loader<V> {
        (self.start)()
    }
}

impl<V, K: CacheKey, S: FnOnce() -> Loader<V> + Send> LoadSource<V> for KeyAndLoader<K, S> {}
