//! The queues of keys that callers of this process wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::super::wait_queue::WaitQueue;

/// A queue lives as long as callers hold it.
#[derive(Default)]
pub(super) struct KeyQueues(Mutex<KeyQueueTable>);

#[derive(Default)]
struct KeyQueueTable {
    queues: HashMap<Vec<u8>, Weak<WaitQueue>>,
    /// At this size, unused queues are removed.
    sweep_at: usize,
}

impl KeyQueues {
    /// Returns the queue of a key's callers; makes one if there is none.
    pub(super) fn queue(&self, key: &[u8]) -> Arc<WaitQueue> {
        let mut all = self.all();
        if let Some(queue) = all.queues.get(key).and_then(Weak::upgrade) {
            return queue;
        }
        if all.queues.len() >= all.sweep_at {
            all.queues.retain(|_, queue| queue.strong_count() > 0);
            all.sweep_at = 2 * all.queues.len() + 16;
        }
        let queue = Arc::default();
        all.queues.insert(key.to_owned(), Arc::downgrade(&queue));
        queue
    }

    /// Returns the queue of a key, if callers wait for it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<WaitQueue>> {
        self.all().queues.get(key).and_then(Weak::upgrade)
    }

    /// Returns the queues of all keys that callers wait for.
    pub(super) fn live(&self) -> Vec<Arc<WaitQueue>> {
        self.all().queues.values().filter_map(Weak::upgrade).collect()
    }

    fn all(&self) -> MutexGuard<'_, KeyQueueTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
