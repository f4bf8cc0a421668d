//! The typed cache: what a key means, how a value is kept, and how it is loaded.
//!
//! A [`Cache`] is a handle. The state that all handles of one name share (the loads under way, the counts) is one
//! object of the `Larder`. How values are written (time to live, format, sizes) belongs to the handle.

mod builder;
mod claim;
mod conditional;
mod explain;
mod fetch;
mod fill;
mod flight;
mod hot_keys;
#[cfg(all(test, larder_interleavings))]
mod interleavings;
mod invalidate;
mod load;
mod load_context;
mod load_error;
mod load_lazy;
mod load_many;
mod load_request;
mod loader;
mod local;
mod lookup;
mod many;
mod nesting;
mod once;
mod once_error;
mod once_run;
mod runs;
mod single;
mod tag;
mod thrown;
mod trace;
mod unfenced;
mod validity;
mod wait;
mod write_guard;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use crate::caches::{AnyCache, NearState};
use crate::context::Context;
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::name::Name;
use crate::near::{AnyTier, ClearVersion, EntryKey, EntryKeyRef, EntryName, Tier};
use crate::stats::CacheStats;
use crate::store::{Expiry, Store};
use crate::telemetry::CacheMeter;
use crate::value::{Encoder, Format, Value, WriteStamp};
pub use builder::CacheBuilder;
pub use conditional::SetIf;
pub use explain::{Explanation, NearVerdict, Stored};
use flight::Flights;
pub use hot_keys::HotKey;
use hot_keys::HotKeys;
pub use load::{Load, LoadEntry};
pub use load_context::LoadContext;
pub use load_error::LoadError;
pub use load_lazy::LoadOutput;
pub use load_many::LoadMany;
pub use loader::{LoadSetup, LoadSource};
use lookup::NearCopy;
pub use lookup::{Entry, EntryVersion, ParseVersionError, Source};
pub use many::SetMany;
pub use once::RunOnce;
pub use once_error::OnceError;
use runs::Runs;
pub use single::Set;
#[cfg(feature = "admin")]
pub(crate) use tag::checked as checked_tags;
pub use tag::{Tag, TagSnapshot};
pub use thrown::{Foreign, HoldsError, IsError, IsText, LoaderError, LoaderFailure};
use unfenced::WriteRecords;

/// The longest time to live. Redis counts milliseconds since 1970 in 63 bits; a hundred years is more than any use
/// needs.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The shortest time that a version key is kept. A version must outlive every entry that carries it.
pub(crate) const SHORTEST_SPAN: Duration = Duration::from_secs(24 * 3600);
/// The time that versions are kept for entries without an expiry. If no entry is written for that long, the version
/// expires and the entries are invalid with it.
pub(crate) const UNBOUNDED_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A typed cache, made by [`Larder::cache`](crate::Larder::cache). Cheap to clone, and usable from any number of
/// tasks.
///
/// Wrap values that are expensive to clone in `Arc<T>`.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Larder};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct User { name: String }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = Larder::connect("memory:").await?;
/// let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
/// let ann = User { name: "Ann".into() };
///
/// users.set("123", &ann).await?;
/// assert_eq!(users.get("123").await?, Some(ann));
/// assert!(users.exists("123").await?);
/// assert!(users.delete("123").await?);
/// # Ok(())
/// # }
/// ```
pub struct Cache<V> {
    context: Arc<Context>,
    shared: Arc<CacheShared<V>>,
    policy: Arc<Policy>,
}

/// The state that all handles of one name share.
pub(crate) struct CacheShared<V> {
    name: String,
    meter: CacheMeter,
    flights: Flights<V>,
    unfenced: WriteRecords,
    runs: Runs,
    /// The version key that `clear` replaces.
    clear: ClearVersion,
    near: OnceLock<Arc<NearTier<V>>>,
    /// Counts the most read keys, if a handle asked for that.
    hot: OnceLock<HotKeys>,
    /// Bounds the loads that run at once while the store is away.
    outage: tokio::sync::Semaphore,
}

struct NearTier<V> {
    copies: Tier<EntryKey, NearCopy<V>>,
    settings: crate::near::Near,
    max_age: Duration,
}

impl<V: Clone + Send + Sync> AnyTier for NearTier<V> {
    fn invalidate(&self, key: EntryKeyRef<'_>) {
        self.copies.invalidate(&key);
    }

    fn invalidate_all(&self) {
        self.copies.invalidate_all();
    }
}

impl<V> CacheShared<V>
where
    V: Clone + Send + Sync,
{
    /// Drops the near copies of these names. Called when a write to them has ended, with whatever outcome: from then
    /// on no read through this `Larder` may return an older value.
    fn forget_near<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let Some(near) = self.near.get() else { return };
        for name in names {
            match EntryName::parse(name) {
                Some(entry) => near.copies.invalidate(&entry.key),
                // Never: each name was made of this cache's prefix and a key.
                None => near.copies.invalidate_all(),
            }
        }
    }

    fn forget_all_near(&self) {
        if let Some(near) = self.near.get() {
            near.copies.invalidate_all();
        }
    }
}

impl<V: Clone + Send + Sync + 'static> AnyCache for CacheShared<V> {
    fn stats(&self) -> CacheStats {
        let (entries, bytes) = self.near.get().map(|near| near.copies.size()).unwrap_or_default();
        self.meter.stats(entries, bytes)
    }

    fn clear_version(&self) -> &str {
        &self.clear
    }

    fn near_copy(&self, entry: &str) -> Option<NearState> {
        // The tiers of other caches have the same keys.
        let entry = EntryName::parse(entry).filter(|entry| entry.is_of(&self.name))?;
        let copy = self.near.get()?.copies.get(&entry.key)?;
        let (clear_stamp, tags) =
            copy.more.map_or((copy.stamp, Vec::new()), |more| (more.clear_stamp, more.tags.clone()));
        Some(NearState { until: copy.until, stamp: copy.stamp, clear_stamp, tags })
    }

    fn detach_tagged(&self, tag: &str) {
        self.flights.detach_tagged(tag);
    }
}

/// The settings of one handle.
#[derive(Debug, Clone)]
struct Policy {
    /// The start of every entry's name.
    prefix: Name,
    /// The number in the prefix, 0 if there is none.
    schema: u32,
    expiry: Option<Expiry>,
    /// The largest part of a time to live, from 0 to 1, by which it may be shortened.
    jitter: f64,
    /// How long a value is kept after its time to live has ended.
    stale_for: Duration,
    negative_ttl: Option<Duration>,
    /// The beta of XFetch; 0 turns early refreshes off.
    early: f64,
    soft_timeout: Option<Duration>,
    hard_timeout: Option<Duration>,
    /// How long a call waits for a load that another call leads.
    wait_timeout: Duration,
    when_abandoned: WhenAbandoned,
    /// Whether reads skip the near tier.
    asks_server: bool,
    /// Whether the spans of loads name the key.
    trace_keys: bool,
    encoder: Arc<Encoder>,
}

/// What happens to a load when no caller waits for it any more. Given to
/// [`CacheBuilder::when_abandoned`](crate::CacheBuilder::when_abandoned).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenAbandoned {
    /// The load runs to its end, and its value is stored for later callers. The default.
    #[default]
    Finish,
    /// The load is dropped at its next await, and nothing is stored.
    Cancel,
}

impl<V> Cache<V>
where
    V: Value,
{
    /// Returns the name that the cache was built with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Makes a handle whose reads ask the server even if a near copy exists, and refresh the near copies.
    ///
    /// `users.fresh().get("123")` sees every write that was answered before the read was sent. Without a near tier
    /// the handle behaves like this one. Making it copies a few words, so keep one for as many reads as you like.
    pub fn fresh(&self) -> Self {
        let policy = Policy { asks_server: true, ..(*self.policy).clone() };
        Self { policy: Arc::new(policy), ..self.clone() }
    }

    /// Whether entries carry versions. Bare JSON has no room for them.
    fn has_versions(&self) -> bool {
        self.policy.encoder.format() != Format::Plain
    }

    /// Makes the envelope's fields for a value that is fresh for `expiry`. The time in `stale_for` is not part of
    /// `expiry`.
    fn stamp(&self, expiry: Expiry, load_cost: u32, versions: (u64, Vec<TagVersion>)) -> Result<WriteStamp> {
        let written_at = self.context.store()?.now();
        let ends = expiry.as_millis().map_or(0, |millis| written_at.saturating_add(millis));
        let (fresh_until, expires_at) = if self.is_dated() { (ends, 0) } else { (0, ends) };
        let (clear_version, tags) = versions;
        let nonce = self.context.random.nonce();
        Ok(WriteStamp { nonce, written_at, fresh_until, expires_at, load_cost, clear_version, tags })
    }

    /// Whether entries carry the time until which they are fresh: because they are kept for longer, or refreshed
    /// earlier.
    fn is_dated(&self) -> bool {
        !self.policy.stale_for.is_zero() || self.policy.early > 0.0
    }

    /// Encodes a value for the store.
    fn encode(&self, value: &V, stamp: WriteStamp) -> Result<Bytes> {
        self.policy.encoder.encode(value, stamp).map(Bytes::from)
    }

    /// Returns the call's own time to live, or else the cache's, shortened by the jitter.
    fn expiry(&self, own: Option<Expiry>) -> Result<Expiry> {
        match own.or(self.policy.expiry) {
            None => Err(Error::invalid(format!(
                "no time to live: give the cache {:?} one with ttl(), or this call, or say no_expiry()",
                self.shared.name
            ))),
            Some(Expiry::Never) => Ok(Expiry::Never),
            Some(Expiry::After(ttl)) => {
                check_ttl(ttl)?;
                if self.policy.jitter == 0.0 {
                    return Ok(Expiry::After(ttl));
                }
                Ok(Expiry::After(ttl.mul_f64(1.0 - self.policy.jitter * self.context.random.fraction())))
            }
        }
    }

    /// Returns how long the server keeps a value that is fresh for `expiry`.
    fn kept_for(&self, expiry: Expiry) -> Expiry {
        match expiry {
            Expiry::Never => Expiry::Never,
            Expiry::After(ttl) => Expiry::After(ttl.saturating_add(self.policy.stale_for)),
        }
    }

    /// Returns how long the versions of such a value must be kept.
    fn version_span(&self, expiry: Expiry) -> Duration {
        match self.kept_for(expiry) {
            Expiry::Never => UNBOUNDED_SPAN,
            Expiry::After(ttl) => ttl.max(SHORTEST_SPAN),
        }
    }
}

impl<V> Cache<V> {
    /// Runs one request of a load within the `response_timeout`.
    async fn bounded<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let max_wait = self.context.limits.response_timeout;
        tokio::time::timeout(max_wait, request).await.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))
    }

    /// Returns the keys that this process reads most, the most read first. Empty unless the cache was built with
    /// [`hot_keys`](crate::CacheBuilder::hot_keys).
    ///
    /// The shares are estimates, and recent reads weigh more. Keys may be personal data, so larder never makes them
    /// labels of metrics: show them where only operators look. Costs no round trip.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).hot_keys(10).build()?;
    /// for key in [7, 7, 7, 8] {
    ///     users.get(key).await?;
    /// }
    /// let hottest = &users.hot_keys()[0];
    /// assert_eq!((hottest.key.as_str(), hottest.share), ("7", 0.75));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn hot_keys(&self) -> Vec<HotKey> {
        self.shared.hot.get().map(HotKeys::report).unwrap_or_default()
    }

    /// Returns whether the cache was built to count reads.
    fn counts_reads(&self) -> bool {
        self.shared.hot.get().is_some()
    }

    /// Counts reads of an entry, if the cache was built to count them.
    #[inline]
    fn note_read(&self, entry: &str, reads: u64) {
        if let Some(hot) = self.shared.hot.get() {
            hot.count(entry.get(self.policy.prefix.len()..).unwrap_or_default(), reads);
        }
    }

    /// Returns the key's full name in the store.
    pub(crate) fn entry(&self, key: impl CacheKey) -> Result<Name> {
        let mut name = self.prefix();
        self.complete(&mut name, &key)?;
        Ok(name)
    }

    /// Returns the start of every name of this cache.
    #[inline]
    fn prefix(&self) -> Name {
        self.policy.prefix.clone()
    }

    /// Appends the key to `prefix` in place. Moving a name that was just written would stall on the store buffer and
    /// cost as much as the rest of a near hit.
    #[inline]
    fn complete(&self, prefix: &mut Name, key: &impl CacheKey) -> Result<()> {
        key.write(&mut KeyText::new(prefix));
        self.context.limits.check_key(prefix)
    }
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), shared: self.shared.clone(), policy: self.policy.clone() }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("name", &self.shared.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() {
        return Err(Error::invalid("a time to live of zero keeps nothing: use delete()"));
    }
    if ttl > LONGEST_TTL {
        return Err(Error::invalid("a time to live of more than 100 years: say no_expiry()"));
    }
    Ok(())
}
