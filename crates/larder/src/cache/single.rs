//! Operations on one entry.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fetch::Fetch;
use super::kept::{CachedValue, Lookup};
use super::tag::{self, TagSnapshot};
use super::verdict::{Verdict, VersionReplies, ask, classify_start};
use super::{Cache, Entry, Source, builder};
use crate::call::Call;
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};
use crate::value::WriteStamp;
use crate::write::{OrQueue, WriteCall};

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The value of a key, if there is one.
    ///
    /// One round trip and one command, `GET`; none where a [near tier](super::CacheBuilder::near) has it. The versions that a value
    /// carries are known from the last time, as a rule; where they are not, they cost one round trip more.
    ///
    /// Bytes that are no value of this cache (damaged, foreign, of a newer layout) count as absent, and as
    /// `unreadable` in [`stats`](crate::Larder::stats).
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `WrongType` where something else keeps another type under this name;
    /// `KeyTooLong`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed. The call is `Send` where the key is.
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

    /// The value of a key with what is known of it: where it came from, how old it is, how long it will be kept. Unlike
    /// [`get`](Self::get) it gives a stale value, too, and says so.
    ///
    /// Two round trips, the second for the time that it will be kept; none for a near copy, which does not know that unless the cache
    /// has `stale_for` or `early_refresh`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn get_entry(
        &self,
        key: impl CacheKey,
    ) -> Call<'_, impl Future<Output = Result<Option<Entry<V>>>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.get, async move {
            let entry = entry?;
            Ok(match self.lookup(&entry).await? {
                Lookup::Fresh(kept) | Lookup::Stale(kept) => {
                    let left = match kept.source {
                        Source::Near => None,
                        _ => self.context.store()?.remaining(&entry).await?.map(|(_, expiry)| expiry),
                    };
                    Some(self.as_entry(kept, left))
                }
                _ => None,
            })
        })
    }

    /// `left` is how long the server keeps it, where that was asked.
    pub(super) fn as_entry(&self, kept: CachedValue<V>, left: Option<Expiry>) -> Entry<V> {
        let now = self.context.store().map_or(0, Store::now);
        let remaining = match left {
            Some(Expiry::After(left)) => Some(left),
            Some(Expiry::Never) => None,
            None if kept.fresh_until != 0 => {
                Some(Duration::from_millis(kept.fresh_until.saturating_sub(now)))
            }
            None => None,
        };
        Entry {
            age: kept.age(now),
            remaining,
            version: kept.version(),
            source: kept.source,
            value: kept.value,
        }
    }

    /// Stores a value, in place of whatever was there.
    ///
    /// One round trip and one command, `SET`. Tags that were not used for a day cost one more round trip, as does a cache's first use.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `Encode` and `ValueTooLarge`, with nothing written; `OutOfMemory`;
    /// `InvalidSetting` where neither the cache nor the call has a time to live. Where the server is away, or does not
    /// answer in time, the key's deletion is queued, and the error [says so](crate::Error::is_queued): what is there may be
    /// older than the value that could not be stored.
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

    /// Whether a key has a value. The value itself is not transferred, so it is not known whether it could be read.
    ///
    /// One round trip and one command, `GETRANGE`. A value that carries tags is read whole.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
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

    /// Gives an entry a new time to live, counted from now; whether there was one that counts.
    ///
    /// Two round trips: an entry carries its end with it, and the versions that it carries are kept for as long. Near
    /// copies are dropped by it, everywhere: a key that is read from near and touched often gains nothing from being
    /// near.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for a time to live of zero or above 100 years. Nothing is
    /// queued where the server is away, and there is no `or_queue`: the entry is as valid as before, and only its end is
    /// the old one.
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
            builder::check_ttl(ttl)?;
            let entry = entry?;
            let touched = Box::pin(self.touch_entry(&entry, ttl)).await;
            self.shared.forget_near([&*entry]);
            touched
        })
    }

    /// How long an entry will still be kept, if there is one that counts: fresh, or stale.
    ///
    /// One round trip. A value that carries tags is read whole, which is one more.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn ttl(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Option<Expiry>>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.ttl, async move {
            let entry = entry?;
            let covered = self.is_covered(&entry);
            let kept = |verdict: &Verdict| matches!(verdict, Verdict::Serve(_) | Verdict::Stale(_));
            match self.context.store()?.remaining(&entry).await? {
                Some((start, expiry)) if !covered => {
                    Ok(self.counts(&entry, &start, kept).await?.then_some(expiry))
                }
                _ => Ok(None),
            }
        })
    }

    /// Whether an entry is what is `wanted`, by its first bytes. Only where those do not tell, because of tags or of
    /// versions that are not known, is the server asked for more.
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
    /// What [`Cache::get`] does. By hand, because a near hit takes less time than an `async` block takes to move about: here
    /// only the key stands in it until the store must be asked.
    struct Get<'a, V, K> {
        cache: &'a Cache<V>,
        key: K,
        past_near: Option<Fetch<'a, V>>,
    }
}

impl<V, K> Future for Get<'_, V, K>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    K: CacheKey,
{
    type Output = Result<Option<V>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let cache = *this.cache;
        let found = match this.past_near {
            Some(past_near) => past_near.as_mut().poll(cx),
            unasked @ None => {
                let mut entry = cache.prefix();
                cache.complete(&mut entry, this.key)?;
                if let Some(value) = cache.get_local(&entry, |copy| copy.value)? {
                    cache.near_hit(&entry);
                    return Poll::Ready(Ok(Some(value)));
                }
                unasked.insert(cache.fetch_counted(entry)).as_mut().poll(cx)
            }
        };
        Poll::Ready(Ok(match ready!(found)? {
            Lookup::Fresh(kept) => Some(kept.value),
            _ => None,
        }))
    }
}

/// A value to be stored; awaiting it stores it. Made by [`Cache::set`].
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
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
    /// How long this value is kept, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// This value stays until it is deleted or evicted. If it carries tags, it ends with the first of them that no entry
    /// was given for 30 to 60 days.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// A tag that voids this value when it is [invalidated](super::Tag::invalidate). May be given several times.
    ///
    /// The tag's version is taken when the call is sent. Data that was read before another program invalidated the tag,
    /// and is set after it, is therefore kept: load such data with [`get_or_load`](Cache::get_or_load), which takes the
    /// version before the load begins, or take a [`snapshot`](Self::snapshot) before it is read.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Tags with the versions that they had before the data was read: if one was invalidated since, the value is void.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let snapshot = larder.tag_snapshot(["team:7"]).await?;
    /// let ann = "Ann".to_owned(); // read from the database
    /// larder.tag("team:7").invalidate().await?; // by somebody who has just changed it
    /// users.set("123", &ann).snapshot(&snapshot).await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    pub fn snapshot(mut self, snapshot: &TagSnapshot) -> Self {
        self.snapshot.extend_from_slice(&snapshot.0);
        self
    }

    /// The longest that this call may take, in place of the connection's `response_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<V> Set<'_, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// What the envelope is to say, with the versions of now or of the snapshot, and how long the value is fresh.
    pub(super) async fn stamped(&self) -> Result<(WriteStamp, Expiry)> {
        let cache = self.cache;
        let expiry = cache.expiry(self.expiry)?;
        let span = cache.version_span(expiry);
        if self.tags.is_empty() && self.snapshot.is_empty() {
            let versions = cache.versions(&[], span).await?;
            return Ok((cache.stamp(expiry, 0, versions)?, expiry));
        }
        // Tags of a snapshot have versions of their own, and must outlive the entry all the same.
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
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Counts a queued invalidation as success: see [`WriteCall::or_queue`](crate::WriteCall::or_queue).
    pub fn or_queue(self) -> OrQueue<<Self as IntoFuture>::IntoFuture> {
        OrQueue::new(self.into_future())
    }
}

impl<'a, V> IntoFuture for Set<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Output = Result<()>;
    type IntoFuture = WriteCall<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let cache = self.cache;
        let timeout = self.timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entry = self.entry.as_ref().map_err(Error::clone)?;
            let store = cache.context.store()?;
            // Before the versions are asked for: an outage that shows there leaves the old value, too.
            let writing = cache.writing(vec![entry]);
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
