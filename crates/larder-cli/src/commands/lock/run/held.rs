//! The lock, or the permit of a semaphore, that a command runs under.

use std::pin::Pin;
use std::time::Duration;

use larder::lock::{Guard, ReleaseOutcome, SemaphorePermit};
use larder::{ErrorKind, Larder};

use super::Arguments;

/// Renewals go on for as long as the command runs. The lock ends with larder in any case.
const FOR_EVER: Duration = Duration::from_secs(50 * 366 * 24 * 3600);

/// A lock or a permit that is held and renewed.
pub(super) enum Held {
    Lock(Guard),
    Permit(SemaphorePermit),
}

impl Held {
    /// Acquires what the arguments name; `None` if others hold it for the whole wait.
    pub(super) async fn acquire(larder: &Larder, arguments: &Arguments) -> larder::Result<Option<Self>> {
        let Arguments { name, ttl, .. } = arguments;
        let wait = if arguments.no_wait { Some(Duration::ZERO) } else { arguments.wait };
        let answer = if let Some(holders) = arguments.max_holders {
            let semaphore = larder.semaphore(name, holders).ttl(*ttl).max_hold(FOR_EVER);
            match wait {
                Some(Duration::ZERO) => return Ok(semaphore.try_acquire().await?.map(Self::Permit)),
                Some(wait) => semaphore.acquire_within(wait).await.map(Self::Permit),
                None => semaphore.acquire().await.map(Self::Permit),
            }
        } else {
            let lock = larder.lock(name).ttl(*ttl).keep_alive().max_hold(FOR_EVER);
            match wait {
                Some(Duration::ZERO) => return Ok(lock.try_acquire().await?.map(Self::Lock)),
                Some(wait) => lock.acquire_within(wait).await.map(Self::Lock),
                None => lock.acquire().await.map(Self::Lock),
            }
        };
        match answer {
            Ok(held) => Ok(Some(held)),
            Err(error) if error.kind() == ErrorKind::LockHeld => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How long it is certainly still held.
    pub(super) fn remaining(&self) -> Duration {
        match self {
            Self::Lock(guard) => guard.remaining(),
            Self::Permit(permit) => permit.remaining(),
        }
    }

    /// The fence, which a permit has not.
    pub(super) fn fence(&self) -> Option<u64> {
        match self {
            Self::Lock(guard) => Some(guard.fence().get()),
            Self::Permit(_) => None,
        }
    }

    /// Completes when it may be lost.
    pub(super) fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Lock(guard) => Box::pin(guard.lost()),
            Self::Permit(permit) => Box::pin(permit.lost()),
        }
    }

    pub(super) async fn release(self) -> larder::Result<ReleaseOutcome> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Permit(permit) => permit.release().await,
        }
    }
}
