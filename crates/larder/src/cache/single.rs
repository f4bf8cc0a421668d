//! Operations on one entry.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::fetch::Fetch;
use super::lookup::{CachedValue, Lookup};
use super::tag::{self, TagSnapshot};
use super::validity::{Verdict, VersionReplies, ask, classify_start};
use super::{Cache, Entry, Source, check_ttl};
use crate::call::Call;
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};
use crate::value::{Value, WriteStamp};
use crate::write::{OrQueue, WriteCall};

impl<V> Cache<V>
where
    V: Value,
{
    /// Returns the value of a key, if there is one.
    ///
    /// Costs one round trip and one command, `GET`; none if a [near tier](super::CacheBuilder::near) has a copy. The
    /// versions that a value carries are usually known from earlier reads; if not, they cost one more round trip.
    ///
    /// Bytes that are not a value of this cache (damaged, foreign, or of a newer layout) count as absent, and as
    /// `unreadable` in [`stats`](crate::Larder::stats).
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped at any time. The call is `Send` if the key is.
    pub fn get<K: CacheKey>(
        &self,
        key: K,
    ) -> Call<'_, impl Future<Output = Result<Option<V>>> + use<'_, V, K>> {
        let work = Get { cache: self, key, past_near: None };
        let (timeout, meter) = (self.context.limits.response_timeout, &self.shared.meter.get);
        if self.policy.asks_server {
            Call::new(timeout, meter, work)
        } else {
            Call::unless_at_once(timeout, meter, work)
        }
    }

    /// Returns the value of a key together with its source, its age and the time that it will still be kept. Unlike
    /// [`get`](Self::get) it also returns a stale value, and says so.
    ///
    /// Costs two round trips, the second for the remaining time; none for a near copy, which does not know that time
    /// unless the cache has `stale_for` or `early_refresh`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped at any time.
    pub fn get_entry(
        &self,
        key: impl CacheKey,
    ) -> Call<'_, impl Future<Output = Result<Option<Entry<V>>>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.get, async move {
            let entry = entry?;
            Ok(match self.lookup(&entry).await? {
                Lookup::Fresh(cached) | Lookup::Stale(cached) => {
                    let left = match cached.source {
                        Source::Near => None,
                        _ => self.context.store()?.remaining(&entry).await?.map(|(_, expiry)| expiry),
                    };
                    Some(self.as_entry(cached, left))
                }
                _ => None,
            })
        })
    }

    /// Makes an [`Entry`]. `left` is how long the server keeps it, if that was asked.
    pub(super) fn as_entry(&self, cached: CachedValue<V>, left: Option<Expiry>) -> Entry<V> {
        let now = self.context.store().map_or(0, Store::now);
        let remaining = match left {
            Some(Expiry::After(left)) => Some(left),
            Some(Expiry::Never) => None,
            None if cached.fresh_until != 0 => {
                Some(Duration::from_millis(cached.fresh_until.saturating_sub(now)))
            }
            None => None,
        };
        Entry {
            age: cached.age(now),
            remaining,
            version: cached.version(),
            source: cached.source,
            value: cached.value,
        }
    }

    /// Stores a value, replacing any existing one.
    ///
    /// Costs one round trip and one command, `SET`. A cache's first use costs one more, and so do tags that were not
    /// used for a day.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/write_errors.md")]
    ///
    /// If the server is away or does not answer in time, the key's deletion is queued, because the stored value may be
    /// older than the one that could not be stored. The error's [`is_queued`](crate::Error::is_queued) is true then.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have stored the value; the key's deletion is queued.
    pub fn set<'a>(&'a self, key: impl CacheKey, value: &'a V) -> Set<'a, V> {
        Set {
            cache: self,
            entry: self.entry(key),
            value,
            expiry: None,
            tags: Vec::new(),
            snapshot: Vec::new(),
            timeout: None,
        }
    }

    /// Whether a key has a value. The value is not transferred, so this does not say whether it can be decoded.
    ///
    /// Costs one round trip and one command, `GETRANGE`. A value with tags is read whole in a second one.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped at any time.
    pub fn exists(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.exists, async move {
            let entry = entry?;
            let store = self.context.store()?;
            let covered = self.is_covered(&entry);
            let start = store.peek(&entry).await?;
            if covered {
                return Ok(false);
            }
            self.counts(&entry, &start, |verdict| matches!(verdict, Verdict::Serve(_))).await
        })
    }

    /// Gives an entry a new time to live, counted from now. Returns whether there was a valid entry.
    ///
    /// Costs two round trips: an entry carries its own end, and its versions must be kept for as long. A touch drops
    /// the near copies of the entry in all processes, so a key that is touched often gains nothing from a near tier.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the time to live is zero or above 100 years.
    ///
    /// Nothing is queued if the server is away, and there is no `or_queue`: the entry is as valid as before and keeps
    /// its old end.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have changed the time to live.
    pub fn touch(
        &self,
        key: impl CacheKey,
        ttl: Duration,
    ) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.touch, async move {
            check_ttl(ttl)?;
            let entry = entry?;
            let touched = Box::pin(self.touch_entry(&entry, ttl)).await;
            self.shared.forget_near([&*entry]);
            touched
        })
    }

    /// Returns how long an entry will still be kept, if there is a valid one: fresh or stale.
    ///
    /// Costs one round trip. A value with tags is read whole in a second one.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped at any time.
    pub fn ttl(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Option<Expiry>>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.ttl, async move {
            let entry = entry?;
            let covered = self.is_covered(&entry);
            let is_valid = |verdict: &Verdict| matches!(verdict, Verdict::Serve(_) | Verdict::Stale(_));
            match self.context.store()?.remaining(&entry).await? {
                Some((start, expiry)) if !covered => {
                    Ok(self.counts(&entry, &start, is_valid).await?.then_some(expiry))
                }
                _ => Ok(None),
            }
        })
    }

    /// Whether an entry's verdict is `wanted`, decided by its first bytes. If those do not suffice, because of tags
    /// or of unknown versions, the server is asked for more.
    async fn counts(
        &self,
        entry: &str,
        start: &[u8],
        wanted: impl Fn(&Verdict) -> bool + Send,
    ) -> Result<bool> {
        let (context, clear) = (&self.context, &self.shared.clear);
        let mut answers = VersionReplies::new();
        while let Some(mut classified) = classify_start(context, clear, entry, start, &answers)? {
            let names = classified.unknown();
            if names.is_empty() {
                return Ok(wanted(&classified.verdict));
            }
            answers.extend(Box::pin(ask(context, names)).await?);
        }
        let whole = async {
            let Some(bytes) = context.store()?.get(entry).await? else { return Ok(false) };
            Ok(wanted(&self.verdict(entry, &bytes).await?.verdict))
        };
        Box::pin(whole).await
    }
}

pin_project! {
    /// The future of [`Cache::get`], written by hand: a near hit takes less time than moving an `async` block. It
    /// holds only the key until the store must be asked.
    struct Get<'a, V, K> {
        cache: &'a Cache<V>,
        key: K,
        past_near: Option<Fetch<'a, V>>,
    }
}

impl<V, K> Future for Get<'_, V, K>
where
    V: Value,
    K: CacheKey,
{
    type Output = Result<Option<V>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let cache = *this.cache;
        let key: &K = this.key;
        if this.past_near.is_none()
            && let Some(value) = cache.get_near(key, |copy| copy.value)?
        {
            cache.near_hit(|| cache.entry(key));
            return Poll::Ready(Ok(Some(value)));
        }
        self.poll_past_near(cx)
    }
}

impl<V, K> Get<'_, V, K>
where
    V: Value,
    K: CacheKey,
{
    #[inline(never)]
    fn poll_past_near(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Option<V>>> {
        let this = self.project();
        let cache = *this.cache;
        let past_near = match this.past_near {
            Some(past_near) => past_near,
            unasked @ None => {
                let mut entry = cache.prefix();
                cache.complete(&mut entry, &*this.key)?;
                unasked.insert(cache.fetch_counted(entry))
            }
        };
        Poll::Ready(Ok(match ready!(past_near.as_mut().poll(cx))? {
            Lookup::Fresh(cached) => Some(cached.value),
            _ => None,
        }))
    }
}

/// A value to store; awaiting it stores the value. Made by [`Cache::set`].
///
/// This type is not a future itself: pass `into_future()` to `join_all` or `Box::pin`.
#[must_use = "nothing is stored before this is awaited"]
pub struct Set<'a, V> {
    pub(super) cache: &'a Cache<V>,
    pub(super) entry: Result<Name>,
    pub(super) value: &'a V,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    snapshot: Vec<TagVersion>,
    pub(super) timeout: Option<Duration>,
}

impl<V> Set<'_, V> {
    /// Keeps this value for `ttl`, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Keeps this value until it is deleted or evicted. If it carries tags, it also ends when one of them has not
    /// been used by any write for 30 to 60 days.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Adds a tag: [invalidating](super::Tag::invalidate) it makes this value invalid. May be called several times.
    ///
    /// The tag's version is read when the call is sent. So a value whose data was read before another program
    /// invalidated the tag, and which is set after that, stays valid. Load such data with
    /// [`get_or_load`](Cache::get_or_load), which reads the version before the load begins, or take a
    /// [`snapshot`](Self::snapshot) before you read the data.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds tags with the versions that they had before the data was read. If one was invalidated since, the value is
    /// invalid.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let snapshot = larder.tag_snapshot(["team:7"]).await?;
    /// let ann = "Ann".to_owned(); // read from the database
    /// larder.tag("team:7").invalidate().await?; // by the program that changed the database
    /// users.set("123", &ann).snapshot(&snapshot).await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn snapshot(mut self, snapshot: &TagSnapshot) -> Self {
        self.snapshot.extend_from_slice(&snapshot.0);
        self
    }

    /// Limits how long this call may take, in place of the connection's `response_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<V> Set<'_, V>
where
    V: Value,
{
    /// Makes the envelope's fields, with current versions or those of the snapshot, and returns how long the value is
    /// fresh.
    pub(super) async fn stamped(&self) -> Result<(WriteStamp, Expiry)> {
        let cache = self.cache;
        let expiry = cache.expiry(self.expiry)?;
        let span = cache.version_span(expiry);
        if self.tags.is_empty() && self.snapshot.is_empty() {
            let versions = cache.versions(&[], span).await?;
            return Ok((cache.stamp(expiry, 0, versions)?, expiry));
        }
        // The tags of a snapshot keep their own versions, but their version keys must outlive the entry like any
        // other.
        let all = self.tags.iter().chain(self.snapshot.iter().map(|tag| &tag.tag)).cloned().collect();
        let all = tag::checked(all, cache.policy.encoder.format())?;
        let mut versions = Box::pin(cache.versions(&all, span)).await?;
        for tag in versions.1.iter_mut().filter(|tag| !self.tags.contains(&tag.tag)) {
            if let Some(before) = self.snapshot.iter().find(|before| before.tag == tag.tag) {
                tag.version = before.version;
            }
        }
        Ok((cache.stamp(expiry, 0, versions)?, expiry))
    }
}

impl<'a, V> Set<'a, V>
where
    V: Value,
{
    /// Counts a queued invalidation as success: see [`WriteCall::or_queue`](crate::WriteCall::or_queue).
    pub fn or_queue(self) -> OrQueue<<Self as IntoFuture>::IntoFuture> {
        OrQueue::new(self.into_future())
    }
}

impl<'a, V> IntoFuture for Set<'a, V>
where
    V: Value,
{
    type Output = Result<()>;
    type IntoFuture = WriteCall<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let cache = self.cache;
        let timeout = self.timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entry = self.entry.as_ref().map_err(Error::clone)?;
            let store = cache.context.store()?;
            // Before the versions are read: an outage at that point leaves the old value in place, too.
            let writing = cache.writing(entry);
            writing.ready().await;
            let set = async {
                let (stamp, expiry) = self.stamped().await?;
                let bytes = cache.encode(self.value, stamp)?;
                let size = bytes.len();
                store.set(entry, bytes, cache.kept_for(expiry)).await?;
                Ok(size)
            };
            let size = writing.answered(set.await)?;
            cache.shared.meter.wrote(size);
            Ok(())
        };
        WriteCall::new(timeout, &cache.shared.meter.set, Box::pin(work))
    }
}

impl<V> fmt::Debug for Set<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set")
            .field("entry", &self.entry)
            .field("expiry", &self.expiry)
            .field("tags", &self.tags)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
