//! A request that can still be given a timeout, and is sent when it is awaited.
//!
//! Every operation returns a [`Call`] around the future of its work, without an allocation. The deadline begins at
//! the first poll, and the timer is made only if the answer is not there at once. So an operation on the embedded
//! store never touches the timer wheel.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::error::{Error, Result};
use crate::telemetry::Instrument;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Timed {
    Always,
    IfItWaits,
    /// Each batch of the work has its own deadline. All batches together have one only if the caller gave it.
    InBatches,
}

pin_project! {
    /// A request to a store, sent when it is awaited. Resolves to the result of `F`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let user = users.get("123").timeout(Duration::from_millis(50)).await?;
    /// # assert_eq!(user, None); Ok(())
    /// # }
    /// ```
    ///
    /// A call borrows from the handle that made it, and from the key if that is a reference. To spawn a call, move
    /// everything into the task: `tokio::spawn(async move { cache.get(key).await })`. Its type cannot be named; a
    /// struct stores it as `Pin<Box<dyn Future<Output = _> + Send + '_>>`.
    ///
    /// # Cancel safety
    ///
    /// Dropping a call that was never polled does nothing. If it was polled, its request may be on its way, and the
    /// server may still carry it out.
    #[must_use = "a call is sent only when it is awaited"]
    pub struct Call<'a, F> {
        // Dropped on a timeout, before the error is returned: the drop queues the invalidation that the error speaks
        // of.
        #[pin]
        work: Option<F>,
        timeout: Duration,
        instrument: &'a Instrument,
        started: Option<Instant>,
        // Whether to time an answer that is there at once.
        timed: Timed,
        // Whether it is an invalidation, which is queued when it times out.
        queued: bool,
        // Boxed, so that calls that are answered at once do not carry it.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<'a, F> Call<'a, F> {
    pub(crate) fn new(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        Self {
            work: Some(work),
            timeout,
            instrument,
            started: None,
            timed: Timed::Always,
            queued: false,
            timer: None,
        }
    }

    /// Makes a call for work that memory may answer in less time than it takes to read the clock. An answer that is
    /// there at once is not timed and, unless it is an error, not counted here.
    pub(crate) fn unless_at_once(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::IfItWaits, ..Self::new(timeout, instrument, work) }
    }

    /// Makes a call for an invalidation, which is queued when it times out.
    pub(crate) fn queued(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        Self { queued: true, ..Self::new(timeout, instrument, work) }
    }

    /// Makes a call for work on any number of keys, done in batches. Each batch is [`within`] the `response_timeout`,
    /// counted from when it is sent, so that no batch times out behind the others. A timeout that the caller gives
    /// bounds the whole call and each batch.
    pub(crate) fn in_batches(instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::InBatches, ..Self::new(Duration::MAX, instrument, work) }
    }

    /// Does the same for invalidations, which are queued when they time out.
    pub(crate) fn queued_in_batches(instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::InBatches, ..Self::queued(Duration::MAX, instrument, work) }
    }

    /// Limits how long this call may take, in place of the connection's `response_timeout`. The limit covers
    /// everything: waiting for a connection, the round trips, and a retry after a broken connection. An answer that
    /// is there at once is never late.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<T, F> Future for Call<'_, F>
where
    F: Future<Output = Result<T>>,
{
    type Output = Result<T>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut this = self.as_mut().project();
        // An answer that is there at once takes the shortest way.
        if *this.timed == Timed::IfItWaits
            && this.started.is_none()
            && let Some(work) = this.work.as_mut().as_pin_mut()
        {
            return match work.poll(cx) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                polled => self.settle(polled, cx),
            };
        }
        self.poll_timed(cx)
    }
}

impl<T, F> Call<'_, F>
where
    F: Future<Output = Result<T>>,
{
    #[inline(never)]
    fn poll_timed(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut this = self.as_mut().project();
        this.started.get_or_insert_with(Instant::now);
        let Some(work) = this.work.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(late(*this.timeout, *this.queued)));
        };
        // Poll the work. The batches of a call learn its timeout through a thread-local while they are polled.
        let given = *this.timed == Timed::InBatches && *this.timeout != Duration::MAX;
        let polled = match given {
            false => work.poll(cx),
            true => {
                let before = GIVEN.replace(Some(*this.timeout));
                let polled = work.poll(cx);
                GIVEN.set(before);
                polled
            }
        };
        self.settle(polled, cx)
    }

    /// Counts an answer, or checks the deadline. Work that is late is polled once more, then dropped.
    #[inline(never)]
    fn settle(self: Pin<&mut Self>, mut polled: Poll<Result<T>>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut this = self.project();
        let started = *this.started.get_or_insert_with(Instant::now);
        if polled.is_pending() {
            if this.timer.is_none() {
                *this.timer = timer(started, *this.timeout);
            }
            match this.timer {
                Some(timer) => ready!(timer.as_mut().poll(cx)),
                None => return Poll::Pending,
            }
            if let Some(work) = this.work.as_mut().as_pin_mut() {
                polled = last_poll(work, cx);
            }
            if polled.is_pending() {
                this.work.set(None);
                polled = Poll::Ready(Err(late(*this.timeout, *this.queued)));
            }
        }
        // The answer stays where it was written: it may be large.
        if let Poll::Ready(result) = &polled {
            this.instrument.finished(started.elapsed(), result.as_ref().err());
        }
        polled
    }
}

/// Makes the error of a timeout.
fn late(timeout: Duration, queued: bool) -> Error {
    let error = Error::timed_out(timeout);
    if queued { error.queued() } else { error }
}

/// Makes a timer that ends `timeout` after `started`; `None` if that is beyond the clock's range.
pub(crate) fn timer(started: Instant, timeout: Duration) -> Option<Pin<Box<Sleep>>> {
    started.checked_add(timeout).map(|deadline| Box::pin(tokio::time::sleep_until(deadline)))
}

thread_local! {
    static LATE: Cell<bool> = const { Cell::new(false) };
    /// The timeout given to the call in batches that is being polled.
    static GIVEN: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Returns how long a batch of the call that is being polled may take.
pub(crate) fn max_wait(response_timeout: Duration) -> Duration {
    GIVEN.get().unwrap_or(response_timeout)
}

/// Runs a part of a call for `timeout` at most, from its first poll. Makes no timer if the answer is there at once.
pub(crate) async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let started = Instant::now();
    if let Poll::Ready(result) = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return result;
    }
    let Some(mut timer) = timer(started, timeout) else { return work.await };
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| Err(Error::timed_out(timeout))),
    })
    .await
}

/// Polls late work once more. Work that can decide without the server's answer does so in this poll; see [`is_late`].
fn last_poll<F: Future>(work: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    struct Late(bool);
    impl Drop for Late {
        fn drop(&mut self) {
            LATE.set(self.0);
        }
    }
    let _late = Late(LATE.replace(true));
    work.poll(cx)
}

/// Whether this is the last poll of the call that is being polled.
pub(crate) fn is_late() -> bool {
    LATE.get()
}

impl<F> fmt::Debug for Call<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
