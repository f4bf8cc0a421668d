//! What is known here of a lock that was granted: until when it is certainly held.
//!
//! The problem: a holder that was paused, or cut off, goes on believing in a lock that somebody else has by now. The
//! mechanism: a deadline on a local clock that goes on while the machine sleeps, counted from before the request left that was
//! answered with the grant, and shortened by what two clocks may drift apart. The server cannot have begun the lock's time
//! earlier, so the server's ends later.
//!
//! Invariants: a holding that was lost stays lost; the deadline only moves on while it lies ahead.
//!
//! Not guaranteed: that the holder acts in time. Between a look at the clock and the write that follows, a process may be
//! stopped for any time; only a fence that the resource checks helps then.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::failover::Failover;
use super::fence::Fence;
use super::holder::shown;
use super::locks::{Coordinator, Ending};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind};

/// The longest sleep between two looks at the clock: timers stand still while the machine sleeps, and the clock does not.
const SLICE: Duration = Duration::from_millis(100);

/// What is taken off a time to live, here and on no server: a hundredth, and two milliseconds. Quartz clocks differ by less
/// than a thousandth, and the server counts whole milliseconds.
pub(super) fn drift(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseKind {
    Lock,
    Permit,
    Group,
}

impl LeaseKind {
    /// How it is given back.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Lock => Ending::Release,
            Self::Permit => Ending::GivePermit(None),
            Self::Group => Ending::GiveGroup(None),
        }
    }
}

/// Shared by a guard, its leases, and whoever renews it.
pub(super) struct Lease {
    pub(super) locks: Arc<Coordinator>,
    pub(super) kind: LeaseKind,
    pub(super) name: Arc<str>,
    pub(super) token: u64,
    pub(super) fence: Fence,
    pub(super) granted: Tick,
    pub(super) failover: Failover,
    ends: Mutex<LeaseTimes>,
    /// Tells who waits for the loss.
    ended: Notify,
}

struct LeaseTimes {
    /// `None` once it is lost or given back.
    deadline: Option<Tick>,
    /// The latest end that the server was ever asked for, whether it answered or not.
    latest: Tick,
}

/// What was believed of a lock when its guard let go of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReleaseState {
    /// The server was not heard to say that it is lost.
    pub(super) may_be_held: bool,
    pub(super) was_valid: bool,
}

impl Lease {
    /// Of a grant for `ttl`, asked for at `sent`.
    pub(super) fn new(
        locks: Arc<Coordinator>,
        name: Arc<str>,
        token: u64,
        fence: Fence,
        sent: Tick,
        ttl: Duration,
    ) -> Self {
        let deadline = sent.after(ttl.saturating_sub(drift(ttl)));
        Self {
            locks,
            kind: LeaseKind::Lock,
            name,
            token,
            fence,
            granted: sent,
            failover: Failover::default(),
            ends: Mutex::new(LeaseTimes { deadline: Some(deadline), latest: sent.after(ttl) }),
            ended: Notify::new(),
        }
    }

    /// The same of permits. The fence is 0 where they have none.
    pub(super) fn of_permit(
        locks: Arc<Coordinator>,
        name: Arc<str>,
        token: u64,
        fence: Fence,
        sent: Tick,
        ttl: Duration,
    ) -> Self {
        Self { kind: LeaseKind::Permit, ..Self::new(locks, name, token, fence, sent, ttl) }
    }

    pub(super) fn remaining(&self) -> Duration {
        let deadline = self.ends().deadline;
        deadline.map_or(Duration::ZERO, |deadline| deadline.since(self.locks.context.clock.now()))
    }

    pub(super) fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// The server is about to be asked, at `now`, to hold it for `ttl`. Whether that may still be sent: whoever lets go of it
    /// after that knows of the later end.
    pub(super) fn asks(&self, now: Tick, ttl: Duration) -> bool {
        let mut ends = self.ends();
        ends.latest = now.after(ttl).max(ends.latest);
        ends.deadline.is_some()
    }

    /// How long the server may hold it, by all that it was asked for.
    pub(super) fn may_last(&self) -> Duration {
        let latest = self.ends().latest;
        latest.since(self.locks.context.clock.now())
    }

    /// Believes in it no more, which comes before the server is told.
    pub(super) fn begin_release(&self) -> ReleaseState {
        let was_valid = self.is_valid();
        ReleaseState { was_valid, may_be_held: self.end() }
    }

    /// The server has said, to a request sent at `sent`, that it is held for `ttl`. What was lost meanwhile stays lost.
    pub(super) fn renewed(&self, sent: Tick, ttl: Duration) -> bool {
        let now = self.locks.context.clock.now();
        let later = sent.after(ttl.saturating_sub(drift(ttl)));
        match &mut self.ends().deadline {
            Some(old) if *old > now => {
                // Two answers may arrive in either order: the later deadline is as true as the earlier.
                *old = later.max(*old);
                true
            }
            _ => false,
        }
    }

    /// It is held no more. True the first time.
    pub(super) fn end(&self) -> bool {
        let held = self.ends().deadline.take().is_some();
        self.ended.notify_waiters();
        held
    }

    /// Completes when it can no longer be believed.
    pub(super) fn lost(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let holding = self.clone();
        async move {
            loop {
                // Listened to before the look: an end in between is not missed.
                let mut ended = std::pin::pin!(holding.ended.notified());
                ended.as_mut().enable();
                let left = holding.remaining();
                if left.is_zero() {
                    return;
                }
                let _ = tokio::time::timeout(left.min(SLICE), ended).await;
            }
        }
    }

    fn ends(&self) -> MutexGuard<'_, LeaseTimes> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a lock or permit whose time is over.
pub(super) fn lost(name: &str) -> Error {
    let name = shown(name);
    let message = "the time of the lock is over: another caller may hold it";
    Error::named(
        ErrorKind::LockLost,
        message,
        format!("the time of {name:?} is over: another caller may hold it"),
    )
}
