//! Near hits, and their baseline: a bare `quick_cache` under the same names.

use std::fmt::Write;
use std::hint::black_box;
use std::io;
use std::sync::Arc;

use arrayvec::ArrayString;
use larder::{Cache, Larder, LoadError, Near};

use crate::allocations::{self, Allocations};
use crate::item::Item;
use crate::lane::{Lane, Outcome};
use crate::ours::TTL;
use crate::rounds::Flavour;
use crate::zipf::{Draws, Walk};

/// The argument of the hidden subcommand `spin` that runs near hits.
pub(crate) const SPIN: &str = "near";
/// The number of keys does not change the instructions of a hit, and filling under valgrind takes long.
const SPUN_KEYS: u64 = 100;
/// Enough for all keys.
const ROOM: u64 = 64 << 20;

/// A cache with all its keys near, and one with text keys.
#[derive(Clone)]
pub(crate) struct NearCache {
    larder: Larder,
    pub(crate) cache: Cache<Arc<Item>>,
    by_text: Cache<Arc<Item>>,
    /// The keys of the second cache.
    texts: Arc<[String]>,
    /// Reads that the server answered while the copies were made.
    filling: u64,
}

impl NearCache {
    pub(crate) async fn filled(url: &str, keys: u64) -> Outcome<Self> {
        let larder = Larder::connect(url).await?;
        let near = Near::bytes(ROOM).max_age(TTL);
        let cache = larder.cache("near").ttl(TTL).near(near).build()?;
        let by_text = larder.cache("text").ttl(TTL).near(near).build()?;
        let items: Vec<Arc<Item>> = (0..keys).map(|id| Arc::new(Item::new(id))).collect();
        let ids: Vec<u64> = (0..keys).collect();
        let texts: Arc<[String]> = ids.iter().map(|id| format!("item-{id}")).collect();
        for ((ids, texts), items) in ids.chunks(500).zip(texts.chunks(500)).zip(items.chunks(500)) {
            cache.set_many(ids.iter().zip(items)).await?;
            by_text.set_many(texts.iter().zip(items)).await?;
            cache.get_many(ids).await?;
            by_text.get_many(texts).await?;
        }
        let (asked, _) = Self::counts(&larder);
        Ok(Self { larder, cache, by_text, texts, filling: asked })
    }

    /// Returns how many reads the server answered, and how many were near.
    fn counts(larder: &Larder) -> (u64, u64) {
        let caches = larder.stats().caches;
        let near: u64 = caches.values().map(|stats| stats.near_hits).sum();
        (caches.values().map(|stats| stats.hits).sum::<u64>() - near, near)
    }

    /// Asserts that all later reads were near, except for one in a thousand: a process that was not scheduled for two
    /// seconds asks the server again, as it must.
    fn check(&self) -> Outcome<()> {
        let (asked, near) = Self::counts(&self.larder);
        let asked = asked - self.filling;
        if asked * 1000 > near + 1000 {
            return Err(format!("{asked} reads were not near, {near} were").into());
        }
        Ok(())
    }

    async fn hits_of_get(&self, ids: Walk) -> Outcome<()> {
        for id in ids {
            black_box(self.cache.get(id).await?.ok_or("a near copy is gone")?);
        }
        Ok(())
    }

    async fn hits_by_text(&self, ids: Walk) -> Outcome<()> {
        for id in ids {
            let text = self.texts.get(usize::try_from(id)?).ok_or("no such key")?;
            black_box(self.by_text.get(text.as_str()).await?.ok_or("a near copy is gone")?);
        }
        Ok(())
    }

    async fn hits_of_get_or_load(&self, ids: Walk) -> Outcome<()> {
        for id in ids {
            let gone = || async { Err(io::Error::other("a near copy is gone")) };
            black_box(self.cache.get_or_load(id, gone).await?);
        }
        Ok(())
    }

    #[larder::cached(cache = self.cache, key = id)]
    async fn item(&self, id: u64) -> Result<Arc<Item>, LoadError<io::Error>> {
        Err(io::Error::other("a near copy is gone"))
    }

    async fn hits_of_cached(&self, ids: Walk) -> Outcome<()> {
        for id in ids {
            black_box(self.item(id).await?);
        }
        Ok(())
    }

    pub(crate) fn get_lane(&self, name: &'static str, draws: &Draws, tasks: u64) -> Lane {
        let (near, draws) = (self.clone(), draws.clone());
        Lane::new(name, tasks, move |ids| {
            let (near, walk) = (near.clone(), draws.walk(&ids));
            Box::pin(async move {
                near.hits_of_get(walk).await?;
                near.check()
            })
        })
        .computing()
    }

    pub(crate) fn text_lane(&self, name: &'static str, draws: &Draws, tasks: u64) -> Lane {
        let (near, draws) = (self.clone(), draws.clone());
        Lane::new(name, tasks, move |ids| {
            let (near, walk) = (near.clone(), draws.walk(&ids));
            Box::pin(async move {
                near.hits_by_text(walk).await?;
                near.check()
            })
        })
        .computing()
    }

    pub(crate) fn get_or_load_lane(&self, name: &'static str, draws: &Draws, tasks: u64) -> Lane {
        let (near, draws) = (self.clone(), draws.clone());
        Lane::new(name, tasks, move |ids| {
            let (near, walk) = (near.clone(), draws.walk(&ids));
            Box::pin(async move {
                near.hits_of_get_or_load(walk).await?;
                near.check()
            })
        })
        .computing()
    }
}

/// `quick_cache` alone: the least that any near tier built on it can cost.
#[derive(Clone)]
pub(crate) struct BareNear {
    copies: Arc<quick_cache::sync::Cache<String, Arc<Item>>>,
    names: Arc<[String]>,
}

impl BareNear {
    pub(crate) fn filled(keys: u64) -> Outcome<Self> {
        let copies = quick_cache::sync::Cache::new(2 * usize::try_from(keys)?);
        let names: Arc<[String]> = (0..keys).map(|id| format!("near:{id}")).collect();
        for (id, name) in (0..).zip(names.iter()) {
            copies.insert(name.clone(), Arc::new(Item::new(id)));
        }
        Ok(Self { copies: Arc::new(copies), names })
    }

    #[inline]
    fn get(&self, id: u64) -> Option<Arc<Item>> {
        self.copies.get(self.names.get(usize::try_from(id).ok()?)?)
    }

    /// With names built beforehand: a `get` and nothing else.
    pub(crate) fn lane(&self, name: &'static str, draws: &Draws, tasks: u64) -> Lane {
        let (bare, draws) = (self.clone(), draws.clone());
        Lane::new(name, tasks, move |ids| {
            let (bare, walk) = (bare.clone(), draws.walk(&ids));
            Box::pin(async move {
                for id in walk {
                    black_box(bare.get(id).ok_or("a copy is gone")?);
                }
                Ok(())
            })
        })
        .computing()
    }

    /// With a name built for each hit, without an allocation.
    pub(crate) fn naming_lane(&self, name: &'static str, draws: &Draws, tasks: u64) -> Lane {
        let (bare, draws) = (self.clone(), draws.clone());
        Lane::new(name, tasks, move |ids| {
            let (bare, walk) = (bare.clone(), draws.walk(&ids));
            Box::pin(async move {
                for id in walk {
                    black_box(bare.copies.get(named(id).as_str()).ok_or("a copy is gone")?);
                }
                Ok(())
            })
        })
        .computing()
    }
}

/// A name on the stack, as short as an entry's.
#[inline]
pub(crate) fn named(id: u64) -> ArrayString<71> {
    let mut name = ArrayString::new();
    // Long enough for any id.
    let _ = write!(name, "near:{id}");
    name
}

/// The kinds of hits that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    Bare,
    Get,
    Text,
    GetOrLoad,
    /// Through `#[larder::cached]`.
    Cached,
}

impl Hit {
    pub(crate) const ALL: [Self; 5] = [Self::Bare, Self::Get, Self::Text, Self::GetOrLoad, Self::Cached];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Get => "get",
            Self::Text => "text",
            Self::GetOrLoad => "get_or_load",
            Self::Cached => "cached",
        }
    }

    /// Calls `measured` around `times` hits, by one task on one thread.
    fn run<T>(
        self,
        url: &str,
        times: u64,
        measured: impl FnOnce(&mut dyn FnMut() -> Outcome<()>) -> Outcome<T>,
    ) -> Outcome<T> {
        let draws = Draws::of(SPUN_KEYS);
        let runtime = Flavour::CurrentThread.build()?;
        if self == Self::Bare {
            let bare = BareNear::filled(SPUN_KEYS)?;
            return measured(&mut || {
                runtime.block_on(async {
                    for id in draws.from(0, times) {
                        black_box(bare.get(id).ok_or("a copy is gone")?);
                    }
                    Ok(())
                })
            });
        }
        let near = runtime.block_on(NearCache::filled(url, SPUN_KEYS))?;
        measured(&mut || {
            let walk = draws.from(0, times);
            match self {
                Self::Text => runtime.block_on(near.hits_by_text(walk)),
                Self::GetOrLoad => runtime.block_on(near.hits_of_get_or_load(walk)),
                Self::Cached => runtime.block_on(near.hits_of_cached(walk)),
                _ => runtime.block_on(near.hits_of_get(walk)),
            }
        })
    }

    pub(crate) fn allocations(self, url: &str, times: u64) -> Outcome<Allocations> {
        self.run(url, times, |work| {
            work()?;
            allocations::start();
            let done = work();
            let taken = allocations::stop();
            done.map(|()| taken)
        })
    }
}

/// Bytes of the future of each call before it is polled: what is moved around.
pub(crate) fn sizes() -> Outcome<[usize; 4]> {
    Flavour::CurrentThread.build()?.block_on(async {
        let near = NearCache::filled("memory:", 1).await?;
        let gone = || async { Err(io::Error::other("a near copy is gone")) };
        let (get, load) = (near.cache.get(0u64), near.cache.get_or_load(0u64, gone));
        let text = size_of_val(&near.cache.get("0"));
        Ok([size_of_val(&get), text, size_of_val(&load), size_of_val(&near.item(0))])
    })
}

/// What `spin near` runs under valgrind.
pub(crate) fn spin(which: &str, url: &str, times: u64) -> Outcome<()> {
    let hit = Hit::ALL.into_iter().find(|hit| hit.name() == which).ok_or("no such hit")?;
    hit.run(url, times, |work| work())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The other tests of this program may allocate meanwhile, so some attempts count more than the hits' own.
    #[test]
    fn a_near_hit_allocates_nothing() {
        for hit in Hit::ALL {
            let started = Instant::now();
            loop {
                let taken = hit.allocations("memory:", 1000).unwrap();
                if taken.count == 0 {
                    break;
                }
                assert!(started.elapsed() < Duration::from_secs(20), "{} allocates", hit.name());
            }
        }
    }
}
