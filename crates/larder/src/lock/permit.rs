//! The guard of permits that are held.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::lease::{Lease, ReleaseState};
use super::release::ReleaseOutcome;
use super::release::{Ending, end_in_background};
use crate::call::Call;
use crate::error::{ErrorKind, Result};
use crate::fence::Fence;
use crate::store::permit::{PermitStore, weight};

/// One or several permits of a semaphore, renewed until the guard is released or dropped. Made by
/// [`Semaphore`](super::Semaphore).
#[must_use = "a permit that is dropped at once is given back"]
pub struct SemaphorePermit {
    locks: Arc<Coordinator>,
    lease: Arc<Lease>,
    release_state: Option<ReleaseState>,
    ended: bool,
}

impl SemaphorePermit {
    pub(super) fn new(locks: &Arc<Coordinator>, lease: Lease, ttl: Duration, max_hold: Duration) -> Self {
        let lease = Arc::new(lease);
        locks.meter.granted();
        locks.renewer.keep(&lease, ttl, max_hold);
        Self { locks: locks.clone(), lease, release_state: None, ended: false }
    }

    pub(super) fn fence(&self) -> Fence {
        self.lease.fence
    }

    pub(super) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    pub(super) fn end_renewals(&mut self) -> ReleaseState {
        self.end_lease()
    }

    /// Ends a guard whose permits are held by another token now.
    pub(super) fn exchanged(mut self) {
        self.ended = true;
    }

    /// Returns the number of permits that this guard holds.
    #[must_use]
    pub fn permits(&self) -> u64 {
        weight(self.lease.token)
    }

    /// As [`Guard::remaining`](super::Guard::remaining).
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// As [`Guard::is_valid`](super::Guard::is_valid).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// As [`Guard::lost`](super::Guard::lost).
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and requested again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.lost()
    }

    /// Releases the permits.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// An error means that the release may be incomplete: it is retried in the background until the lease expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the permits in the background.
    pub async fn release(mut self) -> Result<ReleaseOutcome> {
        let (locks, lease) = (self.locks.clone(), self.lease.clone());
        let release_state = self.end_lease();
        let answer = Call::new(locks.context.limits.response_timeout, &locks.meter.release, async {
            locks.context.coordination()?.give_permit(&lease.name, lease.token, None).await
        })
        .await;
        match answer {
            Ok(held) => {
                self.ended = true;
                if held {
                    return Ok(ReleaseOutcome::Released);
                }
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

    /// Ends the renewals and the local lease, before the permits are released.
    fn end_lease(&mut self) -> ReleaseState {
        *self.release_state.get_or_insert_with(|| {
            self.locks.renewer.forget(self.lease.token);
            self.lease.begin_release()
        })
    }
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        let ReleaseState { may_be_held, was_valid } = self.end_lease();
        let (locks, Lease { name, token, granted, .. }) = (&self.locks, &*self.lease);
        locks.meter.held(locks.context.clock.now().since(*granted));
        if !self.ended && may_be_held {
            if !was_valid {
                locks.meter.lost();
            }
            let left = self.lease.may_last();
            end_in_background(&locks.context, name.clone(), *token, left, Ending::GivePermit(None));
        }
    }
}

impl fmt::Debug for SemaphorePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphorePermit")
            .field("permits", &self.permits())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
