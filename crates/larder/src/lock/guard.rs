//! A lock that is held, as far as its holder can know.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::failover;
use super::fence::{Fence, ReleaseOutcome};
use super::holding::{Lease, ReleaseState, lost};
use super::keeping::Renewer;
use super::locks::Coordinator;
use super::ticket::LockTicket;
use super::{Keep, check_ttl};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::store::lock::{LockStore, LockToken};

/// A lock that is held until it is released, dropped, or its time is over. Made by [`Lock`](super::Lock).
///
/// Dropping a guard frees the lock in the background, wherever it is dropped: also on a thread without a runtime.
/// [`close`](crate::Larder::close) waits for that. After `close` nothing is sent, and the lock ends with its time.
#[must_use = "a guard that is dropped at once frees its lock"]
pub struct Guard {
    holding: Arc<Lease>,
    kept: bool,
    /// Once its leases believe no more.
    parting: Option<ReleaseState>,
    /// Whether the server has answered to its release.
    ended: bool,
}

impl Guard {
    pub(super) fn new(holding: Lease, ttl: Duration, keep: Option<Keep>) -> Self {
        holding.locks.meter.granted();
        let holding = Arc::new(holding);
        if let Some(keep) = keep {
            Renewer::keep(&holding, ttl, keep.max_hold);
        }
        Self { holding, kept: keep.is_some(), parting: None, ended: false }
    }

    pub(super) fn token(&self) -> u64 {
        self.holding.token
    }

    /// Waits until enough replicas have it.
    pub(super) async fn acknowledged(&self, ttl: Duration) -> Result<()> {
        failover::acknowledged(&self.holding, ttl).await
    }

    /// Its lock was freed by another request than a release.
    pub(super) fn ended_elsewhere(mut self) {
        self.let_go();
        self.ended = true;
    }

    /// The number of this grant.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.holding.fence
    }

    /// How long the lock is certainly still held, by the local clock, which goes on while the machine sleeps; zero when
    /// it may be lost. A hundredth of the time to live and 2 ms are taken off, for clocks that drift.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.holding.remaining()
    }

    /// Whether the lock is certainly still held. Between this answer and what is done upon it time passes: only the
    /// [`fence`](Self::fence), checked by the resource, closes that gap.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.holding.is_valid()
    }

    /// Completes when the lock can no longer be believed to be held: when its time is over by the local clock, or earlier where
    /// the server said so to a renewal. It does not borrow the guard.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let guard = larder.lock("reports").ttl(Duration::from_millis(50)).acquire().await?;
    /// tokio::select! {
    ///     () = guard.lost() => println!("lost: stop writing"),
    ///     () = tokio::time::sleep(Duration::from_millis(10)) => println!("done in time"),
    /// }
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.holding.lost()
    }

    /// A look at this lock that can be given to others: it does not hold it.
    pub fn lease(&self) -> LockHandle {
        LockHandle { holding: self.holding.clone() }
    }

    /// Holds the lock for at least `ttl` from now; a lock that is held longer stays so.
    ///
    /// One round trip, and one more with [`replicated`](super::Lock::replicated). A guard whose time is over is never revived, even if nobody took the lock since.
    ///
    /// # Errors
    ///
    /// `LockLost` where its time is over, also where it ended while the answer was on its way; what stands in the way of
    /// any request, after which the old deadline stands.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the old deadline, which is then the earlier one.
    pub fn extend(&self, ttl: Duration) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        let Lease { locks, .. } = &*self.holding;
        Call::new(locks.timeout(), &locks.meter.extend, async move {
            check_ttl(ttl)?;
            self.holding.failover.check(ttl)?;
            if !self.is_valid() {
                return Err(lost(&self.holding.name));
            }
            let sent = locks.context.clock.now();
            if !self.holding.asks(sent, ttl) {
                return Err(lost(&self.holding.name));
            }
            let ticket = LockToken { lock: self.holding.name.to_string(), token: self.holding.token };
            let answer = locks.store()?.extend(&[(ticket, ttl)], Duration::MAX).await?;
            let unanswered = || Error::new(ErrorKind::Server, "the server did not say whether it is held");
            let held = answer.first().copied().flatten().ok_or_else(unanswered)?;
            if held && self.holding.failover.replicas > 0 {
                // Boxed: it would swell the future of every extension.
                Box::pin(self.extended_in_replicas(ttl)).await?;
            }
            if held && self.holding.renewed(sent, ttl) {
                return Ok(());
            }
            if !held {
                self.note_lost(locks);
            }
            Err(lost(&self.holding.name))
        })
    }

    /// Where too few replicas have the extension, the lock is released.
    async fn extended_in_replicas(&self, ttl: Duration) -> Result<()> {
        let answer = failover::acknowledged(&self.holding, ttl).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotReplicated) {
            failover::release(&self.holding);
        }
        answer
    }

    /// Frees the lock, or hands it to the next in line. The guard's leases are lost before that is sent.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request, where that was surely not carried out; where it may have been, the answer is
    /// [`ReleaseOutcome::Unknown`]. In either case it is tried again in the background while the lock's time lasts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees the lock in the background.
    pub async fn release(mut self) -> Result<ReleaseOutcome> {
        let holding = self.holding.clone();
        let locks = &holding.locks;
        let parting = self.let_go();
        let answer = Call::new(locks.timeout(), &locks.meter.release, async {
            holding.kind.ending().send(locks.store()?, &holding.name, holding.token).await
        })
        .await;
        match answer {
            Ok(true) => {
                self.ended = true;
                Ok(ReleaseOutcome::Released)
            }
            Ok(false) => {
                self.ended = true;
                if parting.may_be_held {
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

    /// Ends the renewals and what is believed, before the lock is freed.
    fn let_go(&mut self) -> ReleaseState {
        *self.parting.get_or_insert_with(|| {
            if self.kept {
                self.holding.locks.keeping.forget(self.holding.token);
            }
            self.holding.begin_release()
        })
    }

    /// Gives the lock up without freeing it, so that another guard can go on with it: see [`Lock::adopt`](super::Lock::adopt).
    ///
    /// No round trip. Renewals end, and this guard's leases are lost. The lock stays held until its time is over: adopt it before.
    ///
    /// # Errors
    ///
    /// `LockLost` if its time is over.
    pub fn into_ticket(mut self) -> Result<LockTicket> {
        if !self.is_valid() {
            return Err(lost(&self.holding.name));
        }
        self.let_go();
        self.ended = true;
        let Lease { name, token, fence, .. } = &*self.holding;
        Ok(LockTicket { lock: name.to_string(), token: *token, fence: *fence })
    }

    pub(super) fn lost_error(&self) -> Error {
        lost(&self.holding.name)
    }

    fn note_lost(&self, locks: &Coordinator) {
        if self.holding.end() {
            locks.meter.lost();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ReleaseState { may_be_held, was_valid } = self.let_go();
        let Lease { locks, name, token, granted, kind, .. } = &*self.holding;
        locks.meter.held(locks.context.clock.now().since(*granted));
        if may_be_held && !self.ended {
            if !was_valid {
                locks.meter.lost();
            }
            locks.end_in_background(name.clone(), *token, self.holding.may_last(), kind.ending());
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.holding.name)
            .field("fence", &self.fence())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// What a body that runs under a lock may know of it: [`Lock::run`](super::Lock::run) gives it one. It does not hold the lock, and
/// is lost when the guard is gone.
#[derive(Clone)]
pub struct LockHandle {
    holding: Arc<Lease>,
}

impl LockHandle {
    /// As [`Guard::fence`].
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.holding.fence
    }

    /// As [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.holding.remaining()
    }

    /// As [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.holding.is_valid()
    }

    /// As [`Guard::lost`].
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.holding.lost()
    }
}

impl fmt::Debug for LockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockLease")
            .field("fence", &self.fence())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
