//! What the queue's mutex holds.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::task::{Context, Poll, Waker};

use super::error::{RequestFailure, WireError};
use super::outgoing::Outgoing;
use super::reply::Reply;
use super::request::Request;

/// The most requests that wait for a reply. Further callers wait until there is room.
pub(super) const MOST_REQUESTS: usize = 16 * 1024;
/// The most bytes that wait to be written. A larger request waits until no other bytes wait.
pub(super) const MOST_BYTES: usize = 2 * 1024 * 1024;
/// How many bytes the writer takes at a time. Bytes that it has taken are written even if their caller is dropped.
pub(super) const BATCH: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct QueuedRequests {
    /// The encoded requests that the writer has not taken.
    pub(super) pending: Outgoing,
    /// In the order of sending. The writer has taken the first `taken` of them.
    pub(super) entries: VecDeque<PendingRequest>,
    pub(super) taken: usize,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<usize>,
    /// The number of commands that wait for a reply.
    pub(super) unanswered: usize,
    /// How many bytes in `pending` belong to requests whose callers were dropped.
    pub(super) dropped: usize,
    /// How many bytes the writer has taken since the connection was opened.
    handed: u64,
    /// Callers that wait for room, in the order in which they asked.
    pub(super) blocked: BTreeMap<u64, Waker>,
    next_blocked: u64,
    /// The waker of the connection's task while it waits for requests to write.
    pub(super) writer: Option<Waker>,
    /// Why no more requests are accepted.
    pub(super) end: Option<WireError>,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct PendingRequest {
    slot: usize,
    pub(super) bytes: usize,
    /// How many replies are still missing.
    pub(super) replies: usize,
    /// Where the request begins and ends, counted in bytes that the writer has taken since the connection was opened.
    pub(super) starts: u64,
    ends: u64,
    /// Whether it is an `AUTH` and the request that guards it: see [`Connection::authenticate`].
    ///
    /// [`Connection::authenticate`]: super::connection::Connection::authenticate
    guarded: bool,
}

impl PendingRequest {
    /// Whether a part of a batch is written, and its first request may be answered.
    fn is_begun(&self, written: u64) -> bool {
        self.replies > 1 && self.starts < written
    }
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) stage: RequestStage,
    pub(super) waker: Option<Waker>,
    pub(super) replies: Replies,
    /// How many bytes its requests have in `pending`.
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) enum RequestStage {
    #[default]
    Free,
    /// In `pending`.
    Queued,
    /// Handed to the writer.
    Taken,
    Done,
    Failed(RequestFailure),
    /// The caller was dropped before the writer took the request.
    Dropped,
    /// The caller was dropped after the writer took the request.
    Abandoned,
}

/// The state of one caller's request.
#[derive(Debug)]
pub(super) enum Place {
    New,
    /// Waits for room in the queue.
    Blocked(u64),
    /// Has a slot.
    Queued(usize),
    Over,
}

/// The replies of one caller. A single reply needs no allocation.
#[derive(Debug, Default)]
pub(super) enum Replies {
    #[default]
    None,
    One(Reply),
    Many(Vec<Reply>),
}

impl QueuedRequests {
    pub(super) fn has_room(&self, count: usize, size: usize) -> bool {
        (self.unanswered == 0 || self.unanswered + count <= MOST_REQUESTS)
            && (self.pending.is_empty() || self.pending.len() + size <= MOST_BYTES)
    }

    pub(super) fn may_enter(&mut self, place: &Place, count: usize, size: usize) -> bool {
        let first = match place {
            Place::Blocked(number) => self.blocked.first_key_value().is_none_or(|(first, _)| first == number),
            _ => self.blocked.is_empty(),
        };
        if first && !self.has_room(count, size) && self.dropped > 0 {
            self.drop_unsent();
        }
        first && self.has_room(count, size)
    }

    pub(super) fn block(&mut self, cx: &Context<'_>, place: &mut Place, wake: &mut Wakers) {
        let number = match *place {
            Place::Blocked(number) => number,
            _ => {
                self.next_blocked += 1;
                self.next_blocked
            }
        };
        *place = Place::Blocked(number);
        wake.dropped = self.blocked.insert(number, cx.waker().clone());
    }

    pub(super) fn unblock(&mut self, place: &mut Place, wake: &mut Wakers) {
        if let Place::Blocked(number) = *place {
            wake.dropped = self.blocked.remove(&number);
            *place = Place::New;
        }
    }

    /// Wakes the caller that has waited longest for room, if there is any room. When that caller is polled, it wakes
    /// the next one.
    pub(super) fn wake_blocked(&self, wake: &mut Wakers) {
        if let Some((_, first)) = self.blocked.first_key_value()
            && (self.has_room(1, 0) || self.dropped > 0)
        {
            wake.list.push(first.clone());
        }
    }

    /// Encodes the requests of one caller and gives them a slot.
    pub(super) fn enter(&mut self, cx: &Context<'_>, requests: &[Request]) -> usize {
        let before = self.pending.len();
        for request in requests {
            request.write_to(&mut self.pending);
        }
        let bytes = self.pending.len() - before;
        let replies = match requests.len() {
            0 | 1 => Replies::None,
            count => Replies::Many(Vec::with_capacity(count)),
        };
        let slot = Slot { stage: RequestStage::Queued, waker: Some(cx.waker().clone()), replies, bytes };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
        };
        if let Some(free) = self.slots.get_mut(number) {
            *free = slot;
        }
        self.unanswered += requests.len();
        let guarded = matches!(requests, [first, _] if first.is_auth());
        self.entries.push_back(PendingRequest {
            slot: number,
            bytes,
            replies: requests.len(),
            starts: 0,
            ends: 0,
            guarded,
        });
        number
    }

    pub(super) fn answer(
        &mut self,
        cx: &Context<'_>,
        number: usize,
        place: &mut Place,
        wake: &mut Wakers,
    ) -> Poll<Result<Replies, RequestFailure>> {
        let Some(slot) = self.slots.get_mut(number) else { return Poll::Pending };
        let answer = match &slot.stage {
            RequestStage::Done => Ok(mem::take(&mut slot.replies)),
            RequestStage::Failed(failure) => Err(failure.clone()),
            _ => {
                if slot.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    wake.dropped = slot.waker.replace(cx.waker().clone());
                }
                return Poll::Pending;
            }
        };
        slot.stage = RequestStage::Free;
        self.free.push(number);
        *place = Place::Over;
        Poll::Ready(answer)
    }

    pub(super) fn stage(&self, entry: &PendingRequest) -> Option<&RequestStage> {
        self.slots.get(entry.slot).map(|slot| &slot.stage)
    }

    pub(super) fn is_awaited(&self, entry: &PendingRequest) -> bool {
        matches!(self.stage(entry), Some(RequestStage::Taken))
    }

    /// Moves the next requests to write to `out`, and drops those whose callers were dropped.
    pub(super) fn hand_over(&mut self, out: &mut Outgoing) {
        if self.dropped > 0 {
            self.drop_unsent();
        }
        let whole = self.pending.len() <= BATCH;
        if whole {
            mem::swap(&mut self.pending, out);
        }
        while let Some(entry) = self.entries.get_mut(self.taken) {
            if !whole {
                if !out.is_empty() && out.len() + entry.bytes > BATCH {
                    break;
                }
                self.pending.move_to(out, entry.bytes);
            }
            entry.starts = self.handed;
            self.handed += u64::try_from(entry.bytes).unwrap_or(u64::MAX);
            entry.ends = self.handed;
            if let Some(slot) = self.slots.get_mut(entry.slot) {
                slot.stage = RequestStage::Taken;
            }
            self.taken += 1;
        }
    }

    /// Removes the requests of dropped callers from `pending`.
    pub(super) fn drop_unsent(&mut self) {
        let mut kept = Outgoing::default();
        let unsent = self.entries.split_off(self.taken);
        for entry in unsent {
            if matches!(self.stage(&entry), Some(RequestStage::Dropped)) {
                self.pending.consume(entry.bytes);
                self.unanswered -= entry.replies;
                self.release(entry.slot);
            } else {
                self.pending.move_to(&mut kept, entry.bytes);
                self.entries.push_back(entry);
            }
        }
        self.pending = kept;
        self.dropped = 0;
    }

    pub(super) fn release(&mut self, number: usize) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.stage = RequestStage::Free;
            self.free.push(number);
        }
    }

    pub(super) fn park(&mut self, cx: &Context<'_>, wake: &mut Wakers) {
        if self.writer.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            wake.dropped = self.writer.replace(cx.waker().clone());
        }
    }

    pub(super) fn deliver(&mut self, reply: Reply, written: u64, wake: &mut Wakers) -> Result<(), WireError> {
        let unasked = |reply: &Reply| {
            WireError::malformed(match reply {
                // A server that refuses a connection sends an error before it closes it.
                Reply::Error(error) => format!("an error before any request was complete: {error}"),
                _ => "a reply to no request".to_owned(),
            })
        };
        let entry = match self.entries.front_mut() {
            // A server answers the first requests of a batch before it has received the last one.
            Some(entry) if self.taken > 0 && (entry.ends <= written || entry.is_begun(written)) => entry,
            _ => return Err(unasked(&reply)),
        };
        if entry.guarded && entry.replies == 2 && !answers_auth(&reply) {
            return Err(WireError::malformed("no reply to AUTH"));
        }
        entry.replies -= 1;
        let (number, complete) = (entry.slot, entry.replies == 0);
        self.unanswered -= 1;
        if let Some(slot) = self.slots.get_mut(number)
            && matches!(slot.stage, RequestStage::Taken)
        {
            match &mut slot.replies {
                Replies::Many(replies) => replies.push(reply),
                one => *one = Replies::One(reply),
            }
        }
        if complete && let Some(entry) = self.entries.pop_front() {
            self.taken -= 1;
            self.settle(&entry, RequestStage::Done, wake);
        }
        Ok(())
    }

    /// Ends an entry: sets its slot to `stage` and wakes its caller, or frees the slot if the caller was dropped.
    pub(super) fn settle(&mut self, entry: &PendingRequest, stage: RequestStage, wake: &mut Wakers) {
        let Some(slot) = self.slots.get_mut(entry.slot) else { return };
        if matches!(slot.stage, RequestStage::Dropped | RequestStage::Abandoned) {
            self.release(entry.slot);
        } else {
            slot.stage = stage;
            wake.list.extend(slot.waker.take());
        }
    }

    /// Fails the requests that the writer has not taken, and wakes all callers that wait for room: they fail, too.
    pub(super) fn refuse(&mut self, why: WireError, wake: &mut Wakers) {
        let why = self.end.get_or_insert(why).clone();
        for entry in self.entries.split_off(self.taken) {
            self.unanswered -= entry.replies;
            self.settle(&entry, RequestStage::Failed(RequestFailure::NotSent(why.clone())), wake);
        }
        self.pending.clear();
        self.dropped = 0;
        wake.list.extend(mem::take(&mut self.blocked).into_values());
        wake.writer = self.writer.take();
    }

    /// Fails the requests that the writer has taken but not completely written.
    pub(super) fn fail_unwritten(&mut self, written: u64, wake: &mut Wakers) {
        while let Some(entry) = self.entries.pop_back() {
            if entry.ends <= written {
                self.entries.push_back(entry);
                break;
            }
            let why = self.end.clone().unwrap_or(WireError::GivenUp);
            let failure =
                if entry.starts < written { RequestFailure::Lost(why) } else { RequestFailure::NotSent(why) };
            self.settle(&entry, RequestStage::Failed(failure), wake);
        }
        self.taken = self.entries.len();
    }
}

/// Whether a reply is one to `AUTH`, and not to the `PING` behind it, which may be forbidden.
fn answers_auth(reply: &Reply) -> bool {
    match reply {
        Reply::Simple(text) => text.as_ref() == b"OK",
        Reply::Error(error) => error.code() != "NOPERM",
        _ => false,
    }
}

/// Wakers that are woken or dropped after the mutex is released.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) list: Vec<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) dropped: Option<Waker>,
}

impl Wakers {
    #[inline]
    pub(super) fn wake(&mut self) {
        // Usually there is nothing to wake, and then this must cost nothing: every request comes here five times.
        if !self.list.is_empty() {
            self.wake_list();
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        self.dropped = None;
    }

    fn wake_list(&mut self) {
        // The vector keeps its memory for the next replies.
        self.list.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Wakers {
    #[inline]
    fn drop(&mut self) {
        self.wake();
    }
}
