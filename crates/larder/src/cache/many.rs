//! Operations on many entries: one round trip for each group of keys that the server can serve together, with all
//! groups under way at once. A single server has one group; a cluster has one for each slot.
//!
//! Any number of keys may be given. They are sent in batches, one after another, and the `response_timeout` of each
//! batch begins when it is sent. So the end of a long list does not time out behind its beginning, and other calls on
//! the connection get their turn in between. If no key of a batch succeeds, the remaining batches are not sent.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::lookup::Lookup;
use super::write_guard::{WriteGuard, WriteNames};
use super::{Cache, tag};
use crate::call::{Call, max_wait, within};
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};
use crate::value::Value;
use crate::write::{OrQueue, WriteCall};

/// The most keys that are read in a batch. On a cluster each batch is one command for each slot.
const MOST_READ: usize = 5_000;
/// The most keys that are written or deleted in a batch.
const MOST_KEYS: usize = 1_000;
/// The most bytes of values in a batch, unless a single value is larger.
const MOST_BYTES: usize = 1 << 20;

impl<V> Cache<V>
where
    V: Value,
{
    /// Returns the values of keys, in the order of the keys.
    ///
    /// Costs one `MGET` for each group of keys without a near copy, for each 5,000 keys. If versions are not known
    /// here, one more round trip reads them all.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set_many([(1, &"Ann".to_owned()), (2, &"Bob".to_owned())]).await?;
    /// let found = users.get_many([2, 3, 1]).await?;
    /// assert_eq!(found, [Some("Bob".to_owned()), None, Some("Ann".to_owned())]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// An error for one key fails the call.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped at any time.
    pub fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Call<'_, impl Future<Output = Result<Vec<Option<V>>>> + Send> {
        let entries: Result<Vec<Name>> = keys.into_iter().map(|key| self.entry(key)).collect();
        Call::in_batches(&self.shared.meter.get_many, async move {
            let found =
                self.fetch_in_batches(&entries?, max_wait(self.context.limits.response_timeout)).await?;
            Ok(found
                .into_iter()
                .map(|found| match found {
                    Lookup::Fresh(cached) => Some(cached.value),
                    _ => None,
                })
                .collect())
        })
    }

    /// Reads entries in batches, each within `max_wait`.
    pub(super) async fn fetch_in_batches(
        &self,
        names: &[Name],
        max_wait: Duration,
    ) -> Result<Vec<Lookup<V>>> {
        if names.len() <= MOST_READ {
            return within(max_wait, self.fetch_many(names)).await;
        }
        let mut found = Vec::with_capacity(names.len());
        for batch in names.chunks(MOST_READ) {
            found.append(&mut within(max_wait, self.fetch_many(batch)).await?);
        }
        Ok(found)
    }

    /// Stores values, replacing any existing ones.
    ///
    /// Costs one write for each group, for each 1,000 values or 1 MiB. Each entry is stored atomically, but not all
    /// of them together: if one fails, others may have been stored.
    ///
    /// # Errors
    ///
    /// An error for one value fails the call before anything is written.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/write_errors.md")]
    ///
    /// If the server is away or does not answer in time, the deletion of the keys that were not stored is queued.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have stored any of the values; the deletion of those without an answer is queued.
    pub fn set_many<'a, K: CacheKey>(
        &'a self,
        entries: impl IntoIterator<Item = (K, &'a V)>,
    ) -> SetMany<'a, V> {
        let entries = entries.into_iter().map(|(key, value)| Ok((self.entry(key)?, value))).collect();
        SetMany { cache: self, entries, expiry: None, tags: Vec::new(), timeout: None }
    }

    /// Deletes keys, and returns for each, in the order of the keys, whether it existed. See
    /// [`delete`](Self::delete).
    ///
    /// Costs one write for each group, for each 1,000 keys.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// If one key fails, others may have been deleted.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have deleted any of the keys; the deletion of those without an answer is queued.
    pub fn delete_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> WriteCall<'_, impl Future<Output = Result<Vec<bool>>> + Send> {
        let entries: Result<Vec<Name>> = keys.into_iter().map(|key| self.entry(key)).collect();
        WriteCall::in_batches(&self.shared.meter.delete_many, async move {
            let entries = entries?;
            let store = self.context.store()?;
            let max_wait = max_wait(self.context.limits.response_timeout);
            let mut writing = self.writing(entries.iter().collect::<WriteNames<'_>>());
            writing.ready().await;
            let mut answers = Vec::with_capacity(entries.len());
            for batch in entries.chunks(MOST_KEYS) {
                let sent = within(max_wait, async { Ok(store.delete_many(batch).await) }).await;
                if !take_answers(&mut writing, &mut answers, sent, batch.len(), entries.len()) {
                    break;
                }
            }
            writing.answered_each(answers)
        })
    }
}

/// Adds the replies to a batch of `sent` names to those of earlier batches, and records them, so that a dropped call
/// queues only the names without a reply. Returns whether to go on: if no name of a batch succeeded, the remaining
/// names get its error.
fn take_answers<V, T>(
    writing: &mut WriteGuard<'_, V>,
    answers: &mut Vec<Result<T>>,
    batch: Result<Vec<Result<T>>>,
    sent: usize,
    all: usize,
) -> bool
where
    V: Value,
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

/// Splits values into batches that are sent one after another.
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

/// Values to store; awaiting it stores them. Made by [`Cache::set_many`].
///
/// This type is not a future itself: pass `into_future()` to `join_all` or `Box::pin`.
#[must_use = "nothing is stored before this is awaited"]
pub struct SetMany<'a, V> {
    cache: &'a Cache<V>,
    entries: Result<Vec<(Name, &'a V)>>,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    timeout: Option<Duration>,
}

impl<V> SetMany<'_, V> {
    /// Keeps these values for `ttl`, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Keeps these values until they are deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Adds a tag to all these values, like [`Set::tag`](super::Set::tag). May be called several times.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Limits how long this call may take, in place of the connection's `response_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, V> SetMany<'a, V>
where
    V: Value,
{
    /// Counts a queued invalidation as success: see [`WriteCall::or_queue`](crate::WriteCall::or_queue).
    pub fn or_queue(self) -> OrQueue<<Self as IntoFuture>::IntoFuture> {
        OrQueue::new(self.into_future())
    }
}

impl<'a, V> IntoFuture for SetMany<'a, V>
where
    V: Value,
{
    type Output = Result<()>;
    type IntoFuture = WriteCall<'a, Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, entries, expiry, tags, timeout } = self;
        let max_wait = timeout.unwrap_or(cache.context.limits.response_timeout);
        let work = async move {
            let entries = entries?;
            let tags = tag::checked(tags, cache.policy.encoder.format())?;
            let longest = expiry.or(cache.policy.expiry).unwrap_or(Expiry::Never);
            let store = cache.context.store()?;
            // Before the versions are read: an outage at that point leaves the old values in place, too.
            let mut writing =
                cache.writing(entries.iter().map(|(entry, _)| entry).collect::<WriteNames<'_>>());
            writing.ready().await;
            // Encode all values before the first is sent.
            let encode = async {
                let versions = within(max_wait, cache.versions(&tags, cache.version_span(longest))).await?;
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
                let set = within(max_wait, async { Ok(store.set_many(batch).await) }).await;
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
