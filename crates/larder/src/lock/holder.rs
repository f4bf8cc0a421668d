//! The holder of a lock, for people and for errors.

use std::fmt;
use std::time::Duration;

use crate::fence::Fence;
use crate::store::lock::HeldBy;

/// The holder of a lock and the number of waiters. Made by [`Lock::holder`](super::Lock::holder).
///
/// This was true when the server answered; it may have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's process, as `<host>:<process id>`. For a lock that was handed over with a ticket, the process
    /// that acquired it.
    pub process: String,
    /// The name that the process gave itself by [`presence`](crate::LarderBuilder::presence); `None` if it did not.
    pub announced: Option<String>,
    /// The fence of the holder's grant.
    pub fence: Fence,
    /// How long the lock is held unless it is renewed or released.
    pub remaining: Duration,
    /// The number of callers in the queue, over all processes.
    pub waiting: u64,
}

impl Holder {
    pub(super) fn of(by: HeldBy) -> Self {
        let HeldBy { process, fence, remaining, waiting, .. } = by;
        Self { process, announced: None, fence: Fence::new(fence), remaining, waiting }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, fence, remaining, .. } = self;
        if let Some(announced) = &self.announced {
            return write!(f, "{announced} ({process}) with fence {fence}, for {remaining:?} more");
        }
        write!(f, "{process} with fence {fence}, for {remaining:?} more")
    }
}
