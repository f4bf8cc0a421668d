//! Receives the store's notifications of changes, and passes them on.
//!
//! A change names an entry, or a version (of a tag, a cache or the epoch). The name of an entry is parsed once,
//! into its cache and its key; the change goes to the near tier of that cache, whatever the schema. The change of
//! a version goes to the table of versions; if the version is that of a cache, it empties the cache's near tier.
//! Both also go to the tasks that watch that name, such as callers that wait for another process's load. The
//! wake-up of an attempt at a lock goes to that attempt alone.
//!
//! All of this runs in the task that reads the connection, so nothing here waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::key::EntryName;
use super::tier::AnyTier;
use super::version::Versions;
use super::wakeups::Wakeups;
use crate::keyspace::ELECTION;
use crate::store::InvalidationSink;
use crate::store::group::is_group;
use crate::store::lock::woken;
use crate::store::permit::is_semaphore;
use crate::sync::{AtomicUsize, Mutex, Ordering, RwLock};

#[derive(Default)]
pub(crate) struct Invalidations {
    /// Near tiers, by the names of their caches, with the namespace, and of the versions that clear them.
    tiers: RwLock<HashMap<String, Arc<dyn AnyTier>>>,
    pub(crate) versions: Versions,
    pub(crate) wakeups: Arc<Wakeups>,
    watches: Mutex<HashMap<String, (watch::Sender<()>, usize)>>,
    /// How many watches there are. Nearly always none, and then a change skips the lock.
    watched: AtomicUsize,
}

impl Invalidations {
    pub(crate) fn register(&self, key: &str, tier: Arc<dyn AnyTier>) {
        let mut tiers = self.tiers.write();
        tiers.entry(key.to_owned()).or_insert(tier);
    }

    /// Watches for changes of `name` until the returned value is dropped.
    pub(crate) fn watch(self: &Arc<Self>, name: &str) -> Watch {
        let mut watches = self.watches.lock();
        let (sender, count) = watches.entry(name.to_owned()).or_insert_with(|| (watch::channel(()).0, 0));
        *count += 1;
        let changed = sender.subscribe();
        self.watched.fetch_add(1, Ordering::AcqRel);
        Watch { invalidations: self.clone(), name: name.to_owned(), changed }
    }

    fn wake(&self, name: Option<&str>) {
        if self.watched.load(Ordering::Acquire) == 0 {
            return;
        }
        let watches = self.watches.lock();
        match name {
            Some(name) => {
                if let Some((sender, _)) = watches.get(name) {
                    sender.send_replace(());
                }
            }
            None => watches.values().for_each(|(sender, _)| {
                sender.send_replace(());
            }),
        }
    }
}

impl InvalidationSink for Invalidations {
    fn changed(&self, name: &str) {
        if (name.starts_with("~lock") || is_semaphore(name) || is_group(name) || name.starts_with(ELECTION))
            && let Some(token) = woken(name)
        {
            return self.wakeups.notify(token);
        }
        if name.starts_with('~') {
            self.versions.changed(name);
            if let Some(tier) = self.tiers.read().get(name) {
                tier.invalidate_all();
            }
        } else if let Some(entry) = EntryName::parse(name)
            && let Some(tier) = self.tiers.read().get(entry.cache)
        {
            tier.invalidate(entry.key);
        }
        self.wake(Some(name));
    }

    fn all_changed(&self) {
        self.wakeups.notify_all();
        self.versions.all_changed();
        for tier in self.tiers.read().values() {
            tier.invalidate_all();
        }
        self.wake(None);
    }
}

/// A watch for changes of one name.
pub(crate) struct Watch {
    invalidations: Arc<Invalidations>,
    name: String,
    changed: watch::Receiver<()>,
}

impl Watch {
    /// Waits for a change since the last call, at most for `max_wait`.
    pub(crate) async fn changed(&mut self, max_wait: Duration) {
        let _ = tokio::time::timeout(max_wait, self.changed.changed()).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.invalidations.watches.lock();
        if let Some((_, count)) = watches.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                watches.remove(&self.name);
            }
        }
        self.invalidations.watched.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::{Copied, EntryKey, EntryKeyRef, Tier};

    #[tokio::test]
    async fn a_change_reaches_the_tier_the_versions_and_the_waiters() {
        let invalidations = Arc::new(Invalidations::default());
        let users = Arc::new(Tier::<EntryKey, u32>::new(1 << 20));
        let posts = Arc::new(Tier::<EntryKey, u32>::new(1 << 20));
        invalidations.register("shop/user", users.clone());
        invalidations.register("~clear.1:{shop/user}", users.clone());
        invalidations.register("shop/post", posts.clone());
        fn key(name: &str) -> EntryKeyRef<'_> {
            EntryName::parse(name).unwrap().key
        }
        let fill = |tier: &Tier<EntryKey, u32>, name: &str| {
            assert!(tier.insert(key(name), tier.ticket(&key(name)), Copied { what: 1, bytes: 1 }));
        };
        for name in ["shop/user:1", "shop/user:2", "shop/user@2:1", "shop/user:"] {
            fill(&users, name);
        }
        fill(&posts, "shop/post:1");

        // A change drops the copy of that name and notifies its waiters, and nothing else.
        let mut watch = invalidations.watch("shop/user:1");
        let mut other = invalidations.watch("shop/user:2");
        invalidations.changed("other/user:1");
        invalidations.changed("shop/user@3:1");
        assert_eq!(users.get(&EntryKeyRef::int(0, 1)), Some(1), "another namespace's or schema's change");
        invalidations.changed("shop/user:1");
        watch.changed(Duration::MAX).await;
        assert!(tokio::time::timeout(Duration::ZERO, other.changed(Duration::MAX)).await.is_err());
        let left = |name| users.get(&key(name)).is_some();
        assert_eq!(["user:1", "user:2", "user@2:1", "user:"].map(left), [false, true, true, true]);
        invalidations.changed("shop/user@2:1");
        invalidations.changed("shop/user:");
        assert_eq!(["user:1", "user:2", "user@2:1", "user:"].map(left), [false, true, false, false]);

        // A changed version invalidates its cache; a lost connection invalidates everything.
        invalidations.changed("~clear.1:{shop/user}");
        assert_eq!((left("user:2"), posts.get(&key("post:1"))), (false, Some(1)));
        invalidations.all_changed();
        other.changed(Duration::MAX).await;
        assert_eq!(posts.get(&key("post:1")), None);

        // Waiters that left are forgotten, and names of other programs are ignored.
        drop((watch, other));
        assert!(invalidations.watches.lock().is_empty());
        invalidations.changed("no colon");
        invalidations.changed("");
    }
}
