//! Operations on many entries at once: one round trip for each group of keys that the server can serve together, all
//! groups at once. On one server that is one round trip; on a cluster, one for each slot.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::Found;
use super::{Cache, tag};
use crate::call::Call;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The values of keys, in the order of the keys.
    ///
    /// One `MGET` a group of what no near copy is there for. Versions that are not known cost one more round trip, together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set_many([(1, &"Ann".to_owned()), (2, &"Bob".to_owned())]).await?;
    /// let found = users.get_many([2, 3, 1]).await?;
    /// assert_eq!(found, [Some("Bob".to_owned()), None, Some("Ann".to_owned())]);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; one key that fails fails the call.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Call<'_, impl Future<Output = Result<Vec<Option<V>>>> + Send> {
        let entries: Result<Vec<Name>> = keys.into_iter().map(|key| self.entry(key)).collect();
        Call::new(self.context.limits.response_timeout, &self.shared.meter.get_many, async move {
            let found = self.fetch_many(&entries?).await?;
            Ok(found
                .into_iter()
                .map(|found| match found {
                    Found::Fresh(kept) => Some(kept.value),
                    _ => None,
                })
                .collect())
        })
    }

    /// Stores values, each in place of whatever was there.
    ///
    /// One write a group. Each entry is stored atomically; all together are not, and when one fails others may have
    /// been stored.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set). A value that cannot be encoded fails the call before anything is written.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have stored any of the values.
    pub fn set_many<'a, K: CacheKey>(
        &'a self,
        entries: impl IntoIterator<Item = (K, &'a V)>,
    ) -> SetMany<'a, V> {
        let entries = entries.into_iter().map(|(key, value)| Ok((self.entry(key)?, value))).collect();
        SetMany { cache: self, entries, expiry: None, tags: Vec::new(), timeout: None }
    }

    /// Removes keys; whether anything was there, in the order of the keys. See [`delete`](Self::delete).
    ///
    /// One write a group.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. When one fails others may have been removed.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have removed any of the keys.
    pub fn delete_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Call<'_, impl Future<Output = Result<Vec<bool>>> + Send> {
        let entries: Result<Vec<Name>> = keys.into_iter().map(|key| self.entry(key)).collect();
        Call::queued(self.context.limits.response_timeout, &self.shared.meter.delete_many, async move {
            let entries = entries?;
            let store = self.context.store()?;
            let writing = self.writing(entries.iter().map(Name::as_str).collect());
            writing.ready().await;
            writing.answered_each(store.delete_many(&entries).await)
        })
    }
}

/// Values to be stored; awaiting it stores them. Made by [`Cache::set_many`].
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
#[must_use = "nothing is stored before this is awaited"]
pub struct SetMany<'a, V> {
    cache: &'a Cache<V>,
    entries: Result<Vec<(Name, &'a V)>>,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    timeout: Option<Duration>,
}

impl<V> SetMany<'_, V> {
    /// How long these values are kept, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// These values stay until they are deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// A tag of all these values, as [`Set::tag`](super::Set::tag). May be given several times.
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

impl<'a, V> IntoFuture for SetMany<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Output = Result<()>;
    type IntoFuture = Call<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, entries, expiry, tags, timeout } = self;
        let timeout = timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entries = entries?;
            let tags = tag::checked(tags, cache.policy.encoder.format())?;
            let longest = expiry.or(cache.policy.expiry).unwrap_or(Expiry::Never);
            let store = cache.context.store()?;
            let writing = cache.writing(entries.iter().map(|(entry, _)| entry.as_str()).collect());
            writing.ready().await;
            let set = async {
                let versions = cache.versions(&tags, cache.version_span(longest)).await?;
                let mut encoded = Vec::with_capacity(entries.len());
                for (entry, value) in &entries {
                    let expiry = cache.expiry(expiry)?;
                    let bytes = cache.encode(value, cache.stamp(expiry, 0, versions.clone())?)?;
                    encoded.push((entry.clone(), bytes, cache.kept_for(expiry)));
                }
                let size = encoded.iter().map(|(_, bytes, _)| bytes.len()).sum();
                Ok((store.set_many(encoded).await, size))
            };
            let (answers, size) = match set.await {
                Ok(set) => set,
                Err(error) => return writing.answered(Err(error)),
            };
            writing.answered_each(answers)?;
            cache.shared.meter.wrote(size);
            Ok(())
        };
        Call::queued(timeout, &cache.shared.meter.set_many, Box::pin(work))
    }
}

impl<V> fmt::Debug for SetMany<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetMany")
            .field("expiry", &self.expiry)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
