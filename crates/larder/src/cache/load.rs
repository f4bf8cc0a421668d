//! Cache-aside: get what is there, or load it, once for all who want it.
//!
//! A hit costs what [`get`](Cache::get) costs. A miss joins a flight: one loader a key in this process, in a task of its own, so
//! that a caller who goes away takes nothing from the others; and by the claim that its fill puts in the store, one in all
//! processes (see [`fill`](super::fill)). What each caller does with the outcome is decided here: one that holds a stale value
//! falls back on it, one that was told to look again does.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep};

use super::caller::LoadRequest;
use super::fetch::Fetch;
use super::fill::Reason;
use super::flight::Tags;
use super::kept::{CachedValue, Entry, Lookup, NearCopy};
use super::load_error::LoadError;
use super::loader::{Loader, erased};
use super::loading::LoadContext;
use super::thrown::LoaderError;
use super::{Cache, tag};
use crate::call::timer;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The value of a key; where there is none, what `loader` gives, stored for those who come later.
    ///
    /// However many callers miss a key at once, one loader runs, in one process, and all get its value. It runs in a
    /// task of its own, hence `'static`: a caller that is dropped or times out does not stop it. When it fails or
    /// panics, all in this process that waited get that error, nothing is stored, and the next call loads; callers in other
    /// processes load for themselves, one after another.
    ///
    /// When the server is away the loader still runs, once a process, and its value is returned without being stored.
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
    /// A hit is one round trip, as [`get`](Self::get), or none. A load is two before the loader and one after.
    ///
    /// A loader that never ends keeps its key's other callers waiting, unless they give a `timeout` or the cache a
    /// `hard_timeout`, and the connection open until [`close`](crate::Larder::close).
    ///
    /// # Errors
    ///
    /// A [`LoadError`] around the loader's own error type, which `?` in the loader may leave open: then it ends in
    /// `Ok::<_, MyError>(value)`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the load running for others, and its value is stored.
    pub fn get_or_load<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, K, impl FnOnce() -> Loader<V> + Send>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |_| async move { loader().await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: false, reason: Reason::Missing })
    }

    /// As [`get_or_load`](Self::get_or_load), with a loader that is told what there is to know, and may say how its value is
    /// kept: see [`LoadContext`].
    ///
    /// Tags that the loader names cost two round trips more after the load.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_with<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, K, impl FnOnce() -> Loader<V> + Send>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |loading| async move { loader(loading).await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: true, reason: Reason::Missing })
    }

    /// As [`get_or_load_with`](Self::get_or_load_with), for what may not exist: the loader answers `None`, and that is
    /// remembered for the cache's [`negative_ttl`](super::CacheBuilder::negative_ttl), if it has one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder
    ///     .cache::<String>("user")
    ///     .ttl(Duration::from_secs(60))
    ///     .negative_ttl(Duration::from_secs(5))
    ///     .build()?;
    /// let nobody = users.get_or_load_optional(404, |_| async { Ok::<_, std::io::Error>(None) }).await?;
    /// assert_eq!(nobody, None);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// To [`get`](Self::get), `exists` and `get_or_load` a remembered absence is nothing.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_optional<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, Option<V>, E, K, impl FnOnce() -> Loader<V> + Send>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(loader);
        self.load(key, start, LoadKind { optional: true, open_tags: true, reason: Reason::Missing })
    }

    /// Loads a key anew, whatever is there, and gives the new value. What is there is still served meanwhile, and stays if the
    /// load fails. A load that is under way, here or elsewhere, is not joined: it may have read too early; its value is not
    /// stored over this one's.
    ///
    /// Where the new value cannot be stored because somebody wrote meanwhile, what they wrote is removed, too: which of the two is
    /// newer is not known. Bare JSON that another program wrote cannot be fenced while it stands, and makes way at once.
    ///
    /// Two round trips before the loader and one after.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub fn refresh<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, K, impl FnOnce() -> Loader<V> + Send>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |loading| async move { loader(loading).await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: true, reason: Reason::Forced })
    }

    fn load<T, E, K, S>(&self, key: K, start: S, kind: LoadKind) -> Load<'_, V, T, E, K, S> {
        Load {
            cache: self,
            request: Some(LoadOptions { key, start, kind, expiry: None, tags: Vec::new() }),
            timeout: None,
            look_up: None,
            slow: None,
            started: None,
            timer: None,
            shape: PhantomData,
        }
    }

    /// What the store has, for a load that no near copy answers.
    fn skip_local(&self, entry: Name, reason: Reason) -> Fetch<'_, V> {
        match reason {
            Reason::Forced => Box::pin(async move { self.bounded(self.fetch(&entry)).await }),
            Reason::Missing | Reason::Early => Box::pin(self.bounded(self.fetch_counted(entry))),
        }
    }

    /// Whether a value is to be loaded anew before its time is over. XFetch: a load that took `cost` is begun when
    /// `cost · beta · −ln(random)` reaches past the end.
    #[inline]
    pub(super) fn is_due_early(&self, fresh_until: u64, load_cost: u32) -> bool {
        if self.policy.early == 0.0 || fresh_until == 0 {
            return false;
        }
        let now = self.context.store().map_or(0, Store::now);
        let left = Duration::from_millis(fresh_until.saturating_sub(now)).as_secs_f64();
        let cost = f64::from(load_cost) / 1e6;
        // The logarithm is above 40 once in 10^17 times: what is far from its end need not draw.
        left < cost * self.policy.early * 40.0
            && left < cost * self.policy.early * -(1.0 - self.context.random.fraction()).ln()
    }

    /// The near copy, where that may answer.
    #[inline]
    fn glance<R>(
        &self,
        entry: &str,
        kind: LoadKind,
        of_near: impl FnOnce(NearCopy<V>) -> R,
    ) -> Result<Option<Glimpse<V, R>>> {
        if kind.reason == Reason::Forced {
            return Ok(None);
        }
        self.get_local(entry, |copy| {
            let (fresh_until, load_cost) =
                copy.more.as_ref().map_or((0, 0), |more| (more.fresh_until, more.load_cost));
            if kind.is_settled_by(self, fresh_until, load_cost) {
                Glimpse::Settled(of_near(copy))
            } else {
                Glimpse::Due(copy.kept())
            }
        })
    }
}

/// What a near copy is to a load.
enum Glimpse<V, R> {
    /// All that is wanted.
    Settled(R),
    /// To be loaded anew, though it is there.
    Due(CachedValue<V>),
}

/// What kind of load a method asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadKind {
    pub(super) optional: bool,
    /// Whether the loader may name tags.
    pub(super) open_tags: bool,
    pub(super) reason: Reason,
}

impl LoadKind {
    /// Whether a fresh value, loaded at such a cost, is all that is wanted.
    #[inline]
    fn is_settled_by<V>(self, cache: &Cache<V>, fresh_until: u64, load_cost: u32) -> bool
    where
        V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.reason == Reason::Missing && !cache.is_due_early(fresh_until, load_cost)
    }
}

struct LoadOptions<K, S> {
    key: K,
    start: S,
    kind: LoadKind,
    expiry: Option<Expiry>,
    tags: Vec<String>,
}

type Slow<'a, V, E> = Pin<Box<dyn Future<Output = Result<Option<CachedValue<V>>, LoadError<E>>> + Send + 'a>>;

pin_project! {
    /// A value to be got or loaded; awaiting it does so. Made by [`Cache::get_or_load`] and its kin.
    ///
    /// It borrows the cache. Its type cannot be named: a struct keeps it as `Pin<Box<dyn Future<Output = _> + Send + '_>>`.
    #[must_use = "nothing is loaded before this is awaited"]
    pub struct Load<'a, V, T, E, K, S> {
        cache: &'a Cache<V>,
        request: Option<LoadOptions<K, S>>,
        timeout: Option<Duration>,
        look_up: Option<Fetch<'a, V>>,
        // Whatever is not a hit: waiting and loading.
        slow: Option<Slow<'a, V, E>>,
        started: Option<Instant>,
        // Boxed, for few calls have one.
        timer: Option<Pin<Box<Sleep>>>,
        shape: PhantomData<fn() -> T>,
    }
}

impl<'a, V, T, E, K, S> Load<'a, V, T, E, K, S> {
    fn with(mut self, set: impl FnOnce(&mut LoadOptions<K, S>)) -> Self {
        if let Some(request) = &mut self.request {
            set(request);
        }
        self
    }

    /// How long the loaded value is kept, in place of the cache's time to live. Where this call waits for another's load,
    /// that call's time to live and tags count.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|request| request.expiry = Some(Expiry::After(ttl)))
    }

    /// The loaded value stays until it is deleted or evicted.
    pub fn no_expiry(self) -> Self {
        self.with(|request| request.expiry = Some(Expiry::Never))
    }

    /// A tag of the loaded value. Its version is taken before the loader runs, so that an invalidation during the load
    /// voids the value.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        self.with(|request| request.tags.push(tag))
    }

    /// The longest that this call waits, loader included. Default: as long as the loader takes; each request to the
    /// server by itself is bounded by the connection's `response_timeout`. The loader is not stopped.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, V, E, K, S> Load<'a, V, V, E, K, S> {
    /// The value with what is known of it: where it came from, how old it is.
    pub fn entry(self) -> LoadEntry<'a, V, E, K, S> {
        LoadEntry { load: self }
    }
}

impl<'a, V, T, E, K, S> Load<'a, V, T, E, K, S>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    E: Send + Sync + 'static,
    K: CacheKey,
    S: FnOnce() -> Loader<V> + Send,
{
    /// Polls for what `of_near` makes of a near copy, or `of_kept` of any other value.
    fn poll_as<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        of_near: impl FnOnce(NearCopy<V>) -> R,
        of_kept: impl FnOnce(CachedValue<V>) -> R,
    ) -> Poll<Result<Option<R>, LoadError<E>>> {
        let this = self.project();
        let cache = *this.cache;
        let polled = if let Some(slow) = this.slow {
            slow.as_mut().poll(cx)
        } else {
            // Whether the value was drawn for an early refresh already: a second draw would square the odds.
            let mut drawn = false;
            let found = match (&mut *this.look_up, &*this.request) {
                (Some(look_up), _) => look_up.as_mut().poll(cx),
                (None, None) => Poll::Ready(Err(Error::closed())),
                (None, Some(LoadOptions { key, kind, .. })) => {
                    let mut entry = cache.prefix();
                    match cache.complete(&mut entry, key).and_then(|()| cache.glance(&entry, *kind, of_near))
                    {
                        Ok(Some(Glimpse::Settled(value))) => {
                            cache.near_hit(&entry);
                            // Too quick to be timed.
                            return Poll::Ready(Ok(Some(value)));
                        }
                        Ok(Some(Glimpse::Due(kept))) => {
                            drawn = true;
                            Poll::Ready(Ok(Lookup::Fresh(kept)))
                        }
                        Ok(None) => {
                            let look_up = cache.skip_local(entry, kind.reason);
                            this.look_up.insert(look_up).as_mut().poll(cx)
                        }
                        Err(error) => Poll::Ready(Err(error)),
                    }
                }
            };
            match (found, this.request.take()) {
                (Poll::Pending, request) => {
                    *this.request = request;
                    Poll::Pending
                }
                (Poll::Ready(Ok(Lookup::Fresh(kept))), Some(LoadOptions { kind, .. }))
                    if !drawn && kind.is_settled_by(cache, kept.fresh_until, kept.load_cost) =>
                {
                    Poll::Ready(Ok(Some(kept)))
                }
                (Poll::Ready(found), Some(request)) => {
                    this.slow.insert(run(cache, request, found)).as_mut().poll(cx)
                }
                (Poll::Ready(_), None) => Poll::Ready(Err(Error::closed().into())),
            }
        };
        let started = *this.started.get_or_insert_with(Instant::now);
        let result = match (polled, *this.timeout) {
            (Poll::Ready(result), _) => result,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(timeout)) => {
                if this.timer.is_none() {
                    *this.timer = timer(started, timeout);
                }
                match this.timer {
                    Some(timer) => ready!(timer.as_mut().poll(cx)),
                    None => return Poll::Pending,
                }
                Err(Error::timed_out(timeout).into())
            }
        };
        let error = match &result {
            Err(LoadError::Larder(error)) => Some(error),
            _ => None,
        };
        cache.shared.meter.get_or_load.finished(started.elapsed(), error);
        Poll::Ready(result.map(|kept| kept.map(of_kept)))
    }
}

/// All that is not a plain hit.
fn run<'a, V, E, K, S>(
    cache: &'a Cache<V>,
    request: LoadOptions<K, S>,
    found: Result<Lookup<V>>,
) -> Slow<'a, V, E>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    E: Send + Sync + 'static,
    K: CacheKey,
    S: FnOnce() -> Loader<V>,
{
    let LoadOptions { key, start, kind, expiry, tags } = request;
    let (entry, loader) = (cache.entry(key), start());
    Box::pin(async move {
        let entry = entry?;
        cache.context.store()?;
        cache.expiry(expiry)?;
        let named = tag::checked(tags, cache.policy.encoder.format())?;
        let tags = Tags { named, open: kind.open_tags };
        let caller = LoadRequest { cache, entry, kind, expiry, tags };
        caller.load(found, loader).await
    })
}

impl<V, E, K, S> Future for Load<'_, V, V, E, K, S>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    E: Send + Sync + 'static,
    K: CacheKey,
    S: FnOnce() -> Loader<V> + Send,
{
    type Output = Result<V, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.poll_as(cx, |copy| copy.value, |kept| kept.value))? {
            Some(value) => Ok(value),
            None => Err(Error::closed().into()),
        })
    }
}

impl<V, E, K, S> Future for Load<'_, V, Option<V>, E, K, S>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    E: Send + Sync + 'static,
    K: CacheKey,
    S: FnOnce() -> Loader<V> + Send,
{
    type Output = Result<Option<V>, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_as(cx, |copy| copy.value, |kept| kept.value)
    }
}

pin_project! {
    /// A value to be got or loaded, with what is known of it. Made by [`Load::entry`].
    #[must_use = "nothing is loaded before this is awaited"]
    pub struct LoadEntry<'a, V, E, K, S> {
        #[pin]
        load: Load<'a, V, V, E, K, S>,
    }
}

impl<V, E, K, S> Future for LoadEntry<'_, V, E, K, S>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    E: Send + Sync + 'static,
    K: CacheKey,
    S: FnOnce() -> Loader<V> + Send,
{
    type Output = Result<Entry<V>, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let cache = self.load.cache;
        let as_entry = |kept| cache.as_entry(kept, None);
        let polled = self.project().load.poll_as(cx, |copy| as_entry(copy.kept()), as_entry);
        Poll::Ready(match ready!(polled)? {
            Some(entry) => Ok(entry),
            None => Err(Error::closed().into()),
        })
    }
}

impl<V, T, E, K: CacheKey, S> fmt::Debug for Load<'_, V, T, E, K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Load");
        if let Some(request) = &self.request {
            out.field("entry", &self.cache.entry(&request.key))
                .field("expiry", &request.expiry)
                .field("tags", &request.tags);
        }
        out.field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl<V, E, K: CacheKey, S> fmt::Debug for LoadEntry<'_, V, E, K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load.fmt(f)
    }
}
