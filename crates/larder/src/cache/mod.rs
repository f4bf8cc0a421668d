//! A typed cache under a name: what a key means, how a value is kept, and who loads it.
//!
//! A [`Cache`] is a handle. What all handles of one name share (the loads under way, the counts) is one object of the
//! `Larder`; how values are written (time to live, format, sizes) belongs to the handle.

mod builder;
mod caller;
mod claim;
mod conditional;
mod explain;
mod fetch;
mod fill;
mod flight;
mod invalidate;
mod kept;
mod load;
mod load_error;
mod load_many;
mod loader;
mod loading;
mod local;
mod many;
mod nesting;
mod once;
mod runs;
mod single;
mod sync;
mod tag;
mod thrown;
mod unfenced;
mod verdict;
mod wait;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::{AnyCache, Context};
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::name::Name;
use crate::near::{AnyTier, Tier};
use crate::stats::CacheStats;
use crate::store::{Expiry, Store};
use crate::telemetry::CacheMeter;
use crate::value::{Encoder, Format, WriteStamp};
pub use builder::CacheBuilder;
pub use conditional::{EntryVersion, ParseVersionError, SetIf};
pub use explain::{Explanation, NearVerdict, Stored};
use flight::Flights;
use kept::NearCopy;
pub use kept::{Entry, Source};
pub use load::{Load, LoadEntry};
pub use load_error::LoadError;
pub use load_many::LoadMany;
pub use loading::LoadContext;
pub use many::SetMany;
pub use once::{OnceError, RunOnce};
use runs::Runs;
pub use single::Set;
pub use tag::{Tag, TagSnapshot};
pub use thrown::{Foreign, HoldsError, IsError, IsText, LoaderError, LoaderFailure};
use unfenced::{UnfencedWrite, WriteRecords};

/// How long a version is kept at least: it must outlive every entry that carries it.
const SHORTEST_SPAN: Duration = Duration::from_secs(24 * 3600);
/// For entries without an expiry. What no entry was given for so long is forgotten, and the entries with it.
const UNBOUNDED_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A typed cache. Made by [`Larder::cache`](crate::Larder::cache); cheap to clone, for any number of tasks.
///
/// A value that is dear to clone is best cached as `Arc<T>`.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Larder};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct User { name: String }
///
/// # async fn run() -> larder::Result<()> {
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
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
pub struct Cache<V> {
    context: Arc<Context>,
    shared: Arc<CacheShared<V>>,
    policy: Arc<Policy>,
}

/// What all handles of one name share.
pub(crate) struct CacheShared<V> {
    name: String,
    meter: CacheMeter,
    flights: Flights<V>,
    unfenced: WriteRecords,
    runs: Runs,
    /// The name of the version that `clear` replaces.
    clear: Name,
    near: OnceLock<Arc<NearTier<V>>>,
    /// Who may load at once while the store is away.
    outage: tokio::sync::Semaphore,
}

struct NearTier<V> {
    copies: Tier<NearCopy<V>>,
    settings: crate::near::Near,
    max_age: Duration,
}

impl<V: Clone + Send + Sync> AnyTier for NearTier<V> {
    fn invalidate(&self, name: &str) {
        self.copies.invalidate(name);
    }

    fn invalidate_all(&self) {
        self.copies.invalidate_all();
    }
}

impl<V> CacheShared<V>
where
    V: Clone + Send + Sync,
{
    /// A write to these names has ended, however: nothing older may be read through this `Larder` from now on.
    fn forget_near<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        if let Some(near) = self.near.get() {
            names.into_iter().for_each(|name| near.copies.invalidate(name));
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

    fn near_copy(&self, entry: &str) -> Option<crate::context::NearState> {
        let copy = self.near.get()?.copies.get(entry)?;
        let (clear_seen, tags) =
            copy.more.map_or((copy.seen, Vec::new()), |more| (more.clear_seen, more.tags.clone()));
        Some(crate::context::NearState { until: copy.until, seen: copy.seen, clear_seen, tags })
    }

    fn detach_tagged(&self, tag: &str) {
        self.flights.detach_tagged(tag);
    }
}

/// How one handle keeps its values.
#[derive(Debug, Clone)]
struct Policy {
    /// What every name begins with.
    prefix: Name,
    expiry: Option<Expiry>,
    /// By how much of itself a time to live is shortened at most, from 0 to 1.
    jitter: f64,
    /// How long a value is kept beyond its time to live.
    stale_for: Duration,
    negative_ttl: Option<Duration>,
    /// XFetch's beta; 0 turns it off.
    early: f64,
    soft_timeout: Option<Duration>,
    hard_timeout: Option<Duration>,
    /// How long a call waits for a load that another call leads.
    wait_timeout: Duration,
    when_abandoned: WhenAbandoned,
    /// Whether reads pass the near tier by.
    asks_server: bool,
    encoder: Arc<Encoder>,
}

/// What becomes of a load that nobody waits for any more. Given to
/// [`CacheBuilder::when_abandoned`](crate::CacheBuilder::when_abandoned).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenAbandoned {
    /// It goes on, and its value is stored: whoever asks next will want it. The default.
    #[default]
    Finish,
    /// It is dropped at its next await, and nothing is stored.
    Cancel,
}

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The name that the cache was built with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// A handle whose reads ask the server, whatever the near tier holds, and refresh its copies.
    ///
    /// `users.fresh().get("123")` sees every write that was answered before it was sent. Without a near tier nothing
    /// changes. A clone of some words: make one for as many reads as you like.
    pub fn fresh(&self) -> Self {
        let policy = Policy { asks_server: true, ..(*self.policy).clone() };
        Self { policy: Arc::new(policy), ..self.clone() }
    }

    /// Whether entries carry versions: bare JSON has no room for any.
    fn has_versions(&self) -> bool {
        self.policy.encoder.format() != Format::Plain
    }

    /// What the envelope of a write says that is kept for `expiry`, which the stale time is no part of.
    fn stamp(&self, expiry: Expiry, load_cost: u32, versions: (u64, Vec<TagVersion>)) -> Result<WriteStamp> {
        let written_at = self.context.store()?.now();
        let ends = expiry.as_millis().map_or(0, |millis| written_at.saturating_add(millis));
        let (fresh_until, expires_at) = if self.is_dated() { (ends, 0) } else { (0, ends) };
        let (clear_version, tags) = versions;
        let nonce = self.context.random.nonce();
        Ok(WriteStamp { nonce, written_at, fresh_until, expires_at, load_cost, clear_version, tags })
    }

    /// Whether values say until when they are fresh: they are kept for longer, or are refreshed before.
    fn is_dated(&self) -> bool {
        !self.policy.stale_for.is_zero() || self.policy.early > 0.0
    }

    /// A value's bytes, ready to be stored.
    fn encode(&self, value: &V, stamp: WriteStamp) -> Result<Bytes> {
        self.policy.encoder.encode(value, stamp).map(Bytes::from)
    }

    /// The call's own time to live, else the cache's, shortened by the jitter.
    fn expiry(&self, own: Option<Expiry>) -> Result<Expiry> {
        match own.or(self.policy.expiry) {
            None => Err(Error::invalid(format!(
                "no time to live: give the cache {:?} one with ttl(), or this call, or say no_expiry()",
                self.shared.name
            ))),
            Some(Expiry::Never) => Ok(Expiry::Never),
            Some(Expiry::After(ttl)) => {
                builder::check_ttl(ttl)?;
                if self.policy.jitter == 0.0 {
                    return Ok(Expiry::After(ttl));
                }
                Ok(Expiry::After(ttl.mul_f64(1.0 - self.policy.jitter * self.context.random.fraction())))
            }
        }
    }

    /// How long the server keeps what is fresh for `expiry`.
    fn kept_for(&self, expiry: Expiry) -> Expiry {
        match expiry {
            Expiry::Never => Expiry::Never,
            Expiry::After(ttl) => Expiry::After(ttl.saturating_add(self.policy.stale_for)),
        }
    }

    /// How long the versions of what is kept for `expiry` must be kept.
    fn version_span(&self, expiry: Expiry) -> Duration {
        match self.kept_for(expiry) {
            Expiry::Never => UNBOUNDED_SPAN,
            Expiry::After(ttl) => ttl.max(SHORTEST_SPAN),
        }
    }

    /// Begins a write to these names; see [`WriteGuard`]. To be called before the first await of the write.
    fn writing<'a>(&'a self, names: Vec<&'a str>) -> WriteGuard<'a, V> {
        let began = self.context.invalidations.begin_write(&names);
        let unfenced = self.shared.unfenced.write(&names);
        WriteGuard { cache: self, names, answers: WriteReplies::None, began, unfenced }
    }
}

impl<V> Cache<V> {
    /// Counts a near hit.
    #[inline]
    fn near_hit(&self, entry: &Name) {
        if self.shared.meter.near_hit() {
            self.context.changes.versions.recency.used_copy(entry);
        }
    }

    /// The key's whole name in the store.
    fn entry(&self, key: impl CacheKey) -> Result<Name> {
        let mut name = self.prefix();
        self.complete(&mut name, &key)?;
        Ok(name)
    }

    /// What every name begins with.
    #[inline]
    fn prefix(&self) -> Name {
        self.policy.prefix.clone()
    }

    /// Makes the key's whole name of the prefix. Where the name lies it stays: a name that was just written cannot be moved
    /// as quickly as the rest of a near hit takes, because the processor waits for its pieces to leave the store buffer.
    #[inline]
    fn complete(&self, prefix: &mut Name, key: &impl CacheKey) -> Result<()> {
        key.write(&mut KeyText::new(prefix));
        self.context.limits.check_key(prefix)
    }
}

/// A write under way. When it ends, however it ends, loads under way are detached and near copies dropped: not before, or
/// either could begin between that and the write. What it was given up for before it was answered, or what the server was
/// away for, is queued as an invalidation: so the guard is made before the write's first await.
struct WriteGuard<'a, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    cache: &'a Cache<V>,
    names: Vec<&'a str>,
    answers: WriteReplies,
    /// The queue's generation when this began, if anything was queued then.
    began: Option<u64>,
    unfenced: UnfencedWrite,
}

/// What became of each name of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteReply {
    /// No answer, or one that leaves open whether it took effect.
    None,
    /// The server refused it.
    Refused,
    CarriedOut,
}

impl WriteReply {
    fn of<T>(answer: &Result<T>) -> Self {
        match answer {
            Ok(_) => Self::CarriedOut,
            Err(error) if error.is_outage() => Self::None,
            Err(_) => Self::Refused,
        }
    }
}

/// The answers to a write, by the place of the name.
enum WriteReplies {
    None,
    Same(WriteReply),
    Each(Vec<WriteReply>),
}

impl WriteReplies {
    fn of(&self, place: usize) -> WriteReply {
        match self {
            Self::None => WriteReply::None,
            Self::Same(answer) => *answer,
            Self::Each(answers) => answers.get(place).copied().unwrap_or(WriteReply::None),
        }
    }
}

impl<V> WriteGuard<'_, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Waits until nothing that was sent before this write can take effect after it: queued invalidations of these names
    /// that are on their way, and stores without a fence.
    async fn ready(&self) {
        if self.began.is_some() {
            self.cache.context.invalidations.in_flight_ended(&self.names).await;
        }
        self.unfenced.settled().await;
    }

    /// Notes the answer to the write of one name, by its place among the names.
    fn note<T>(&mut self, place: usize, answer: &Result<T>) {
        if !matches!(self.answers, WriteReplies::Each(_)) {
            self.answers = WriteReplies::Each(vec![WriteReply::None; self.names.len()]);
        }
        if let WriteReplies::Each(answers) = &mut self.answers
            && let Some(noted) = answers.get_mut(place)
        {
            *noted = WriteReply::of(answer);
        }
    }

    /// Ends the write of all names with one answer, and passes that on. The error says so where the names are queued.
    fn answered<T>(mut self, answer: Result<T>) -> Result<T> {
        self.answers = WriteReplies::Same(WriteReply::of(&answer));
        answer.map_err(|error| if error.is_outage() { error.queued() } else { error })
    }

    /// The same with an answer for each name. The error is that of a name that was refused, if there is one: else all
    /// that failed is queued.
    fn answered_each<T>(mut self, answers: Vec<Result<T>>) -> Result<Vec<T>> {
        for (place, answer) in answers.iter().enumerate() {
            self.note(place, answer);
        }
        let (mut values, mut queued) = (Vec::with_capacity(answers.len()), None);
        for answer in answers {
            match answer {
                Ok(value) => values.push(value),
                Err(error) if error.is_outage() => queued = queued.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        queued.map_or(Ok(values), |error| Err(error.queued()))
    }
}

impl<V> Drop for WriteGuard<'_, V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let Self { cache, names, answers, began, .. } = self;
        let context = &cache.context;
        let each = || names.iter().enumerate().map(|(place, name)| (*name, answers.of(place)));
        if let Some(began) = *began {
            for (name, answer) in each() {
                context.invalidations.end_write(name, began, answer == WriteReply::CarriedOut);
            }
        }
        if !context.is_embedded() && each().any(|(_, answer)| answer == WriteReply::None) {
            let clear = cache.has_versions().then_some(&*cache.shared.clear);
            let open = each().filter(|(_, answer)| *answer == WriteReply::None).map(|(name, _)| name);
            context.queue_deletes(open, clear);
        }
        cache.shared.forget_near(names.iter().copied());
        cache.shared.flights.detach(names);
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
