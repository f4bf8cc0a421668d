//! Work that is run once, whoever asks for it: idempotency keys.
//!
//! A run puts a mark beside its entry before it begins, renews the mark's pulse while it runs, and stores its result
//! in the step that removes the mark. Whoever comes meanwhile waits for that; whoever comes later gets the stored
//! result. Three things may go wrong:
//!
//! - *The work fails.* It says that it has not been done: the mark is removed, and the next caller runs it again.
//! - *The runner dies, hangs or panics.* What it has done is not known, so nobody runs it again by itself: callers
//!   are told [`OnceError::Interrupted`], for as long as the result would be kept, and decide. A run that only hung
//!   and goes on still stores its result.
//! - *The server is away.* Work that could not be marked is not run. A result that could not be stored is given to its
//!   caller and stored when the server is back; until then others see a run under way.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::IntoFuture;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::loader::message;
use super::nesting::{Cycle, is_nested, scope, wait_for};
use super::runs::Listed;
use super::thrown::{LoaderError, LoaderFailure};
use super::verdict::Verdict;
use super::wait::pause;
use super::{Cache, UNBOUNDED_SPAN};
use crate::background::{HEDGE, LIVENESS};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::store::once::{GIVEN_UP, OnceRun, OnceStart, OnceStore};
use crate::store::{AnyStore, Expiry, Store};
use crate::value::{WriteStamp, decode};

/// How often a run is asked for where the server notifies of nothing.
const POLL: Duration = Duration::from_millis(100);
/// How long the mark of a run is kept at least: some signs of life may fail to arrive.
const SHORTEST_MARK: Duration = LIVENESS.saturating_mul(10);
/// How often a call tries to begin, each time because something else got in between.
const MOST_ATTEMPTS: u32 = 16;

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Runs `work` once for a key, and gives its result to this and every later caller, in any process, for the time
    /// to live. For requests that may arrive twice: a payment, an e-mail, a job that a queue delivers again.
    ///
    /// Callers that come while it runs wait for its result, or are [told](RunOnce::without_waiting). Work that
    /// answers with an error counts as not done, and the next caller runs it. Where a runner died in the middle, what
    /// it has done is not known, and callers get [`OnceError::Interrupted`] until one says
    /// [`retry_interrupted`](RunOnce::retry_interrupted).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let payments = larder.cache::<String>("payment").ttl(Duration::from_secs(24 * 3600)).build()?;
    /// # async fn charge() -> Result<String, std::io::Error> { Ok("receipt-1".into()) }
    /// let receipt = payments.run_once("order-7", || async { charge().await }).await?;
    /// // The same request once more, here or elsewhere: nothing is charged.
    /// let again = payments.run_once("order-7", || async { charge().await }).await?;
    /// assert_eq!(receipt, again);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// How this differs from [`get_or_load`](Self::get_or_load): that one would rather load twice than not at all (in
    /// an outage, after a write, when a loader dies); this one would rather not run at all than twice. The result is
    /// an ordinary entry: `get` reads it,
    /// `delete`, `clear` and eviction forget it, and the work runs again. So keep such entries on a server that does
    /// not evict.
    ///
    /// Work that asks, directly or through other work and loads of this process, for its own result fails at once with
    /// [`OnceError::Cycle`]. Where other processes are part of the circle, a call that work makes waits for
    /// [`wait_timeout`](crate::CacheBuilder::wait_timeout), or as long as its own [`timeout`](RunOnce::timeout) says.
    /// A task that the work spawns is not known to belong to it.
    ///
    /// Two round trips and the work; one where the result is there.
    ///
    /// # Errors
    ///
    /// An [`OnceError`].
    ///
    /// # Cancel safety
    ///
    /// The work runs in a task of its own, hence `'static`: a dropped call leaves it running, and its result is stored.
    pub fn run_once<F, Fut, E, Kind>(&self, key: impl CacheKey, work: F) -> RunOnce<'_, V, F, E>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<Kind>,
    {
        RunOnce {
            cache: self,
            entry: self.entry(key),
            work,
            failure: LoaderFailure::new,
            expiry: None,
            timeout: None,
            waits: true,
            takes_over: false,
        }
    }
}

/// Work that is to run once; awaiting it runs it, or waits for its result. Made by [`Cache::run_once`].
///
/// It is no future itself: `join_all` and `Box::pin` take what `into_future()` gives.
#[must_use = "nothing is run before this is awaited"]
pub struct RunOnce<'a, V, F, E> {
    cache: &'a Cache<V>,
    entry: Result<Name>,
    work: F,
    /// What an error of the work becomes, so that it can be shown and asked for its cause.
    failure: fn(E) -> LoaderFailure<E>,
    expiry: Option<Expiry>,
    timeout: Option<Duration>,
    waits: bool,
    takes_over: bool,
}

impl<V, F, E> RunOnce<'_, V, F, E> {
    /// How long the result is kept, and the work not run again, in place of the cache's time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// The result stays until it is deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// The longest that this call takes, the work included, which is not stopped. Default: as long as the work takes,
    /// by whoever runs it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Answers [`OnceError::Running`] at once where another caller runs the work just now: what an HTTP service
    /// answers with `409`.
    pub fn without_waiting(mut self) -> Self {
        self.waits = false;
        self
    }

    /// Runs the work where a run of it was interrupted. Say this where it can do no harm to run twice, or after
    /// finding out what the first run has done. If that run was only slow, the result that is stored first counts,
    /// and both callers get it.
    pub fn retry_interrupted(mut self) -> Self {
        self.takes_over = true;
        self
    }
}

/// Why there is no result of work that runs once.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The work failed, in this call. Nothing is stored, and the next caller runs it. It [derefs](std::ops::Deref) to
    /// the work's own error.
    Work(LoaderFailure<E>),
    /// The work panicked, in this call, with this message. What it has done is not known: it counts as interrupted.
    Panicked(Arc<str>),
    /// A run of the work began and shows no sign of life: its process died or hangs. It may have done all of the
    /// work, a part, or nothing.
    Interrupted,
    /// This work would wait for itself: it asks for a result that waits, directly or through others, for its own. The
    /// text names the circle.
    Cycle(Arc<str>),
    /// Another caller runs the work just now, and this call was [not to wait](RunOnce::without_waiting).
    Running,
    /// Something is stored that this program cannot read: damaged, or of another type. The work may have been done.
    Unreadable,
    /// larder itself: the server is away, the call timed out, the `Larder` was closed, the result cannot be encoded.
    /// Where the server is away the work was not run.
    Larder(Error),
}

impl<E> Clone for OnceError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Work(error) => Self::Work(error.clone()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Interrupted => Self::Interrupted,
            Self::Cycle(circle) => Self::Cycle(circle.clone()),
            Self::Running => Self::Running,
            Self::Unreadable => Self::Unreadable,
            Self::Larder(error) => Self::Larder(error.clone()),
        }
    }
}

impl<E> OnceError<E> {
    /// The work's own error, if it was the work that failed.
    #[must_use]
    pub fn work(&self) -> Option<&E> {
        match self {
            Self::Work(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> From<Error> for OnceError<E> {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}

impl<E> From<Cycle> for OnceError<E> {
    fn from(Cycle(circle): Cycle) -> Self {
        Self::Cycle(circle)
    }
}

impl<E: Send + Sync + 'static> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => write!(f, "the work failed: {error}"),
            Self::Panicked(message) => write!(f, "the work panicked: {message}"),
            Self::Interrupted => {
                f.write_str("a run of this work was interrupted, and what it has done is not known")
            }
            Self::Cycle(circle) => write!(f, "this work would wait for itself: {circle}"),
            Self::Running => f.write_str("another caller runs this work just now"),
            Self::Unreadable => f.write_str("the stored result of this work cannot be read"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

/// This error shows the text of the work's own, so the `source` is what lies behind that one.
impl<E: fmt::Debug + Send + Sync + 'static> StdError for OnceError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Work(error) => error.cause(),
            Self::Larder(error) => error.source(),
            Self::Panicked(_) | Self::Interrupted | Self::Cycle(_) | Self::Running | Self::Unreadable => {
                None
            }
        }
    }
}

impl<'a, V, F, Fut, E> IntoFuture for RunOnce<'a, V, F, E>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
    E: Send + Sync + 'static,
{
    type Output = Result<V, OnceError<E>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (started, timeout, cache) = (Instant::now(), self.timeout, self.cache);
            let result = match timeout {
                None => self.run().await,
                Some(timeout) => match tokio::time::timeout(timeout, self.run()).await {
                    Ok(result) => result,
                    Err(_) => Err(Error::timed_out(timeout).into()),
                },
            };
            let error = match &result {
                Err(OnceError::Larder(error)) => Some(error),
                _ => None,
            };
            cache.shared.meter.run_once.finished(started.elapsed(), error);
            result
        })
    }
}

/// What a stored entry is to work that runs once.
enum Standing<V> {
    Result(V),
    /// Stale, invalidated, a remembered absence or a load's placeholder: the work may run.
    Nothing,
    Unreadable,
}

impl<'a, V, F, Fut, E> RunOnce<'a, V, F, E>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
    E: Send + Sync + 'static,
{
    async fn run(self) -> Result<V, OnceError<E>> {
        let Self { cache, entry, work, failure, expiry, timeout, waits, takes_over } = self;
        let entry = entry?;
        let expiry = cache.expiry(expiry)?;
        cache.check_decidable(&entry)?;
        if let Some(value) = cache.get_local(&entry, |copy| copy.value)? {
            cache.shared.meter.near_hit();
            return Ok(value);
        }
        // From before the work: a clear that comes while it runs forgets its result.
        let versions = cache.bounded(cache.versions(&[], cache.version_span(expiry))).await?;
        // Long enough for the first signs of life, each of which keeps the mark for longer.
        let kept = match cache.kept_for(expiry) {
            Expiry::After(kept) => kept.max(SHORTEST_MARK),
            Expiry::Never => UNBOUNDED_SPAN,
        };
        let run = OnceRun { token: cache.context.random.nonce(), liveness: LIVENESS, kept, takes_over };
        let (mut in_place_of, mut attempts, mut nested_until) = (None, 0, None);
        loop {
            attempts += 1;
            if attempts > MOST_ATTEMPTS {
                return Err(Error::new(ErrorKind::Busy, "others write to this key all the time").into());
            }
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, cache.context.random.fraction())).await;
            }
            let mark = OnceMark {
                context: cache.context.clone(),
                entry: entry.clone(),
                token: run.token,
                armed: true,
            };
            let begin = cache.context.store()?.begin_once(&entry, run, in_place_of.take());
            match cache.bounded(begin).await? {
                OnceStart::Begun => {
                    let listed = cache.shared.runs.list(&entry);
                    // For those who find later that they would wait for this call.
                    let _wait = wait_for(listed.node())?;
                    let running = ActiveRun { cache: cache.clone(), mark, listed, run, expiry, versions };
                    let (give, given) = oneshot::channel();
                    cache.context.loads.spawn(running.run(work, failure, give));
                    return given.await.unwrap_or_else(|_| Err(Error::closed().into()));
                }
                OnceStart::Done(bytes) => {
                    mark.disarm();
                    match cache.standing(&entry, &bytes).await? {
                        Standing::Result(value) => return Ok(value),
                        Standing::Nothing => in_place_of = Some(bytes),
                        Standing::Unreadable => return Err(OnceError::Unreadable),
                    }
                }
                OnceStart::Running(left) => {
                    mark.disarm();
                    if !waits {
                        return Err(OnceError::Running);
                    }
                    let here = cache.shared.runs.get(&entry);
                    let _wait = here.as_ref().map(wait_for).transpose()?;
                    let mut longest = left;
                    if here.is_none() && is_nested() {
                        // Another process runs it, which may wait for this one. Or it begins here just now, and is
                        // listed when this looks again.
                        longest = longest.min(POLL);
                        let now = tokio::time::Instant::now();
                        let patience = cache.policy.wait_timeout;
                        let until = *nested_until.get_or_insert(now.checked_add(patience));
                        if timeout.is_none() && until.is_some_and(|until| until <= now) {
                            return Err(waited_for_run(patience).into());
                        }
                    }
                    if cache.wait_for_run(&entry, longest).await? {
                        attempts = 0;
                    }
                }
                OnceStart::GivenUp => {
                    mark.disarm();
                    return Err(Error::new(ErrorKind::Busy, "this run was given up before it began").into());
                }
                OnceStart::Interrupted => {
                    mark.disarm();
                    return Err(OnceError::Interrupted);
                }
            }
        }
    }
}

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn standing(&self, entry: &str, bytes: &Bytes) -> Result<Standing<V>> {
        let classified = self.bounded(self.verdict(entry, bytes)).await?;
        Ok(match classified.verdict {
            Verdict::Serve(payload) => match decode(bytes, payload, self.context.limits.max_value_bytes) {
                Ok(value) => Standing::Result(value),
                Err(_) => Standing::Unreadable,
            },
            Verdict::Unreadable(_) => Standing::Unreadable,
            _ => Standing::Nothing,
        })
    }

    /// Waits until the mark of a run has changed, or the run may count as interrupted. Returns false if there was no mark
    /// to wait for any more.
    async fn wait_for_run(&self, entry: &str, left: Duration) -> Result<bool> {
        let mark = Keyspace::once(entry);
        let mut watch = self.context.changes.watch(&mark);
        let read = self.bounded(self.context.store()?.get_tracked(&mark)).await?;
        let marked = read.bytes.is_some();
        if marked {
            let longest = left.max(Duration::from_millis(1));
            watch.changed(if read.seen.is_some() { longest } else { longest.min(POLL) }).await;
        }
        Ok(marked)
    }
}

fn waited_for_run(patience: Duration) -> Error {
    let message = format!(
        "waited {patience:?} (wait_timeout) for a run of this work in another process: it is slow, or waits in its \
         turn for the work that asks"
    );
    Error::new(ErrorKind::TimedOut, message)
}

/// Sends a request on the connection of the background, and on that of callers where it is not answered soon. Either may
/// be gone alone; what is sent here may arrive twice.
async fn on_either<'a, T, F>(context: &'a Context, ask: impl Fn(&'a AnyStore) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let own = context.background_store_even_closed();
    if let Ok(Ok(answer)) = tokio::time::timeout(HEDGE, ask(own)).await {
        return Ok(answer);
    }
    let patience = context.limits.response_timeout;
    let again = tokio::time::timeout(patience, ask(context.store().unwrap_or(own)));
    again.await.unwrap_or_else(|_| Err(Error::timed_out(patience)))
}

/// The mark of a run that may be in the store. Dropped while armed, it is removed in the background: the work was not
/// begun, or has said that it failed.
struct OnceMark {
    context: Arc<Context>,
    entry: Name,
    token: u64,
    armed: bool,
}

impl OnceMark {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for OnceMark {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (context, entry, token) = (self.context.clone(), self.entry.clone(), self.token);
        if context.is_embedded() {
            // Done at once, also where a runtime ends with the call and nothing would poll a task.
            let _ = context.background_store_even_closed().abandon_once(&entry, token).now_or_never();
            return;
        }
        self.context.background.spawn(async move {
            let ends = tokio::time::Instant::now().checked_add(GIVEN_UP);
            let mut pause = Duration::from_millis(20);
            loop {
                match on_either(&context, |store| store.abandon_once(&entry, token)).await {
                    Err(error) if error.is_retryable() => {}
                    _ => return,
                }
                // Where the server stays away, the run counts as interrupted.
                if ends.is_none_or(|ends| ends <= tokio::time::Instant::now()) {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        });
    }
}

/// A run under way.
struct ActiveRun<V> {
    cache: Cache<V>,
    mark: OnceMark,
    listed: Listed,
    run: OnceRun,
    expiry: Expiry,
    versions: (u64, Vec<crate::envelope::TagVersion>),
}

impl<V> ActiveRun<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn run<F, Fut, E>(
        mut self,
        work: F,
        failure: fn(E) -> LoaderFailure<E>,
        give: oneshot::Sender<Result<V, OnceError<E>>>,
    ) where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        // From here on, a run that ends without an answer of the work is one that was interrupted.
        self.mark.armed = false;
        let _pulse = self.pulse();
        let started = Instant::now();
        let work = scope(Arc::from([self.listed.node().clone()]), async { work().await });
        let done = AssertUnwindSafe(work).catch_unwind().await;
        // Nobody waits for it any more: the result is stored all the same.
        let _ = match done {
            Ok(Ok(value)) => return self.store(value, started.elapsed(), give).await,
            Ok(Err(error)) => {
                self.mark.armed = true;
                give.send(Err(OnceError::Work(failure(error))))
            }
            Err(panic) => give.send(Err(OnceError::Panicked(message(&*panic as &(dyn Any + Send))))),
        };
    }

    /// Renews the run's pulse until what this returns is dropped.
    fn pulse(&self) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (context, entry, run) = (self.cache.context.clone(), self.mark.entry.clone(), self.run);
        self.cache.context.background.spawn_until_close(async move {
            let beat = async {
                loop {
                    tokio::time::sleep(LIVENESS / 3).await;
                    let _ = on_either(&context, |store| store.renew_once(&entry, run)).await;
                }
            };
            tokio::select! {
                () = beat => {}
                _ = stopped => {}
            }
        });
        stop
    }

    /// Stores the result, and gives it to the caller.
    async fn store<E>(self, value: V, took: Duration, give: oneshot::Sender<Result<V, OnceError<E>>>) {
        let cache = &self.cache;
        let entry = &self.mark.entry;
        let cost = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let stamp: Result<WriteStamp> = cache.stamp(self.expiry, cost, self.versions.clone());
        let encoded = stamp.and_then(|stamp| {
            let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| cache.encode(&value, stamp)));
            encoded.unwrap_or_else(|_| Err(Error::new(ErrorKind::Encode, "the value's Serialize panicked")))
        });
        let bytes = match encoded {
            Ok(bytes) => bytes,
            Err(error) => return drop(give.send(Err(error.into()))),
        };
        let kept = cache.kept_for(self.expiry);
        let commit = async || {
            let store = cache.context.store()?;
            cache.bounded(store.commit_once(entry, self.run.token, bytes.clone(), kept)).await
        };
        let first = commit().await;
        cache.shared.forget_near([&**entry]);
        match first {
            Ok(true) => {
                cache.shared.meter.wrote(bytes.len());
                let _ = give.send(Ok(value));
            }
            // Another run took this one's place, or the mark was evicted: a result that was stored first counts.
            Ok(false) => {
                let stored = match cache.context.store() {
                    Ok(store) => cache.bounded(store.get(entry)).await.ok().flatten(),
                    Err(_) => None,
                };
                let standing = match stored {
                    Some(stored) => cache.standing(entry, &stored).await.ok(),
                    None => None,
                };
                let _ = give.send(Ok(match standing {
                    Some(Standing::Result(first)) => first,
                    _ => value,
                }));
            }
            Err(error) => {
                cache.shared.meter.bypassed(&error);
                let _ = give.send(Ok(value));
                let end = Instant::now().checked_add(self.run.kept);
                let mut pause = Duration::from_millis(20);
                while end.is_none_or(|end| Instant::now() < end) {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                    match commit().await {
                        Err(error) if error.is_retryable() => {}
                        _ => return,
                    }
                }
            }
        }
    }
}

impl<V, F, E> fmt::Debug for RunOnce<'_, V, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOnce")
            .field("entry", &self.entry)
            .field("expiry", &self.expiry)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
