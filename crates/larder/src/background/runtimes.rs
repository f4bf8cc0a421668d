//! The runtimes that callers were seen on, newest first: where work may go on when the runtime that did it has ended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};

/// Programs have one runtime, or one a worker thread. Tests have one each, of which the oldest have ended.
const MOST: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Runtimes(Mutex<Vec<Handle>>);

impl Runtimes {
    /// Remembers the runtime of the caller, if there is one.
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

    /// The runtime of the caller, else the one seen last; none of `tried`.
    pub(crate) fn pick(&self, tried: &[Id]) -> Option<Handle> {
        let untried = |handle: &Handle| !tried.contains(&handle.id());
        let current = Handle::try_current().ok().filter(untried);
        current.or_else(|| self.seen().iter().find(|handle| untried(handle)).cloned())
    }

    /// All that were seen, newest first.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "for connections"))]
    pub(crate) fn all(&self) -> Vec<Handle> {
        self.seen().clone()
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
