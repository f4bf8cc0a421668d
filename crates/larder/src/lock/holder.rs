//! The holder of a lock, for people and for errors.

use std::fmt;
use std::time::Duration;

use super::Coordinator;
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

impl Coordinator {
    /// Makes the public holder, with the name that its process announced: one round trip, none if the holder is this
    /// process or the server has refused to show names.
    pub(super) async fn named(&self, by: Option<HeldBy>) -> Option<Holder> {
        let by = by?;
        let announced = self.presence.name_of(by.token).await;
        Some(Holder { announced, ..Holder::of(by) })
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

/// The lock's name as the user gave it: without the keyspace's frame.
pub(super) fn shown(name: &str) -> &str {
    let inner = name.split_once('{').map_or(name, |(_, rest)| rest.strip_suffix('}').unwrap_or(rest));
    inner.strip_prefix('/').unwrap_or(inner)
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_lock_is_shown_without_its_frame() {
        assert_eq!(shown("~lock.2:{/reports}"), "reports");
        assert_eq!(shown("~lock.2:{shop/reports}"), "shop/reports");
        assert_eq!(shown("~semaphore.1:{shop/exports:ann}"), "shop/exports:ann");
    }
}
