//! Wake-ups for attempts at locks, by their tokens.
//!
//! An attempt subscribes before it is enqueued, because its wake-up may arrive together with the reply. Most
//! locks are free, and most attempts are never woken. So a subscription is one entry in a map; the `Notify`
//! is allocated only when the attempt waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub(crate) struct Wakeups(Mutex<HashMap<u64, Wakeup>>);

enum Wakeup {
    Idle,
    Notified,
    Waiting(Arc<Notify>),
}

impl Wakeup {
    fn notify(&mut self) {
        match self {
            Self::Waiting(waiter) => waiter.notify_one(),
            Self::Idle | Self::Notified => *self = Self::Notified,
        }
    }
}

impl Wakeups {
    /// Subscribes to the wake-ups of the attempt with this token until the returned value is dropped.
    pub(crate) fn subscribe(self: &Arc<Self>, token: u64) -> Subscription {
        self.table().insert(token, Wakeup::Idle);
        Subscription { wakeups: self.clone(), token }
    }

    pub(super) fn notify(&self, token: u64) {
        if let Some(wakeup) = self.table().get_mut(&token) {
            wakeup.notify();
        }
    }

    pub(super) fn notify_all(&self) {
        self.table().values_mut().for_each(Wakeup::notify);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Wakeup>> {
        self.0.lock()
    }
}

/// Receives the wake-ups of one attempt until it is dropped.
pub(crate) struct Subscription {
    wakeups: Arc<Wakeups>,
    token: u64,
}

impl Subscription {
    /// Waits until the attempt is woken, at most for `max_wait`. Returns at once if it was woken since the
    /// last call.
    pub(crate) async fn notified(&self, max_wait: Duration) {
        let waiter = match self.wakeups.table().get_mut(&self.token) {
            None => return,
            Some(Wakeup::Waiting(waiter)) => waiter.clone(),
            Some(wakeup) => {
                let was_notified = matches!(wakeup, Wakeup::Notified);
                let waiter = Arc::new(Notify::new());
                *wakeup = Wakeup::Waiting(waiter.clone());
                if was_notified {
                    return;
                }
                waiter
            }
        };
        let _ = timeout(max_wait, waiter.notified()).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.wakeups.table().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::Invalidations;
    use crate::store::InvalidationSink;
    use crate::store::lock::wake_name;

    #[tokio::test]
    async fn every_kind_of_lock_wakes_its_waiters() {
        let keyspace = crate::keyspace::Keyspace::new(Some("shop")).unwrap();
        let invalidations = Arc::new(Invalidations::default());
        let waiter = invalidations.wakeups.subscribe(1);
        for name in [
            keyspace.lock("a"),
            keyspace.lock_group("a"),
            keyspace.election("a"),
            keyspace.rw_lock("a"),
            keyspace.semaphore("a").as_str().to_owned(),
            keyspace.keyed_semaphore("a", "b").as_str().to_owned(),
        ] {
            invalidations.changed(&wake_name(&name, 1));
            let notified = timeout(Duration::ZERO, waiter.notified(Duration::MAX)).await;
            assert!(notified.is_ok(), "a waiter for {name} is not woken");
        }
    }

    #[tokio::test]
    async fn a_wake_up_is_received_whether_it_arrives_before_or_after_the_wait_begins() {
        let invalidations = Arc::new(Invalidations::default());
        let (one, other) = (invalidations.wakeups.subscribe(1), invalidations.wakeups.subscribe(2));
        let silent = async |subscription: &Subscription| {
            timeout(Duration::ZERO, subscription.notified(Duration::MAX)).await.is_err()
        };
        invalidations.changed(&wake_name("~lock.2:{/a}", 1));
        one.notified(Duration::MAX).await;
        assert!(silent(&one).await && silent(&other).await);
        invalidations.changed(&wake_name("~lock.2:{/a}", 1));
        one.notified(Duration::MAX).await;
        invalidations.all_changed();
        one.notified(Duration::MAX).await;
        other.notified(Duration::MAX).await;
        assert!(silent(&one).await && silent(&other).await);
        drop((one, other));
        assert!(invalidations.wakeups.is_empty());
    }
}
