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

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::claim::LIVENESS;
use super::nesting::{is_nested, wait_for};
use super::once_error::OnceError;
use super::once_run::{ActiveRun, OnceMark, StoredResult};
use super::thrown::{LoaderError, LoaderFailure};
use super::wait::pause;
use super::{Cache, UNBOUNDED_SPAN};
use crate::error::{Error, ErrorKind, Result};
use crate::key::CacheKey;
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::store::once::{OnceRun, OnceStart, OnceStore};
use crate::store::{Expiry, Store};
use crate::value::Value;

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
    /// An [`OnceError`] around the work's own error type:
    ///
    /// - `Work`: the work failed. The next call runs it again.
    /// - `Panicked`, `Interrupted`: a run began and did not end properly. Find out what it did, then call with
    ///   [`retry_interrupted`](RunOnce::retry_interrupted).
    /// - `Cycle`: the work waits for its own result. Correct the work.
    /// - `Running`: another caller runs the work, and this call does not wait. Retry later.
    /// - `Unreadable`: the stored result is damaged or of another type. The work may have been done.
    /// - `Larder` with [`Refused`](crate::ErrorKind::Refused), [`TimedOut`](crate::ErrorKind::TimedOut) or another
    ///   failure of the server: retry later. If the server was away when the call began, the work was not run. With
    ///   [`Encode`](crate::ErrorKind::Encode): correct the result. With [`Closed`](crate::ErrorKind::Closed): the
    ///   `Larder` was closed.
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
            cache.near_hit(|| Ok(entry.clone()));
            return Ok(value);
        }
        cache.note_read(&entry, 1);
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
            let mark = OnceMark::new(&cache.context, &entry, run.token);
            let begin = cache.context.store()?.begin_once(&entry, run, in_place_of.take());
            match cache.bounded(begin).await? {
                OnceStart::Begun => {
                    let listed = cache.shared.runs.list(&entry);
                    // Recorded so that a later call can find that it would wait for this one.
                    let _wait = wait_for(listed.node())?;
                    let running = ActiveRun { cache: cache.clone(), mark, listed, run, expiry, versions };
                    let (give, given) = oneshot::channel();
                    cache.context.loads.spawn(running.run(work, failure, give).in_current_span());
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
                        let now = Instant::now();
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
                    return Err(
                        Error::new(ErrorKind::Busy, "this run was cancelled before it began: retry").into()
                    );
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
    /// Waits until the mark of a run has changed, or until the run may count as interrupted. Returns false if there
    /// was no mark.
    async fn wait_for_run(&self, entry: &str, left: Duration) -> Result<bool> {
        let mark = Keyspace::once(entry);
        let mut watch = self.context.invalidations.watch(&mark);
        let read = self.bounded(self.context.store()?.get_tracked(&mark)).await?;
        let marked = read.bytes.is_some();
        if marked {
            let longest = left.max(Duration::from_millis(1));
            watch.changed(if read.stamp.is_some() { longest } else { longest.min(POLL) }).await;
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

impl<V, F, E> fmt::Debug for RunOnce<'_, V, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOnce")
            .field("entry", &self.entry)
            .field("expiry", &self.expiry)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
