//! Conditional writes: only if the key is absent, if the entry is still the one that was read, or if no newer fence
//! has written. The store decides and writes in one atomic step.
//!
//! A conditional write that was dropped midway, or whose reply was lost, leaves nothing stale: either it was made, or
//! the entry that it would have replaced is still valid. So, unlike `set`, it queues no deletion. A queued deletion
//! could remove the value of a caller that was first.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::lookup::{EntryVersion, Lookup};
use super::single::Set;
use super::wait::pause;
use super::{Cache, TagSnapshot};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::once::OnceStore;
use crate::store::{Expiry, Fencing, FillStart, Store};
use crate::value::Value;
use crate::write::OrQueue;

/// The shortest time that the highest fence is remembered.
const FENCE_REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How many times a write that found an invalid entry tries to replace it.
const MOST_ATTEMPTS: u32 = 16;

impl<V> Cache<V>
where
    V: Value,
{
    /// Stores a value if the key has none, and returns whether it did. Of all callers in all processes one is first.
    ///
    /// An entry that [`get`](Self::get) treats as absent (stale, invalidated, a load under way, a remembered absence)
    /// is replaced, and a load under way does not store over the new value.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let owners = larder.cache::<String>("owner").ttl(Duration::from_secs(60)).build()?;
    /// assert!(owners.set_if_absent("room-7", &"Ann".to_owned()).await?);
    /// assert!(!owners.set_if_absent("room-7", &"Bob".to_owned()).await?);
    /// assert_eq!(owners.get("room-7").await?.as_deref(), Some("Ann"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Costs one round trip, and one more for each such entry that it replaces. To protect work that others must not
    /// do at the same time, use a [lock](crate::Larder::lock): an entry can be evicted.
    ///
    /// # Errors
    ///
    /// Nothing is queued.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/write_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the cache is of `Format::Plain`.
    /// - [`Busy`](crate::ErrorKind::Busy): an invalidation of the key is queued, or other writers changed the key each
    ///   time. Retry.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have stored the value.
    pub fn set_if_absent<'a>(&'a self, key: impl CacheKey, value: &'a V) -> SetIf<'a, V> {
        SetIf { set: self.set(key, value), condition: Condition::Absent }
    }

    /// Stores a value under the fence of the lock that its writer holds. If a writer with a higher fence has written
    /// the key, returns `false` and changes nothing. So a holder that was paused until after its lock expired
    /// overwrites nothing.
    ///
    /// The highest fence is remembered for a day after the last such write, or for as long as the value if that is
    /// longer. Writes without a fence are not checked and do not change it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let totals = larder.cache::<u64>("total").ttl(Duration::from_secs(60)).build()?;
    /// let first = larder.lock("totals").acquire().await?;
    /// let old = first.fence();
    /// first.release().await?;
    /// let second = larder.lock("totals").acquire().await?;
    /// assert!(totals.set_fenced("today", &2, second.fence()).await?);
    /// assert!(!totals.set_fenced("today", &1, old).await?, "the first holder is too late");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Costs one round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/write_errors.md")]
    ///
    /// If the server is away, the deletion of the key is queued, and the error's [`is_queued`](crate::Error::is_queued)
    /// is true.
    ///
    /// # Cancel safety
    ///
    /// The same as [`set`](Self::set).
    pub fn set_fenced<'a>(&'a self, key: impl CacheKey, value: &'a V, fence: Fence) -> SetIf<'a, V> {
        SetIf { set: self.set(key, value), condition: Condition::Fence(fence) }
    }

    /// Refuses a cache without envelopes, and a key whose deletion is queued.
    pub(super) fn check_decidable(&self, entry: &str) -> Result<()> {
        if !self.has_versions() {
            return Err(Error::invalid(
                "conditional writes compare envelopes, and entries of Format::Plain have none: choose another format",
            ));
        }
        if self.context.invalidation_queue.covers(entry, &self.shared.clear) {
            return Err(Error::new(
                ErrorKind::Busy,
                "a queued invalidation of this key would remove what is written now: retry later",
            ));
        }
        Ok(())
    }

    async fn put_if_absent(&self, entry: &Name, bytes: Bytes, expiry: Expiry) -> Result<bool> {
        let store = self.context.store()?;
        let mut in_place_of = None;
        for attempt in 1..=MOST_ATTEMPTS {
            if attempt > 2 {
                tokio::time::sleep(pause(attempt, self.context.random.fraction())).await;
            }
            match store.set_if_absent(entry, bytes.clone(), expiry, in_place_of).await? {
                FillStart::Begun => return Ok(true),
                FillStart::Occupied(there) => {
                    if let Lookup::Fresh(_) = Box::pin(self.classify(entry, there.clone())).await? {
                        return Ok(false);
                    }
                    in_place_of = Some(there);
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "the key changed each time this write tried to replace it; retry"))
    }
}

/// The condition under which a value is stored.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Absent,
    Version(EntryVersion),
    Fence(Fence),
}

/// A value to store under a condition; awaiting it tries, and returns whether it was stored. Made by
/// [`Cache::set_if_absent`], [`Cache::set_fenced`] and [`Set::if_version`].
///
/// This type is not a future itself: pass `into_future()` to `join_all` or `Box::pin`.
#[must_use = "nothing is stored before this is awaited"]
pub struct SetIf<'a, V> {
    set: Set<'a, V>,
    condition: Condition,
}

impl<'a, V> Set<'a, V> {
    /// Stores the value only if the entry is still the one that was read with this version (compare-and-set), and
    /// returns whether it was. It returns `false` if the key was written, deleted, expired, evicted or cleared in
    /// between.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let carts = larder.cache::<Vec<String>>("cart").ttl(Duration::from_secs(3600)).build()?;
    /// carts.set("ann", &vec![]).await?;
    /// loop {
    ///     let entry = carts.get_entry("ann").await?.expect("set above");
    ///     let mut cart = entry.value().clone();
    ///     cart.push("tea".to_owned());
    ///     let version = entry.version().expect("an entry from the server has one");
    ///     if carts.set("ann", &cart).if_version(version).await? {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The tags are those of this call, as in any `set`, and the time to live begins again. Costs one round trip.
    ///
    /// # Errors
    ///
    /// Nothing is queued.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/write_errors.md")]
    /// - [`Busy`](crate::ErrorKind::Busy): an invalidation of the key is queued, or other writers changed the key each
    ///   time. Retry.
    pub fn if_version(self, version: EntryVersion) -> SetIf<'a, V> {
        SetIf { set: self, condition: Condition::Version(version) }
    }
}

impl<V> SetIf<'_, V> {
    /// Keeps this value for `ttl`, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.set = self.set.ttl(ttl);
        self
    }

    /// Keeps this value until it is deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.set = self.set.no_expiry();
        self
    }

    /// Adds a tag to this value, like [`Set::tag`].
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.set = self.set.tag(tag);
        self
    }

    /// Adds tags with the versions that they had before the data was read, like [`Set::snapshot`].
    pub fn snapshot(mut self, snapshot: &TagSnapshot) -> Self {
        self.set = self.set.snapshot(snapshot);
        self
    }

    /// Limits how long this call may take, in place of the connection's `response_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.set = self.set.timeout(timeout);
        self
    }
}

impl<'a, V> SetIf<'a, V>
where
    V: Value,
{
    /// Counts a queued invalidation as success: see [`WriteCall::or_queue`](crate::WriteCall::or_queue).
    ///
    /// Only [`set_fenced`](Cache::set_fenced) queues one. [`set_if_absent`](Cache::set_if_absent) and
    /// [`if_version`](Set::if_version) queue nothing, and return an outage as an error here too: their caller asks
    /// whether the condition held, and a queue cannot answer that.
    pub fn or_queue(self) -> OrQueue<<Self as IntoFuture>::IntoFuture> {
        OrQueue::new(self.into_future())
    }
}

impl<'a, V> IntoFuture for SetIf<'a, V>
where
    V: Value,
{
    type Output = Result<bool>;
    type IntoFuture = Call<'a, Pin<Box<dyn Future<Output = Result<bool>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { set, condition } = self;
        let cache = set.cache;
        let timeout = set.timeout.unwrap_or(cache.context.limits.response_timeout);
        match condition {
            Condition::Fence(fence) => {
                Call::queued(timeout, &cache.shared.meter.set, Box::pin(set.store_fenced(fence)))
            }
            condition => Call::new(timeout, &cache.shared.meter.set, Box::pin(set.store_if(condition))),
        }
    }
}

impl<V> Set<'_, V>
where
    V: Value,
{
    async fn store_if(self, condition: Condition) -> Result<bool> {
        let cache = self.cache;
        let entry = self.entry.as_ref().map_err(Error::clone)?;
        cache.check_decidable(entry)?;
        let (mut stamp, expiry) = self.stamped().await?;
        if let Condition::Version(version) = condition {
            if stamp.clear_version != version.clear {
                // The cache was cleared since the entry was read.
                return Ok(false);
            }
            stamp.clear_version = version.clear;
        }
        let bytes = cache.encode(self.value, stamp)?;
        let (size, kept) = (bytes.len(), cache.kept_for(expiry));
        let deciding = Deciding { cache, entry };
        let stored = match condition {
            Condition::Version(version) => {
                cache.context.store()?.restamp(entry, version.nonce, bytes, Some(kept)).await?
            }
            _ => cache.put_if_absent(entry, bytes, kept).await?,
        };
        drop(deciding);
        if stored {
            cache.shared.meter.wrote(size);
        }
        Ok(stored)
    }

    async fn store_fenced(self, fence: Fence) -> Result<bool> {
        let cache = self.cache;
        let entry = self.entry.as_ref().map_err(Error::clone)?;
        let writing = cache.writing(entry);
        writing.ready().await;
        let set = async {
            let (stamp, expiry) = self.stamped().await?;
            let bytes = cache.encode(self.value, stamp)?;
            let (size, kept) = (bytes.len(), cache.kept_for(expiry));
            let longest = match kept {
                Expiry::After(span) => span.max(FENCE_REMEMBERED),
                Expiry::Never => 365 * FENCE_REMEMBERED,
            };
            let fencing = Fencing { number: fence.get(), kept: longest };
            let stored = cache.context.store()?.set_fenced(entry, bytes, kept, fencing).await?;
            Ok(stored.then_some(size))
        };
        let stored = writing.answered(set.await)?;
        if let Some(size) = stored {
            cache.shared.meter.wrote(size);
        }
        Ok(stored.is_some())
    }
}

/// A conditional write under way. However it ends, `Drop` drops near copies and detaches loads, because the write may
/// have been made.
struct Deciding<'a, V>
where
    V: Value,
{
    cache: &'a Cache<V>,
    entry: &'a str,
}

impl<V> Drop for Deciding<'_, V>
where
    V: Value,
{
    fn drop(&mut self) {
        self.cache.shared.flights.detach(&[self.entry]);
        self.cache.shared.forget_near([self.entry]);
    }
}

impl<V> fmt::Debug for SetIf<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetIf").field("set", &self.set).field("condition", &self.condition).finish()
    }
}
