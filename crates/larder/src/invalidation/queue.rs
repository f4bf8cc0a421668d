//! The queue of invalidations: what callers add and ask, and what the sender takes. One lock, no timers and no store.
//!
//! The [table](super::table) keeps the items and bounds their size.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::table::{Invalidation, QueueTable};
use crate::stats::InvalidationStats;

/// Whether a sender is running already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a queue without a sender is never sent"]
pub(crate) enum Started {
    Already,
    /// The caller must start one.
    No,
}

/// Invalidations that are queued.
#[derive(Default)]
pub(crate) struct InvalidationQueue {
    table: Mutex<QueueTable>,
    pending: AtomicBool,
    /// Wakes the sender.
    changed: Notify,
    /// Notified when a request has ended.
    ended: Notify,
    sent: AtomicU64,
    refused: AtomicU64,
}

/// An item that is being sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) name: Arc<str>,
    pub(super) kind: Invalidation,
    generation: u64,
    /// The counter when the item was taken: an item with a generation up to this was queued before this one
    /// was sent.
    taken_at: u64,
}

/// The reply to the sender that asks for an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Send(Work),
    /// A tag, which waits until the epoch is replaced.
    AfterEpoch,
    /// The item is gone, or will be listed again when it can be sent.
    Nothing,
}

impl InvalidationQueue {
    /// Returns whether anything is queued; nearly always false. One atomic load.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Returns whether the server may hold an older value of an entry than this process wrote: the deletion
    /// of the entry is queued, or the replacement of its cache's clear version.
    ///
    /// A reader asks twice: before it sends its request, and after the answer has arrived. An item may leave
    /// the queue in between, while the answer is still from before the deletion. A value that was covered at
    /// either time is not served.
    pub(crate) fn covers(&self, name: &str, clear: &str) -> bool {
        if !self.is_pending() {
            return false;
        }
        let table = self.table();
        table.items.contains_key(name) || table.items.contains_key(clear)
    }

    /// Returns whether the replacement of a version is queued: what carries the server's version is invalid.
    pub(crate) fn replaces(&self, version: &str) -> bool {
        self.is_pending() && self.table().items.contains_key(version)
    }

    /// Begins a write to these names. Items that were queued for them before are not sent until [`end_write`]
    /// is called with the returned number, because the deletion must not follow the write.
    ///
    /// [`end_write`]: Self::end_write
    pub(crate) fn begin_write(&self, names: &[&str]) -> Option<u64> {
        if !self.is_pending() {
            return None;
        }
        let mut table = self.table();
        for name in names {
            *table.writers.entry((*name).into()).or_default() += 1;
        }
        Some(table.generation)
    }

    /// Waits until no request for these names is under way.
    pub(crate) async fn in_flight_ended(&self, names: &[&str]) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Subscribe before checking, so that a request which ends in between is noticed.
            ended.as_mut().enable();
            {
                let table = self.table();
                if !names.iter().any(|name| table.items.get(*name).is_some_and(|item| item.in_flight)) {
                    return;
                }
            }
            ended.await;
        }
    }

    /// Ends the write to a name that began at `began`. If the server has carried out the write, an item that
    /// was queued before it is removed, as it is no longer needed. An item that was queued since stays: it is
    /// not known which of the two came first.
    pub(crate) fn end_write(&self, name: &str, began: u64, carried_out: bool) {
        let mut table = self.table();
        if let Some(count) = table.writers.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                table.writers.remove(name);
            }
        }
        let Some(item) = table.items.get(name) else { return };
        if carried_out && item.generation <= began && !item.in_flight {
            table.remove(name);
            self.note_size(&table);
        } else if !item.listed && !item.in_flight && !table.writers.contains_key(name) {
            table.list(name);
        } else {
            return;
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Queues the deletion of entries of the cache whose clear version is `clear` (`None` for a cache without
    /// versions). `all_clears` returns the clear versions of all caches, for a queue that is full of tags.
    pub(crate) fn delete<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        clear: Option<&str>,
        all_clears: impl Fn() -> Vec<String>,
    ) -> Started {
        let clear: Option<Arc<str>> = clear.map(Arc::from);
        self.add(|table| {
            for name in names {
                table.put(name, Invalidation::Delete(clear.clone()));
                table.make_room(name, &all_clears);
            }
        })
    }

    /// Queues the replacement of the version that clears a cache.
    pub(crate) fn clear(&self, version: &str) -> Started {
        self.add(|table| table.put(version, Invalidation::Clear))
    }

    /// Queues the replacement of a tag's version, and of the epoch before it.
    pub(crate) fn tag(&self, tag: &str, epoch: &str, all_clears: impl Fn() -> Vec<String>) -> Started {
        self.add(|table| {
            table.put(tag, Invalidation::Tag);
            table.put(epoch, Invalidation::Epoch);
            table.make_room(tag, &all_clears);
        })
    }

    /// Returns the counters.
    pub(crate) fn counts(&self) -> InvalidationStats {
        let table = self.table();
        InvalidationStats {
            waiting: u64::try_from(table.items.len()).unwrap_or(u64::MAX),
            lost: table.lost,
            sent: self.sent.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Records that the sender ended before the queue was empty. The next call that queues an item starts
    /// another.
    pub(crate) fn sender_ended(&self) {
        let mut table = self.table();
        table.sending = false;
        // No request is under way any more, and the next sender must get every item.
        let mut all = Vec::with_capacity(table.items.len());
        for (name, item) in &mut table.items {
            (item.in_flight, item.listed) = (false, true);
            all.push(name.clone());
        }
        table.fresh = all;
        drop(table);
        self.ended.notify_waiters();
    }

    fn add(&self, add: impl FnOnce(&mut QueueTable)) -> Started {
        let mut table = self.table();
        add(&mut table);
        self.note_size(&table);
        let started = std::mem::replace(&mut table.sending, true);
        drop(table);
        self.changed.notify_one();
        if started { Started::Already } else { Started::No }
    }

    fn note_size(&self, table: &QueueTable) {
        self.pending.store(!table.items.is_empty(), Ordering::Release);
    }

    fn table(&self) -> MutexGuard<'_, QueueTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operations of the sender.
impl InvalidationQueue {
    /// Waits until there may be something new to send.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the names that the sender has not got yet.
    pub(super) fn take_fresh(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.table().fresh)
    }

    /// Removes the names that are no longer queued, if these are most of `names`.
    pub(super) fn prune(&self, names: &mut VecDeque<Arc<str>>) {
        let table = self.table();
        if names.len() > 2 * table.items.len() + 1024 {
            names.retain(|name| table.items.contains_key(name));
        }
    }

    /// Takes an item, to send it.
    pub(super) fn take(&self, name: &Arc<str>) -> Next {
        let mut table = self.table();
        let (epoch_replaced, taken_at) = (table.epoch_replaced, table.generation);
        let written = table.writers.contains_key(&**name);
        let Some(item) = table.items.get_mut(&**name) else { return Next::Nothing };
        if item.in_flight {
            return Next::Nothing;
        }
        if written {
            // `end_write` lists it again.
            item.listed = false;
            return Next::Nothing;
        }
        if item.kind == Invalidation::Tag && item.generation > epoch_replaced {
            return Next::AfterEpoch;
        }
        item.in_flight = true;
        Next::Send(Work {
            name: name.clone(),
            kind: item.kind.clone(),
            generation: item.generation,
            taken_at,
        })
    }

    /// Records the answer to an item. Removes the item, unless it was queued again since it was taken. In
    /// that case returns `true`, and the sender must send it again.
    pub(super) fn answered(&self, work: &Work) -> bool {
        let mut table = self.table();
        if work.kind == Invalidation::Epoch {
            table.epoch_replaced = table.epoch_replaced.max(work.taken_at);
        }
        let again = match table.items.get_mut(&work.name) {
            None => false,
            Some(item) if item.generation == work.generation => {
                table.remove(&work.name);
                self.note_size(&table);
                false
            }
            Some(item) => {
                item.in_flight = false;
                true
            }
        };
        drop(table);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.ended.notify_waiters();
        again
    }

    /// Records that an item was not carried out, or that this is unknown. It stays.
    pub(super) fn failed(&self, work: &Work, refused: bool) {
        if let Some(item) = self.table().items.get_mut(&work.name) {
            item.in_flight = false;
        }
        if refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.ended.notify_waiters();
    }

    /// Returns whether the queue is empty. If it is, the sender must end, and the next call that queues an
    /// item starts another.
    pub(super) fn end_if_empty(&self) -> bool {
        let mut table = self.table();
        let empty = table.items.is_empty();
        if empty {
            table.sending = false;
            table.fresh.clear();
        }
        empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(names: &[&str]) -> InvalidationQueue {
        let queue = InvalidationQueue::default();
        let _ = queue.delete(names.iter().copied(), Some("clear"), Vec::new);
        queue
    }

    fn take(queue: &InvalidationQueue, name: &str) -> Work {
        match queue.take(&name.into()) {
            Next::Send(work) => work,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn an_item_leaves_when_its_own_answer_arrives() {
        let queue = queue(&["a", "b"]);
        let (a, b) = (take(&queue, "a"), take(&queue, "b"));
        queue.failed(&a, false);
        assert!(!queue.answered(&b));
        assert!(queue.covers("a", "other") && !queue.covers("b", "other"));
        assert!(!queue.answered(&take(&queue, "a")));
        assert!(!queue.is_pending() && !queue.covers("a", "other"));
    }

    #[test]
    fn a_late_answer_does_not_remove_a_newer_item() {
        let queue = queue(&["a"]);
        let first = take(&queue, "a");
        let _ = queue.delete(["a"], Some("clear"), Vec::new);
        assert!(queue.answered(&first), "it is to be sent again");
        assert!(queue.covers("a", "other"));
        assert!(!queue.answered(&take(&queue, "a")));
        assert!(!queue.is_pending());
    }

    #[test]
    fn a_tag_waits_for_an_epoch_that_was_sent_after_it_was_queued() {
        let queue = InvalidationQueue::default();
        let _ = queue.tag("one", "epoch", Vec::new);
        let early = take(&queue, "epoch");
        let _ = queue.tag("two", "epoch", Vec::new);
        assert!(queue.answered(&early), "the epoch was queued again");
        let one = take(&queue, "one");
        assert_eq!(queue.take(&"two".into()), Next::AfterEpoch);
        assert!(queue.replaces("one") && queue.replaces("two"));
        assert!(!queue.answered(&take(&queue, "epoch")));
        assert!(!queue.answered(&one) && !queue.answered(&take(&queue, "two")));
        assert!(!queue.is_pending());
    }

    #[test]
    fn a_write_that_was_carried_out_removes_what_was_queued_before_it_and_nothing_newer() {
        let queue = queue(&["a", "b", "c"]);
        let began = queue.begin_write(&["a", "b", "c"]).unwrap();
        assert_eq!(queue.take(&"a".into()), Next::Nothing, "a deletion was sent beside a write");
        let _ = queue.delete(["b"], Some("clear"), Vec::new);
        queue.take_fresh();
        for (name, carried_out) in [("a", true), ("b", true), ("c", false)] {
            queue.end_write(name, began, carried_out);
        }
        assert!(!queue.covers("a", "other"));
        assert!(queue.covers("b", "other"), "which of the two came first is not known");
        assert!(queue.covers("c", "other"));
        take(&queue, "b");
        take(&queue, "c");
    }

    #[test]
    fn what_waited_for_a_write_is_listed_again() {
        let queue = queue(&["a"]);
        let began = queue.begin_write(&["a"]).unwrap();
        for name in queue.take_fresh() {
            assert_eq!(queue.take(&name), Next::Nothing);
        }
        assert!(queue.take_fresh().is_empty());
        queue.end_write("a", began, false);
        assert_eq!(queue.take_fresh(), [Arc::<str>::from("a")]);
    }

    #[test]
    fn a_full_queue_clears_the_cache_that_fills_it_and_no_other() {
        let queue = queue(&[]);
        let _ = queue.delete(["post:1"], Some("clear-post"), Vec::new);
        let mut number = 0;
        while !queue.replaces("clear-user") {
            number += 1;
            assert!(number < 400_000, "the queue is not bounded");
            let name = format!("user:{number:050}");
            let _ = queue.delete([&*name], Some("clear-user"), Vec::new);
        }
        assert!(number > 100_000, "{number}");
        assert!(queue.covers("post:1", "clear-post") && !queue.replaces("clear-post"));
        assert!(queue.covers("user:1", "clear-user"));
        assert_eq!(queue.counts().waiting, 2);
        // The bound also holds for what is queued later.
        let _ = queue.delete(["user:again"], Some("clear-user"), Vec::new);
        assert_eq!(queue.counts().waiting, 3);
    }

    #[test]
    fn a_flood_of_plain_names_costs_names_of_its_own_and_clears_no_cache() {
        let queue = queue(&["user:1"]);
        let all = || vec!["clear".to_owned()];
        let _ = queue.tag("tag", "epoch", all);
        let mut number = 0;
        while queue.counts().lost == 0 {
            number += 1;
            assert!(number < 400_000, "the queue is not bounded");
            assert!(!queue.replaces("clear"), "another cache is cleared for it");
            let _ = queue.delete([&*format!("plain:{number:050}")], None, all);
        }
        assert!(number > 100_000, "{number}");
        // A name of another cache is kept, and plain names are dropped for it.
        let _ = queue.delete([&*format!("user:{number:0300}")], Some("clear"), all);
        assert!(queue.covers("user:1", "other") && queue.replaces("tag") && !queue.replaces("clear"));
        let counts = queue.counts();
        assert!(counts.lost > 1, "{counts:?}");
        // The other cache's two names, the tag and the epoch, and the plain names that were not lost.
        assert_eq!(counts.waiting + counts.lost, number + 4);
    }

    #[test]
    fn a_queue_full_of_tags_clears_all_caches() {
        let queue = queue(&["user:1"]);
        let all = || vec!["clear-user".to_owned(), "clear-post".to_owned()];
        let mut number = 0;
        while !queue.replaces("clear-post") {
            number += 1;
            assert!(number < 400_000, "the queue is not bounded");
            let _ = queue.tag(&format!("tag:{number:050}"), "epoch", all);
        }
        assert!(queue.replaces("clear-user") && queue.covers("user:1", "other") && queue.replaces("epoch"));
        assert_eq!(queue.counts().waiting, 4);
    }

    #[test]
    fn after_a_sender_that_ended_early_another_knows_of_everything() {
        let queue = queue(&["a", "b"]);
        queue.take_fresh();
        let _a = take(&queue, "a");
        queue.sender_ended();
        assert_eq!(queue.delete(["c"], None, Vec::new), Started::No);
        assert_eq!(queue.take_fresh().len(), 3);
        take(&queue, "a");
    }
}
