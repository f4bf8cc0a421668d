//! Getting or loading many keys: one loader gets the keys that are missing and that no other call is loading.
//!
//! Each missing key is a flight of its own, claimed and stored like any other, and the flights that this call leads
//! are loaded together. Keys that another call or process is loading are waited for, and the other keys do not wait
//! for them. If such a load ends without a value, the loader is called again for that key.
//!
//! Any number of keys may be given. The missing keys are claimed, loaded and stored in turns of a bounded size: a
//! claim must be renewed every second while its loader runs, and a loader is usually one query, which has bounds of
//! its own. Within a turn few requests are under way at a time, so that no request times out in a queue behind the

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::hash::Hash;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;
use tracing::Instrument;

use super::fill::{Claimed, CommitMode, Fill, IfBusy, Reason, place};
use super::flight::{FlightLeader, FlightOutcome, FlightWaiter, LoadFailure, Tags};
use super::load_context::Choices;
use super::load_error::LoadError;
use super::load_request::{join, wait};
use super::lookup::{CachedValue, Lookup};
use super::nesting::{LoadWait, Loads, is_nested, scope, wait_for};
use super::thrown::{LoaderError, Thrown};
use super::trace::{Spanned, load_many_span};
use super::wait::pause;
use super::{Cache, tag};
use crate::error::{Error, Result};
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::Expiry;
use crate::value::Value;

/// The most keys that one call of the loader gets.
const MOST_LOADED: usize = 2_000;
/// The most claims, or stores of values, under way at a time.
const AT_ONCE: usize = 128;

impl<V> Cache<V>
where
    V: Value,
{
    /// Returns the values of keys, in the order of the keys. Loads what is missing with one call of `loader`, which
    /// gets the missing keys and returns pairs of key and value. A key that the loader leaves out is `None`; that
    /// absence is remembered for the cache's `negative_ttl`, if it has one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[derive(Clone)] struct Db;
    /// # impl Db {
    /// #     async fn users(&self, ids: &[u64]) -> Result<Vec<(u64, String)>, std::io::Error> {
    /// #         Ok(ids.iter().map(|id| (*id, "Ann".into())).collect())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let db = Db;
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let found = users
    ///     .get_or_load_many([1u64, 2, 3], move |missing| {
    ///         let db = db.clone();
    ///         async move { db.users(&missing).await }
    ///     })
    ///     .await?;
    /// # assert_eq!(found.len(), 3); Ok(())
    /// # }
    /// ```
    ///
    /// More than 2,000 missing keys are loaded in turns, each with one call of the loader. That is why the loader is
    /// an `Fn` and not an `FnOnce`: it clones what it needs.
    ///
    /// Each key is loaded once in this process and in all processes, as with [`get_or_load`](Self::get_or_load). A
    /// key that another call is loading is waited for and not given to the loader. If that load ends without a value,
    /// the loader is called once more for that key.
    ///
    /// Costs one round trip to read; if something is missing, two more before the loader and one after it, each for
    /// all keys together.
    ///
    /// # Errors
    ///
    /// An error for one key fails the call.
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_many<K, F, Fut, I, E, Kind>(
        &self,
        keys: impl IntoIterator<Item = K>,
        loader: F,
    ) -> LoadMany<'_, V, K, E>
    where
        K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
        I: IntoIterator<Item = (K, V)> + 'static,
        E: LoaderError<Kind>,
    {
        let keys = keys.into_iter().map(|key| Ok((self.entry(&key)?, key))).collect();
        let loader = move |missing| -> BoxFuture<'static, _> {
            let loading = loader(missing);
            Box::pin(async move {
                match loading.await {
                    Ok(values) => Ok(values.into_iter().collect()),
                    Err(error) => Err(LoadFailure::Loader(Thrown::new(error))),
                }
            })
        };
        LoadMany {
            cache: self,
            keys,
            loader: Arc::new(loader),
            expiry: None,
            tags: Vec::new(),
            timeout: None,
            error: PhantomData,
        }
    }
}

/// Values to get or load; awaiting it does the work. Made by [`Cache::get_or_load_many`].
///
/// This type is not a future itself: pass `into_future()` to `join_all` or `Box::pin`.
#[must_use = "nothing is loaded before this is awaited"]
pub struct LoadMany<'a, V, K, E> {
    cache: &'a Cache<V>,
    keys: Result<Vec<(Name, K)>>,
    loader: ManyLoader<V, K>,
    expiry: Option<Expiry>,
    tags: Vec<String>,
    timeout: Option<Duration>,
    error: PhantomData<fn() -> E>,
}

/// A loader of many keys, with its own types erased.
type ManyLoader<V, K> =
    Arc<dyn Fn(Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>, LoadFailure>> + Send + Sync>;

impl<V, K, E> LoadMany<'_, V, K, E> {
    /// Keeps the loaded values for `ttl`, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Keeps the loaded values until they are deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Adds a tag to all loaded values. May be called several times.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Limits how long this call waits, loader included. It does not stop the loader.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, V, K, E> IntoFuture for LoadMany<'a, V, K, E>
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    type Output = Result<Vec<Option<V>>, LoadError<E>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let started = Instant::now();
            let (timeout, meter) = (self.timeout, &self.cache.shared.meter.get_or_load_many);
            let result = match timeout {
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

/// A key whose value this call waits for.
struct Wanted<V> {
    waiter: FlightWaiter<V>,
    /// The longest wait; `None` for a load that this call leads.
    longest: Option<Duration>,
    _wait: Option<LoadWait>,
    stale: Option<CachedValue<V>>,
}

/// A key whose load this call leads.
struct Led<V, K> {
    key: K,
    fill: Fill<V>,
    leader: FlightLeader<V>,
    found: Option<Lookup<V>>,
}

impl<V, K, E> LoadMany<'_, V, K, E>
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    async fn run(self) -> Result<Vec<Option<V>>, LoadError<E>> {
        let Self { cache, keys, loader, expiry, tags, .. } = self;
        let keys = keys?;
        cache.context.store()?;
        cache.expiry(expiry)?;
        let tags = Tags { named: tag::checked(tags, cache.policy.encoder.format())?, open: false };

        // Read all keys. If the store is away, all of them are missing.
        let names: Vec<Name> = keys.iter().map(|(name, _)| name.clone()).collect();
        let mut away = false;
        let found = match cache.fetch_in_batches(&names, cache.context.limits.response_timeout).await {
            Ok(found) => found.into_iter().map(Some).collect(),
            Err(error) => {
                cache.shared.meter.bypassed(&error);
                away = error.is_outage();
                names.iter().map(|_| None).collect::<Vec<_>>()
            }
        };
        let mut values: Vec<Option<V>> = keys.iter().map(|_| None).collect();
        let mut missing: Vec<(usize, Option<Lookup<V>>)> = Vec::new();
        for (place, found) in found.into_iter().enumerate() {
            match found {
                Some(Lookup::Fresh(cached)) => {
                    if let Some(value) = values.get_mut(place) {
                        *value = Some(cached.value);
                    }
                }
                Some(Lookup::Absent(_)) => {}
                found => missing.push((place, found)),
            }
        }
        let mut attempts = 0;
        while !missing.is_empty() {
            attempts += 1;
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, cache.context.random.fraction())).await;
            }
            let mut wanted = Vec::with_capacity(missing.len());
            let mut led = Vec::new();
            // Join or start a flight for each missing key.
            for (place, found) in missing.drain(..) {
                let Some((name, key)) = keys.get(place) else { continue };
                let stale = match &found {
                    Some(Lookup::Stale(cached)) => Some(cached.clone()),
                    _ => None,
                };
                let (waiter, leader) = join(cache, name, &tags, attempts);
                let _wait = wait_for(&waiter.node)?;
                let longest = leader.is_none().then_some(cache.policy.wait_timeout);
                if let Some(leader) = leader {
                    let fill = Fill {
                        cache: cache.clone(),
                        entry: name.clone(),
                        expiry,
                        tags: tags.named.clone(),
                        open_tags: false,
                        optional: true,
                        reason: Reason::Missing,
                        nested: is_nested(),
                        away,
                    };
                    led.push(Led { key: key.clone(), fill, leader, found });
                }
                wanted.push((place, Wanted { waiter, longest, _wait, stale }));
            }
            if !led.is_empty() {
                cache.context.loads.spawn(load_in_turns(led, loader.clone()).in_current_span());
            }
            // Wait for all flights. A key whose flight brought nothing is tried again.
            let outcomes = join_all(
                wanted
                    .into_iter()
                    .map(|(place, wanted)| async move { (place, outcome(cache, wanted).await) }),
            );
            for (place, outcome) in outcomes.await {
                match outcome {
                    Ok(cached) => {
                        if let Some(value) = values.get_mut(place) {
                            *value = cached.map(|cached| cached.value);
                        }
                    }
                    // An early refresh that ended without a value.
                    Err(LoadFailure::Again) => missing.push((place, None)),
                    Err(failure) => return Err(failure.into()),
                }
            }
            // The fills read the keys to retry again; this only stops a call whose `Larder` was closed.
            cache.context.store()?;
        }
        Ok(values)
    }
}

/// Waits for a flight's outcome. A stale value is better than an error.
async fn outcome<V>(cache: &Cache<V>, wanted: Wanted<V>) -> FlightOutcome<V>
where
    V: Value,
{
    let Wanted { waiter, longest, _wait, stale } = wanted;
    let outcome = match (&stale, cache.policy.soft_timeout) {
        (Some(stale), Some(max_wait)) => match tokio::time::timeout(max_wait, wait(waiter, longest)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                cache.shared.meter.served_stale();
                return Ok(Some(stale.clone()));
            }
        },
        _ => wait(waiter, longest).await,
    };
    match (outcome, stale) {
        (Some(Ok(cached)), _) => Ok(cached),
        (Some(Err(LoadFailure::Again)) | None, _) => Err(LoadFailure::Again),
        (_, Some(stale)) => {
            cache.shared.meter.served_stale();
            Ok(Some(stale))
        }
        (Some(Err(failure)), None) => Err(failure),
    }
}

/// Loads keys in turns of [`MOST_LOADED`].
async fn load_in_turns<V, K>(mut led: Vec<Led<V, K>>, loader: ManyLoader<V, K>)
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
{
    while !led.is_empty() {
        let rest = led.split_off(led.len().min(MOST_LOADED));
        let turn = std::mem::replace(&mut led, rest);
        let Some(first) = turn.first() else { return };
        let span = load_many_span(&first.fill.cache.shared.name, turn.len());
        turn.iter().for_each(|led| led.leader.node().span.begin(&span, Spanned::Many));
        load_led(turn, loader.clone()).instrument(span).await;
    }
}

/// Returns the outputs of all futures in order. At most [`AT_ONCE`] of them run at a time.
async fn few_at_once<T: Future>(futures: Vec<T>) -> Vec<T::Output> {
    if futures.len() <= AT_ONCE {
        return join_all(futures).await;
    }
    stream::iter(futures).buffered(AT_ONCE).collect().await
}

/// Claims all keys, and loads together those that it could claim. The others are waited for in another task.
async fn load_led<V, K>(led: Vec<Led<V, K>>, loader: ManyLoader<V, K>)
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
{
    let claims = led.into_iter().map(|Led { key, fill, leader, found }| async move {
        let claimed = fill.claim(found, IfBusy::Return).await;
        (key, fill, leader, claimed)
    });
    let claims = few_at_once(claims.collect());
    let (mut mine, mut elsewhere) = (Vec::new(), Vec::new());
    for (key, fill, leader, claimed) in claims.await {
        match claimed {
            Claimed::Commit(mode) => mine.push((key, fill, leader, mode)),
            Claimed::Answered(answer) => leader.finish(Ok(answer)),
            Claimed::Elsewhere => elsewhere.push((key, fill, leader)),
            Claimed::Failed(failure) => leader.finish(Err(failure)),
        }
    }
    // In a task of their own, because they may take as long as other processes' loads, and the next turn should not
    // wait for that.
    if let Some((_, first, _)) = elsewhere.first() {
        let context = first.cache.context.clone();
        context.loads.spawn(wait_elsewhere(elsewhere, loader.clone()).in_current_span());
    }
    load_together(mine, &loader).await;
}

/// Waits for the loads of other processes, and loads the keys for which those bring no value.
async fn wait_elsewhere<V, K>(elsewhere: Vec<(K, Fill<V>, FlightLeader<V>)>, loader: ManyLoader<V, K>)
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
{
    let others = join_all(elsewhere.into_iter().map(|(key, fill, leader)| {
        let loader = loader.clone();
        async move {
            match fill.claim(None, IfBusy::Wait).await {
                Claimed::Commit(mode) => load_together(vec![(key, fill, leader, mode)], &loader).await,
                Claimed::Answered(answer) => leader.finish(Ok(answer)),
                Claimed::Elsewhere => leader.finish(Err(LoadFailure::Again)),
                Claimed::Failed(failure) => leader.finish(Err(failure)),
            }
        }
    }));
    others.await;
}

type Claimant<V, K> = (K, Fill<V>, FlightLeader<V>, CommitMode<V>);

/// Calls the loader once for the keys that are claimed.
async fn load_together<V, K>(claimed: Vec<Claimant<V, K>>, loader: &ManyLoader<V, K>)
where
    V: Value,
    K: CacheKey + Clone + Eq + Hash + Send + Sync + 'static,
{
    let Some((_, first, ..)) = claimed.first() else { return };
    let cache = first.cache.clone();
    let outage = claimed.iter().any(|(_, fill, _, mode)| matches!(mode, CommitMode::None) && !fill.nested);
    let leaders: Vec<&FlightLeader<V>> = claimed.iter().map(|(_, _, leader, _)| leader).collect();
    let _place = if outage { place(&cache, &leaders).await } else { None };
    let started = Instant::now();
    let keys: Vec<K> = claimed.iter().map(|(key, ..)| key.clone()).collect();
    let loads: Loads = leaders.iter().map(|leader| leader.node().clone()).collect();
    let run = scope(loads, async { loader(keys).await });
    let loaded = tokio::select! {
        biased;
        loaded = first.bounded_load(run) => loaded,
        () = first.gone(&leaders) => return,
    };
    let took = started.elapsed();
    #[cfg(feature = "trace")]
    {
        let outcome = loaded.as_ref().err().map_or("loaded", LoadFailure::name);
        super::trace::end_many(outcome, leaders.iter().map(|leader| leader.waiters()).sum());
    }
    let mut loaded = loaded;
    let stores: Vec<_> = claimed
        .into_iter()
        .map(|(key, fill, leader, mode)| {
            let value = match &mut loaded {
                Ok(values) => Ok(values.remove(&key)),
                Err(failure) => Err(failure.clone()),
            };
            async move { fill.finish(leader, mode, value, took, Choices::default()).await }
        })
        .collect();
    few_at_once(stores).await;
}

impl<V, K, E> fmt::Debug for LoadMany<'_, V, K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadMany")
            .field("expiry", &self.expiry)
            .field("tags", &self.tags)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
