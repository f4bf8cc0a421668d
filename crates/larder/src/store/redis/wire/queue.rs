//! The requests of one connection: those that wait to be written, and those that wait for their reply.
//!
//! One mutex protects all of it. The longest work under the mutex is a copy into the write buffer. Wakers are woken and
//! dropped after the mutex is released: dropping a waker may drop a task, and with it a request of this same queue,
//! whose drop takes the mutex.
//!
//! A request has a *slot*, which its caller holds, and an *entry*, which keeps its place in the order. The slot is free
//! when both the caller and the entry are done with it. So a caller that is dropped leaves its entry behind: the writer
//! skips the bytes of a request that was not sent, and the reply to a request that was sent is discarded.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::entries::{Place, QueuedRequests, Replies, RequestStage, Wakers};
use super::error::{RequestFailure, WireError};
use super::outgoing::Outgoing;
use super::reply::Reply;
use super::request::Request;

#[derive(Debug, Default)]
pub(super) struct RequestQueue {
    state: Mutex<QueuedRequests>,
    /// Whether nothing more may be written. The connection's task reads it before each write.
    given_up: AtomicBool,
    /// Changes while bytes move.
    progress: AtomicU64,
}

/// What the connection's task has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Write the bytes in `out`, read, and ask for work again. `more`: there is more to write after these bytes.
    Go { more: bool },
    /// Write nothing more, and end when the last written request has its reply. `idle`: no caller waits for a reply.
    Drain { idle: bool },
    /// End now: the handle was dropped.
    Close,
}

impl RequestQueue {
    /// Advances a request of one caller. `urgent` requests do not wait for room.
    pub(super) fn poll(
        &self,
        cx: &Context<'_>,
        place: &mut Place,
        requests: &[Request],
        urgent: bool,
    ) -> Poll<Result<Replies, RequestFailure>> {
        // Declared before the mutex guard, so it is dropped, and wakes, after the mutex is released.
        let mut wake = Wakers::default();
        let mut state = self.lock();
        if let Place::Queued(slot) = *place {
            return state.answer(cx, slot, place, &mut wake);
        }
        if let Some(end) = state.end.clone() {
            state.unblock(place, &mut wake);
            *place = Place::Over;
            return Poll::Ready(Err(RequestFailure::NotSent(end)));
        }
        let size = requests.iter().map(Request::size).sum::<usize>();
        if !urgent && !state.may_enter(place, requests.len(), size) {
            state.block(cx, place, &mut wake);
            return Poll::Pending;
        }
        state.unblock(place, &mut wake);
        *place = Place::Queued(state.enter(cx, requests));
        wake.writer = state.writer.take();
        state.wake_blocked(&mut wake);
        Poll::Pending
    }

    /// Removes the request of a caller that is dropped.
    pub(super) fn leave(&self, place: &mut Place) {
        let mut wake = Wakers::default();
        let mut replies = Replies::None;
        let mut guard = self.lock();
        let state = &mut *guard;
        match mem::replace(place, Place::Over) {
            Place::Queued(number) => {
                let ending = state.end.is_some();
                if let Some(slot) = state.slots.get_mut(number) {
                    wake.dropped = slot.waker.take();
                    replies = mem::take(&mut slot.replies);
                    match slot.stage {
                        RequestStage::Queued => {
                            slot.stage = RequestStage::Dropped;
                            state.dropped += slot.bytes;
                        }
                        RequestStage::Taken => slot.stage = RequestStage::Abandoned,
                        _ => state.release(number),
                    }
                }
                if ending {
                    // This caller may have been the last that the connection's task waits for.
                    wake.writer = state.writer.take();
                }
            }
            mut blocked @ Place::Blocked(_) => state.unblock(&mut blocked, &mut wake),
            Place::New | Place::Over => {}
        }
        state.wake_blocked(&mut wake);
        drop(guard);
        drop(replies);
    }

    /// Notes that bytes moved in a way that a server which hangs does not bring about.
    pub(super) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a number that changes while bytes move.
    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Accepts no more requests, and fails those that the writer has not taken. Written requests still get replies.
    pub(super) fn give_up(&self) {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        self.given_up.store(true, Ordering::Release);
        state.refuse(WireError::GivenUp, &mut wake);
    }

    /// As [`give_up`](Self::give_up), but the task ends at once: the connection's handle is gone, so no caller waits.
    pub(super) fn close(&self) {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        self.given_up.store(true, Ordering::Release);
        state.closed = true;
        state.refuse(WireError::GivenUp, &mut wake);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Moves the next bytes to write into `out` if it is empty, and says what to do. While `out` is not empty, the
    /// stream wakes the task when it accepts more.
    pub(super) fn next_work(&self, cx: &Context<'_>, out: &mut Outgoing, written: u64) -> NextStep {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        if state.closed {
            return NextStep::Close;
        }
        if state.end.is_some() {
            // A request of which no byte was written was not sent. A request that was written in part gets no reply.
            state.fail_unwritten(written, &mut wake);
            state.park(cx, &mut wake);
            let idle = !state.entries.iter().any(|entry| state.is_awaited(entry));
            return NextStep::Drain { idle };
        }
        if out.is_empty() && !state.pending.is_empty() {
            state.hand_over(out);
            state.wake_blocked(&mut wake);
        }
        state.park(cx, &mut wake);
        NextStep::Go { more: !state.pending.is_empty() }
    }

    /// Gives the replies to their requests: both have the same order.
    pub(super) fn deliver(
        &self,
        replies: impl Iterator<Item = Reply>,
        written: u64,
        wake: &mut Wakers,
    ) -> Result<(), WireError> {
        let mut state = self.lock();
        for reply in replies {
            state.deliver(reply, written, wake)?;
        }
        state.wake_blocked(wake);
        Ok(())
    }

    /// Fails all requests with the reason for which the connection ended.
    pub(super) fn fail(&self, error: &WireError, written: u64) {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        self.given_up.store(true, Ordering::Release);
        state.refuse(error.clone(), &mut wake);
        state.end = Some(error.clone());
        let entries = mem::take(&mut state.entries);
        state.taken = 0;
        for entry in entries {
            let failure = if entry.starts < written {
                RequestFailure::Lost(error.clone())
            } else {
                RequestFailure::NotSent(error.clone())
            };
            state.settle(&entry, RequestStage::Failed(failure), &mut wake);
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.entries.len(), state.slots.len() - state.free.len(), state.blocked.len())
    }

    fn lock(&self) -> MutexGuard<'_, QueuedRequests> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
