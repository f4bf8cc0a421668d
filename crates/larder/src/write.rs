//! A call that writes. If the server is away, the invalidation is queued, and the caller may count that as success.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::telemetry::Instrument;

/// The outcome of a write that may have been queued. Made by [`WriteCall::or_queue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteOutcome<T> {
    /// The server has carried out the write.
    Done(T),
    /// The server is away. The key's invalidation is queued in this process and sent when the server is back. Until
    /// then this process does not serve the old value. Other processes may, and the queue is lost if this process
    /// ends; the time to live bounds both.
    Queued,
}

impl<T> WriteOutcome<T> {
    /// Whether the write is queued.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self, Self::Queued)
    }

    /// Returns the server's answer; `None` if the write is queued.
    #[must_use]
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Queued => None,
        }
    }
}

pin_project! {
    /// A write to a cache, sent when it is awaited. A [`Call`] that can also count a queued invalidation as success:
    /// see [`or_queue`](Self::or_queue).
    #[must_use = "a call is sent only when it is awaited"]
    pub struct WriteCall<'a, F> {
        #[pin]
        call: Call<'a, F>,
    }
}

impl<'a, F> WriteCall<'a, F> {
    pub(crate) fn new(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        Self { call: Call::queued(timeout, instrument, work) }
    }

    /// Makes a call for work in batches; each batch has the timeout for itself.
    pub(crate) fn in_batches(instrument: &'a Instrument, work: F) -> Self {
        Self { call: Call::queued_in_batches(instrument, work) }
    }

    /// Limits how long this call may take: see [`Call::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { call: self.call.timeout(timeout) }
    }

    /// Counts a queued invalidation as success. Use it for invalidations after a commit: the database has the new
    /// row, so the caller's request must not fail because the cache is away.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// // db.rename(7, "Ann").await?;
    /// if users.delete(7).or_queue().await?.is_queued() {
    ///     eprintln!("the cache is away: user 7 will be invalidated when it is back");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An invalidation that was [queued](Error::is_queued) is not an error: the answer says so. All other errors of the
    /// call stay errors:
    ///
    #[doc = include_str!("doc/request_errors.md")]
    pub fn or_queue(self) -> OrQueue<Self> {
        OrQueue::new(self)
    }
}

impl<T, F> Future for WriteCall<'_, F>
where
    F: Future<Output = Result<T>>,
{
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        self.project().call.poll(cx)
    }
}

impl<F> fmt::Debug for WriteCall<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

pin_project! {
    /// A write that succeeds if it is queued; resolves to a [`WriteOutcome`]. Made by [`WriteCall::or_queue`].
    #[derive(Debug)]
    #[must_use = "a call is sent only when it is awaited"]
    pub struct OrQueue<W> {
        #[pin]
        write: W,
    }
}

impl<W> OrQueue<W> {
    pub(crate) fn new(write: W) -> Self {
        Self { write }
    }
}

impl<T, W> Future for OrQueue<W>
where
    W: Future<Output = Result<T>>,
{
    type Output = Result<WriteOutcome<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().write.poll(cx)) {
            Ok(value) => Ok(WriteOutcome::Done(value)),
            Err(error) if Error::is_queued(&error) => Ok(WriteOutcome::Queued),
            Err(error) => Err(error),
        })
    }
}
