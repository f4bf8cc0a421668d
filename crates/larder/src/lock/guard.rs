//! The guard of a lock that is held, as far as its holder can know.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::failover::not_replicated;
use super::lease::{self, Lease, ReleaseState};
use super::release::ReleaseOutcome;
use super::release::end_in_background;
use super::ticket::LockTicket;
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::store::lock::{LockStore, LockToken, Renewal};

/// How a lock is kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) max_hold: Duration,
}

/// A lock that is held until the guard is released or dropped, or the lock expires. Made by [`Lock`](super::Lock).
///
/// Dropping a guard releases the lock in the background. This works on any thread, also on one without a runtime.
/// [`close`](crate::Larder::close) waits for these releases. A guard that is dropped after `close` sends nothing,
/// and its lock expires.
#[must_use = "a guard that is dropped at once frees its lock"]
pub struct Guard {
    locks: Arc<Coordinator>,
    lease: Arc<Lease>,
    kept: bool,
    /// Set once the guard has ended its lease.
    release_state: Option<ReleaseState>,
    /// Whether the server has answered the release.
    ended: bool,
}

impl Guard {
    pub(super) fn new(locks: &Arc<Coordinator>, lease: Lease, ttl: Duration, keep: Option<Keep>) -> Self {
        locks.meter.granted();
        let lease = Arc::new(lease);
        if let Some(keep) = keep {
            locks.renewer.keep(&lease, ttl, keep.max_hold);
        }
        Self { locks: locks.clone(), lease, kept: keep.is_some(), release_state: None, ended: false }
    }

    pub(super) fn token(&self) -> u64 {
        self.lease.token
    }

    /// Waits until enough replicas have what was just granted. One round trip, on a connection that no other call
    /// uses.
    pub(super) async fn acknowledged(&self, ttl: Duration) -> Result<()> {
        let Lease { name, token, failover, .. } = &*self.lease;
        let ticket = LockToken { lock: name.to_string(), token: *token };
        let max_wait = (ttl / 4).min(self.locks.context.limits.response_timeout / 2);
        let answer =
            self.locks.context.coordination()?.acknowledged(&[ticket], failover.replicas, max_wait).await?;
        match answer.first().copied().flatten() {
            Some(true) => Ok(()),
            Some(false) => Err(not_replicated(name, failover.replicas)),
            None => Err(Error::timed_out(max_wait)),
        }
    }

    /// Ends a guard whose lock was released by a request for several locks.
    pub(super) fn ended_elsewhere(mut self) {
        self.end_lease();
        self.ended = true;
    }

    /// Returns the fence of this grant.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.lease.fence
    }

    /// Returns how long the lock is certainly still held; zero when it may be lost. The time is that of a local
    /// clock that keeps running while the machine sleeps, less a hundredth of the time to live and 2 ms for clock
    /// drift.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// Returns whether the lock is certainly still held. Time passes between this answer and the action that
    /// depends on it: only the [`fence`](Self::fence), checked by the resource, closes that gap.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// Completes when the lock may be lost: at its deadline by the local clock, or earlier if the server reports
    /// the loss in reply to a renewal. The future does not borrow the guard. After that, [`extend`](Self::extend)
    /// returns the error that names the present holder if the server reported one, without a request.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let guard = larder.lock("reports").ttl(Duration::from_millis(50)).acquire().await?;
    /// tokio::select! {
    ///     () = guard.lost() => println!("lost: stop writing"),
    ///     () = tokio::time::sleep(Duration::from_millis(10)) => println!("done in time"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and requested again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.lost()
    }

    /// Returns a handle that observes this lock and can be given to other code. It does not hold the lock.
    pub fn handle(&self) -> LockHandle {
        LockHandle { lease: self.lease.clone() }
    }

    /// Holds the lock for at least `ttl` from now; a lock that is held longer already stays so.
    ///
    /// One round trip, and one more with [`replicated`](super::Lock::replicated). A guard whose deadline has passed
    /// is never revived, even if no other caller acquired the lock since.
    ///
    /// # Errors
    ///
    /// After an error of the request the old deadline stays valid.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`LockLost`](ErrorKind::LockLost): the lock has expired, possibly while the reply was on its way, or was
    ///   broken. Names the present holder if the server that reported the loss knows one. Stop the work.
    /// - [`NotReplicated`](ErrorKind::NotReplicated): too few replicas have the extension, and the lock was
    ///   released.
    /// - [`InvalidSetting`](ErrorKind::InvalidSetting): `ttl` is out of bounds.
    ///
    /// # Cancel safety
    ///
    /// A dropped call keeps the old deadline. The server may hold the lock for longer.
    pub fn extend(&self, ttl: Duration) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        let locks = &self.locks;
        Call::new(locks.context.limits.response_timeout, &locks.meter.extend, async move {
            lease::check(ttl, self.lease.failover)?;
            if !self.is_valid() {
                return Err(self.lost_error());
            }
            let sent = locks.context.clock.now();
            if !self.lease.asks(sent, ttl) {
                return Err(self.lost_error());
            }
            let ticket = LockToken { lock: self.lease.name.to_string(), token: self.lease.token };
            let answer = locks.context.coordination()?.extend(&[(ticket, ttl)], Duration::MAX).await?;
            let unanswered = || {
                Error::new(
                    ErrorKind::Server,
                    "the server did not say whether the lock is held: extend it again",
                )
            };
            if let Renewal::Lost(to) = answer.into_iter().next().flatten().ok_or_else(unanswered)? {
                if self.lease.end_lost(to) {
                    locks.meter.lost();
                }
                return Err(self.lost_error());
            }
            if self.lease.failover.replicas > 0 {
                // Boxed to keep the future of extensions without replicas small.
                Box::pin(self.extended_in_replicas(ttl)).await?;
            }
            if self.lease.renewed(sent, ttl) { Ok(()) } else { Err(self.lost_error()) }
        })
    }

    /// Waits for the replicas after an extension; releases the lock if too few have it.
    async fn extended_in_replicas(&self, ttl: Duration) -> Result<()> {
        let answer = self.acknowledged(ttl).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotReplicated) {
            self.locks.renewer.release(&self.lease);
        }
        answer
    }

    /// Releases the lock, or hands it to the next waiter. The guard's handles are lost before the request is sent.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// An error means that the lock was not released. If it may have been, the result is
    /// [`ReleaseOutcome::Unknown`]. In both cases the release is retried in the background until the lock expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn release(mut self) -> Result<ReleaseOutcome> {
        let (locks, lease) = (self.locks.clone(), self.lease.clone());
        let release_state = self.end_lease();
        let answer = Call::new(locks.context.limits.response_timeout, &locks.meter.release, async {
            lease.awaited_ending().send(locks.context.coordination()?, &lease.name, lease.token).await
        })
        .await;
        match answer {
            Ok(true) => {
                self.ended = true;
                Ok(ReleaseOutcome::Released)
            }
            Ok(false) => {
                self.ended = true;
                if release_state.may_be_held {
                    locks.meter.lost();
                }
                Ok(ReleaseOutcome::AlreadyLost)
            }
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Disconnected) => {
                Ok(ReleaseOutcome::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the renewals and the local lease, before the lock is released.
    fn end_lease(&mut self) -> ReleaseState {
        *self.release_state.get_or_insert_with(|| {
            if self.kept {
                self.locks.renewer.forget(self.lease.token);
            }
            self.lease.begin_release()
        })
    }

    /// Gives the lock up without releasing it, so that another guard can continue with it: see
    /// [`Lock::adopt`](super::Lock::adopt).
    ///
    /// No round trip. Renewals stop, and this guard's handles are lost. The lock stays held until it expires: adopt
    /// it before then.
    ///
    /// # Errors
    ///
    /// [`LockLost`](ErrorKind::LockLost): the lock has expired. Stop the work, then acquire it again.
    pub fn into_ticket(mut self) -> Result<LockTicket> {
        if !self.is_valid() {
            return Err(self.lost_error());
        }
        self.end_lease();
        self.ended = true;
        let Lease { name, token, fence, .. } = &*self.lease;
        Ok(LockTicket { lock: name.to_string(), token: *token, fence: *fence })
    }

    pub(super) fn lost_error(&self) -> Error {
        self.lease.lost_error()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ReleaseState { may_be_held, was_valid } = self.end_lease();
        let (locks, Lease { name, token, granted, kind, .. }) = (&self.locks, &*self.lease);
        locks.meter.held(locks.context.clock.now().since(*granted));
        if may_be_held && !self.ended {
            if !was_valid {
                locks.meter.lost();
            }
            let left = self.lease.may_last();
            end_in_background(&locks.context, name.clone(), *token, left, kind.ending());
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.lease.name)
            .field("fence", &self.fence())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// What the body of [`Lock::run`](super::Lock::run) can know of its lock. A handle does not hold the lock; it is
/// lost when the guard is gone.
#[derive(Clone)]
pub struct LockHandle {
    lease: Arc<Lease>,
}

impl LockHandle {
    /// As [`Guard::fence`].
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.lease.fence
    }

    /// As [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// As [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// As [`Guard::lost`].
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.lost()
    }
}

impl fmt::Debug for LockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockHandle")
            .field("fence", &self.fence())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
