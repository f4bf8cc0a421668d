//! Making the cache forget: one key, one key softly, or all of them.
//!
//! `delete` removes an entry and whatever load of it is under way. `expire` leaves it to be served as stale while it is
//! loaded anew. `clear` replaces the version that every entry of the cache carries, and so voids them all with one write.

use std::time::Duration;

use super::Cache;
use super::verdict::Verdict;
use super::wait::pause;
use crate::context::RENEWAL_SPAN;
use crate::envelope::nonce;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::store::{Expiry, Store};
use crate::value::{EntryTimes, Value, restamped};
use crate::write::WriteCall;

/// How often `expire` and `touch` start over because what it read was written to meanwhile: each time somebody else got
/// through.
const MOST_ATTEMPTS: u32 = 8;

impl<V> Cache<V>
where
    V: Value,
{
    /// Removes a key, and voids a load of it that is under way; whether anything was there. `true` may also mean that
    /// only such a load was voided, or an entry that an invalidated tag had voided before.
    ///
    /// One round trip and one command, `UNLINK`.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. Where the server is away, or does not answer in time, the key may still be
    /// there: its deletion is queued, and the error [says so](Error::is_queued).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have removed the key; its deletion is queued.
    pub fn delete(&self, key: impl CacheKey) -> WriteCall<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.delete, async move {
            let entry = entry?;
            let store = self.context.store()?;
            let writing = self.writing(vec![&entry]);
            writing.ready().await;
            writing.answered(store.delete(&entry).await)
        })
    }

    /// Marks a key's value as stale; whether there was one. `get` does not give it any more, `get_or_load` loads, and where that
    /// fails, or takes longer than `soft_timeout`, gives the stale value. A load that is under way is voided.
    ///
    /// A value without an envelope (bare JSON) cannot be marked and is removed. A value of a cache without
    /// [`stale_for`](super::CacheBuilder::stale_for) is kept, as stale, for the rest of its time to live.
    ///
    /// Two round trips.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete); what is queued is a deletion.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have marked the value; its deletion is queued.
    pub fn expire(&self, key: impl CacheKey) -> WriteCall<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.expire, async move {
            let entry = entry?;
            let store = self.context.store()?;
            let writing = self.writing(vec![&entry]);
            writing.ready().await;
            writing.answered(self.mark_stale(store, &entry).await)
        })
    }

    async fn mark_stale(&self, store: &impl Store, entry: &str) -> Result<bool> {
        for _ in 0..MOST_ATTEMPTS {
            let Some(bytes) = store.get(entry).await? else { return Ok(false) };
            // One millisecond after 1970 is long ago, and not "until it expires".
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
                // A load under way, or nothing that could be served.
                _ => return store.delete(entry).await,
            }
        }
        store.delete(entry).await
    }

    /// Voids every entry of this cache, of whatever schema, and every load under way.
    ///
    /// One round trip, whatever the number of entries: they are not visited, and leave memory as their time comes. Bare JSON that
    /// another program wrote carries no version, and stays.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).await?;
    /// users.clear().await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. Where the server is away the invalidation is queued, and the error
    /// [says so](Error::is_queued). `InvalidSetting` for a cache of `Format::Plain`, whose entries carry no version.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have cleared the cache; it is queued to be cleared again.
    pub fn clear(&self) -> WriteCall<'_, impl Future<Output = Result<()>> + Send> {
        WriteCall::new(self.context.limits.response_timeout, &self.shared.meter.clear, async move {
            if !self.has_versions() {
                return Err(Error::invalid(
                    "entries of Format::Plain carry no version that clear() could replace",
                ));
            }
            let store = self.context.store()?;
            let clearing = Clearing { cache: self, answered: false };
            let version = self.context.random.nonce();
            clearing.answered(store.renew_version(&self.shared.clear, version, RENEWAL_SPAN).await)
        })
    }

    /// A new time to live for an entry that counts, counted from now; whether there was one.
    ///
    /// The envelope says when the entry ends, which near copies go by, so it is written again: under the same nonce, as
    /// the value is the same, and loads that are under way may still replace it. The versions that it carries must
    /// outlive it.
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

/// A clear under way. When it ends, however it ends, nothing older is read through this `Larder`.
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
        context.changes.versions.changed(&shared.clear);
        shared.forget_all_near();
        shared.flights.detach_all();
    }
}
