//! Operations on many entries at once: one round trip for each group of keys that the server can serve together, all
//! groups at once. On one server that is one round trip; on a cluster, one for each slot.
//!
//! Any number of keys may be given. They are sent in batches, one after another, each bounded by the
//! `response_timeout` from when it is sent: so a long list is not late because its end waits behind its beginning,
//! and other calls on the connection get their turn in between. After a batch of which nothing was carried out the
//! rest is not sent.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::Lookup;
use super::{Cache, WriteGuard, tag};
use crate::call::{Call, patience, within};
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};
use crate::write::{OrQueue, WriteCall};

/// How many keys are read in a batch at most. On a cluster each batch is one command a slot.
const MOST_READ: usize = 5_000;
/// How many keys are written or deleted in a batch at most.
const MOST_KEYS: usize = 1_000;
/// How many bytes of values a batch has at most, unless one value alone has more.
const MOST_BYTES: usize = 1 << 20;

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The values of keys, in the order of the keys.
    ///
    /// One `MGET` a group of what no near copy is there for, for each 5,000 keys. Versions that are not known cost
    /// one more round trip, together.
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
        Call::in_batches(&self.shared.meter.get_many, async move {
            let found =
                self.fetch_in_batches(&entries?, patience(self.context.limits.response_timeout)).await?;
            Ok(found
                .into_iter()
                .map(|found| match found {
                    Lookup::Fresh(kept) => Some(kept.value),
                    _ => None,
                })
                .collect())
        })
    }

    /// Reads entries in batches, each within `patience`.
    pub(super) async fn fetch_in_batches(
        &self,
        names: &[Name],
        patience: Duration,
    ) -> Result<Vec<Lookup<V>>> {
        if names.len() <= MOST_READ {
            return within(patience, self.fetch_many(names)).await;
        }
        let mut found = Vec::with_capacity(names.len());
        for batch in names.chunks(MOST_READ) {
            found.append(&mut within(patience, self.fetch_many(batch)).await?);
        }
        Ok(found)
    }

    /// Stores values, each in place of whatever was there.
    ///
    /// One write a group, for each 1,000 values or mebibyte. Each entry is stored atomically; all together are not,
    /// and when one fails others may have been stored.
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
    /// One write a group, for each 1,000 keys.
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
    ) -> WriteCall<'_, impl Future<Output = Result<Vec<bool>>> + Send> {
        let entries: Result<Vec<Name>> = keys.into_iter().map(|key| self.entry(key)).collect();
        WriteCall::in_batches(&self.shared.meter.delete_many, async move {
            let entries = entries?;
            let store = self.context.store()?;
            let patience = patience(self.context.limits.response_timeout);
            let mut writing = self.writing(entries.iter().map(Name::as_str).collect());
            writing.ready().await;
            let mut answers = Vec::with_capacity(entries.len());
            for batch in entries.chunks(MOST_KEYS) {
                let sent = within(patience, async { Ok(store.delete_many(batch).await) }).await;
                if !take_answers(&mut writing, &mut answers, sent, batch.len(), entries.len()) {
                    break;
                }
            }
            writing.answered_each(answers)
        })
    }
}

/// Adds the answers to a batch of `sent` names to those to the batches before, and notes them: if the call is given
/// up, only what was not answered is queued. Whether to go on: after a batch of which nothing was carried out the
/// rest fails, too.
fn take_answers<V, T>(
    writing: &mut WriteGuard<'_, V>,
    answers: &mut Vec<Result<T>>,
    batch: Result<Vec<Result<T>>>,
    sent: usize,
    all: usize,
) -> bool
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let first = answers.len();
    match batch {
        Ok(batch) => answers.extend(batch),
        Err(error) => answers.extend(std::iter::repeat_with(|| Err(error.clone())).take(sent)),
    }
    let mut error = None;
    let mut any = false;
    for (place, answer) in answers.iter().enumerate().skip(first) {
        writing.note(place, answer);
        match answer {
            Ok(_) => any = true,
            Err(failed) => error = error.or(Some(failed.clone())),
        }
    }
    match error {
        Some(error) if !any => {
            answers.extend(std::iter::repeat_with(|| Err(error.clone())).take(all - answers.len()));
            false
        }
        _ => true,
    }
}

/// Values in batches that are sent one after another.
fn batches(values: Vec<(Name, Bytes, Expiry)>) -> Vec<Vec<(Name, Bytes, Expiry)>> {
    let mut batches = Vec::with_capacity(1);
    let (mut batch, mut size) = (Vec::new(), 0usize);
    for value in values {
        let bytes = value.1.len();
        if !batch.is_empty() && (batch.len() == MOST_KEYS || size.saturating_add(bytes) > MOST_BYTES) {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size = size.saturating_add(bytes);
        batch.push(value);
    }
    batches.push(batch);
    batches
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

impl<'a, V> SetMany<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Counts a queued invalidation as success: see [`WriteCall::or_queue`](crate::WriteCall::or_queue).
    pub fn or_queue(self) -> OrQueue<<Self as IntoFuture>::IntoFuture> {
        OrQueue::new(self.into_future())
    }
}

impl<'a, V> IntoFuture for SetMany<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Output = Result<()>;
    type IntoFuture = WriteCall<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, entries, expiry, tags, timeout } = self;
        let patience = timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entries = entries?;
            let tags = tag::checked(tags, cache.policy.encoder.format())?;
            let longest = expiry.or(cache.policy.expiry).unwrap_or(Expiry::Never);
            let store = cache.context.store()?;
            let mut writing = cache.writing(entries.iter().map(|(entry, _)| entry.as_str()).collect());
            writing.ready().await;
            let encode = async {
                let versions = within(patience, cache.versions(&tags, cache.version_span(longest))).await?;
                let mut encoded = Vec::with_capacity(entries.len());
                for (entry, value) in &entries {
                    let expiry = cache.expiry(expiry)?;
                    let bytes = cache.encode(value, cache.stamp(expiry, 0, versions.clone())?)?;
                    encoded.push((entry.clone(), bytes, cache.kept_for(expiry)));
                }
                Ok(encoded)
            };
            let encoded = match encode.await {
                Ok(encoded) => encoded,
                Err(error) => return writing.answered(Err(error)),
            };
            let mut answers = Vec::with_capacity(entries.len());
            for batch in batches(encoded) {
                let (sent, size) = (batch.len(), batch.iter().map(|(_, bytes, _)| bytes.len()).sum());
                let set = within(patience, async { Ok(store.set_many(batch).await) }).await;
                if !take_answers(&mut writing, &mut answers, set, sent, entries.len()) {
                    break;
                }
                cache.shared.meter.wrote(size);
            }
            writing.answered_each(answers)?;
            Ok(())
        };
        let call = WriteCall::in_batches(&cache.shared.meter.set_many, Box::pin(work) as Pin<Box<_>>);
        match timeout {
            Some(timeout) => call.timeout(timeout),
            None => call,
        }
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
