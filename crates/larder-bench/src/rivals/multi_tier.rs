//! `multi-tier-cache`, in the two ways in which its Redis side can be used.
//!
//! Usually a moka cache stands before Redis, and a hit there never leaves the process; larder's near cache is to be
//! compared with that. Here a hit is one that reaches the server: its cache manager with Redis as the only tier (where
//! a `get` asks for the remaining time to live as well), and its Redis backend without the manager, with serde_json.

use std::sync::Arc;

use bytes::Bytes;
use multi_tier_cache::{
    CacheBackend, CacheManager, CacheStrategy, CacheSystemBuilder, RedisCache, TierConfig,
};

use crate::item::Item;
use crate::lane::{Contender, Outcome};
use crate::ours::TTL;

#[derive(Clone)]
pub(crate) struct MultiTier {
    manager: Arc<CacheManager>,
}

impl MultiTier {
    pub(crate) async fn connect(url: &str) -> Outcome<Self> {
        let redis = Arc::new(RedisCache::with_url(url).await?);
        let system = CacheSystemBuilder::new().with_tier(redis, TierConfig::as_l2()).build().await?;
        Ok(Self { manager: system.cache_manager().clone() })
    }
}

impl Contender for MultiTier {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        self.manager.get_typed(&format!("many:{id}")).await.map_err(Into::into)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        let json = Bytes::from(serde_json::to_vec(item)?);
        let name = format!("many:{id}");
        self.manager.set_with_strategy(&name, json, CacheStrategy::Custom(TTL)).await.map_err(Into::into)
    }
}

#[derive(Clone)]
pub(crate) struct RedisTier {
    redis: Arc<RedisCache>,
}

impl RedisTier {
    pub(crate) async fn connect(url: &str) -> Outcome<Self> {
        Ok(Self { redis: Arc::new(RedisCache::with_url(url).await?) })
    }
}

impl Contender for RedisTier {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        let json = self.redis.get(&format!("tier:{id}")).await;
        json.map(|json| serde_json::from_slice(&json)).transpose().map_err(Into::into)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        let json = Bytes::from(serde_json::to_vec(item)?);
        self.redis.set_with_ttl(&format!("tier:{id}"), json, TTL).await.map_err(Into::into)
    }
}
