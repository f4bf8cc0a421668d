//! Operations on one entry.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cache, Found, builder, tag};
use crate::call::Call;
use crate::envelope::{Glance, glance};
use crate::error::Result;
use crate::key::CacheKey;
use crate::store::{Expiry, Store};

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The value of a key, if there is one.
    ///
    /// One round trip and one command, `GET`. A value that carries tags costs one more, for their versions.
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
    /// Nothing is changed.
    pub fn get(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Option<V>>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.get, async move {
            match self.look(&entry?).await? {
                Found::Value(value) => Ok(Some(value)),
                Found::Nothing | Found::Unusable(_) => Ok(None),
            }
        })
    }

    /// Stores a value, in place of whatever was there.
    ///
    /// One round trip and one command, `SET`. Tags cost one more round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `Encode` and `ValueTooLarge`, with nothing written; `OutOfMemory`;
    /// `InvalidSetting` where neither the cache nor the call has a time to live.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have stored the value.
    pub fn set<'a>(&'a self, key: impl CacheKey, value: &'a V) -> Set<'a, V> {
        Set { cache: self, entry: self.entry(key), value, expiry: None, tags: Vec::new(), timeout: None }
    }

    /// Removes a key, and voids a load of it that is under way; whether anything was there. `true` may also mean that
    /// only such a load was voided, or an entry that an invalidated tag had voided before.
    ///
    /// One round trip and one command, `UNLINK`.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. After `TimedOut` and `Disconnected` the key may or may not be there.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have removed the key.
    pub fn delete(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.shared.meter.delete, async move {
            let entry = entry?;
            let _writing = self.shared.flights.writing([entry.as_str()]).await;
            self.context.store()?.delete(&entry).await
        })
    }

    /// Whether a key has a value. The value itself is not transferred, so it is not known whether it could be read.
    ///
    /// One round trip and one command, `GETRANGE`. A value that carries tags is read whole, and its tags' versions.
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
            match glance(&store.peek(&entry).await?) {
                Glance::Nothing => Ok(false),
                Glance::Something => Ok(true),
                Glance::Tagged => {
                    let whole = async {
                        let Some(bytes) = store.get(&entry).await? else { return Ok(false) };
                        Ok(matches!(self.judge(bytes).await?, Found::Value(_)))
                    };
                    Box::pin(whole).await
                }
            }
        })
    }

    /// Gives an entry a new time to live, counted from now; whether there was one. Tags are not looked at.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for a time to live of zero or above 100 years.
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
            self.context.store()?.touch(&entry?, Expiry::After(ttl)).await
        })
    }

    /// How long an entry will still be kept, if there is one. Tags are not looked at.
    ///
    /// One round trip.
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
            let there = self.context.store()?.remaining(&entry?).await?;
            Ok(there.filter(|(start, _)| glance(start) != Glance::Nothing).map(|(_, expiry)| expiry))
        })
    }
}

/// A value to be stored; awaiting it stores it. Made by [`Cache::set`].
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
#[must_use = "nothing is stored before this is awaited"]
pub struct Set<'a, V> {
    cache: &'a Cache<V>,
    entry: Result<String>,
    value: &'a V,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    timeout: Option<Duration>,
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
    /// version before the load begins.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The longest that this call may take, in place of the connection's `response_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, V> IntoFuture for Set<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Output = Result<()>;
    type IntoFuture = Call<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, entry, value, expiry, tags, timeout } = self;
        let timeout = timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entry = entry?;
            let expiry = cache.expiry(expiry)?;
            let tags = tag::checked(tags, cache.policy.encoder.format())?;
            let tags = match tags.as_slice() {
                [] => Vec::new(),
                tags => Box::pin(tag::versions(&cache.context, tags, expiry)).await?,
            };
            let bytes = cache.encode(value, 0, tags)?;
            let _writing = cache.shared.flights.writing([entry.as_str()]).await;
            let size = bytes.len();
            cache.context.store()?.set(&entry, bytes, expiry).await?;
            cache.shared.meter.wrote(size);
            Ok(())
        };
        Call::new(timeout, &cache.shared.meter.set, Box::pin(work))
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
