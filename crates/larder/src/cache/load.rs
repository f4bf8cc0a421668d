//! Cache-aside: get what is there, or load it, once for all who want it.
//!
//! A miss joins a flight: one loader a key in this process, in a task of its own, so that a caller who goes away takes
//! nothing from the others. Before the loader runs, a placeholder is put under the very name of the entry; the loaded
//! value is stored only if that placeholder still stands. Whatever happens to the name in between (a set or a delete
//! by anybody, an expiry, an eviction) voids it, and the value is returned but not stored: an old row that a loader
//! read before a write never comes to lie over it. Leases of this kind are from Nishtala et al., "Scaling Memcache at
//! Facebook", NSDI 2013, section 3.2.1.
//!
//! Not promised yet: one loader over several processes. Where another process has its placeholder, this one loads too
//! and does not store.

use std::any::Any;
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

use super::flight::{Failure, Leader, Outcome, Waiter};
use super::load_error::LoadError;
use super::{Cache, Found, tag};
use crate::envelope::{Envelope, TagVersion};
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::store::{AnyStore, Expiry, FillStart, Store};
use crate::value::Format;

/// How long a placeholder stands when its loader died. A load that takes longer is returned and not stored.
const LIVENESS: Duration = Duration::from_secs(30);

/// How often a fill is begun anew because what is there changed under its eyes.
const MOST_ATTEMPTS: usize = 4;

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
    /// A hit is one round trip, as [`get`](Self::get). A load is two before the loader and one after; tags cost one more.
    ///
    /// A loader that never ends keeps its key's other callers waiting, unless they give a `timeout`, and the connection
    /// open until [`close`](crate::Larder::close).
    ///
    /// # Errors
    ///
    /// A [`LoadError`] around the loader's own error type, which `?` in the loader may leave open: then it ends in
    /// `Ok::<_, MyError>(value)`.
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
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
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
    /// How long the loaded value is kept, in place of the cache's time to live. Where this call waits for another's load,
    /// that call's time to live and tags count.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// The loaded value stays until it is deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
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
        let tags = tag::checked(tags, cache.policy.encoder.format())?;

        let unusable = match cache.bounded(cache.look(&entry)).await {
            Ok(Found::Value(value)) => return Ok(value),
            Ok(Found::Unusable(bytes)) => Some(bytes),
            Ok(Found::Nothing) => None,
            // An outage must not take the origin away too.
            Err(error) => {
                cache.shared.meter.bypassed(&error);
                None
            }
        };
        let (waiter, leader) = cache.shared.flights.join(&entry, &tags);
        if let Some(leader) = leader {
            let fill = Fill { cache: cache.clone(), entry, expiry, tags };
            cache.context.loads.spawn(fill.run(unusable, leader, loader));
        }
        wait(waiter).await
    }
}

async fn wait<V: Clone, E: Send + Sync + 'static>(mut waiter: Waiter<V>) -> Result<V, LoadError<E>> {
    let outcome = match waiter.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        Err(_) => None,
    };
    match outcome {
        Some(Ok(value)) => Ok(value),
        Some(Err(Failure::Panicked(message))) => Err(LoadError::Panicked(message)),
        Some(Err(Failure::Loader(error))) => {
            Err(error.downcast().map_or(LoadError::Foreign, LoadError::Loader))
        }
        None => Err(Error::closed().into()),
    }
}

/// One load under way, and where its value goes.
struct Fill<V> {
    cache: Cache<V>,
    entry: String,
    expiry: Expiry,
    tags: Vec<String>,
}

/// What the beginning of a fill came to.
enum Start<V> {
    /// The placeholder stands; these tags' versions were read before the load.
    Fenced { placeholder: Bytes, tags: Vec<TagVersion> },
    /// Somebody stored a value in between.
    Overtaken(V),
    /// Another loader's placeholder stands, or the store is away: load, and do not store.
    Unfenced,
    /// Bare JSON has no room for a placeholder: its readers in other languages would stumble over it.
    Plain,
}

impl<V> Fill<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn run<F, Fut, E>(self, unusable: Option<Bytes>, leader: Leader<V>, loader: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let start = match self.begin(unusable).await {
            Ok(Start::Overtaken(value)) => return leader.finish(Ok(value)),
            Ok(start) => start,
            Err(error) => {
                self.cache.shared.meter.bypassed(&error);
                Start::Unfenced
            }
        };
        let started = Instant::now();
        let outcome = load(loader).await;
        self.cache.shared.meter.loaded(outcome.is_ok());
        let cost = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        // A failure to store is the cache's, not the caller's.
        if let Err(error) = self.end(start, &outcome, cost, &leader).await {
            self.cache.shared.meter.bypassed(&error);
        }
        leader.finish(outcome);
    }

    async fn begin(&self, mut unusable: Option<Bytes>) -> Result<Start<V>> {
        let cache = &self.cache;
        if cache.policy.encoder.format() == Format::Plain {
            return Ok(Start::Plain);
        }
        let store = cache.context.store()?;
        let tags = cache.bounded(tag::versions(&cache.context, &self.tags, self.expiry)).await?;
        let placeholder = Bytes::from(Envelope::placeholder(cache.context.random.nonce(), store.now()));
        for _ in 0..MOST_ATTEMPTS {
            let begun = store.begin_fill(&self.entry, placeholder.clone(), LIVENESS, unusable.take());
            match cache.bounded(begun).await? {
                FillStart::Begun => return Ok(Start::Fenced { placeholder, tags }),
                FillStart::Occupied(bytes) => match cache.bounded(cache.judge(bytes)).await? {
                    Found::Value(value) => return Ok(Start::Overtaken(value)),
                    Found::Nothing => return Ok(Start::Unfenced),
                    Found::Unusable(bytes) => unusable = Some(bytes),
                },
            }
        }
        Ok(Start::Unfenced)
    }

    /// Stores what was loaded, if nothing voided the fill, and takes the placeholder away if there is nothing to store.
    async fn end(&self, start: Start<V>, outcome: &Outcome<V>, cost: u32, leader: &Leader<V>) -> Result<()> {
        let cache = &self.cache;
        let store = cache.context.store()?;
        let encode = |value: &V, tags| {
            let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| cache.encode(value, cost, tags)));
            encoded.unwrap_or_else(|_| Err(Error::new(ErrorKind::Encode, "the value's Serialize panicked")))
        };
        match (start, outcome) {
            (Start::Fenced { placeholder, tags }, outcome) => {
                let kept = match outcome {
                    Ok(value) => match encode(value, tags) {
                        Ok(bytes) => self.commit(store, &placeholder, bytes).await,
                        Err(error) => Err(error),
                    },
                    Err(_) => Ok(false),
                };
                if !matches!(kept, Ok(true)) {
                    // The next load must not wait until the placeholder expires. Where it is gone already, nothing happens.
                    cache.bounded(store.abandon_fill(&self.entry, placeholder)).await?;
                }
                kept.map(drop)
            }
            (Start::Plain, Ok(value)) => {
                let bytes = encode(value, Vec::new())?;
                let size = bytes.len();
                let set = cache.bounded(store.set(&self.entry, bytes, self.expiry));
                match leader.store_unless_void(set).await {
                    Some(stored) => stored.map(|()| cache.shared.meter.wrote(size)),
                    None => {
                        cache.shared.meter.fill_voided();
                        Ok(())
                    }
                }
            }
            (Start::Plain, Err(_)) | (Start::Unfenced | Start::Overtaken(_), _) => Ok(()),
        }
    }

    /// Whether the placeholder need not be looked after any more.
    async fn commit(&self, store: &AnyStore, placeholder: &Bytes, bytes: Bytes) -> Result<bool> {
        let size = bytes.len();
        let commit = store.commit_fill(&self.entry, placeholder.clone(), bytes, self.expiry);
        if self.cache.bounded(commit).await? {
            self.cache.shared.meter.wrote(size);
        } else {
            self.cache.shared.meter.fill_voided();
        }
        Ok(true)
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
async fn load<V, F, Fut, E>(loader: F) -> Outcome<V>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<V, E>>,
    E: Send + Sync + 'static,
{
    match AssertUnwindSafe(async { loader().await }).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Loader(Arc::new(error))),
        Err(panic) => Err(Failure::Panicked(message(&*panic))),
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
