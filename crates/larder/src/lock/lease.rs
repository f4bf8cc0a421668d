//! The local view of a granted lock: how long it is certainly held.
//!
//! The problem: a holder that was paused or cut off may act on a lock that another caller holds by now. The
//! mechanism: a deadline on a local clock that keeps running while the machine sleeps. It counts from before the
//! request was sent, and is shortened by the amount that two clocks may drift apart. The server cannot have started
//! the time to live earlier, so the server's deadline is later.
//!
//! Invariants: a lost lease stays lost; a deadline only moves later, and only while it has not passed.
//!
//! Not guaranteed: that the holder acts in time. A process may be paused for any time between a check of the clock
//! and the write that follows. Only a fence that the resource checks helps then.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::failover::Failover;
use super::holder::Holder;
use super::release::Ending;
use crate::clock::{Clock, Tick};
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::keyspace::shown;
use crate::store::lock::HeldBy;

const SHORTEST_TTL: Duration = Duration::from_millis(10);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest sleep between two checks of the clock: timers stop while the machine sleeps, and the clock does not.
const SLICE: Duration = Duration::from_millis(100);

/// Checks the settings of a lease.
pub(super) fn check(ttl: Duration, failover: Failover) -> Result<()> {
    if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
        return Err(Error::invalid(format!(
            "a lock's time to live must be {SHORTEST_TTL:?} to {LONGEST_TTL:?}, not {ttl:?}"
        )));
    }
    failover.check(ttl, LONGEST_TTL)
}

/// The part of a time to live that only the client subtracts: a hundredth and 2 ms. Quartz clocks differ by less
/// than a thousandth, and the server counts whole milliseconds.
pub(super) fn drift(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// What the lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseKind {
    Lock,
    Permit,
    Group,
}

impl LeaseKind {
    /// The request that gives it back.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Lock => Ending::Release,
            Self::Permit => Ending::GivePermit(None),
            Self::Group => Ending::GiveGroup(None),
        }
    }
}

/// Shared by a guard, its handles and the renewer.
pub(super) struct Lease {
    clock: Clock,
    pub(super) kind: LeaseKind,
    pub(super) name: Arc<str>,
    pub(super) token: u64,
    pub(super) fence: Fence,
    pub(super) granted: Tick,
    pub(super) failover: Failover,
    /// Whether its attempt was in the queue. Then others probably are, too.
    pub(super) waited: bool,
    ends: Mutex<LeaseTimes>,
    /// The holder after this one, if the server has named it.
    lost_to: OnceLock<Box<Holder>>,
    /// Wakes those that wait for the loss.
    ended: Notify,
}

struct LeaseTimes {
    /// `None` once the lease is lost or released.
    deadline: Option<Tick>,
    /// The latest expiry that the server was ever asked for, whether it answered or not.
    latest: Tick,
}

/// The local view of a lock when its guard released it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReleaseState {
    /// The server has not said that the lock is lost.
    pub(super) may_be_held: bool,
    pub(super) was_valid: bool,
}

impl Lease {
    /// The lease of a grant for `ttl`, requested at `sent`.
    pub(super) fn new(
        clock: &Clock,
        name: Arc<str>,
        token: u64,
        fence: Fence,
        sent: Tick,
        ttl: Duration,
    ) -> Self {
        let deadline = sent.after(ttl.saturating_sub(drift(ttl)));
        Self {
            clock: clock.clone(),
            kind: LeaseKind::Lock,
            name,
            token,
            fence,
            granted: sent,
            failover: Failover::default(),
            waited: false,
            ends: Mutex::new(LeaseTimes { deadline: Some(deadline), latest: sent.after(ttl) }),
            lost_to: OnceLock::new(),
            ended: Notify::new(),
        }
    }

    /// The lease of permits. The fence is 0 if they have none.
    pub(super) fn of_permit(
        clock: &Clock,
        name: Arc<str>,
        token: u64,
        fence: Fence,
        sent: Tick,
        ttl: Duration,
    ) -> Self {
        Self { kind: LeaseKind::Permit, ..Self::new(clock, name, token, fence, sent, ttl) }
    }

    pub(super) fn remaining(&self) -> Duration {
        let deadline = self.ends().deadline;
        deadline.map_or(Duration::ZERO, |deadline| deadline.since(self.clock.now()))
    }

    pub(super) fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Records that a renewal for `ttl` is about to be sent at `now`; false if the lease has already ended. Call
    /// this before sending. A concurrent release then either runs first, and the renewal is not sent, or sees the
    /// later expiry and retries until then.
    pub(super) fn asks(&self, now: Tick, ttl: Duration) -> bool {
        let mut ends = self.ends();
        ends.latest = now.after(ttl).max(ends.latest);
        ends.deadline.is_some()
    }

    /// The request that gives it back for a caller that waits for the reply. A release in the background must not be
    /// overtaken by a later request of its task, so it is always that of its [`LeaseKind`].
    pub(super) fn awaited_ending(&self) -> Ending {
        match self.kind.ending() {
            Ending::Release if !self.waited => Ending::ReleaseUnwaited,
            ending => ending,
        }
    }

    /// How long the server may hold it, by everything it was asked for.
    pub(super) fn may_last(&self) -> Duration {
        let latest = self.ends().latest;
        latest.since(self.clock.now())
    }

    /// Ends the lease locally. Call this before the server is asked to release it.
    pub(super) fn begin_release(&self) -> ReleaseState {
        let was_valid = self.is_valid();
        ReleaseState { was_valid, may_be_held: self.end() }
    }

    /// Records the server's reply that the lock is held for `ttl` since `sent`. A lease that was lost meanwhile
    /// stays lost.
    pub(super) fn renewed(&self, sent: Tick, ttl: Duration) -> bool {
        let now = self.clock.now();
        let later = sent.after(ttl.saturating_sub(drift(ttl)));
        match &mut self.ends().deadline {
            Some(old) if *old > now => {
                // Two replies may arrive in either order, and both deadlines are right: keep the later one.
                *old = later.max(*old);
                true
            }
            _ => false,
        }
    }

    /// Ends the lease. True the first time.
    pub(super) fn end(&self) -> bool {
        let held = self.ends().deadline.take().is_some();
        self.ended.notify_waiters();
        held
    }

    /// Ends the lease because the server says that the lock is lost, perhaps to this holder. True the first time.
    pub(super) fn end_lost(&self, to: Option<HeldBy>) -> bool {
        if let Some(to) = to {
            // Before `end`, which wakes the tasks that report the loss.
            let _ = self.lost_to.set(Box::new(Holder::of(to)));
        }
        self.end()
    }

    /// The error of this lease after it has ended.
    pub(super) fn lost_error(&self) -> Error {
        self.lost_to.get().map_or_else(|| lost(&self.name), |holder| lost_to(&self.name, holder))
    }

    /// Completes when the lease is no longer valid.
    pub(super) fn lost(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let lease = self.clone();
        async move {
            loop {
                // Subscribe before checking the time. An `end` before `enable` shows in `remaining`; a later one
                // notifies.
                let mut ended = std::pin::pin!(lease.ended.notified());
                ended.as_mut().enable();
                let left = lease.remaining();
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

/// The error of a lock or permit that has expired.
pub(super) fn lost(name: &str) -> Error {
    let name = shown(name);
    let message = "the lease has expired, and another caller may hold the lock: stop the work";
    Error::named(
        ErrorKind::LockLost,
        message,
        format!("the lease on {name:?} has expired, and another caller may hold the lock: stop the work"),
    )
}

/// The error of a lock that another holder has by now.
pub(super) fn lost_to(name: &str, holder: &Holder) -> Error {
    let name = shown(name);
    Error::named(
        ErrorKind::LockLost,
        format!("the lock was lost and is held by {holder}: stop the work"),
        format!("the lock {name:?} was lost and is held by {holder}: stop the work"),
    )
}
