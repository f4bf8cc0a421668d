//! A lock that is held, as far as its holder can know.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::check_ttl;
use crate::call::Call;
use crate::clock::Tick;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// A number that grows with every grant of a lock: write it with what the lock protects, and refuse writes whose number
/// is lower than the highest seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    pub(crate) fn new(fence: u64) -> Self {
        Self(fence)
    }

    /// The number, below 2⁵³.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a release went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// The lock was held and is free.
    Released,
    /// The lock's time was over before: somebody else may have held it since.
    AlreadyLost,
}

/// A lock that is held until it is released, dropped, or its time is over. Made by [`Lock`](super::Lock).
///
/// Dropping a guard frees the lock in the background, in a task that the `Larder` owns;
/// [`close`](crate::Larder::close) waits for it. After that, and outside a runtime, nothing is sent and the lock ends with
/// its time.
#[must_use = "a guard that is dropped at once frees its lock"]
pub struct Guard {
    context: Arc<Context>,
    name: String,
    token: u64,
    fence: Fence,
    /// `None` once it was given up.
    deadline: Mutex<Option<Tick>>,
}

impl Guard {
    pub(super) fn new(context: Arc<Context>, name: String, token: u64, fence: Fence, deadline: Tick) -> Self {
        Self { context, name, token, fence, deadline: Mutex::new(Some(deadline)) }
    }

    /// The number of this grant.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// How long the lock is certainly still held, by the local clock, which goes on while the machine sleeps; zero when
    /// it may be lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline().map_or(Duration::ZERO, |deadline| deadline.since(self.context.clock.now()))
    }

    /// Whether the lock is certainly still held. Between this answer and what is done upon it time passes: only the
    /// [`fence`](Self::fence), checked by the resource, closes that gap.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Holds the lock for at least `ttl` from now; a lock that is held longer stays so.
    ///
    /// One round trip. A guard whose time is over is never revived, even if nobody took the lock since.
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
        Call::new(self.context.limits.response_timeout, &self.context.lock_meter.extend, async move {
            check_ttl(ttl)?;
            if !self.is_valid() {
                return Err(lost());
            }
            let sent = self.context.clock.now();
            let held = self.context.store()?.extend(&self.name, self.token, ttl).await?;
            let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            match *deadline {
                // Two answers may arrive in either order: the later deadline is as true as the earlier.
                Some(old) if held && old > self.context.clock.now() => {
                    *deadline = Some(old.max(sent.after(ttl)));
                    Ok(())
                }
                _ => {
                    if !held {
                        *deadline = None;
                    }
                    Err(lost())
                }
            }
        })
    }

    /// Frees the lock.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. The lock then ends with its time at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees the lock in the background.
    pub async fn release(self) -> Result<Release> {
        let released =
            Call::new(self.context.limits.response_timeout, &self.context.lock_meter.release, async {
                self.context.store()?.release(&self.name, self.token).await
            })
            .await?;
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(if released { Release::Released } else { Release::AlreadyLost })
    }

    fn deadline(&self) -> Option<Tick> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.deadline().is_some() {
            let ttl = self.remaining();
            self.context.release_in_background(std::mem::take(&mut self.name), self.token, ttl);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.name)
            .field("fence", &self.fence)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::LockLost, "the lock's time is over: somebody else may hold it")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::Clock;
    use crate::context::Limits;
    use crate::keyspace::Keyspace;
    use crate::near::Changes;
    use crate::random::Random;
    use crate::store::AnyStore;
    use crate::store::memory::{Bounds, MemoryStore};

    const SECOND: Duration = Duration::from_secs(1);

    /// A guard that has a second by the local clock of a lock that the store holds for ten.
    async fn guard() -> (Guard, Arc<AtomicU64>) {
        let micros = Arc::new(AtomicU64::new(0));
        let clock = Clock::Manual(micros.clone());
        let changes = Arc::new(Changes::default());
        let store = AnyStore::Memory(MemoryStore::new(Bounds::default(), clock.clone(), changes.clone()));
        let limits = Limits { response_timeout: SECOND, max_value_bytes: 1000, max_key_bytes: 1000 };
        store.acquire("a", 7, 10 * SECOND).await.unwrap();
        let deadline = clock.now().after(SECOND);
        let context =
            Arc::new(Context::new(store, changes, Keyspace::default(), limits, clock, Random::default()));
        (Guard::new(context, "a".into(), 7, Fence::new(1), deadline), micros)
    }

    #[tokio::test]
    async fn a_guard_whose_time_is_over_here_is_not_revived_by_a_store_that_still_holds_it() {
        let (guard, micros) = guard().await;
        micros.store(1_000_000, Ordering::Release);
        assert!(!guard.is_valid());
        assert_eq!(guard.extend(SECOND).await.unwrap_err().kind(), ErrorKind::LockLost);
        assert!(!guard.is_valid());
    }

    #[tokio::test]
    async fn a_lock_that_the_store_lost_is_lost_here() {
        let (guard, _) = guard().await;
        guard.context.store().unwrap().release("a", 7).await.unwrap();
        assert_eq!(guard.extend(SECOND).await.unwrap_err().kind(), ErrorKind::LockLost);
        assert!(!guard.is_valid());
    }
}
