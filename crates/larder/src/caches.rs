//! The caches of a `Larder`, by name, whatever the type of their values.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::stats::CacheStats;
use crate::store::session::ReadStamp;

/// The state that all handles of one cache name share, without the type of its values.
pub(crate) trait AnyCache: Any + Send + Sync {
    fn stats(&self) -> CacheStats;

    /// Returns the name of the version that clears it.
    fn clear_version(&self) -> &str;

    /// Returns the near copy of an entry, if there is one.
    fn near_copy(&self, entry: &str) -> Option<NearState>;

    /// Detaches the loads whose value would carry the tag, so that later callers start new ones.
    fn detach_tagged(&self, tag: &str);
}

/// The facts about a near copy, without its value.
#[derive(Debug, Clone)]
pub(crate) struct NearState {
    /// Nanoseconds of the monotonic clock.
    pub(crate) until: u64,
    pub(crate) stamp: ReadStamp,
    pub(crate) clear_stamp: ReadStamp,
    pub(crate) tags: Vec<TagVersion>,
}

/// The state of each cache that was built.
#[derive(Default)]
pub(crate) struct Caches(Mutex<HashMap<String, Arc<dyn AnyCache>>>);

impl Caches {
    /// Returns the state that all handles of this cache share, and makes it on first use. Fails if it was made for
    /// another type of value.
    pub(crate) fn shared<T: AnyCache>(&self, name: &str, make: impl FnOnce() -> T) -> Result<Arc<T>> {
        let shared = self.table().entry(name.to_owned()).or_insert_with(|| Arc::new(make())).clone();
        let any: Arc<dyn Any + Send + Sync> = shared;
        any.downcast().map_err(|_| {
            Error::invalid(format!("the cache {name:?} was built on this Larder with another type of value"))
        })
    }

    /// Returns the names of the clear versions of all caches. Called while the queue of invalidations is locked, and
    /// locks the table of caches; no code locks the two in the opposite order.
    pub(crate) fn clear_versions(&self) -> Vec<String> {
        self.table().values().map(|cache| cache.clear_version().to_owned()).collect()
    }

    /// Returns the near copy of an entry of any cache.
    pub(crate) fn near_copy(&self, entry: &str) -> Option<NearState> {
        self.table().values().find_map(|cache| cache.near_copy(entry))
    }

    /// Detaches the loads that would carry a tag which was invalidated: what they have read may be older.
    pub(crate) fn detach_tagged(&self, tag: &str) {
        self.table().values().for_each(|cache| cache.detach_tagged(tag));
    }

    pub(crate) fn stats(&self) -> BTreeMap<String, CacheStats> {
        self.table().iter().map(|(name, cache)| (name.clone(), cache.stats())).collect()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<dyn AnyCache>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
