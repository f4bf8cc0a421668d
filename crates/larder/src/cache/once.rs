//! Idempotency keys: work that runs once, however many callers ask for it.
//!
//! A run puts a mark beside its entry before it begins and renews that mark while it works. One step then stores its
//! result and removes the mark. A caller that arrives during the run waits for that step; a later caller gets the
//! stored result. Three things may go wrong:
//!
//! - *The work fails.* The error says that it was not done, so the mark is removed and the next caller runs it again.
//! - *The runner dies, hangs or panics.* What it has done is not known, so the work is not run again by itself.
//!   Callers get [`OnceError::Interrupted`] for as long as the result would be kept, and decide. A run that hung and
//!   goes on still stores its result.
//! - *The server is away.* Work that cannot be marked is not run. A result that cannot be stored is given to its
//!   caller and stored when the server is back; until then other callers see a run under way.

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
use tokio::sync::oneshot;

use super::loader::message;
use super::nesting::{Cycle, is_nested, scope, wait_for};
use super::runs::Listed;
use super::thrown::{LoaderError, LoaderFailure};
use super::validity::Verdict;
use super::wait::pause;
use super::{Cache, UNBOUNDED_SPAN};
use crate::background::{HEDGE, LIVENESS, Retry, retry};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::store::once::{GIVEN_UP, OnceRun, OnceStart, OnceStore};
use crate::store::{AnyStore, Expiry, Store};
use crate::value::{Value, WriteStamp, decode};

/// How often a run's mark is read if the server does not report its changes.
const POLL: Duration = Duration::from_millis(100);
/// The shortest time that a run's mark is kept, because some renewals may be lost.
const SHORTEST_MARK: Duration = LIVENESS.saturating_mul(10);
/// How many times a call tries to begin. Each failed attempt means that another write changed the key.
const MOST_ATTEMPTS: u32 = 16;

impl<V> Cache<V>
where
    V: Value,
{
    /// Runs `work` once for a key, and returns its result to this call and to every later one, in any process, for
    /// the time to live. Use it for requests that may arrive twice: a payment, an e-mail, a job that a queue delivers
    /// again.
    ///
    /// Callers that arrive during the run wait for its result, or get an error [at once](RunOnce::without_waiting).
    /// Work that returns an error counts as not done, and the next caller runs it. If a runner dies in the middle,
    /// what it has done is not known; callers get [`OnceError::Interrupted`] until one sets
    /// [`retry_interrupted`](RunOnce::retry_interrupted).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let payments = larder.cache::<String>("payment").ttl(Duration::from_secs(24 * 3600)).build()?;
    /// # async fn charge() -> Result<String, std::io::Error> { Ok("receipt-1".into()) }
    /// let receipt = payments.run_once("order-7", || async { charge().await }).await?;
    /// // The same request again, here or in another process: nothing is charged.
    /// let again = payments.run_once("order-7", || async { charge().await }).await?;
    /// assert_eq!(receipt, again);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`get_or_load`](Self::get_or_load) differs in what it does when in doubt (in an outage, after a write, when a
    /// loader dies): it loads twice rather than not at all, whereas this call does not run the work rather than run
    /// it twice. The result is an ordinary entry: `get` reads it, and after a `delete`, a `clear` or an eviction the
    /// work runs again. So keep such entries on a server that does not evict.
    ///
    /// Work that asks for its own result, directly or through other work and loads of this process, fails at once
    /// with [`OnceError::Cycle`]. If the cycle leads through other processes, the inner call waits for the
    /// [`wait_timeout`](crate::CacheBuilder::wait_timeout) or its own [`timeout`](RunOnce::timeout). A task that the
    /// work spawns is not known to belong to it.
    ///
    /// Costs two round trips and the work, or one if the result is stored.
    ///
    /// # Errors
    ///
    /// An [`OnceError`]: see its variants for what to do about each.
    ///
    /// # Cancel safety
    ///
    /// The work runs in a task of its own, hence `'static`. A dropped call leaves it running, and its result is
    /// stored.
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

/// Work to run once; awaiting it runs the work or waits for its result. Made by [`Cache::run_once`].
///
/// This type is not a future itself: pass `into_future()` to `join_all` or `Box::pin`.
#[must_use = "nothing is run before this is awaited"]
pub struct RunOnce<'a, V, F, E> {
    cache: &'a Cache<V>,
    entry: Result<Name>,
    work: F,
    /// Wraps an error of the work, so that it can be displayed and its cause found.
    failure: fn(E) -> LoaderFailure<E>,
    expiry: Option<Expiry>,
    timeout: Option<Duration>,
    waits: bool,
    takes_over: bool,
}

impl<V, F, E> RunOnce<'_, V, F, E> {
    /// Keeps the result for `ttl`, in place of the cache's time to live. The work does not run again in that time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Keeps the result until it is deleted or evicted.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Limits how long this call waits, the work included. It does not stop the work. Without it the call waits as
    /// long as the work takes, in whichever process it runs.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns [`OnceError::Running`] at once if another caller is running the work. An HTTP service answers that
    /// with `409`.
    pub fn without_waiting(mut self) -> Self {
        self.waits = false;
        self
    }

    /// Runs the work even if an earlier run was interrupted. Set it if running twice is harmless, or after you have
    /// found out what the first run did. If the first run was only slow, the result that is stored first counts, and
    /// both callers get it.
    pub fn retry_interrupted(mut self) -> Self {
        self.takes_over = true;
        self
    }
}

/// The reason why work that runs once gave no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The work failed in this call. Nothing is stored, and the next caller runs it. [Derefs](std::ops::Deref) to the
    /// work's own error.
    Work(LoaderFailure<E>),
    /// The work panicked in this call, with this message. What it has done is not known, so it counts as interrupted.
    Panicked(Arc<str>),
    /// A run began and its mark is no longer renewed: its process died or hangs. It may have done all of the work, a
    /// part, or nothing. Find out, then call with [`retry_interrupted`](RunOnce::retry_interrupted).
    Interrupted,
    /// The work would wait for itself: it asks for a result that waits, directly or through others, for its own. The
    /// text names the cycle. Correct the work.
    Cycle(Arc<str>),
    /// Another caller is running the work, and this call was [not to wait](RunOnce::without_waiting). Retry later.
    Running,
    /// The stored entry cannot be read by this program: it is damaged or of another type. The work may have been
    /// done.
    Unreadable,
    /// An error of larder: the server is away, the call timed out, the `Larder` was closed, the result cannot be
    /// encoded. If the server was away when the call began, the work was not run.
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
    /// Returns the work's own error, if the work failed.
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
            Self::Running => f.write_str("another caller is running this work"),
            Self::Unreadable => f.write_str("the stored result of this work cannot be read"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

/// Shows the text of the work's own error, so `source` is that error's own cause.
impl<E: fmt::Debug + Send + Sync + 'static> StdError for OnceError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Work(error) => error.cause(),
            Self::Larder(error) => error.source(),
            Self::Panicked(_) | Self::Interrupted | Self::Cycle(_) | Self::Running | Self::Unreadable => None,
        }
    }
}

impl<'a, V, F, Fut, E> IntoFuture for RunOnce<'a, V, F, E>
where
    V: Value,
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

/// What a stored entry means for work that runs once.
enum StoredResult<V> {
    Value(V),
    /// Stale, invalidated, a remembered absence or a load's placeholder: the work may run.
    Nothing,
    Unreadable,
}

impl<'a, V, F, Fut, E> RunOnce<'a, V, F, E>
where
    V: Value,
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
        // Read before the work runs, so that a `clear` during the work invalidates its result.
        let versions = cache.bounded(cache.versions(&[], cache.version_span(expiry))).await?;
        // Long enough for the first renewals; each of them keeps the mark for longer.
        let kept = match cache.kept_for(expiry) {
            Expiry::After(kept) => kept.max(SHORTEST_MARK),
            Expiry::Never => UNBOUNDED_SPAN,
        };
        let run = OnceRun { token: cache.context.tokens.next(), liveness: LIVENESS, kept, takes_over };
        let (mut in_place_of, mut attempts, mut nested_until) = (None, 0, None);
        loop {
            attempts += 1;
            if attempts > MOST_ATTEMPTS {
                let message = "the key changed each time this run tried to begin; retry later";
                return Err(Error::new(ErrorKind::Busy, message).into());
            }
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, cache.context.random.fraction())).await;
            }
            // Try to leave a mark. The store's reply says what is known of this work.
            let mark = OnceMark {
                context: cache.context.clone(),
                entry: entry.clone(),
                token: run.token,
                armed: true,
            };
            // Armed before the request: if this call is dropped, the mark that the request may leave is removed.
            let begin = cache.context.store()?.begin_once(&entry, run, in_place_of.take());
            match cache.bounded(begin).await? {
                OnceStart::Begun => {
                    let listed = cache.shared.runs.list(&entry);
                    // Recorded so that a later call can find that it would wait for this one.
                    let _wait = wait_for(listed.node())?;
                    let running = ActiveRun { cache: cache.clone(), mark, listed, run, expiry, versions };
                    let (give, given) = oneshot::channel();
                    cache.context.loads.spawn(running.run(work, failure, give));
                    return given.await.unwrap_or_else(|_| Err(Error::closed().into()));
                }
                OnceStart::Done(bytes) => {
                    mark.disarm();
                    match cache.stored_result(&entry, &bytes).await? {
                        StoredResult::Value(value) => return Ok(value),
                        StoredResult::Nothing => in_place_of = Some(bytes),
                        StoredResult::Unreadable => return Err(OnceError::Unreadable),
                    }
                }
                OnceStart::Running(left) => {
                    mark.disarm();
                    if !waits {
                        return Err(OnceError::Running);
                    }
                    // Wait until the run's mark changes. A run of this process is waited for through the graph of
                    // waiting loads, so that work which would wait for its own result fails here.
                    let here = cache.shared.runs.get(&entry);
                    let _wait = here.as_ref().map(wait_for).transpose()?;
                    let mut longest = left;
                    if here.is_none() && is_nested() {
                        // Another process runs the work, and may be waiting for this one. Or the run is beginning in
                        // this process, and will be listed when this loop looks again.
                        longest = longest.min(POLL);
                        let now = tokio::time::Instant::now();
                        let max_wait = cache.policy.wait_timeout;
                        let until = *nested_until.get_or_insert(now.checked_add(max_wait));
                        if timeout.is_none() && until.is_some_and(|until| until <= now) {
                            return Err(waited_for_run(max_wait).into());
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
    V: Value,
{
    async fn stored_result(&self, entry: &str, bytes: &Bytes) -> Result<StoredResult<V>> {
        let classified = self.bounded(self.verdict(entry, bytes)).await?;
        Ok(match classified.verdict {
            Verdict::Serve(payload) => match decode(bytes, payload, self.context.limits.max_value_bytes) {
                Ok(value) => StoredResult::Value(value),
                Err(_) => StoredResult::Unreadable,
            },
            Verdict::Unreadable(_) => StoredResult::Unreadable,
            _ => StoredResult::Nothing,
        })
    }

    /// Waits until the mark of a run has changed, or until the run may count as interrupted. Returns false if there
    /// was no mark.
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

fn waited_for_run(max_wait: Duration) -> Error {
    let message = format!(
        "waited {max_wait:?} (wait_timeout) for a run of this work in another process: that run is slow, or waits for \
         the work that asked"
    );
    Error::new(ErrorKind::TimedOut, message)
}

/// Sends a request on the background's connection and, if that fails or is slow, on the callers' connection as well.
/// Either connection may be down alone. The request may arrive twice.
async fn on_either<'a, T, F>(context: &'a Context, ask: impl Fn(&'a AnyStore) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let own = context.background_store_even_closed();
    if let Ok(Ok(answer)) = tokio::time::timeout(HEDGE, ask(own)).await {
        return Ok(answer);
    }
    let max_wait = context.limits.response_timeout;
    let again = tokio::time::timeout(max_wait, ask(context.store().unwrap_or(own)));
    again.await.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))
}

/// The mark of a run, which may be in the store. Dropped while armed, it removes the mark in the background: the work
/// did not begin, or has said that it failed.
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
            // Done here and not in a task: the runtime may end with this call.
            let _ = context.background_store_even_closed().abandon_once(&entry, token).now_or_never();
            return;
        }
        self.context.background.spawn(async move {
            let ends = tokio::time::Instant::now().checked_add(GIVEN_UP);
            retry(async |_| match on_either(&context, |store| store.abandon_once(&entry, token)).await {
                // If the server stays away, the run counts as interrupted.
                Err(error)
                    if error.is_retryable()
                        && ends.is_some_and(|ends| ends > tokio::time::Instant::now()) =>
                {
                    Retry::Again
                }
                _ => Retry::Done,
            })
            .await;
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
    V: Value,
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
        // From here on, a run that ends without an answer of the work was interrupted.
        self.mark.armed = false;
        let _pulse = self.pulse();
        let started = Instant::now();
        let work = scope(Arc::from([self.listed.node().clone()]), async { work().await });
        let done = AssertUnwindSafe(work).catch_unwind().await;
        // The caller may be gone, so a failed send is not an error. A result is stored in any case.
        let _ = match done {
            Ok(Ok(value)) => return self.store(value, started.elapsed(), give).await,
            Ok(Err(error)) => {
                self.mark.armed = true;
                give.send(Err(OnceError::Work(failure(error))))
            }
            Err(panic) => give.send(Err(OnceError::Panicked(message(&*panic as &(dyn Any + Send))))),
        };
    }

    /// Renews the run's mark until the returned sender is dropped.
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

    /// Stores the result and gives it to the caller.
    async fn store<E>(self, value: V, took: Duration, give: oneshot::Sender<Result<V, OnceError<E>>>) {
        let cache = &self.cache;
        let entry = &self.mark.entry;
        let cost = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let stamp: Result<WriteStamp> = cache.stamp(self.expiry, cost, self.versions.clone());
        // Encode the result. It cannot be stored if that fails, and the run then counts as interrupted.
        let encoded = stamp.and_then(|stamp| {
            let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| cache.encode(&value, stamp)));
            encoded.unwrap_or_else(|_| Err(Error::new(ErrorKind::Encode, "the value's Serialize panicked")))
        });
        let bytes = match encoded {
            Ok(bytes) => bytes,
            Err(error) => return drop(give.send(Err(error.into()))),
        };
        let kept = cache.kept_for(self.expiry);
        // Store the result in the step that removes the mark.
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
            // Another run has taken over, or the mark was evicted. The result that was stored first counts.
            Ok(false) => {
                let stored = match cache.context.store() {
                    Ok(store) => cache.bounded(store.get(entry)).await.ok().flatten(),
                    Err(_) => None,
                };
                let result = match stored {
                    Some(stored) => cache.stored_result(entry, &stored).await.ok(),
                    None => None,
                };
                let _ = give.send(Ok(match result {
                    Some(StoredResult::Value(first)) => first,
                    _ => value,
                }));
            }
            // The caller gets the result now. Store it when the server is back, for as long as the mark is kept.
            Err(error) => {
                cache.shared.meter.bypassed(&error);
                let _ = give.send(Ok(value));
                let end = Instant::now().checked_add(self.run.kept);
                retry(async |_| match commit().await {
                    Err(error) if error.is_retryable() && end.is_none_or(|end| Instant::now() < end) => {
                        Retry::Again
                    }
                    _ => Retry::Done,
                })
                .await;
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
