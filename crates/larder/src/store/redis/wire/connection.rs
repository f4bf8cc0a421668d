//! One connection: a handle for callers, and the task that drives the stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::Dispatch;
use tracing::dispatcher::{get_default, with_default};

use super::decode::Frame;
use super::entries::{Place, Replies, Wakers};
use super::error::{RequestFailure, WireError};
use super::outgoing::Outgoing;
use super::queue::{NextStep, RequestQueue};
use super::reader::Reader;
use super::reply::Reply;
use super::request::Request;

/// From so many replies on, the replies of one read are handed out in two halves.
const MANY: usize = 16;

/// What the task of a connection reports. The report is made before any later reply is handed out.
#[derive(Debug)]
pub(in super::super) enum Event<'a> {
    Push(&'a [Reply]),
    /// Nothing more is read. `stranded`: the reason is the end of the runtime, not of the connection.
    Ended {
        stranded: bool,
    },
}

/// An open connection. Its task ends when this handle is dropped.
#[derive(Debug)]
pub(in super::super) struct Connection {
    queue: Arc<RequestQueue>,
}

impl Connection {
    /// Starts a task on the current runtime that drives the stream. `events` is called in that task.
    pub(in super::super) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        events: impl FnMut(Event<'_>) + Send + Unpin + 'static,
    ) -> Self {
        let queue = Arc::new(RequestQueue::default());
        let task = ConnectionTask {
            stream,
            events,
            subscriber: get_default(Dispatch::clone),
            queue: queue.clone(),
            out: Outgoing::default(),
            flushed: true,
            written: 0,
            stuck: false,
            reader: Reader::default(),
            replies: VecDeque::new(),
            written_before: 0,
            wakers: Wakers::default(),
            ended: false,
        };
        tokio::spawn(task);
        Self { queue }
    }

    /// Sends one request and waits for its reply. An error reply is returned as [`RequestFailure::Refused`].
    pub(in super::super) async fn send(&self, request: &Request) -> Result<Reply, RequestFailure> {
        let requests = std::slice::from_ref(request);
        match (Sending { queue: &self.queue, requests, place: Place::New, urgent: false }).await? {
            Replies::One(reply) => reply.into_result(),
            Replies::None | Replies::Many(_) => Ok(Reply::Nil),
        }
    }

    /// Sends requests in one write, and returns one reply for each. A reply may be an error.
    pub(in super::super) async fn send_all(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Reply>, RequestFailure> {
        self.send_together(requests, false).await
    }

    /// As [`send_all`](Self::send_all), without waiting for room in the queue: for heartbeats.
    pub(in super::super) async fn send_urgently(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Reply>, RequestFailure> {
        self.send_together(requests, true).await
    }

    /// Authenticates again on a connection in use.
    ///
    /// Redis 7.2 to 8 send no reply to an `AUTH` that fails while replies to earlier requests are pending
    /// (redis/redis#15640). All later replies would then go to the wrong requests. So a `PING` with an argument follows
    /// the `AUTH`: if its reply arrives first, the connection ends.
    pub(in super::super) async fn authenticate(&self, auth: &Request) -> Result<Reply, RequestFailure> {
        let both = [auth.clone(), Request::new("PING").arg("larder")];
        let replies = self.send_together(&both, true).await?;
        replies.into_iter().next().unwrap_or(Reply::Nil).into_result()
    }

    async fn send_together(&self, requests: &[Request], urgent: bool) -> Result<Vec<Reply>, RequestFailure> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        match (Sending { queue: &self.queue, requests, place: Place::New, urgent }).await? {
            Replies::None => Ok(Vec::new()),
            Replies::One(reply) => Ok(vec![reply]),
            Replies::Many(replies) => Ok(replies),
        }
    }

    /// Returns a number that changes while a reply arrives in parts, and while a write that was stuck goes on. A large
    /// value on a slow path holds up the heartbeat behind it, and the server is not silent then. Whole replies do not
    /// count: a connection that has lost requests gets those of others, and must be replaced.
    pub(in super::super) fn progress(&self) -> u64 {
        self.queue.progress()
    }

    /// Accepts no more requests, and writes nothing more. Requests that were written still get their replies.
    pub(in super::super) fn give_up(&self) {
        self.queue.give_up();
    }

    #[cfg(test)]
    pub(super) fn queue(&self) -> &RequestQueue {
        &self.queue
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Requests of one caller, until they are answered.
struct Sending<'a> {
    queue: &'a RequestQueue,
    requests: &'a [Request],
    place: Place,
    urgent: bool,
}

impl Future for Sending<'_> {
    type Output = Result<Replies, RequestFailure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.queue.poll(cx, &mut this.place, this.requests, this.urgent)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !matches!(self.place, Place::New | Place::Over) {
            self.queue.leave(&mut self.place);
        }
    }
}

struct ConnectionTask<S, E: FnMut(Event<'_>)> {
    stream: S,
    events: E,
    /// Receives what `events` traces: the subscriber of the caller that opened the connection. Only for `events`,
    /// because setting it for each poll would cost as much as the rest of the poll.
    subscriber: Dispatch,
    queue: Arc<RequestQueue>,
    /// The bytes that are being written.
    out: Outgoing,
    flushed: bool,
    /// How many bytes the stream has accepted since it was opened.
    written: u64,
    /// The stream took only a part of the last write. Bytes that it takes afterwards show that the server reads.
    stuck: bool,
    reader: Reader,
    /// Replies that were read and not handed out yet.
    replies: VecDeque<Reply>,
    /// How many bytes had been written when they were read: no reply is one to a later request.
    written_before: u64,
    wakers: Wakers,
    ended: bool,
}

impl<S, E> Future for ConnectionTask<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: FnMut(Event<'_>) + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.drive(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(why) => {
                self.end(&why, false);
                Poll::Ready(())
            }
        }
    }
}

impl<S, E> ConnectionTask<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: FnMut(Event<'_>) + Unpin,
{
    /// Writes and reads until both would wait. Returns the reason when the connection has ended.
    ///
    /// After it has woken several callers, the task waits until they have run, so that what they send next is written
    /// at once and not one by one. Many replies are handed out in two halves, with a write in between: the server then
    /// works on the requests of the first callers while the others run. Without that, the two would take turns.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<WireError> {
        loop {
            let more = match self.queue.next_work(cx, &mut self.out, self.written) {
                NextStep::Go { more } => more,
                NextStep::Drain { idle: true } | NextStep::Close => return Poll::Ready(WireError::GivenUp),
                NextStep::Drain { idle: false } => {
                    self.out.clear();
                    false
                }
            };
            let (wrote, mut broken) = match self.write(cx) {
                Ok(wrote) => (wrote, None),
                // Read before failing: a server often sends an error before it closes the connection, and that error
                // says more than the failed write.
                Err(error) => (true, Some(error)),
            };
            if !self.replies.is_empty() {
                if let Err(error) = self.hand_out(self.replies.len()) {
                    return Poll::Ready(error);
                }
                if broken.is_none() {
                    return let_others_run(cx);
                }
            }
            loop {
                match (self.reader.poll_read(cx, &mut self.stream), broken.take()) {
                    (Poll::Ready(Ok(())), broken) => {
                        let read = self.take_frames();
                        let count = self.replies.len();
                        let now =
                            if read.is_ok() && broken.is_none() && count >= MANY { count / 2 } else { count };
                        if let Err(error) = self.hand_out(now).and(read) {
                            return Poll::Ready(error);
                        }
                        if self.reader.is_within_frame() {
                            self.queue.note_progress();
                        }
                        if let Some(error) = broken {
                            return Poll::Ready(error);
                        }
                        if count > 1 {
                            return let_others_run(cx);
                        }
                        // After a single reply the stream is usually empty, and this read asks it to wake the task. A
                        // caller that sends meanwhile wakes it, too: `next_work` has parked its waker.
                        if count == 0 || self.queue.is_given_up() {
                            break;
                        }
                    }
                    (Poll::Pending | Poll::Ready(Err(WireError::Closed)), Some(error)) => {
                        return Poll::Ready(error);
                    }
                    (Poll::Ready(Err(error)), _) => return Poll::Ready(error),
                    // A part was written: write again, so that the stream wakes this task when it accepts more.
                    (Poll::Pending, None) if wrote && (more || !self.out.is_empty()) => break,
                    (Poll::Pending, None) => return Poll::Pending,
                }
            }
        }
    }

    /// Writes once, and flushes when nothing is left. Returns whether the stream accepted any bytes.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, WireError> {
        let mut wrote = false;
        if !self.out.is_empty() && !self.queue.is_given_up() {
            let slices = self.out.slices();
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices);
            drop(slices);
            match polled {
                Poll::Ready(Ok(0)) => return Err(WireError::Closed),
                Poll::Ready(Ok(count)) => {
                    self.out.consume(count);
                    self.written += u64::try_from(count).unwrap_or(u64::MAX);
                    (self.flushed, wrote) = (false, true);
                    if std::mem::replace(&mut self.stuck, count < offered) {
                        self.queue.note_progress();
                    }
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {}
            }
        }
        if !self.flushed && self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {}
            }
        }
        Ok(wrote)
    }

    /// Reports pushes and collects replies. Frames before a malformed frame are still valid.
    fn take_frames(&mut self) -> Result<(), WireError> {
        let (events, replies, subscriber) = (&mut self.events, &mut self.replies, &self.subscriber);
        self.written_before = self.written;
        self.reader.frames(|frame| match frame {
            Frame::Push(push) => with_default(subscriber, || events(Event::Push(&push))),
            Frame::Reply(reply) => replies.push_back(reply),
        })
    }
}

/// Lets the tasks run that were just woken, and polls this one again after them.
fn let_others_run<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<S, E: FnMut(Event<'_>)> ConnectionTask<S, E> {
    /// Gives the first `count` replies to their callers, and wakes these.
    fn hand_out(&mut self, count: usize) -> Result<(), WireError> {
        if count == 0 {
            return Ok(());
        }
        let replies = std::iter::from_fn(|| self.replies.pop_front()).take(count);
        let delivered = self.queue.deliver(replies, self.written_before, &mut self.wakers);
        if delivered.is_err() {
            // Which requests the replies behind this one answer is not known.
            self.replies.clear();
        }
        self.wakers.wake();
        delivered
    }

    /// Ends the connection. The end is reported before the requests fail, so near copies that depend on this
    /// connection are no longer served when a caller sees its failure.
    fn end(&mut self, why: &WireError, stranded: bool) {
        if !std::mem::replace(&mut self.ended, true) {
            // Replies that were held back. If one of them answers no request, there is a reason to end already.
            let _ = self.hand_out(self.replies.len());
            with_default(&self.subscriber, || (self.events)(Event::Ended { stranded }));
            self.queue.fail(why, self.written);
        }
    }
}

impl<S, E: FnMut(Event<'_>)> Drop for ConnectionTask<S, E> {
    /// Only the end of the runtime drops a task that has not ended.
    fn drop(&mut self) {
        self.end(&WireError::Stranded, true);
    }
}
