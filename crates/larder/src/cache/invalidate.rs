//! Invalidation: delete a key, mark a key as stale, or clear the whole cache.
//!
//! `delete` removes an entry and breaks the claim of any load of it. `expire` keeps the entry, to be served as stale
//! while it is loaded again. `clear` replaces the version that every entry of the cache carries, and so invalidates
//! all of them with one write.

use std::time::Duration;

use super::Cache;
use super::validity::Verdict;
use super::wait::pause;
use crate::context::RENEWAL_SPAN;
use crate::envelope::nonce;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::store::{Expiry, Store};
use crate::value::{EntryTimes, Value, restamped};
use crate::write::WriteCall;

/// How many times `expire` and `touch` start over because the entry was written between their read and their write.
const MOST_ATTEMPTS: u32 = 8;

impl<V> Cache<V>
where
    V: Value,
{
    /// Deletes a key, and returns whether anything was there. The value of a load under way is not stored. `true` may
    /// also mean that only such a load was there, or an entry that was already invalid.
    ///
    /// Costs one round trip and one command, `UNLINK`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// If the server is away or does not answer in time, the key may still be there. Its deletion is queued, and the
    /// error's [`is_queued`](Error::is_queued) is true.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have deleted the key; its deletion is queued.
    pub fn delete(&self, key: impl CacheKey) -> WriteCall<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.delete, async move {
            let entry = entry?;
            let store = self.context.store()?;
            let writing = self.writing(&entry);
            writing.ready().await;
            writing.answered(store.delete(&entry).await)
        })
    }

    /// Marks a key's value as stale, and returns whether there was one. From then on `get` treats it as absent.
    /// `get_or_load` loads, and returns the stale value if the load fails or takes longer than `soft_timeout`. The
    /// value of a load under way is not stored.
    ///
    /// A value without an envelope (bare JSON) cannot be marked and is deleted. If the cache has no
    /// [`stale_for`](super::CacheBuilder::stale_for), the value is kept as stale for the rest of its time to live.
    ///
    /// Costs two round trips.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    ///
    /// If the server is away, a deletion of the key is queued, and the error's [`is_queued`](crate::Error::is_queued)
    /// is true.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have marked the value; its deletion is queued.
    pub fn expire(&self, key: impl CacheKey) -> WriteCall<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.expire, async move {
            let entry = entry?;
            let store = self.context.store()?;
            let writing = self.writing(&entry);
            writing.ready().await;
            writing.answered(self.mark_stale(store, &entry).await)
        })
    }

    async fn mark_stale(&self, store: &impl Store, entry: &str) -> Result<bool> {
        for _ in 0..MOST_ATTEMPTS {
            let Some(bytes) = store.get(entry).await? else { return Ok(false) };
            // One millisecond after 1970 is in the past; 0 would mean "until it expires".
            let stale = match self.verdict(entry, &bytes).await?.verdict {
                Verdict::Serve(_) | Verdict::Stale(_) => {
                    restamped(&bytes, self.context.random.nonce(), EntryTimes::FreshUntil(1))
                }
                _ => None,
            };
            match (nonce(&bytes), stale) {
                (Some(nonce), Some(stale)) => {
                    if store.restamp(entry, nonce, stale.into(), None).await? {
                        return Ok(true);
                    }
                }
                // A load under way, or bytes that could not be served.
                _ => return store.delete(entry).await,
            }
        }
        store.delete(entry).await
    }

    /// Invalidates every entry of this cache, of any schema, and keeps every load under way from storing its value.
    ///
    /// Costs one round trip, whatever the number of entries: they are not visited, and expire in their own time. Bare
    /// JSON that another program wrote carries no version, and stays valid.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).await?;
    /// users.clear().await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the cache is of `Format::Plain`, whose entries carry
    ///   no version.
    ///
    /// If the server is away, the invalidation is queued, and the error's [`is_queued`](Error::is_queued) is true.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have cleared the cache; the clear is queued.
    pub fn clear(&self) -> WriteCall<'_, impl Future<Output = Result<()>> + Send> {
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.clear, async move {
            if !self.has_versions() {
                return Err(Error::invalid(
                    "clear() replaces a version, and entries of Format::Plain carry none: delete their keys",
                ));
            }
            let store = self.context.store()?;
            let clearing = Clearing { cache: self, answered: false };
            let version = self.context.random.nonce();
            clearing.answered(store.renew_version(&self.shared.clear, version, RENEWAL_SPAN).await)
        })
    }

    /// Gives a valid entry a new time to live, counted from now, and returns whether there was one.
    ///
    /// The envelope says when the entry ends, and near copies rely on it, so the entry is written again. It keeps its
    /// nonce, because the value is the same and loads under way may still replace it. Its versions must outlive it.
    pub(super) async fn touch_entry(&self, entry: &str, ttl: Duration) -> Result<bool> {
        let store = self.context.store()?;
        let expiry = Expiry::After(ttl);
        for attempts in 1..=MOST_ATTEMPTS {
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, self.context.random.fraction())).await;
            }
            let Some(bytes) = store.get(entry).await? else { return Ok(false) };
            let classified = self.verdict(entry, &bytes).await?;
            if !classified.is_served() {
                return Ok(false);
            }
            let meta = classified.meta;
            let ends = store.now().saturating_add(expiry.as_millis().unwrap_or(0));
            let ends = match self.is_dated() || meta.fresh_until != 0 {
                true => EntryTimes::FreshUntil(ends),
                false => EntryTimes::ExpiresAt(ends),
            };
            let Some(bytes) = restamped(&bytes, meta.nonce, ends) else {
                return store.touch(entry, expiry).await;
            };
            let tags: Vec<String> = meta.tags.into_iter().map(|tag| tag.tag).collect();
            self.versions(&tags, self.version_span(expiry)).await?;
            if store.restamp(entry, meta.nonce, bytes.into(), Some(self.kept_for(expiry))).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A clear under way. However it ends, `Drop` makes sure that no older value is read through this `Larder`.
struct Clearing<'a, V>
where
    V: Value,
{
    cache: &'a Cache<V>,
    answered: bool,
}

impl<V> Clearing<'_, V>
where
    V: Value,
{
    fn answered(mut self, answer: Result<()>) -> Result<()> {
        self.answered = !answer.as_ref().is_err_and(Error::is_outage);
        if self.answered { answer } else { answer.map_err(Error::queued) }
    }
}

impl<V> Drop for Clearing<'_, V>
where
    V: Value,
{
    fn drop(&mut self) {
        let Cache { context, shared, .. } = self.cache;
        if !self.answered && !context.is_embedded() {
            context.queue_clear(&shared.clear);
        }
        context.invalidations.versions.changed(&shared.clear);
        shared.forget_all_near();
        shared.flights.detach_all();
    }
}
