//! How long what was read once may be believed without asking again.
//!
//! A tracked connection tells of every change to what was read through it, in order with its replies. So while the server has
//! answered a heartbeat that was sent at most [`Sessions::BOUND`] ago, nothing read through that connection can have been
//! stale for longer than that: every change before the heartbeat was told before its answer. A connection is a *lane*;
//! its present life is a *generation*. When it breaks, its generation ends, and with it everything that was read
//! through it, in one store to memory and without a visit to any entry.
//!
//! Trust is compared on two coarse clocks that the kernel keeps up to date: one that nobody can set, and one that goes
//! on while the machine sleeps. So a process that was stopped, or a laptop that was closed, believes nothing when it wakes.
//! The coarse clocks lag by one timer tick, 10 ms at most, and by that the bound is shortened here.

use std::time::Duration;

use super::sync::{AtomicU32, AtomicU64, Mutex, Ordering, PoisonError};
use crate::clock::Moment;

/// A master of a cluster each, and some that are on their way out. Nodes beyond that are read through without being
/// believed for later.
const MOST: usize = 1024;

/// When and through what something was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadStamp {
    lane: u16,
    generation: u32,
}

impl ReadStamp {
    /// For a store that is never away: what it tells is believed until it tells otherwise.
    pub(crate) const ALWAYS: Self = Self { lane: 0, generation: 0 };
}

#[derive(Default)]
struct Session {
    generation: AtomicU32,
    /// Nanoseconds of each clock.
    until: AtomicU64,
    until_awake: AtomicU64,
}

/// The lanes of a store.
pub(crate) struct Sessions {
    lanes: Vec<Session>,
    free: Mutex<Vec<u16>>,
}

impl Sessions {
    /// The longest that a read may go on being believed after a change that was not told.
    pub(crate) const BOUND: Duration = Duration::from_secs(2);
    const TICK: Duration = Duration::from_millis(10);

    /// One lane that is always believed: the store is in this process.
    pub(crate) fn embedded() -> Self {
        let lane = Session::default();
        lane.until.store(u64::MAX, Ordering::Release);
        lane.until_awake.store(u64::MAX, Ordering::Release);
        Self { lanes: vec![lane], free: Mutex::default() }
    }

    /// Lanes for connections, none of them open.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store has one lane"))]
    pub(crate) fn remote() -> Self {
        let free = (0..MOST).rev().filter_map(|lane| u16::try_from(lane).ok()).collect();
        Self { lanes: (0..MOST).map(|_| Session::default()).collect(), free: Mutex::new(free) }
    }

    /// Whether what was read as `seen` may still be believed.
    #[inline]
    pub(crate) fn is_valid(&self, seen: ReadStamp, now: Moment) -> bool {
        self.lanes.get(usize::from(seen.lane)).is_some_and(|lane| {
            // The generation last: else the next one's times could stand behind the number of this one.
            now.mono() < lane.until.load(Ordering::Acquire)
                && now.awake() < lane.until_awake.load(Ordering::Acquire)
                && lane.generation.load(Ordering::Acquire) == seen.generation
        })
    }
}

#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store has one lane"))]
impl Sessions {
    /// Takes a free lane, if there is one.
    pub(crate) fn take(&self) -> Option<u16> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(crate) fn give_back(&self, lane: u16) {
        self.close(lane);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Ends what was read through the lane, and begins a generation that is believed as soon as it is
    /// [renewed](Self::renew).
    pub(crate) fn open(&self, lane: u16) -> ReadStamp {
        let generation = self.close(lane);
        ReadStamp { lane, generation }
    }

    /// A heartbeat that was sent at `sent` has been answered.
    pub(crate) fn renew(&self, seen: ReadStamp, sent: Moment) {
        let Some(lane) = self.lanes.get(usize::from(seen.lane)) else { return };
        let span = u64::try_from((Self::BOUND - Self::TICK).as_nanos()).unwrap_or(0);
        lane.until.store(sent.mono().saturating_add(span), Ordering::Release);
        lane.until_awake.store(sent.awake().saturating_add(span), Ordering::Release);
        if lane.generation.load(Ordering::Acquire) != seen.generation {
            // Closed meanwhile: whoever opens it next must not find it believed.
            lane.until.store(0, Ordering::Release);
        }
    }

    /// Ends the generation, if it is still the one of `seen`.
    pub(crate) fn end(&self, seen: ReadStamp) {
        if let Some(lane) = self.lanes.get(usize::from(seen.lane)) {
            // In one step: the next generation may be opened just now, and is not to be ended. Opening resets the times.
            let next = seen.generation.wrapping_add(1);
            let _ =
                lane.generation.compare_exchange(seen.generation, next, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether the generation has not ended.
    pub(crate) fn is_current(&self, seen: ReadStamp) -> bool {
        let lane = self.lanes.get(usize::from(seen.lane));
        lane.is_some_and(|lane| lane.generation.load(Ordering::Acquire) == seen.generation)
    }

    fn close(&self, lane: u16) -> u32 {
        let Some(lane) = self.lanes.get(usize::from(lane)) else { return 0 };
        // The number first: whoever renews the old generation and finds its number unmoved has stored its times before this.
        let generation = lane.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        lane.until.store(0, Ordering::Release);
        generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Moment {
        Moment::new(seconds * SECOND, seconds * SECOND)
    }

    #[test]
    fn a_read_is_believed_from_the_first_heartbeat_until_the_bound_after_the_last() {
        let lanes = Sessions::remote();
        let lane = lanes.take().unwrap();
        let seen = lanes.open(lane);
        assert!(!lanes.is_valid(seen, at(0)), "believed before a heartbeat was answered");
        lanes.renew(seen, at(10));
        assert!(lanes.is_valid(seen, at(11)));
        assert!(!lanes.is_valid(seen, at(12)));
        lanes.renew(seen, at(12));
        assert!(lanes.is_valid(seen, at(13)));
    }

    #[test]
    fn a_broken_connection_ends_all_that_was_read_through_it() {
        let lanes = Sessions::remote();
        let lane = lanes.take().unwrap();
        let before = lanes.open(lane);
        lanes.renew(before, at(10));
        lanes.end(before);
        assert!(!lanes.is_valid(before, at(10)));
        let after = lanes.open(lane);
        lanes.renew(after, at(10));
        assert!(lanes.is_valid(after, at(10)) && !lanes.is_valid(before, at(10)));
        // The end of the old connection, told late, is none of the new one's business.
        lanes.end(before);
        assert!(lanes.is_valid(after, at(10)));
    }

    #[test]
    fn sleep_ends_belief_though_only_one_clock_went_on() {
        let lanes = Sessions::remote();
        let lane = lanes.take().unwrap();
        let seen = lanes.open(lane);
        lanes.renew(seen, at(10));
        assert!(!lanes.is_valid(seen, Moment::new(10 * SECOND, 3600 * SECOND)));
        assert!(
            !lanes.is_valid(seen, Moment::new(3600 * SECOND, 10 * SECOND)),
            "somebody set the clock back"
        );
    }

    #[test]
    fn the_embedded_store_is_always_believed() {
        assert!(Sessions::embedded().is_valid(ReadStamp::ALWAYS, at(1 << 33)));
    }
}
