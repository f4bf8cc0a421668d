//! The runtimes on which callers were seen, newest first. Work can continue on one of them when its own
//! runtime has ended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};

/// A program has one runtime, or one for each worker thread. Each test has its own, and the oldest of those
/// have ended.
const MOST: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Runtimes(Mutex<Vec<Handle>>);

impl Runtimes {
    /// Remembers the caller's runtime, if there is one.
    pub(crate) fn remember_current(&self) {
        let Ok(current) = Handle::try_current() else { return };
        let mut seen = self.seen();
        if seen.iter().all(|handle| handle.id() != current.id()) {
            seen.insert(0, current);
            seen.truncate(MOST);
        }
    }

    /// Forgets a runtime that has ended.
    pub(crate) fn forget(&self, id: Id) {
        self.seen().retain(|handle| handle.id() != id);
    }

    /// Returns the caller's runtime, or else the one seen last, but none of `tried`.
    pub(crate) fn pick(&self, tried: &[Id]) -> Option<Handle> {
        let untried = |handle: &Handle| !tried.contains(&handle.id());
        let current = Handle::try_current().ok().filter(untried);
        current.or_else(|| self.seen().iter().find(|handle| untried(handle)).cloned())
    }

    /// Returns all of them, newest first.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "for connections"))]
    pub(crate) fn all(&self) -> Vec<Handle> {
        self.seen().clone()
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
