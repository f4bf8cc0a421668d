//! The locks, atomics and channels of the code whose interleavings are explored.
//!
//! They are those of std and tokio. With `--cfg larder_interleavings` they are shuttle's, whose scheduler decides at
//! each operation which thread continues; see `interleavings.rs`.
//!
//! A panic poisons no lock here, as every lock protects data that is consistent at each point where a panic is
//! possible.

#[cfg(larder_interleavings)]
use shuttle::sync;
#[cfg(not(larder_interleavings))]
use std::sync;
use std::sync::{PoisonError, TryLockError};

pub(crate) use sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(larder_interleavings))]
pub(crate) use tokio::sync::{Mutex as AsyncMutex, watch};

#[cfg(larder_interleavings)]
pub(crate) use stepped::{AsyncMutex, watch};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks it unless that would wait.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// tokio's channel and lock, each operation of which is one step: the scheduler may continue another thread before
/// it, but not within it.
#[cfg(larder_interleavings)]
mod stepped {
    use super::{AtomicBool, Ordering};

    /// Lets another thread continue, if the scheduler decides so. `yield_now` would tell PCT that this thread has
    /// nothing to do.
    fn step() {
        if !std::thread::panicking() {
            AtomicBool::new(false).load(Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    pub(crate) struct AsyncMutex<T>(tokio::sync::Mutex<T>);

    impl<T> AsyncMutex<T> {
        pub(crate) async fn lock(&self) -> tokio::sync::MutexGuard<'_, T> {
            step();
            self.0.lock().await
        }
    }

    pub(crate) mod watch {
        use tokio::sync::watch;
        use tokio::sync::watch::Ref;
        use tokio::sync::watch::error::RecvError;

        use super::step;

        pub(crate) struct Sender<T>(watch::Sender<T>);

        pub(crate) struct Receiver<T>(watch::Receiver<T>);

        pub(crate) fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
            let (sender, receiver) = watch::channel(first);
            (Sender(sender), Receiver(receiver))
        }

        impl<T> Sender<T> {
            pub(crate) fn send_replace(&self, value: T) -> T {
                step();
                self.0.send_replace(value)
            }

            pub(crate) fn subscribe(&self) -> Receiver<T> {
                step();
                Receiver(self.0.subscribe())
            }

            pub(crate) fn is_closed(&self) -> bool {
                step();
                self.0.is_closed()
            }

            pub(crate) async fn closed(&self) {
                step();
                self.0.closed().await;
            }
        }

        impl<T> Receiver<T> {
            pub(crate) async fn wait_for(
                &mut self,
                wanted: impl FnMut(&T) -> bool,
            ) -> Result<Ref<'_, T>, RecvError> {
                step();
                self.0.wait_for(wanted).await
            }

            #[cfg(test)]
            pub(crate) fn has_changed(&self) -> Result<bool, RecvError> {
                step();
                self.0.has_changed()
            }
        }

        impl<T> Drop for Receiver<T> {
            fn drop(&mut self) {
                step();
            }
        }
    }
}
