//! `rustis` with its feature `client-cache`: moka keeps the replies, and the server's tracking drops them.
//!
//! It keeps bytes, so a typed value is decoded on each hit. It has no loader: a caller that misses loads and sets.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustis::cache::Cache;
use rustis::client::Client;
use rustis::commands::{ClientTrackingOptions, SetCondition, SetExpiration, StringCommands};
use rustis::resp::BulkString;

use super::near::{NearCache, load};
use crate::item::Item;
use crate::lane::Outcome;
use crate::ours::TTL;

#[derive(Clone)]
pub(super) struct Rustis {
    cache: Arc<Cache>,
    client: Client,
}

impl Rustis {
    pub(super) async fn bytes(&self, id: u64) -> Outcome<Option<BulkString>> {
        self.cache.get(format!("rustis:{id}")).await.map_err(Into::into)
    }
}

impl NearCache for Rustis {
    const NAME: &'static str = "rustis, client-cache";
    const TELLING: char = 't';

    async fn connect(url: &str) -> Outcome<Self> {
        let client = Client::connect(url).await?;
        let cache = Cache::new(client.clone(), TTL.as_secs(), ClientTrackingOptions::default()).await?;
        Ok(Self { cache, client })
    }

    async fn get(&self, id: u64) -> Outcome<Option<Item>> {
        let json = self.bytes(id).await?;
        json.map(|json| serde_json::from_slice(json.as_bytes())).transpose().map_err(Into::into)
    }

    async fn set(&self, id: u64, item: &Item) -> Outcome<()> {
        let json = BulkString::from(serde_json::to_vec(item)?);
        let expiry = SetExpiration::Px(TTL.as_secs() * 1000);
        self.client.set_with_options(format!("rustis:{id}"), json, None::<SetCondition<'_>>, expiry).await?;
        Ok(())
    }

    async fn get_or_load(&self, id: u64, loads: &'static AtomicU64) -> Outcome<Item> {
        if let Some(item) = self.get(id).await? {
            return Ok(item);
        }
        let item = load(id, loads).await;
        self.set(id, &item).await?;
        Ok(item)
    }
}
