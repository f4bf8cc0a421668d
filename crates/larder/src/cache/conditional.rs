//! Writes that are made only where something holds: nothing is there, the entry is still the one that was read, no
//! newer fence has written. Each is decided and made in one atomic step of the store.
//!
//! A conditional write that was given up midway, or whose answer was lost, leaves nothing stale: either it was made,
//! or what it would have replaced still counts. So, unlike a `set`, it queues no deletion, which could remove what
//! another caller was first to write.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::kept::Lookup;
use super::single::Set;
use super::wait::pause;
use super::{Cache, TagSnapshot};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::lock::Fence;
use crate::name::Name;
use crate::store::once::OnceStore;
use crate::store::{Expiry, Fencing, FillStart, Store};
use crate::value::Value;
use crate::write::OrQueue;

/// How long the highest fence is remembered at least.
const FENCE_REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How often a write that met something invalid tries to take its place.
const MOST_ATTEMPTS: u32 = 16;

/// Which write of an entry a value comes from. Given by [`Entry::version`](crate::Entry::version), for
/// [`Set::if_version`](crate::Set::if_version).
///
/// It can be shown and parsed, as for the `ETag` of a page.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// # let carts = larder.cache::<u32>("cart").no_expiry().build()?;
/// carts.set("ann", &1).await?;
/// let version = carts.get_entry("ann").await?.and_then(|entry| entry.version()).expect("it has an envelope");
/// let etag = format!("\"{version}\"");
/// assert_eq!(etag.trim_matches('"').parse(), Ok(version));
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryVersion {
    pub(super) nonce: u64,
    /// The version of the cache's clear that the entry carried: what replaces it must not outlive a clear that came
    /// between.
    pub(super) clear: u64,
}

impl fmt::Display for EntryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.nonce, self.clear)
    }
}

impl FromStr for EntryVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let (nonce, clear) = text.split_at_checked(16).ok_or(ParseVersionError)?;
        if clear.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseVersionError);
        }
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| ParseVersionError);
        Ok(Self { nonce: number(nonce)?, clear: number(clear)? })
    }
}

/// A text that is no [`EntryVersion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseVersionError;

impl fmt::Display for ParseVersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry's version has 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseVersionError {}

impl<V> Cache<V>
where
    V: Value,
{
    /// Stores a value unless the key has one; whether it did. Of all callers, in all processes, one is first.
    ///
    /// What [`get`](Self::get) takes for absent (stale, invalidated, a load under way, a remembered absence) is
    /// replaced, and a load under way stores nothing over it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let owners = larder.cache::<String>("owner").ttl(Duration::from_secs(60)).build()?;
    /// assert!(owners.set_if_absent("room-7", &"Ann".to_owned()).await?);
    /// assert!(!owners.set_if_absent("room-7", &"Bob".to_owned()).await?);
    /// assert_eq!(owners.get("room-7").await?.as_deref(), Some("Ann"));
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// One round trip; one more for each thing of the kind above that it replaces. For a value that others work
    /// under, use a [lock](crate::Larder::lock): an entry can be evicted.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), but nothing is queued. `InvalidSetting` for a cache of `Format::Plain`; `Busy` while an
    /// invalidation of the key is queued, and where other writers were quicker again and again: try again.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have stored the value.
    pub fn set_if_absent<'a>(&'a self, key: impl CacheKey, value: &'a V) -> SetIf<'a, V> {
        SetIf { set: self.set(key, value), condition: Condition::Absent }
    }

    /// Stores a value under the fence of the lock that its writer holds, unless a writer with a higher fence has
    /// written this key: `false` then, and nothing is changed. So a holder that was paused past its lock's time
    /// overwrites nothing.
    ///
    /// The highest fence is remembered for a day after the last such write, or for as long as the value where that is
    /// longer. Writes without a fence are not checked, and do not change it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
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
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set).
    pub fn set_fenced<'a>(&'a self, key: impl CacheKey, value: &'a V, fence: Fence) -> SetIf<'a, V> {
        SetIf { set: self.set(key, value), condition: Condition::Fence(fence) }
    }

    /// Refuses what needs an envelope, or must not be followed by a deletion that is queued.
    pub(super) fn check_decidable(&self, entry: &str) -> Result<()> {
        if !self.has_versions() {
            return Err(Error::invalid(
                "entries of Format::Plain have no envelope, by which conditional writes know one from another",
            ));
        }
        if self.context.invalidations.covers(entry, &self.shared.clear) {
            return Err(Error::new(
                ErrorKind::Busy,
                "an invalidation of this key waits to be sent, and would remove what is written now",
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
        Err(Error::new(ErrorKind::Busy, "others write to this key all the time"))
    }
}

/// What must hold for a value to be stored.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Absent,
    Version(EntryVersion),
    Fence(Fence),
}

/// A value to be stored where something holds; awaiting it does so, and answers whether it did. Made by
/// [`Cache::set_if_absent`], [`Cache::set_fenced`] and [`Set::if_version`].
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
#[must_use = "nothing is stored before this is awaited"]
pub struct SetIf<'a, V> {
    set: Set<'a, V>,
    condition: Condition,
}

impl<'a, V> Set<'a, V> {
    /// Stores the value only if the entry is still the one that was read with this version: compare-and-set. Answers
    /// whether it was;
    /// `false` where the key was written, deleted, expired, evicted or cleared meanwhile.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
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
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// Tags are those of this call, as in any `set`. The value's time to live begins again. One round trip.
    ///
    /// # Errors
    ///
    /// Those of [`Cache::set_if_absent`].
    pub fn if_version(self, version: EntryVersion) -> SetIf<'a, V> {
        SetIf { set: self, condition: Condition::Version(version) }
    }
}

impl<V> SetIf<'_, V> {
    /// How long this value is kept, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.set = self.set.ttl(ttl);
        self
    }

    /// This value stays until it is deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.set = self.set.no_expiry();
        self
    }

    /// A tag of this value, as [`Set::tag`].
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.set = self.set.tag(tag);
        self
    }

    /// Tags with the versions that they had before the data was read, as [`Set::snapshot`].
    pub fn snapshot(mut self, snapshot: &TagSnapshot) -> Self {
        self.set = self.set.snapshot(snapshot);
        self
    }

    /// The longest that this call may take, in place of the connection's `response_timeout`.
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
    /// [`if_version`](Set::if_version) queue nothing, and an outage is an error of theirs here, too: whether the condition
    /// held is what their caller asks, and a queue cannot answer that.
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
                // Cleared since it was read.
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
        let writing = cache.writing(vec![entry]);
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

/// A conditional write under way. When it ends, however it ends, near copies are dropped and loads under way
/// detached: it may have been made.
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
