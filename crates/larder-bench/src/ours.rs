//! larder with its defaults.

use std::time::Duration;

use larder::{Cache, Larder};

#[cfg(feature = "rivals")]
pub(crate) use near::OursNear;

use crate::item::Item;
use crate::lane::{Complete, Contender, Outcome};

/// The time to live of every value of every contender.
pub(crate) const TTL: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub(crate) struct Ours {
    cache: Cache<Item>,
}

impl Ours {
    pub(crate) async fn connect(url: &str) -> Outcome<Self> {
        Ok(Self { cache: Larder::connect(url).await?.cache("ours").ttl(TTL).build()? })
    }

    #[cfg(feature = "rivals")]
    pub(crate) async fn with_message_pack(url: &str) -> Outcome<Self> {
        let larder = Larder::connect(url).await?;
        Ok(Self { cache: larder.cache("pack").ttl(TTL).format(larder::Format::MessagePack).build()? })
    }
}

impl Contender for Ours {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        self.cache.get(id).await.map_err(Into::into)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        self.cache.set(id, item).await.map_err(Into::into)
    }
}

impl Complete for Ours {
    async fn exists(&mut self, id: u64) -> Outcome<bool> {
        self.cache.exists(id).await.map_err(Into::into)
    }

    async fn delete(&mut self, id: u64) -> Outcome<bool> {
        self.cache.delete(id).await.map_err(Into::into)
    }

    async fn get_many(&mut self, ids: impl Iterator<Item = u64> + Send) -> Outcome<Vec<Option<Item>>> {
        self.cache.get_many(ids).await.map_err(Into::into)
    }
}

#[cfg(feature = "rivals")]
mod near {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use larder::{Cache, Larder, Near};

    use super::TTL;
    use crate::item::Item;
    use crate::lane::Outcome;
    use crate::rivals::near::{NearCache, load};

    /// larder with its near tier.
    #[derive(Clone)]
    pub(crate) struct OursNear {
        cache: Cache<Arc<Item>>,
    }

    impl NearCache for OursNear {
        const NAME: &'static str = "larder";
        const TELLING: char = 't';

        async fn connect(url: &str) -> Outcome<Self> {
            let larder = Larder::connect(url).await?;
            Ok(Self { cache: larder.cache("near").ttl(TTL).near(Near::bytes(64 << 20)).build()? })
        }

        async fn get(&self, id: u64) -> Outcome<Option<Item>> {
            Ok(self.cache.get(id).await?.map(|item| Item::clone(&item)))
        }

        async fn set(&self, id: u64, item: &Item) -> Outcome<()> {
            self.cache.set(id, &Arc::new(item.clone())).await.map_err(Into::into)
        }

        async fn get_or_load(&self, id: u64, loads: &'static AtomicU64) -> Outcome<Item> {
            let load = move || async move { Ok::<_, io::Error>(Arc::new(load(id, loads).await)) };
            Ok(self.cache.get_or_load(id, load).await.map(|item| Item::clone(&item))?)
        }
    }
}
