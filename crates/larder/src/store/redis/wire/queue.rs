//! The requests of one connection: those that wait to be written, and those that wait for their reply.
//!
//! All of it is behind one mutex that is held for a copy into the write buffer at most. Wakers are woken and dropped after
//! it is released: dropping one may drop a task, and with it a request of this very queue.
//!
//! A request has a *slot*, which its caller holds, and an *entry*, which keeps its place in the order. The slot is free when
//! both are done with it. So a caller that goes away leaves its entry behind: the bytes of an unsent request are dropped
//! when the writer comes to them, and the reply to a sent one is skipped when it arrives.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::entries::{Replies, Stage, State};
use super::error::{RequestFailure, WireError};
use super::outgoing::Outgoing;
use super::reply::Reply;
use super::request::Request;

/// The most requests that wait for a reply. Further callers wait until there is room.
pub(super) const MOST_REQUESTS: usize = 16 * 1024;
/// The most bytes that wait to be written. A request that is larger waits until it is alone.
pub(super) const MOST_BYTES: usize = 2 * 1024 * 1024;
/// How many bytes the writer takes at a time: what it has taken can no longer be dropped for a caller that goes away.
pub(super) const BATCH: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct WhenHeld {
    state: Mutex<State>,
    /// Read by the connection's task before each write.
    given_up: AtomicBool,
}

/// What the connection's task is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write what it was given, read, and come again.
    Go,
    /// Write nothing more; end when the last written request has its reply.
    Drain { idle: bool },
    /// All handles are gone.
    Close,
}

/// How a caller stands.
#[derive(Debug)]
pub(super) enum Place {
    New,
    /// Waits for room.
    Blocked(u64),
    /// Has a slot.
    Queued(usize),
    Over,
}

impl WhenHeld {
    /// Advances a request of one caller. `urgent` requests do not wait for room.
    pub(super) fn poll(
        &self,
        cx: &Context<'_>,
        place: &mut Place,
        requests: &[Request],
        urgent: bool,
    ) -> Poll<Result<Replies, RequestFailure>> {
        // Declared before the guard, so dropped after it.
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

    /// Notes that a caller went away.
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
                        Stage::Queued => {
                            slot.stage = Stage::Dropped;
                            state.dropped += slot.bytes;
                        }
                        Stage::Taken => slot.stage = Stage::Abandoned,
                        _ => state.release(number),
                    }
                }
                if ending {
                    // It may have been the last that the task waits for.
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

    /// Takes nothing more, and drops what was not written. Requests that were written still get their replies.
    pub(super) fn give_up(&self) {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        self.given_up.store(true, Ordering::Release);
        state.refuse(WireError::GivenUp, &mut wake);
    }

    /// As [`give_up`](Self::give_up), for good: nothing waits for replies any more.
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

    /// Hands out what is to be written next, if `out` is empty. Otherwise the task is woken by its socket alone.
    pub(super) fn next_work(&self, cx: &Context<'_>, out: &mut Outgoing, written: u64) -> Work {
        let mut wake = Wakers::default();
        let mut state = self.lock();
        if state.closed {
            return Work::Close;
        }
        if state.end.is_some() {
            // What was handed over and not begun was not sent. What was begun has no reply to come.
            state.fail_unwritten(written, &mut wake);
            state.park(cx, &mut wake);
            let idle = !state.entries.iter().any(|entry| state.is_awaited(entry));
            return Work::Drain { idle };
        }
        if out.is_empty() {
            state.hand_over(out);
            state.wake_blocked(&mut wake);
        }
        state.park(cx, &mut wake);
        Work::Go
    }

    /// Gives replies to the requests they belong to, in order.
    pub(super) fn deliver(
        &self,
        replies: &mut Vec<Reply>,
        written: u64,
        wake: &mut Wakers,
    ) -> Result<(), WireError> {
        let mut state = self.lock();
        for reply in replies.drain(..) {
            state.deliver(reply, written, wake)?;
        }
        state.wake_blocked(wake);
        Ok(())
    }

    /// Fails all requests: the connection is gone.
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
            state.settle(&entry, Stage::Failed(failure), &mut wake);
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.entries.len(), state.slots.len() - state.free.len(), state.blocked.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakers to wake, and to drop, when the mutex is released.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) list: Vec<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) dropped: Option<Waker>,
}

impl Wakers {
    pub(super) fn wake(&mut self) {
        for waker in self.list.drain(..).chain(self.writer.take()) {
            waker.wake();
        }
        self.dropped = None;
    }
}

impl Drop for Wakers {
    fn drop(&mut self) {
        self.wake();
    }
}
