//! Read-write locks: any number of readers, or one writer.
//!
//! A read-write lock is a semaphore: a reader acquires one permit and a writer acquires all of them. There is one
//! queue, first come, first served. So the readers at its head enter together, a writer waits for the readers
//! before it, and no later reader enters before that writer. Neither side starves. Guards are leased and renewed as
//! permits are.
//!
//! Not guaranteed: more than 65,535 readers at a time; the next one waits.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::lease::lost;
use super::permit::SemaphorePermit;
use super::release::ReleaseOutcome;
use super::semaphore::Semaphore;
use crate::call::Call;
use crate::error::Result;
use crate::fence::Fence;
use crate::store::permit::HEAVIEST;

/// A read-write lock with a name. Made by [`Larder::rw_lock`](crate::Larder::rw_lock).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let catalogue = larder.rw_lock("catalogue");
/// let (one, two) = (catalogue.read().await?, catalogue.read().await?);
/// assert!(catalogue.try_write().await?.is_none());
/// one.release().await?;
/// two.release().await?;
/// let write = catalogue.write().await?;
/// println!("writing with fence {}", write.fence());
/// let read = write.downgrade().await?;                     // no writer enters in between
/// # drop(read);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a read-write lock is acquired by read() or write()"]
pub struct RwLock {
    semaphore: Semaphore,
}

impl RwLock {
    pub(crate) fn new(locks: Arc<Coordinator>, label: &str) -> Self {
        let name = locks.context.keyspace.rw_lock(label).into();
        Self { semaphore: Semaphore::named(locks, "read-write lock", label, name, HEAVIEST) }
    }

    /// Sets the time to live of a guard: how long others wait after a holder's process dies. The guard is renewed
    /// while it lives. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.semaphore = self.semaphore.ttl(ttl);
        self
    }

    /// Limits how long a guard is renewed, counted from its grant. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.semaphore = self.semaphore.max_hold(max_hold);
        self
    }

    /// Refuses grants after a failover until every lease of the old master has expired: see
    /// [`Lock::quarantine`](super::Lock::quarantine).
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.semaphore = self.semaphore.quarantine(max_lease);
        self
    }

    /// Acquires the lock for reading and waits in the queue for as long as it takes.
    ///
    /// One round trip if no writer holds it or waits; otherwise two, and one more when it is granted.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves nothing behind.
    pub fn read(&self) -> Call<'_, impl Future<Output = Result<RwLockReadGuard>> + Send> {
        self.read_within(Duration::MAX)
    }

    /// Acquires the lock for reading and waits for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): writers held the lock, or were queued before this call, all the
    ///   time. Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn read_within(
        &self,
        max_wait: Duration,
    ) -> Call<'_, impl Future<Output = Result<RwLockReadGuard>> + Send> {
        self.semaphore.call_within(max_wait, async move {
            self.semaphore.take_within(1, false, max_wait).await.map(|permit| RwLockReadGuard { permit })
        })
    }

    /// Acquires the lock for reading if no writer holds it or waits. Returns `None` otherwise.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// A lock that is held is `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn try_read(&self) -> Call<'_, impl Future<Output = Result<Option<RwLockReadGuard>>> + Send> {
        self.semaphore.call_once(async move {
            Ok(self.semaphore.take(1, false, None).await?.map(|permit| RwLockReadGuard { permit }))
        })
    }

    /// Acquires the lock for writing and waits in the queue for as long as it takes.
    ///
    /// One round trip if the lock is free; otherwise two, and one more when it is granted.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn write(&self) -> Call<'_, impl Future<Output = Result<RwLockWriteGuard>> + Send> {
        self.write_within(Duration::MAX)
    }

    /// Acquires the lock for writing and waits for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): others held the lock, or were queued before this call, all the time.
    ///   Retry later or do without.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn write_within(
        &self,
        max_wait: Duration,
    ) -> Call<'_, impl Future<Output = Result<RwLockWriteGuard>> + Send> {
        self.semaphore.call_within(max_wait, async move {
            let permit = self.semaphore.take_within(HEAVIEST, true, max_wait).await?;
            Ok(RwLockWriteGuard { permit, semaphore: self.semaphore.clone() })
        })
    }

    /// Acquires the lock for writing if it is free and its queue is empty. Returns `None` otherwise.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// A lock that is held is `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn try_write(&self) -> Call<'_, impl Future<Output = Result<Option<RwLockWriteGuard>>> + Send> {
        self.semaphore.call_once(async move {
            let permit = self.semaphore.take(HEAVIEST, true, None).await?;
            Ok(permit.map(|permit| RwLockWriteGuard { permit, semaphore: self.semaphore.clone() }))
        })
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RwLock").field(&self.semaphore).finish()
    }
}

/// A lock that is held for reading, possibly together with other readers. Made by [`RwLock::read`]. It cannot be
/// upgraded to a write lock: two readers that both upgraded would wait for each other for ever.
#[must_use = "a guard that is dropped at once frees its lock"]
#[derive(Debug)]
pub struct RwLockReadGuard {
    permit: SemaphorePermit,
}

/// A lock that is held for writing, exclusively. Made by [`RwLock::write`].
#[must_use = "a guard that is dropped at once frees its lock"]
#[derive(Debug)]
pub struct RwLockWriteGuard {
    permit: SemaphorePermit,
    semaphore: Semaphore,
}

macro_rules! guard {
    ($guard:ident) => {
        impl $guard {
            /// Returns how long the lock is certainly still held: see
            /// [`Guard::remaining`](super::Guard::remaining).
            #[must_use]
            pub fn remaining(&self) -> Duration {
                self.permit.remaining()
            }

            /// Returns whether the lock is certainly still held: see [`Guard::is_valid`](super::Guard::is_valid).
            #[must_use]
            pub fn is_valid(&self) -> bool {
                self.permit.is_valid()
            }

            /// Completes when the lock is lost: see [`Guard::lost`](super::Guard::lost).
            ///
            /// # Cancel safety
            ///
            /// The future can be dropped and requested again.
            pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
                self.permit.lost()
            }

            /// Releases the lock. One round trip.
            ///
            /// # Errors
            ///
            /// An error means that the release may be incomplete: it is retried in the background until the lease
            /// expires.
            ///
            #[doc = include_str!("../doc/request_errors.md")]
            ///
            /// # Cancel safety
            ///
            /// Dropping the future releases the lock in the background.
            pub async fn release(self) -> Result<ReleaseOutcome> {
                self.permit.release().await
            }
        }
    };
}

guard!(RwLockReadGuard);
guard!(RwLockWriteGuard);

impl RwLockWriteGuard {
    /// Returns the fence of this grant, which is higher than that of every earlier writer. Let the protected
    /// resource refuse writes with a lower fence.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.permit.fence()
    }

    /// Turns the write lock into a read lock, without another writer in between. Readers at the head of the queue
    /// enter, too.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// After an error of the request the lock is released in the background.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`LockLost`](crate::ErrorKind::LockLost): the lock was lost before. Acquire it again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn downgrade(self) -> Result<RwLockReadGuard> {
        match self.semaphore.exchange(self.permit, 1).await? {
            Some(permit) => Ok(RwLockReadGuard { permit }),
            None => Err(lost(self.semaphore.name())),
        }
    }
}
