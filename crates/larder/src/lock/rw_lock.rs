//! Read-write locks: any number of readers, or one writer.
//!
//! A read-write lock is a semaphore whose readers take one permit and whose writers take all: one queue, first come,
//! first served. So readers at its head enter together, a writer waits for the readers before it, and no reader that
//! comes later enters before that writer. Neither starves. Guards are leased and renewed as permits are.
//!
//! Not guaranteed: more than 65,535 readers at a time; the next one waits.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::fence::{Fence, ReleaseOutcome};
use super::locks::Coordinator;
use super::permit::SemaphorePermit;
use super::semaphore::Semaphore;
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::store::permit::HEAVIEST;

/// A read-write lock by its name. Made by [`Larder::rw_lock`](crate::Larder::rw_lock).
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let catalogue = larder.rw_lock("catalogue");
/// let (one, two) = (catalogue.read().await?, catalogue.read().await?);
/// assert!(catalogue.try_write().await?.is_none());
/// one.release().await?;
/// two.release().await?;
/// let write = catalogue.write().await?;
/// println!("writing with fence {}", write.fence());
/// let read = write.downgrade().await?;                     // no writer comes in between
/// # drop(read);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a read-write lock is taken by read() or write()"]
pub struct RwLock {
    semaphore: Semaphore,
}

impl RwLock {
    pub(crate) fn new(locks: Arc<Coordinator>, called: &str) -> Self {
        let name = locks.context.keyspace.rw_lock(called).into();
        Self { semaphore: Semaphore::named(locks, "read-write lock", called, name, HEAVIEST) }
    }

    /// The lease of a guard, which is renewed while it lives: how long others wait for a holder that died. Default: 30
    /// s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.semaphore = self.semaphore.ttl(ttl);
        self
    }

    /// The longest that a guard is renewed, counted from when it was granted. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.semaphore = self.semaphore.max_hold(max_hold);
        self
    }

    /// Grants nothing after a failover until every lease of the old master is over: see
    /// [`Lock::quarantine`](super::Lock::quarantine).
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.semaphore = self.semaphore.quarantine(max_lease);
        self
    }

    /// Takes the lock for reading, waiting in the queue as long as it takes.
    ///
    /// One round trip if no writer holds it or waits; else two, and one when it is granted.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`](super::Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves nothing behind.
    pub fn read(&self) -> Call<'_, impl Future<Output = Result<RwLockReadGuard>> + Send> {
        self.read_within(Duration::MAX)
    }

    /// Takes the lock for reading, waiting no longer than `max_wait`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if writers held it or were before this call all the time; else as [`read`](Self::read).
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

    /// Takes the lock for reading if no writer holds it or waits.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). That it is taken is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn try_read(&self) -> Call<'_, impl Future<Output = Result<Option<RwLockReadGuard>>> + Send> {
        self.semaphore.call_once(async move {
            Ok(self.semaphore.take(1, false, None).await?.map(|permit| RwLockReadGuard { permit }))
        })
    }

    /// Takes the lock for writing, waiting in the queue as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub fn write(&self) -> Call<'_, impl Future<Output = Result<RwLockWriteGuard>> + Send> {
        self.write_within(Duration::MAX)
    }

    /// Takes the lock for writing, waiting no longer than `max_wait`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if others held it or were before this call all the time; else as [`read`](Self::read).
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

    /// Takes the lock for writing if nothing holds it or waits.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). That it is taken is no error, but `None`.
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

/// A lock held for reading, among others perhaps. Made by [`RwLock::read`]. It cannot become one for writing: two
/// readers that both wanted that would wait for each other.
#[must_use = "a guard that is dropped at once frees its lock"]
#[derive(Debug)]
pub struct RwLockReadGuard {
    permit: SemaphorePermit,
}

/// A lock held for writing, alone. Made by [`RwLock::write`].
#[must_use = "a guard that is dropped at once frees its lock"]
#[derive(Debug)]
pub struct RwLockWriteGuard {
    permit: SemaphorePermit,
    semaphore: Semaphore,
}

macro_rules! guard {
    ($guard:ident) => {
        impl $guard {
            /// How long it is certainly still held: see [`Guard::remaining`](super::Guard::remaining).
            #[must_use]
            pub fn remaining(&self) -> Duration {
                self.permit.remaining()
            }

            /// Whether it is certainly still held: see [`Guard::is_valid`](super::Guard::is_valid).
            #[must_use]
            pub fn is_valid(&self) -> bool {
                self.permit.is_valid()
            }

            /// Completes when it is lost: see [`Guard::lost`](super::Guard::lost).
            ///
            /// # Cancel safety
            ///
            /// It may be dropped and asked for again.
            pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
                self.permit.lost()
            }

            /// Frees it. One round trip.
            ///
            /// # Errors
            ///
            /// As [`Guard::release`](super::Guard::release).
            ///
            /// # Cancel safety
            ///
            /// Dropping the future frees it in the background.
            pub async fn release(self) -> Result<ReleaseOutcome> {
                self.permit.release().await
            }
        }
    };
}

guard!(RwLockReadGuard);
guard!(RwLockWriteGuard);

impl RwLockWriteGuard {
    /// The number of this grant: higher than that of every writer before. What is written under the lock refuses lower
    /// ones.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.permit.fence()
    }

    /// Goes on as a reader, without another writer in between. Waiting readers at the head of the queue enter, too.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// `LockLost` if it was lost; those of any request, after which the lock is freed in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees the lock in the background.
    pub async fn downgrade(self) -> Result<RwLockReadGuard> {
        match self.semaphore.exchange(self.permit, 1).await? {
            Some(permit) => Ok(RwLockReadGuard { permit }),
            None => Err(Error::new(ErrorKind::LockLost, "the lock was lost before it could be downgraded")),
        }
    }
}
