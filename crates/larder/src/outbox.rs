//! Invalidations that the server could not be told of, kept until it is back.
//!
//! A write that fails for want of the server leaves an older value there, which would be served when the server returns. So
//! its name is queued, and deleted then; a version that was to be replaced is replaced then. While anything is queued, near
//! reads are bypassed. The queue is bounded: when it is full, the names of a cache make room for one invalidation of all of it.
//!
//! Not promised: anything that is still queued when the process ends. The time to live bounds that.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::name::Name;

/// How many names are kept before a cache is cleared instead.
const MOST: usize = 10_000;
/// How many are sent at once.
const BATCH: usize = 500;

#[derive(Default)]
struct Queue {
    /// Names to delete, by the clear version of their cache; `None` for caches that have none.
    deletes: HashMap<Option<Box<str>>, HashSet<Box<str>>>,
    count: usize,
    /// Versions to replace.
    renewals: HashSet<Box<str>>,
    /// Whether a task is sending.
    sending: bool,
    /// What it is sending just now.
    under_way: HashSet<Box<str>>,
}

impl Queue {
    fn replaces(&self, version: &str) -> bool {
        self.renewals.contains(version) || self.under_way.contains(version)
    }
}

#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    pending: AtomicBool,
}

/// What is to be sent next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// With the clear version of its cache.
    pub(crate) deletes: Vec<(Name, Option<Box<str>>)>,
    pub(crate) renewals: Vec<Name>,
}

/// What adding to the queue came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// Somebody sends already.
    Queued,
    /// The caller must see to it that what is queued is sent.
    Send,
}

impl Outbox {
    /// Whether anything waits to be sent.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether what the server has of an entry is older than what this process wrote: its invalidation, or that of its whole
    /// cache, whose clear version is `clear`, has not been sent yet.
    pub(crate) fn holds(&self, name: &str, clear: &str) -> bool {
        if !self.is_pending() {
            return false;
        }
        let queue = self.queue();
        let deletes = || queue.deletes.values().any(|names| names.contains(name));
        queue.under_way.contains(name) || queue.replaces(clear) || deletes()
    }

    /// Whether a version is to be replaced, and has not been yet.
    pub(crate) fn replaces(&self, version: &str) -> bool {
        self.is_pending() && self.queue().replaces(version)
    }

    /// These were written to since, and the server has answered: what is queued of them is of no use any more.
    pub(crate) fn settled(&self, names: &[&str]) {
        if !self.is_pending() {
            return;
        }
        let mut queue = self.queue();
        for name in names {
            let removed =
                queue.deletes.values_mut().map(|names| usize::from(names.remove(*name))).sum::<usize>();
            queue.count -= removed;
            queue.under_way.remove(*name);
        }
    }

    /// There is no runtime to send in: the next to be queued is to try again.
    pub(crate) fn nobody_sends(&self) {
        self.queue().sending = false;
    }

    /// Queues the deletion of an entry, of the cache whose clear version is `clear`.
    pub(crate) fn delete(&self, name: &str, clear: Option<&str>) -> Added {
        let mut queue = self.queue();
        if clear.is_some_and(|clear| queue.renewals.contains(clear)) {
            // The whole cache is to be cleared already.
            return self.queued(queue);
        }
        if queue.count >= MOST {
            let Some(clear) = clear else {
                // Bare JSON has no versions: what is queued already is worth as much as this.
                tracing::error!("the queue of invalidations is full: one of a Format::Plain cache is lost");
                return self.queued(queue);
            };
            // Its name alone: the namespace stays out of the log.
            let cache = clear.rsplit('/').next().unwrap_or_default().trim_end_matches('}');
            tracing::warn!(%cache, "the queue of invalidations is full: a cache will be cleared");
            let dropped = queue.deletes.remove(&Some(clear.into())).map_or(0, |names| names.len());
            queue.count -= dropped;
            queue.renewals.insert(clear.into());
            return self.queued(queue);
        }
        if queue.deletes.entry(clear.map(Into::into)).or_default().insert(name.into()) {
            queue.count += 1;
        }
        self.queued(queue)
    }

    /// Queues the replacement of a version.
    pub(crate) fn renew(&self, version: &str) -> Added {
        let mut queue = self.queue();
        queue.renewals.insert(version.into());
        self.queued(queue)
    }

    /// How many versions wait: tags are not bounded by the number of caches.
    pub(crate) fn is_full(&self) -> bool {
        self.queue().renewals.len() >= MOST
    }

    fn queued(&self, mut queue: MutexGuard<'_, Queue>) -> Added {
        self.pending.store(true, Ordering::Release);
        if std::mem::replace(&mut queue.sending, true) { Added::Queued } else { Added::Send }
    }

    /// Takes out what to send next, or nothing: then the sender's work is done.
    pub(crate) fn next(&self) -> Option<Batch> {
        let mut queue = self.queue();
        queue.under_way.clear();
        let all = queue.deletes.iter().flat_map(|(clear, names)| names.iter().map(move |name| (name, clear)));
        let deletes: Vec<_> =
            all.take(BATCH).map(|(name, clear)| (Name::from(&**name), clear.clone())).collect();
        // The epoch before any tag, as in `Tag::invalidate`: see cache/tag.rs.
        let (epochs, others): (Vec<_>, Vec<_>) =
            queue.renewals.iter().partition(|name| name.starts_with("~epoch."));
        let renewals: Vec<Name> =
            epochs.into_iter().chain(others).take(BATCH).map(|name| Name::from(&**name)).collect();
        if deletes.is_empty() && renewals.is_empty() {
            queue.sending = false;
            self.pending.store(false, Ordering::Release);
            return None;
        }
        for (name, clear) in &deletes {
            if queue.deletes.get_mut(clear).is_some_and(|names| names.remove(name.as_str())) {
                queue.count -= 1;
            }
        }
        queue.deletes.retain(|_, names| !names.is_empty());
        for name in &renewals {
            queue.renewals.remove(name.as_str());
        }
        queue
            .under_way
            .extend(deletes.iter().map(|(name, _)| name).chain(&renewals).map(|name| name.as_str().into()));
        Some(Batch { deletes, renewals })
    }

    /// Puts back what could not be sent.
    pub(crate) fn failed(&self, batch: Batch) {
        for (name, clear) in batch.deletes {
            self.delete(&name, clear.as_deref());
        }
        for version in batch.renewals {
            self.renew(&version);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_queued_is_handed_out_until_it_was_sent() {
        let outbox = Outbox::default();
        assert_eq!(outbox.delete("user:1", Some("clear")), Added::Send);
        assert_eq!(outbox.delete("user:1", Some("clear")), Added::Queued);
        assert_eq!(outbox.renew("tag"), Added::Queued);
        assert!(outbox.is_pending());
        let batch = outbox.next().unwrap();
        assert_eq!(batch.deletes, [(Name::from("user:1"), Some("clear".into()))]);
        assert_eq!(batch.renewals, [Name::from("tag")]);
        // Written again while the first is on its way: that one is to be sent, too.
        outbox.delete("user:1", Some("clear"));
        assert_eq!(outbox.next().unwrap().deletes.len(), 1);
        outbox.failed(batch);
        assert!(outbox.is_pending());
        assert_eq!(outbox.next().unwrap().deletes.len(), 1);
        assert_eq!(outbox.next(), None);
        assert!(!outbox.is_pending());
        assert_eq!(outbox.delete("user:1", Some("clear")), Added::Send, "nobody sends any more");
    }

    #[test]
    fn what_is_on_its_way_is_overdue_until_it_was_sent_or_written_anew() {
        let outbox = Outbox::default();
        outbox.delete("user:1", Some("clear"));
        outbox.delete("user:2", Some("clear"));
        outbox.renew("tag");
        let overdue = |name| outbox.holds(name, "clear");
        assert!(overdue("user:1") && !overdue("user:3") && outbox.replaces("tag"));
        let _under_way = outbox.next();
        assert!(overdue("user:1") && overdue("user:2") && outbox.replaces("tag"));
        outbox.settled(&["user:2"]);
        assert!(overdue("user:1") && !overdue("user:2"));
        assert_eq!(outbox.next(), None);
        assert!(!overdue("user:1") && !outbox.replaces("tag"));
    }

    #[test]
    fn the_epoch_is_replaced_before_any_tag() {
        let outbox = Outbox::default();
        for i in 0..2 * BATCH {
            outbox.renew(&format!("~tag.1:{{/{i}}}"));
        }
        outbox.renew("~epoch.1:{/}");
        assert_eq!(outbox.next().unwrap().renewals.first(), Some(&Name::from("~epoch.1:{/}")));
    }

    #[test]
    fn a_full_queue_clears_the_cache_that_needs_room() {
        let outbox = Outbox::default();
        for i in 0..=MOST {
            outbox.delete(&format!("user:{i}"), Some("clear-user"));
        }
        outbox.delete("post:1", Some("clear-post"));
        let batch = outbox.next().unwrap();
        assert_eq!(batch.renewals, [Name::from("clear-user")]);
        assert_eq!(batch.deletes, [(Name::from("post:1"), Some("clear-post".into()))]);
    }
}
