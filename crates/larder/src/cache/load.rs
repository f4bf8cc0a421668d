//! Cache-aside: get what is there, or load it, once for all who want it.
//!
//! A miss boards a flight: one loader a key in this process, in a task of its own, so that a caller who goes away takes
//! nothing from the others. Before the loader runs, a placeholder is put under the very name of the entry; the loaded
//! value is stored only if that placeholder still stands. Whatever happens to the name in between (a set or a delete
//! by anybody, an expiry, an eviction) voids it, and the value is returned but not stored: an old row that a loader
//! read before a write never comes to lie over it. Leases of this kind are from Nishtala et al., "Scaling Memcache at
//! Facebook", NSDI 2013, section 3.2.1.
//!
//! Not promised yet: one loader over several processes. Where another process has its placeholder, this one loads too
//! and does not store.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::flight::{Crash, Landed, Pilot, Seat};
use super::{Cache, Found, tag};
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::store::{Expiry, FillStart, Store};
use crate::value::{Envelope, Format, TagVersion};

/// How long a placeholder stands when its loader died. A load that takes longer is returned and not stored.
const LIVENESS: Duration = Duration::from_secs(30);

/// How often a fill is begun anew because what is there changed under its eyes.
const MOST_ATTEMPTS: usize = 4;

/// Why a load has no value.
///
/// The loader's own error is shared by all who waited for it.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader failed.
    Loader(Arc<E>),
    /// The loader panicked, with this message. The panic went no further.
    Panicked(Arc<str>),
    /// The loader that this call waited for was another call's, and failed with an error of another type.
    Foreign,
    /// larder itself: the call timed out, the key is too long, the `Larder` was closed. An outage of the server is not
    /// among them: the loader runs all the same.
    Larder(Error),
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Loader(error) => Self::Loader(error.clone()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Foreign => Self::Foreign,
            Self::Larder(error) => Self::Larder(error.clone()),
        }
    }
}

impl<E> From<Error> for LoadError<E> {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(error) => write!(f, "the loader failed: {error}"),
            Self::Panicked(message) => write!(f, "the loader panicked: {message}"),
            Self::Foreign => f.write_str("another caller's loader failed with an error of another type"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for LoadError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Loader(error) => Some(&**error),
            Self::Larder(error) => Some(error),
            Self::Panicked(_) | Self::Foreign => None,
        }
    }
}

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The value of a key; where there is none, what `loader` gives, stored for those who come later.
    ///
    /// However many callers miss a key at once, one loader runs in this process and all get its value. It runs in a
    /// task of its own, hence `'static`: a caller that is dropped or times out does not stop it. When it fails or
    /// panics, all who waited get that error, nothing is stored, and the next call loads.
    ///
    /// When the server is away the loader still runs, and its value is returned without being stored.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[derive(Clone)] struct Db; impl Db { async fn user(&self, _: u64) -> Result<String, std::io::Error> { Ok("Ann".into()) } }
    /// # async fn run(db: Db) -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let user = users.get_or_load(123, move || async move { db.user(123).await }).await?;
    /// # assert_eq!(user, "Ann"); Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(Db)).unwrap();
    /// ```
    ///
    /// A hit is one round trip, as [`get`](Self::get). A load is two before the loader and one after.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the load running for others, and its value is stored.
    pub fn get_or_load<F, Fut, E>(&self, key: impl CacheKey, loader: F) -> Load<'_, V, F>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        Load { cache: self, entry: self.entry(key), loader, expiry: None, tags: Vec::new(), timeout: None }
    }
}

/// A value to be got or loaded; awaiting it does so. Made by [`Cache::get_or_load`].
#[must_use = "nothing is loaded before this is awaited"]
pub struct Load<'a, V, F> {
    cache: &'a Cache<V>,
    entry: Result<String>,
    loader: F,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    timeout: Option<Duration>,
}

impl<V, F> Load<'_, V, F> {
    /// How long the loaded value is kept, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// A tag of the loaded value. Its version is taken before the loader runs, so that an invalidation during the load
    /// voids the value.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The longest that this call waits, loader included. Default: as long as the loader takes; each request to the
    /// server by itself is bounded by the connection's `response_timeout`. The loader is not stopped.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, V, F, Fut, E> IntoFuture for Load<'a, V, F>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
    E: Send + Sync + 'static,
{
    type Output = Result<V, LoadError<E>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let started = Instant::now();
            let meter = &self.cache.shared.meter.get_or_load;
            let result = match self.timeout {
                None => self.run().await,
                Some(timeout) => match tokio::time::timeout(timeout, self.run()).await {
                    Ok(result) => result,
                    Err(_) => Err(Error::timed_out(timeout).into()),
                },
            };
            let error = match &result {
                Err(LoadError::Larder(error)) => Some(error),
                _ => None,
            };
            meter.finished(started.elapsed(), error);
            result
        })
    }
}

impl<V, F, Fut, E> Load<'_, V, F>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
    E: Send + Sync + 'static,
{
    async fn run(self) -> Result<V, LoadError<E>> {
        let Self { cache, entry, loader, expiry, tags, .. } = self;
        let entry = entry?;
        cache.context.store()?;
        let expiry = cache.expiry(expiry)?;

        let unusable = match cache.bounded(cache.look(&entry)).await {
            Ok(Found::Value(value)) => return Ok(value),
            Ok(Found::Unusable(bytes)) => Some(bytes),
            Ok(Found::Nothing) => None,
            // An outage must not take the origin away too.
            Err(error) => {
                tracing::debug!(cache = cache.name(), %error, "loading without the store");
                None
            }
        };
        let (seat, pilot) = cache.shared.flights.board(&entry);
        if let Some(pilot) = pilot {
            let flight = Flight { cache: cache.clone(), entry, expiry, tags, unusable };
            cache.context.loads.spawn(flight.fly(pilot, loader));
        }
        wait(seat).await
    }
}

async fn wait<V: Clone, E: Send + Sync + 'static>(mut seat: Seat<V>) -> Result<V, LoadError<E>> {
    let landed = match seat.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone(),
        Err(_) => None,
    };
    match landed {
        Some(Ok(value)) => Ok(value),
        Some(Err(Crash::Panicked(message))) => Err(LoadError::Panicked(message)),
        Some(Err(Crash::Loader(error))) => {
            Err(error.downcast().map_or(LoadError::Foreign, LoadError::Loader))
        }
        None => Err(Error::closed().into()),
    }
}

/// One load under way.
struct Flight<V> {
    cache: Cache<V>,
    entry: String,
    expiry: Expiry,
    tags: Vec<String>,
    unusable: Option<Bytes>,
}

/// What a fill's beginning came to.
enum Fill<V> {
    /// The placeholder stands; these tags' versions were read before the load.
    Begun { placeholder: Bytes, tags: Vec<TagVersion> },
    /// Somebody stored a value in between.
    Overtaken(V),
    /// Another loader's placeholder stands, or the store is away: load, and do not store.
    Unfenced,
    /// Bare JSON has no room for a placeholder: its readers in other languages would stumble over it.
    Plain,
}

impl<V> Flight<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn fly<F, Fut, E>(self, pilot: Pilot<V>, loader: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let fill = self.begin().await.unwrap_or(Fill::Unfenced);
        if let Fill::Overtaken(value) = fill {
            return pilot.land(Ok(value));
        }
        let started = Instant::now();
        let landed = run(loader).await;
        self.cache.shared.meter.loaded(landed.is_ok());
        self.end(fill, &landed, started.elapsed(), &pilot).await;
        pilot.land(landed);
    }

    async fn begin(&self) -> Result<Fill<V>> {
        let cache = &self.cache;
        if cache.policy.encoder.format() == Format::Plain {
            return Ok(Fill::Plain);
        }
        let store = cache.context.store()?;
        let tags = cache.bounded(tag::versions(&cache.context, self.tags.clone(), self.expiry)).await?;
        let placeholder = Bytes::from(Envelope::placeholder(cache.context.random.nonce(), store.now()));
        let mut unusable = self.unusable.clone();
        for _ in 0..MOST_ATTEMPTS {
            let begun = store.begin_fill(&self.entry, placeholder.clone(), LIVENESS, unusable.take());
            match cache.bounded(begun).await? {
                FillStart::Begun => return Ok(Fill::Begun { placeholder, tags }),
                FillStart::Occupied(bytes) => match cache.bounded(cache.judge(bytes)).await? {
                    Found::Value(value) => return Ok(Fill::Overtaken(value)),
                    Found::Nothing => return Ok(Fill::Unfenced),
                    Found::Unusable(bytes) => unusable = Some(bytes),
                },
            }
        }
        Ok(Fill::Unfenced)
    }

    /// Stores what was loaded, if nothing voided the fill. A failure to store is the cache's, not the caller's.
    async fn end(&self, fill: Fill<V>, landed: &Landed<V>, cost: Duration, pilot: &Pilot<V>) {
        let cache = &self.cache;
        let ended = async {
            let store = cache.context.store()?;
            let cost = u32::try_from(cost.as_micros()).unwrap_or(u32::MAX);
            match (fill, landed) {
                (Fill::Begun { placeholder, tags }, Ok(value)) => {
                    let bytes = match cache.encode(value, cost, tags) {
                        Ok(bytes) => bytes,
                        Err(error) => {
                            store.abandon_fill(&self.entry, placeholder).await?;
                            return Err(error);
                        }
                    };
                    let size = bytes.len();
                    if store.commit_fill(&self.entry, placeholder, bytes, self.expiry).await? {
                        cache.shared.meter.wrote(size);
                    } else {
                        cache.shared.meter.fill_voided();
                    }
                }
                (Fill::Begun { placeholder, .. }, Err(_)) => {
                    store.abandon_fill(&self.entry, placeholder).await?;
                }
                (Fill::Plain, Ok(value)) if pilot.is_attached() => {
                    let bytes = cache.encode(value, cost, Vec::new())?;
                    let size = bytes.len();
                    store.set(&self.entry, bytes, self.expiry).await?;
                    cache.shared.meter.wrote(size);
                }
                _ => {}
            }
            Ok(())
        };
        if let Err(error) = cache.bounded(ended).await {
            tracing::warn!(cache = cache.name(), %error, "a loaded value could not be stored");
        }
    }
}

impl<V> Cache<V> {
    /// A request of a load, within the time that any request may take.
    async fn bounded<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let patience = self.context.limits.response_timeout;
        tokio::time::timeout(patience, request).await.unwrap_or_else(|_| Err(Error::timed_out(patience)))
    }
}

/// Runs a loader to its end, whatever that is.
async fn run<V, F, Fut, E>(loader: F) -> Landed<V>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<V, E>>,
    E: Send + Sync + 'static,
{
    match AssertUnwindSafe(async { loader().await }).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Crash::Loader(Arc::new(error))),
        Err(panic) => Err(Crash::Panicked(message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

impl<V, F> fmt::Debug for Load<'_, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("entry", &self.entry)
            .field("expiry", &self.expiry)
            .field("tags", &self.tags)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
