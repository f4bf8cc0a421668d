//! A request that can still be given a timeout, and is sent when awaited.
//!
//! Every operation answers with a [`Call`] around the future of its work, without an allocation. Its deadline starts at
//! the first poll and the timer is only made when the answer is not there at once, so an operation on the embedded
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
    /// Each batch of the work has a deadline of its own, and all together only where one was given.
    InBatches,
}

pin_project! {
    /// A request to a store, sent when it is awaited: a future of `F`'s result.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// let user = users.get("123").timeout(Duration::from_millis(50)).await?;
    /// # assert_eq!(user, None); Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// A call borrows what it was made from, the key included where that was given by reference; to spawn one, move
    /// all of it into the task: `tokio::spawn(async move { cache.get(key).await })`. Its type cannot be named: a struct
    /// keeps it as `Pin<Box<dyn Future<Output = _> + Send + '_>>`.
    ///
    /// # Cancel safety
    ///
    /// Dropping a call that was never polled does nothing. Dropping one that was may leave its request on the way:
    /// the server may still carry it out.
    #[must_use = "a call is sent only when it is awaited"]
    pub struct Call<'a, F> {
        // Dropped when its time is over, not when the caller drops the call: an error that says "queued" must be true.
        #[pin]
        work: Option<F>,
        timeout: Duration,
        instrument: &'a Instrument,
        started: Option<Instant>,
        // Whether an answer that is there at once is timed.
        timed: Timed,
        // What a timeout is reported as.
        late: fn(Duration) -> Error,
        // Boxed, so that what is answered at once need not carry it about.
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
            late: Error::timed_out,
            timer: None,
        }
    }

    /// For work that may be answered from memory in less time than the clock takes to read: an answer that is there at
    /// once is not timed and, unless it is an error, not counted here either.
    pub(crate) fn unless_at_once(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::IfItWaits, ..Self::new(timeout, instrument, work) }
    }

    /// For invalidations, which are queued when they time out.
    pub(crate) fn queued(timeout: Duration, instrument: &'a Instrument, work: F) -> Self {
        let late = |timeout| Error::timed_out(timeout).queued();
        Self { late, ..Self::new(timeout, instrument, work) }
    }

    /// For work on any number of keys, which is done in batches: each is [`within`] the `response_timeout`, counted
    /// from when it is sent, so that none is late because it waits behind the others. A timeout that is given bounds
    /// the whole call, and each batch.
    pub(crate) fn in_batches(instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::InBatches, ..Self::new(Duration::MAX, instrument, work) }
    }

    /// The same for invalidations, which are queued when they time out.
    pub(crate) fn queued_in_batches(instrument: &'a Instrument, work: F) -> Self {
        Self { timed: Timed::InBatches, ..Self::queued(Duration::MAX, instrument, work) }
    }

    /// The longest that this call may take, in place of the connection's `response_timeout`. It covers everything:
    /// waiting for a connection, the round trips, and a retry after a broken connection. An answer that is there at once
    /// is never late.
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut this = self.project();
        if *this.timed != Timed::IfItWaits {
            this.started.get_or_insert_with(Instant::now);
        }
        let Some(work) = this.work.as_mut().as_pin_mut() else {
            return Poll::Ready(Err((this.late)(*this.timeout)));
        };
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
        if let (Poll::Ready(Ok(_)), None) = (&polled, &this.started) {
            return polled;
        }
        let started = *this.started.get_or_insert_with(Instant::now);
        let result = match polled {
            Poll::Ready(result) => result,
            Poll::Pending => {
                if this.timer.is_none() {
                    *this.timer = timer(started, *this.timeout);
                }
                match this.timer {
                    Some(timer) => ready!(timer.as_mut().poll(cx)),
                    None => return Poll::Pending,
                }
                let last = this.work.as_mut().as_pin_mut().map(|work| last_poll(work, cx));
                match last {
                    Some(Poll::Ready(result)) => result,
                    _ => {
                        this.work.set(None);
                        Err((this.late)(*this.timeout))
                    }
                }
            }
        };
        this.instrument.finished(started.elapsed(), result.as_ref().err());
        Poll::Ready(result)
    }
}

/// Completes when `timeout` is over since `started`; nothing where that is never.
pub(crate) fn timer(started: Instant, timeout: Duration) -> Option<Pin<Box<Sleep>>> {
    started.checked_add(timeout).map(|deadline| Box::pin(tokio::time::sleep_until(deadline)))
}

thread_local! {
    static LATE: Cell<bool> = const { Cell::new(false) };
    /// The timeout that was given to the call in batches that is being polled.
    static GIVEN: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// How long a batch of the call that is being polled may take.
pub(crate) fn patience(response_timeout: Duration) -> Duration {
    GIVEN.get().unwrap_or(response_timeout)
}

/// A part of a call, which may take this long from its first poll. No timer is made for what is there at once.
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

/// Work whose time is over is polled once more: what can decide without an answer does so then.
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
