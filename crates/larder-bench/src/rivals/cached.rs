//! `cached`'s asynchronous Redis store.
//!
//! It encodes with MessagePack, without names of fields; no other codec can be chosen. Its usual `async_set` also
//! reads the value that it replaces; `async_cache_set_ref` does not, so that is what is measured.

use std::sync::Arc;

use cached::{AsyncRedisCache, ConcurrentCachedAsync, SerializeCachedAsync};

use crate::item::Item;
use crate::lane::{Contender, Outcome};
use crate::ours::TTL;

#[derive(Clone)]
pub(crate) struct Cached {
    cache: Arc<AsyncRedisCache<u64, Item>>,
}

impl Cached {
    pub(crate) async fn connect(url: &str) -> Outcome<Self> {
        let cache = AsyncRedisCache::builder("item").connection_string(url).ttl(TTL).build().await?;
        Ok(Self { cache: Arc::new(cache) })
    }
}

impl Contender for Cached {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        self.cache.async_cache_get(&id).await.map_err(Into::into)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        self.cache.async_cache_set_ref(&id, item).await.map_err(Into::into)
    }
}
