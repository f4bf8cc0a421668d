//! One run of `run_once`: its mark in the store, and what is stored and removed when it ends.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Cache;
use super::claim::LIVENESS;
use super::loader::message;
use super::nesting::scope;
use super::once_error::OnceError;
use super::runs::Listed;
use super::thrown::LoaderFailure;
use super::validity::Verdict;
use crate::background::{HEDGE, Retry, retry};
use crate::context::Context;
use crate::envelope::TagVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::once::{GIVEN_UP, OnceRun, OnceStore};
use crate::store::{AnyStore, Expiry, Store};
use crate::value::{Value, WriteStamp, decode};

/// What a stored entry means for work that runs once.
pub(super) enum StoredResult<V> {
    Value(V),
    /// Stale, invalidated, a remembered absence or a load's placeholder: the work may run.
    Nothing,
    Unreadable,
}

impl<V> Cache<V>
where
    V: Value,
{
    /// Reads the stored result of a run.
    pub(super) async fn stored_result(&self, entry: &str, bytes: &Bytes) -> Result<StoredResult<V>> {
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
pub(super) struct OnceMark {
    context: Arc<Context>,
    entry: Name,
    token: u64,
    armed: bool,
}

impl OnceMark {
    /// Make it before the request that may leave the mark: if the call is dropped, the mark is removed.
    pub(super) fn new(context: &Arc<Context>, entry: &Name, token: u64) -> Self {
        Self { context: context.clone(), entry: entry.clone(), token, armed: true }
    }

    pub(super) fn disarm(mut self) {
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
            let ends = Instant::now().checked_add(GIVEN_UP);
            retry(async |_| match on_either(&context, |store| store.abandon_once(&entry, token)).await {
                // If the server stays away, the run counts as interrupted.
                Err(error) if error.is_retryable() && ends.is_some_and(|ends| ends > Instant::now()) => {
                    Retry::Again
                }
                _ => Retry::Done(()),
            })
            .await;
        });
    }
}

/// A run under way.
pub(super) struct ActiveRun<V> {
    pub(super) cache: Cache<V>,
    pub(super) mark: OnceMark,
    pub(super) listed: Listed,
    pub(super) run: OnceRun,
    pub(super) expiry: Expiry,
    pub(super) versions: (u64, Vec<TagVersion>),
}

impl<V> ActiveRun<V>
where
    V: Value,
{
    /// Does the work, stores its result, and gives it to the caller.
    pub(super) async fn run<F, Fut, E>(
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
                    _ => Retry::Done(()),
                })
                .await;
            }
        }
    }
}
