//! `multi-tier-cache`, in the ways in which it can be used.
//!
//! Usually it has a moka cache in front of Redis, and a hit there never leaves the process: that is `TwoTiers`,
//! compared with larder's near cache. In the other ways a hit reaches the server: its cache manager with Redis as the
//! only tier (a `get` also asks for the remaining time to live), and its Redis backend without the manager, with
//! serde_json.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use multi_tier_cache::{
    CacheBackend, CacheManager, CacheStrategy, CacheSystemBuilder, InvalidationConfig, L1Cache,
    MokaCacheConfig, RedisCache, TierConfig,
};

use super::near::{NearCache, load};
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

/// As it is meant to be used: moka in front of Redis, and writes published on a channel.
#[derive(Clone)]
pub(super) struct TwoTiers {
    manager: Arc<CacheManager>,
}

impl TwoTiers {
    pub(super) async fn bytes(&self, id: u64) -> Outcome<Option<Bytes>> {
        self.manager.get(&format!("tiers:{id}")).await.map_err(Into::into)
    }
}

impl NearCache for TwoTiers {
    const NAME: &'static str = "multi-tier-cache";
    const TELLING: char = 'P';

    async fn connect(url: &str) -> Outcome<Self> {
        let moka = Arc::new(L1Cache::new(MokaCacheConfig::default())?);
        let redis = Arc::new(RedisCache::with_url(url).await?);
        let told = InvalidationConfig::default();
        let manager = CacheManager::new_with_invalidation(moka, redis, url, told).await?;
        // It subscribes in a task of its own, and does not report when it has.
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Self { manager: Arc::new(manager) })
    }

    async fn get(&self, id: u64) -> Outcome<Option<Item>> {
        self.manager.get_typed(&format!("tiers:{id}")).await.map_err(Into::into)
    }

    async fn set(&self, id: u64, item: &Item) -> Outcome<()> {
        let json = Bytes::from(serde_json::to_vec(item)?);
        let name = format!("tiers:{id}");
        self.manager.set_with_broadcast(&name, json, CacheStrategy::Custom(TTL)).await.map_err(Into::into)
    }

    async fn get_or_load(&self, id: u64, loads: &'static AtomicU64) -> Outcome<Item> {
        let name = format!("tiers:{id}");
        let strategy = CacheStrategy::Custom(TTL);
        let load = move || async move { Ok(load(id, loads).await) };
        self.manager.get_or_compute_typed(&name, strategy, load).await.map_err(Into::into)
    }
}
