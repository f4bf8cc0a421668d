//! Wake-ups for attempts at locks, by their tokens.
//!
//! An attempt subscribes before it is enqueued, because its wake-up may arrive together with the reply. Most
//! locks are free, and most attempts are never woken. So a subscription is one entry in a map; the `Notify`
//! is allocated only when the attempt waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Invalidations;

#[derive(Default)]
pub(super) struct Wakeups(Mutex<HashMap<u64, Wakeup>>);

enum Wakeup {
    NotYet,
    Came,
    WaitedFor(Arc<Notify>),
}

impl Wakeup {
    fn come(&mut self) {
        match self {
            Self::WaitedFor(waiter) => waiter.notify_one(),
            Self::NotYet | Self::Came => *self = Self::Came,
        }
    }
}

impl Wakeups {
    pub(super) fn call(&self, token: u64) {
        if let Some(call) = self.table().get_mut(&token) {
            call.come();
        }
    }

    pub(super) fn call_all(&self) {
        self.table().values_mut().for_each(Wakeup::come);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Wakeup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives the wake-ups of one attempt until it is dropped.
pub(crate) struct Subscription {
    changes: Arc<Invalidations>,
    token: u64,
}

impl Subscription {
    pub(super) fn new(changes: Arc<Invalidations>, token: u64) -> Self {
        changes.calls.table().insert(token, Wakeup::NotYet);
        Self { changes, token }
    }

    /// Waits until the attempt is woken, at most for `max_wait`. Returns at once if it was woken since the
    /// last call.
    pub(crate) async fn called(&self, patience: Duration) {
        let waiter = match self.changes.calls.table().get_mut(&self.token) {
            None => return,
            Some(Wakeup::WaitedFor(waiter)) => waiter.clone(),
            Some(call) => {
                let came = matches!(call, Wakeup::Came);
                let waiter = Arc::new(Notify::new());
                *call = Wakeup::WaitedFor(waiter.clone());
                if came {
                    return;
                }
                waiter
            }
        };
        let _ = timeout(patience, waiter.notified()).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.changes.calls.table().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::InvalidationSink;
    use crate::store::lock::wake_name;

    #[tokio::test]
    async fn whatever_can_be_waited_for_calls_who_waits() {
        let keyspace = crate::keyspace::Keyspace::new(Some("shop")).unwrap();
        let changes = Arc::new(Invalidations::default());
        let waiter = changes.listen(1);
        for name in [
            keyspace.lock("a"),
            keyspace.lock_group("a"),
            keyspace.election("a"),
            keyspace.rw_lock("a"),
            keyspace.semaphore("a").as_str().to_owned(),
            keyspace.keyed_semaphore("a", "b").as_str().to_owned(),
        ] {
            changes.changed(&wake_name(&name, 1));
            let called = timeout(Duration::ZERO, waiter.called(Duration::MAX)).await;
            assert!(called.is_ok(), "a waiter for {name} is not called");
        }
    }

    #[tokio::test]
    async fn a_call_is_heard_whether_it_comes_before_or_after_it_is_waited_for() {
        let changes = Arc::new(Invalidations::default());
        let (one, other) = (changes.listen(1), changes.listen(2));
        let silent = async |listening: &Subscription| {
            timeout(Duration::ZERO, listening.called(Duration::MAX)).await.is_err()
        };
        changes.changed(&wake_name("~lock.1:{/a}", 1));
        one.called(Duration::MAX).await;
        assert!(silent(&one).await && silent(&other).await);
        changes.changed(&wake_name("~lock.1:{/a}", 1));
        one.called(Duration::MAX).await;
        changes.all_changed();
        one.called(Duration::MAX).await;
        other.called(Duration::MAX).await;
        assert!(silent(&one).await && silent(&other).await);
        drop((one, other));
        assert!(changes.calls.is_empty());
    }
}
