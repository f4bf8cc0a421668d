//! Cache-aside: returns the stored value, or loads it once for all callers that want it.
//!
//! A hit costs what [`get`](Cache::get) costs. A miss joins a flight. In this process one loader runs for each key,
//! in a task of its own, so a dropped caller does not stop it for the others. Across processes the claim that its
//! fill puts into the store keeps it to one (see [`fill`](super::fill)). What a caller does with the flight's outcome
//! is decided by [`LoadRequest`]: it may fall back on a stale value, or try again.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::fetch::Fetch;
use super::fill::Reason;
use super::flight::Tags;
use super::load_context::LoadContext;
use super::load_error::LoadError;
use super::load_request::{LoadKind, LoadRequest};
use super::loader::{BoxedLoader, KeyAndLoader, LoadSource, erased};
use super::lookup::{CachedValue, Entry, Lookup, NearCopy};
use super::thrown::LoaderError;
use super::{Cache, tag};
use crate::call::timer;
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::{Expiry, Store};
use crate::value::Value;

impl<V> Cache<V>
where
    V: Value,
{
    /// Returns the value of a key. If there is none, runs `loader` and stores its value for later callers.
    ///
    /// However many callers miss a key at once, one loader runs, in one process, and all callers get its value. The
    /// loader runs in a task of its own, hence `'static`: a caller that is dropped or times out does not stop it. If
    /// the loader fails or panics, every caller in this process that waited gets that error, nothing is stored, and
    /// the next call loads again. Callers in other processes then load for themselves, one process after another.
    ///
    /// While the server is away the loader still runs, once in each process, and its value is returned without being
    /// stored.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[derive(Clone)] struct Db;
    /// # impl Db { async fn user(&self, _: u64) -> Result<String, std::io::Error> { Ok("Ann".into()) } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let db = Db;
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let user = users.get_or_load(123, move || async move { db.user(123).await }).await?;
    /// # assert_eq!(user, "Ann"); Ok(())
    /// # }
    /// ```
    ///
    /// A hit costs one round trip, like [`get`](Self::get), or none with a near copy. A load costs two before the
    /// loader and one after it.
    ///
    /// A loader that never ends blocks the other callers of its key, unless they set a `timeout` or the cache has a
    /// `hard_timeout`. It also keeps the connection open until [`close`](crate::Larder::close).
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// If `?` in the loader leaves the error type open, end the loader with `Ok::<_, MyError>(value)`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the load running, and its value is stored.
    pub fn get_or_load<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, impl LoadSource<V>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |_| async move { loader().await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: false, reason: Reason::Missing })
    }

    /// Like [`get_or_load`](Self::get_or_load), with a loader that gets a [`LoadContext`]: it knows the key, the
    /// deadline and the old value, and can choose how its own value is kept.
    ///
    /// If the loader names tags, the load costs two more round trips after the loader.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_with<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, impl LoadSource<V>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |loading| async move { loader(loading).await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: true, reason: Reason::Missing })
    }

    /// Like [`get_or_load_with`](Self::get_or_load_with), for values that may not exist in the origin. The loader
    /// returns `None` then, and the absence is remembered for the cache's
    /// [`negative_ttl`](super::CacheBuilder::negative_ttl), if it has one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder
    ///     .cache::<String>("user")
    ///     .ttl(Duration::from_secs(60))
    ///     .negative_ttl(Duration::from_secs(5))
    ///     .build()?;
    /// let absent = users.get_or_load_optional(404, |_| async { Ok::<_, std::io::Error>(None) }).await?;
    /// assert_eq!(absent, None);
    ///
    /// let load = users.get_or_load_optional(7, |_| async { Ok::<_, std::io::Error>(Some("Ann".to_owned())) });
    /// let ann = load.entry().await?.expect("it exists");
    /// assert_eq!((ann.value().as_str(), ann.source()), ("Ann", larder::Source::Loaded));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// To [`get`](Self::get), `exists` and `get_or_load` a remembered absence is a miss.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_optional<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, Option<V>, E, impl LoadSource<V>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(loader);
        self.load(key, start, LoadKind { optional: true, open_tags: true, reason: Reason::Missing })
    }

    /// Loads a key even if a value is stored, and returns the new value. The stored value is still served during the
    /// load, and stays if the load fails. The call does not join a load that is already under way, here or in another
    /// process, because that loader may have read too early; its value is not stored over this one.
    ///
    /// If another write to the key happens during the load, the new value cannot be stored, and the other write's
    /// value is deleted as well: larder cannot know which of the two is newer. Bare JSON that another program wrote
    /// cannot be fenced, so it is deleted when the load begins.
    ///
    /// Costs two round trips before the loader and one after it.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn refresh<K: CacheKey, F, Fut, E, Sort>(
        &self,
        key: K,
        loader: F,
    ) -> Load<'_, V, V, E, impl LoadSource<V>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        let start = move || erased(move |loading| async move { loader(loading).await.map(Some) });
        self.load(key, start, LoadKind { optional: false, open_tags: true, reason: Reason::Forced })
    }

    pub(super) fn load<T, E, K: CacheKey, S: FnOnce() -> BoxedLoader<V> + Send>(
        &self,
        key: K,
        start: S,
        kind: LoadKind,
    ) -> Load<'_, V, T, E, KeyAndLoader<K, S>> {
        let source = KeyAndLoader { key, start };
        Load {
            cache: self,
            request: Some(LoadOptions { source, kind, expiry: None, tags: Vec::new() }),
            timeout: None,
            look_up: None,
            slow: None,
            started: None,
            timer: None,
            shape: PhantomData,
        }
    }

    /// Reads the store, for a load that no near copy can answer.
    fn skip_local(&self, entry: Name, reason: Reason) -> Fetch<'_, V> {
        match reason {
            Reason::Forced => Box::pin(async move { self.bounded(self.fetch(&entry)).await }),
            Reason::Missing | Reason::Early => Box::pin(self.bounded(self.fetch_counted(entry))),
        }
    }

    /// Whether a value should be loaded again before it expires. XFetch: a load that took `cost` begins when `cost ·
    /// beta · −ln(random)` is longer than the time left.
    #[inline]
    pub(super) fn is_due_early(&self, fresh_until: u64, load_cost: u32) -> bool {
        self.policy.early != 0.0 && fresh_until != 0 && self.draws_early(fresh_until, load_cost)
    }

    fn draws_early(&self, fresh_until: u64, load_cost: u32) -> bool {
        let now = self.context.store().map_or(0, Store::now);
        let left = Duration::from_millis(fresh_until.saturating_sub(now)).as_secs_f64();
        let cost = f64::from(load_cost) / 1e6;
        // The logarithm exceeds 40 once in 10^17 draws, so a value far from its end needs no draw.
        left < cost * self.policy.early * 40.0
            && left < cost * self.policy.early * -(1.0 - self.context.random.fraction()).ln()
    }

    /// Returns the near copy, if it may answer this load.
    #[inline]
    fn glance<R>(
        &self,
        key: &impl CacheKey,
        kind: LoadKind,
        of_near: impl FnOnce(NearCopy<V>) -> R,
    ) -> Result<Option<NearAnswer<V, R>>> {
        if kind.reason == Reason::Forced {
            return Ok(None);
        }
        self.get_near(key, |copy| {
            let (fresh_until, load_cost) =
                copy.more.as_ref().map_or((0, 0), |more| (more.fresh_until, more.load_cost));
            if kind.is_settled_by(self, fresh_until, load_cost) {
                NearAnswer::Settled(of_near(copy))
            } else {
                NearAnswer::due(copy)
            }
        })
    }
}

/// A near copy, as a load sees it.
enum NearAnswer<V, R> {
    /// It answers the load.
    Settled(R),
    /// It is valid but due for an early refresh. Boxed, because it is rare.
    Due(Box<CachedValue<V>>),
}

impl<V, R> NearAnswer<V, R> {
    #[cold]
    fn due(copy: NearCopy<V>) -> Self {
        Self::Due(Box::new(copy.cached()))
    }
}

impl LoadKind {
    /// Whether a fresh value with this end and this load cost answers the load.
    #[inline]
    fn is_settled_by<V>(self, cache: &Cache<V>, fresh_until: u64, load_cost: u32) -> bool
    where
        V: Value,
    {
        self.reason == Reason::Missing && !cache.is_due_early(fresh_until, load_cost)
    }
}

struct LoadOptions<S> {
    source: S,
    kind: LoadKind,
    expiry: Option<Expiry>,
    tags: Vec<String>,
}

type Slow<'a, V, E> = Pin<Box<dyn Future<Output = Result<Option<CachedValue<V>>, LoadError<E>>> + Send + 'a>>;

pin_project! {
    /// A value to get or load; awaiting it does the work. Made by [`Cache::get_or_load`] and its relatives.
    ///
    /// It borrows the cache. Its type cannot be named; a struct stores it as `Pin<Box<dyn Future<Output = _> + Send +
    /// '_>>`.
    #[must_use = "nothing is loaded before this is awaited"]
    pub struct Load<'a, V, T, E, S> {
        cache: &'a Cache<V>,
        request: Option<LoadOptions<S>>,
        timeout: Option<Duration>,
        look_up: Option<Fetch<'a, V>>,
        // Everything but a hit: waiting and loading.
        slow: Option<Slow<'a, V, E>>,
        started: Option<Instant>,
        // Boxed, because few calls have one.
        timer: Option<Pin<Box<Sleep>>>,
        shape: PhantomData<fn() -> T>,
    }
}

impl<'a, V, T, E, S> Load<'a, V, T, E, S> {
    fn with(mut self, set: impl FnOnce(&mut LoadOptions<S>)) -> Self {
        if let Some(request) = &mut self.request {
            set(request);
        }
        self
    }

    /// Keeps the loaded value for `ttl`, in place of the cache's time to live. If this call waits for another call's
    /// load, the other call's time to live and tags apply.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|request| request.expiry = Some(Expiry::After(ttl)))
    }

    /// Keeps the loaded value until it is deleted or evicted.
    pub fn no_expiry(self) -> Self {
        self.with(|request| request.expiry = Some(Expiry::Never))
    }

    /// Adds a tag to the loaded value. The tag's version is read before the loader runs, so an invalidation during
    /// the load makes the value invalid.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        self.with(|request| request.tags.push(tag))
    }

    /// Loads again even if a value is stored, as [`refresh`](Cache::refresh) does, if `condition` holds.
    pub fn refresh_if(self, condition: bool) -> Self {
        self.with(|request| {
            if condition {
                request.kind.reason = Reason::Forced;
            }
        })
    }

    /// Limits how long this call waits, loader included. Without it the call waits as long as the loader takes; the
    /// connection's `response_timeout` bounds each request to the server. The timeout does not stop the loader.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns the value together with its source and age; after
    /// [`get_or_load_optional`](Cache::get_or_load_optional) an `Option` of that.
    pub fn entry(self) -> LoadEntry<'a, V, T, E, S> {
        LoadEntry { load: self }
    }
}

impl<'a, V, T, E, S> Load<'a, V, T, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    /// Polls for the value: `of_near` converts a near copy, `of_cached` any other value.
    #[inline]
    fn poll_as<R>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        of_near: impl FnOnce(NearCopy<V>) -> R,
        of_cached: impl FnOnce(CachedValue<V>) -> R,
    ) -> Poll<Result<Option<R>, LoadError<E>>> {
        let this = self.as_mut().project();
        let cache = *this.cache;
        let mut due = None;
        if let (None, None, Some(LoadOptions { source, kind, .. })) =
            (&*this.look_up, &*this.slow, &*this.request)
        {
            match cache.glance(source.key(), *kind, of_near) {
                Ok(Some(NearAnswer::Settled(value))) => {
                    cache.near_hit(|| cache.entry(source.key()));
                    // Too fast to be worth timing.
                    return Poll::Ready(Ok(Some(value)));
                }
                Ok(Some(NearAnswer::Due(cached))) => due = Some(Ok(cached)),
                Ok(None) => {}
                Err(error) => due = Some(Err(error)),
            }
        }
        self.poll_past_near(cx, due).map_ok(|cached| cached.map(of_cached))
    }

    /// Polls for what the near tier does not settle. `due` is a near copy to refresh, or why there is none.
    #[inline(never)]
    fn poll_past_near(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        due: Option<Result<Box<CachedValue<V>>>>,
    ) -> Poll<Result<Option<CachedValue<V>>, LoadError<E>>> {
        let this = self.project();
        let cache = *this.cache;
        let polled = if let Some(slow) = this.slow {
            slow.as_mut().poll(cx)
        } else {
            // A near copy was already drawn for an early refresh: a second draw would square the odds.
            let drawn = matches!(due, Some(Ok(_)));
            let found = if let Some(due) = due {
                Poll::Ready(due.map(|cached| Lookup::Fresh(*cached)))
            } else {
                match (&mut *this.look_up, &*this.request) {
                    (Some(look_up), _) => look_up.as_mut().poll(cx),
                    (None, None) => Poll::Ready(Err(Error::closed())),
                    (None, Some(LoadOptions { source, kind, .. })) => match cache.entry(source.key()) {
                        Ok(entry) => {
                            let look_up = cache.skip_local(entry, kind.reason);
                            this.look_up.insert(look_up).as_mut().poll(cx)
                        }
                        Err(error) => Poll::Ready(Err(error)),
                    },
                }
            };
            // A fresh value that is not due for a refresh ends the call. Everything else is the slow path.
            match (found, this.request.take()) {
                (Poll::Pending, request) => {
                    *this.request = request;
                    Poll::Pending
                }
                (Poll::Ready(Ok(Lookup::Fresh(cached))), Some(LoadOptions { kind, .. }))
                    if !drawn && kind.is_settled_by(cache, cached.fresh_until, cached.load_cost) =>
                {
                    Poll::Ready(Ok(Some(cached)))
                }
                (Poll::Ready(found), Some(request)) => {
                    this.slow.insert(run(cache, request, found)).as_mut().poll(cx)
                }
                (Poll::Ready(_), None) => Poll::Ready(Err(Error::closed().into())),
            }
        };
        // Only a call that has to wait pays for a timer.
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
        Poll::Ready(result)
    }
}

/// Handles everything that is not a plain hit.
fn run<'a, V, E, S>(cache: &'a Cache<V>, request: LoadOptions<S>, found: Result<Lookup<V>>) -> Slow<'a, V, E>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    let LoadOptions { source, kind, expiry, tags } = request;
    let (entry, mut loader) = (cache.entry(source.key()), source.into_loader());
    let (expiry, tags) = loader.take_setup().over(expiry, tags);
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

impl<V, E, S> Future for Load<'_, V, V, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    type Output = Result<V, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.poll_as(cx, |copy| copy.value, |cached| cached.value))? {
            Some(value) => Ok(value),
            None => Err(Error::closed().into()),
        })
    }
}

impl<V, E, S> Future for Load<'_, V, Option<V>, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    type Output = Result<Option<V>, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_as(cx, |copy| copy.value, |cached| cached.value)
    }
}

pin_project! {
    /// A value to get or load, together with its source and age. Made by [`Load::entry`].
    #[must_use = "nothing is loaded before this is awaited"]
    pub struct LoadEntry<'a, V, T, E, S> {
        #[pin]
        load: Load<'a, V, T, E, S>,
    }
}

impl<V, T, E, S> LoadEntry<'_, V, T, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    fn poll_entry(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Entry<V>>, LoadError<E>>> {
        let cache = self.load.cache;
        let as_entry = |cached| cache.as_entry(cached, None);
        self.project().load.poll_as(cx, |copy| as_entry(copy.cached()), as_entry)
    }
}

impl<V, E, S> Future for LoadEntry<'_, V, V, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    type Output = Result<Entry<V>, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.poll_entry(cx))? {
            Some(entry) => Ok(entry),
            None => Err(Error::closed().into()),
        })
    }
}

impl<V, E, S> Future for LoadEntry<'_, V, Option<V>, E, S>
where
    V: Value,
    E: Send + Sync + 'static,
    S: LoadSource<V>,
{
    type Output = Result<Option<Entry<V>>, LoadError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_entry(cx)
    }
}

impl<V, T, E, S: LoadSource<V>> fmt::Debug for Load<'_, V, T, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Load");
        if let Some(request) = &self.request {
            out.field("entry", &self.cache.entry(request.source.key()))
                .field("expiry", &request.expiry)
                .field("tags", &request.tags);
        }
        out.field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl<V, T, E, S: LoadSource<V>> fmt::Debug for LoadEntry<'_, V, T, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load.fmt(f)
    }
}
