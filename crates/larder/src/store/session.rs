//! How long a value that was read once stays valid without another request.
//!
//! A tracked connection reports every change of what was read through it, in order with its replies. So if
//! the server has answered a heartbeat that was sent at most [`Sessions::BOUND`] ago, nothing that was read
//! through the connection can have been stale for longer than that: every change before the heartbeat was
//! reported before its answer. A [`Session`] is a place for one connection at a time, and each connection is
//! one *generation* of it. When the connection breaks, its generation ends. That single store to memory
//! invalidates everything that was read through it, without a visit to any entry.
//!
//! Validity is compared on two coarse clocks that the kernel keeps up to date. One cannot be set, the other
//! also runs while the machine sleeps. So in a process that was stopped, or after a laptop slept, nothing is
//! valid until the next heartbeat is answered. The coarse clocks lag by one timer tick, 10 ms at most, and by
//! more while a host takes away the processor that counts the ticks. The bound is shortened here by more than
//! that. It costs nothing, as a heartbeat is sent every 500 ms.

use std::time::Duration;

use crate::clock::Moment;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// Enough for the masters of a cluster and for connections that are being closed. Reads through further nodes
/// are not cached.
const MOST: usize = 1024;

/// The connection through which a value was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadStamp {
    session: u16,
    generation: u32,
}

impl ReadStamp {
    /// For a store in this process: a value is valid until the store reports a change.
    pub(crate) const ALWAYS: Self = Self { session: 0, generation: 0 };

    /// Returns it as one number, for an atomic.
    pub(crate) fn packed(self) -> u64 {
        u64::from(self.session) << 32 | u64::from(self.generation)
    }

    /// Reads what [`packed`](Self::packed) returned.
    #[inline]
    pub(crate) fn unpacked(packed: u64) -> Self {
        let [_, _, high, low, generation @ ..] = packed.to_be_bytes();
        Self { session: u16::from_be_bytes([high, low]), generation: u32::from_be_bytes(generation) }
    }
}

#[derive(Default)]
struct Session {
    generation: AtomicU32,
    /// Nanoseconds of each clock.
    until: AtomicU64,
    until_awake: AtomicU64,
}

/// The sessions of a store.
pub(crate) struct Sessions {
    sessions: Vec<Session>,
    free: Mutex<Vec<u16>>,
}

impl Sessions {
    /// The longest time for which a stale value can count as valid after a change that was not reported.
    pub(crate) const BOUND: Duration = Duration::from_secs(2);
    /// By how much the coarse clocks may lag.
    const LAG: Duration = Duration::from_millis(250);

    /// Makes one session that is always valid, for the store in this process.
    pub(crate) fn embedded() -> Self {
        let session = Session::default();
        session.until.store(u64::MAX, Ordering::Release);
        session.until_awake.store(u64::MAX, Ordering::Release);
        Self { sessions: vec![session], free: Mutex::default() }
    }

    /// Makes sessions for connections, none of them open.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store has one session"))]
    pub(crate) fn remote() -> Self {
        let free = (0..MOST).rev().filter_map(|session| u16::try_from(session).ok()).collect();
        Self { sessions: (0..MOST).map(|_| Session::default()).collect(), free: Mutex::new(free) }
    }

    /// Returns whether what was read as `stamp` is still valid.
    #[inline]
    pub(crate) fn is_valid(&self, stamp: ReadStamp, now: Moment) -> bool {
        self.sessions.get(usize::from(stamp.session)).is_some_and(|session| {
            // Load the generation last. Otherwise the next generation's deadline could be read together with
            // this generation's number.
            now.mono() < session.until.load(Ordering::Acquire)
                && now.awake() < session.until_awake.load(Ordering::Acquire)
                && session.generation.load(Ordering::Acquire) == stamp.generation
        })
    }
}

#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store has one session"))]
impl Sessions {
    /// Takes a free session, if there is one.
    pub(crate) fn take(&self) -> Option<u16> {
        self.free.lock().pop()
    }

    pub(crate) fn give_back(&self, session: u16) {
        self.close(session);
        self.free.lock().push(session);
    }

    /// Invalidates what was read through the session, and begins a generation that becomes valid with its
    /// first [`renew`](Self::renew).
    pub(crate) fn open(&self, session: u16) -> ReadStamp {
        let generation = self.close(session);
        ReadStamp { session, generation }
    }

    /// Records the answer to a heartbeat that was sent at `sent`.
    pub(crate) fn renew(&self, stamp: ReadStamp, sent: Moment) {
        let Some(session) = self.sessions.get(usize::from(stamp.session)) else { return };
        let span = u64::try_from((Self::BOUND - Self::LAG).as_nanos()).unwrap_or(0);
        session.until.store(sent.mono().saturating_add(span), Ordering::Release);
        session.until_awake.store(sent.awake().saturating_add(span), Ordering::Release);
        // A read-modify-write, not a load: a load could be carried out before the stores above become visible. Either
        // `close` comes after this step and its store erases the deadline, or this step sees the next generation.
        if session.generation.fetch_add(0, Ordering::AcqRel) != stamp.generation {
            // The generation ended during this call. Erase the deadline, so that the next generation does not
            // start with it.
            session.until.store(0, Ordering::Release);
        }
    }

    /// Ends the generation of `stamp`, if it is still the current one.
    pub(crate) fn end(&self, stamp: ReadStamp) {
        if let Some(session) = self.sessions.get(usize::from(stamp.session)) {
            // One atomic step: a concurrent `open` may have begun the next generation, which must not end.
            // `open` resets the deadlines.
            let next = stamp.generation.wrapping_add(1);
            let _ = session.generation.compare_exchange(
                stamp.generation,
                next,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }

    /// Returns whether the generation is still the current one.
    pub(crate) fn is_current(&self, stamp: ReadStamp) -> bool {
        let session = self.sessions.get(usize::from(stamp.session));
        session.is_some_and(|session| session.generation.load(Ordering::Acquire) == stamp.generation)
    }

    fn close(&self, session: u16) -> u32 {
        let Some(session) = self.sessions.get(usize::from(session)) else { return 0 };
        // Bump the generation before clearing `until`. A concurrent `renew` that still sees the old
        // generation has already stored its deadline, so the store below erases it. A `renew` that sees the
        // new generation erases its deadline itself.
        let generation = session.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        session.until.store(0, Ordering::Release);
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
    fn a_read_is_valid_from_the_first_heartbeat_until_the_bound_after_the_last() {
        let sessions = Sessions::remote();
        let session = sessions.take().unwrap();
        let stamp = sessions.open(session);
        assert!(!sessions.is_valid(stamp, at(0)), "valid before a heartbeat was answered");
        sessions.renew(stamp, at(10));
        assert!(sessions.is_valid(stamp, at(11)));
        assert!(!sessions.is_valid(stamp, at(12)));
        sessions.renew(stamp, at(12));
        assert!(sessions.is_valid(stamp, at(13)));
    }

    #[test]
    fn a_broken_connection_ends_all_that_was_read_through_it() {
        let sessions = Sessions::remote();
        let session = sessions.take().unwrap();
        let before = sessions.open(session);
        sessions.renew(before, at(10));
        sessions.end(before);
        assert!(!sessions.is_valid(before, at(10)));
        let after = sessions.open(session);
        sessions.renew(after, at(10));
        assert!(sessions.is_valid(after, at(10)) && !sessions.is_valid(before, at(10)));
        // A late `end` for the old connection must not end the new generation.
        sessions.end(before);
        assert!(sessions.is_valid(after, at(10)));
    }

    #[test]
    fn sleep_invalidates_reads_though_only_one_clock_went_on() {
        let sessions = Sessions::remote();
        let session = sessions.take().unwrap();
        let stamp = sessions.open(session);
        sessions.renew(stamp, at(10));
        assert!(!sessions.is_valid(stamp, Moment::new(10 * SECOND, 3600 * SECOND)));
        assert!(
            !sessions.is_valid(stamp, Moment::new(3600 * SECOND, 10 * SECOND)),
            "valid after the clock was set back"
        );
    }

    #[test]
    fn a_stamp_survives_packing() {
        for (session, generation) in [(0, 0), (1, 2), (u16::MAX, 0), (0, u32::MAX), (0x1234, 0x5678_9abc)] {
            let stamp = ReadStamp { session, generation };
            assert_eq!(ReadStamp::unpacked(stamp.packed()), stamp);
        }
    }

    #[test]
    fn the_embedded_store_is_always_valid() {
        assert!(Sessions::embedded().is_valid(ReadStamp::ALWAYS, at(1 << 33)));
    }
}
