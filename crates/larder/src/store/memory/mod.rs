//! The embedded store: larder in one process, without a server.
//!
//! It is a product (for a laptop, a command-line tool, a test) and the executable specification of what the
//! Redis store does in Lua. Entries are in a bounded cache and may be evicted. Locks and limits are not in
//! that cache, because an evicted lock would have two holders. Nothing outlives the process.

#[cfg(feature = "admin")]
mod admin;
mod entries;
mod groups;
mod jobs;
mod limit;
mod limits;
mod locks;
mod once;
mod presence;
mod semaphores;
mod shards;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::lock::QueueTiming;
use super::session::{ReadStamp, Sessions};
use super::{
    Claim, Expiry, Fencing, FillStart, Force, InvalidationSink, KeptVersion, RefreshClaim, RefreshStart,
    Store, Tracked,
};
use crate::clock::{Clock, Tick};
use crate::error::Result;
use crate::name::Name;
use entries::Entries;
use groups::Groups;
use jobs::Jobs;
pub(crate) use limits::MemoryLimits;
use locks::MemoryLocks;
use semaphores::Semaphores;

/// How much the embedded store keeps before it evicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_entries: 1_000_000, max_bytes: 256 * 1024 * 1024 }
    }
}

pub(crate) struct MemoryStore {
    clock: Clock,
    started: Tick,
    /// Microseconds since 1970 at its start. From then on the clock that also counts suspended time is used,
    /// so that setting the wall clock does not move this store's time.
    started_at: u64,
    entries: Entries,
    sink: Arc<dyn InvalidationSink>,
    pub(super) timing: QueueTiming,
    sessions: Sessions,
    jobs: Jobs,
    locks: MemoryLocks,
    groups: Groups,
    semaphores: Semaphores,
    limits: Box<MemoryLimits>,
}

impl MemoryStore {
    pub(crate) fn new(bounds: Bounds, clock: Clock, sink: Arc<dyn InvalidationSink>) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_at = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        Self::starting_at(started_at, bounds, clock, sink)
    }

    /// Makes a store for a test's world. `started_at` is the time of its start, in microseconds since 1970.
    #[cfg(feature = "testing")]
    pub(crate) fn of_world(started_at: u64, clock: Clock, sink: Arc<dyn InvalidationSink>) -> Self {
        let mut store = Self::starting_at(started_at, Bounds::default(), clock, sink);
        store.limits = Box::new(MemoryLimits::without_task());
        store
    }

    fn starting_at(started_at: u64, bounds: Bounds, clock: Clock, sink: Arc<dyn InvalidationSink>) -> Self {
        Self {
            started: clock.now(),
            started_at,
            entries: Entries::new(bounds, sink.clone()),
            sink,
            timing: QueueTiming::default(),
            sessions: Sessions::embedded(),
            jobs: Jobs::default(),
            locks: MemoryLocks::default(),
            groups: Groups::default(),
            semaphores: Semaphores::default(),
            limits: Box::default(),
            clock,
        }
    }

    pub(super) fn now_micros(&self) -> u64 {
        let since = self.clock.now().since(self.started);
        self.started_at.saturating_add(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Removes an entry as an eviction does, and returns whether there was one.
    #[cfg(feature = "testing")]
    pub(crate) fn evict(&self, name: &str) -> bool {
        self.entries.delete(name, self.clock.now())
    }

    fn tracked(&self, name: &str, now: Tick) -> Tracked {
        let (bytes, left) = self.entries.get_with_left(name, now).unzip();
        Tracked { bytes, stamp: Some(ReadStamp::ALWAYS), left: left.flatten() }
    }

    /// How many entries are kept, including expired ones that have not been removed yet, and their weight in
    /// bytes.
    #[cfg(test)]
    fn kept(&self) -> (usize, u64) {
        self.entries.kept()
    }
}

impl Store for MemoryStore {
    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn now(&self) -> u64 {
        self.now_micros() / 1000
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.entries.get(name, self.clock.now()))
    }

    async fn get_many(&self, names: &[Name]) -> Result<Vec<Option<Bytes>>> {
        let now = self.clock.now();
        Ok(names.iter().map(|name| self.entries.get(name, now)).collect())
    }

    async fn get_tracked(&self, name: &str) -> Result<Tracked> {
        Ok(self.tracked(name, self.clock.now()))
    }

    async fn get_many_tracked(&self, names: &[Name]) -> Result<Vec<Tracked>> {
        let now = self.clock.now();
        Ok(names.iter().map(|name| self.tracked(name, now)).collect())
    }

    #[inline]
    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn node(&self, _: &str) -> usize {
        0
    }

    async fn peek(&self, name: &str) -> Result<Bytes> {
        Ok(self.entries.get(name, self.clock.now()).map(entries::first_bytes).unwrap_or_default())
    }

    async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()> {
        self.entries.set(name, value, expiry, self.clock.now())
    }

    async fn set_many(&self, entries: Vec<(Name, Bytes, Expiry)>) -> Vec<Result<()>> {
        let now = self.clock.now();
        entries.into_iter().map(|(name, value, expiry)| self.entries.set(&name, value, expiry, now)).collect()
    }

    async fn delete(&self, name: &str) -> Result<bool> {
        Ok(self.entries.delete(name, self.clock.now()))
    }

    async fn delete_many(&self, names: &[Name]) -> Vec<Result<bool>> {
        let now = self.clock.now();
        names.iter().map(|name| Ok(self.entries.delete(name, now))).collect()
    }

    async fn touch(&self, name: &str, expiry: Expiry) -> Result<bool> {
        self.entries.touch(name, expiry, self.clock.now())
    }

    async fn remaining(&self, name: &str) -> Result<Option<(Bytes, Expiry)>> {
        Ok(self.entries.remaining(name, self.clock.now()))
    }

    async fn remaining_many(&self, names: &[Name]) -> Result<Vec<Option<Duration>>> {
        let now = self.clock.now();
        let left = |name: &Name| self.entries.get_with_left(name, now).and_then(|(_, left)| left);
        Ok(names.iter().map(left).collect())
    }

    async fn begin_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        liveness: Duration,
        unreadable: Option<Bytes>,
    ) -> Result<FillStart> {
        self.entries.begin_fill(name, placeholder, liveness, unreadable, self.clock.now())
    }

    async fn commit_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<bool> {
        self.entries.commit_fill(name, &placeholder, value, expiry, self.clock.now())
    }

    async fn abandon_fill(&self, name: &str, placeholder: Bytes) -> Result<()> {
        self.entries.abandon_fill(name, &placeholder, self.clock.now());
        Ok(())
    }

    async fn begin_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        liveness: Duration,
        force: Force,
    ) -> Result<RefreshStart> {
        self.entries.begin_refresh(name, claim, liveness, force, self.clock.now())
    }

    async fn commit_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        value: Option<Bytes>,
        expiry: Expiry,
    ) -> Result<bool> {
        self.entries.commit_refresh(name, claim, value, expiry, self.clock.now())
    }

    async fn abandon_refresh(&self, name: &str, claim: RefreshClaim) -> Result<()> {
        self.entries.abandon_refresh(name, claim, self.clock.now());
        Ok(())
    }

    async fn renew_load(&self, name: &str, claim: Claim, liveness: Duration) -> Result<bool> {
        self.entries.renew_load(name, claim, liveness, self.clock.now())
    }

    async fn restamp(&self, name: &str, nonce: u64, value: Bytes, expiry: Option<Expiry>) -> Result<bool> {
        self.entries.restamp(name, nonce, value, expiry, self.clock.now())
    }

    async fn version(&self, name: &str, candidate: u64, span: Duration) -> Result<KeptVersion> {
        let (version, left) = self.entries.version(name, candidate, span, self.clock.now())?;
        Ok(KeptVersion { version, left, stamp: Some(ReadStamp::ALWAYS) })
    }

    async fn renew_version(&self, name: &str, version: u64, span: Duration) -> Result<()> {
        self.entries.renew_version(name, version, span, self.clock.now())
    }

    async fn set_fenced(&self, name: &str, value: Bytes, expiry: Expiry, fence: Fencing) -> Result<bool> {
        self.entries.set_fenced(name, value, expiry, fence, self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    struct Deaf;

    impl InvalidationSink for Deaf {
        fn changed(&self, _: &str) {}
        fn all_changed(&self) {}
    }

    fn store(bounds: Bounds) -> (MemoryStore, Arc<AtomicU64>) {
        let micros = Arc::new(AtomicU64::new(0));
        (MemoryStore::new(bounds, Clock::Manual(micros.clone()), Arc::new(Deaf)), micros)
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn an_entry_is_gone_at_its_expiry_and_not_before() {
        let (store, micros) = store(Bounds::default());
        store.set("a", bytes("x"), Expiry::After(SECOND)).await.unwrap();
        micros.store(999_999, Ordering::Release);
        assert_eq!(store.get("a").await.unwrap(), Some(bytes("x")));
        micros.store(1_000_000, Ordering::Release);
        assert_eq!(store.get("a").await.unwrap(), None);
        assert_eq!(store.remaining("a").await.unwrap(), None);
        assert!(!store.delete("a").await.unwrap());
        assert!(!store.touch("a", Expiry::Never).await.unwrap());
    }

    #[tokio::test]
    async fn neither_bound_is_passed() {
        let bounds = Bounds { max_entries: 1000, max_bytes: 1 << 20 };
        let (few_large, _) = store(bounds);
        let (many_small, _) = store(bounds);
        for i in 0..5000 {
            few_large.set(&format!("l{i}"), Bytes::from(vec![0; 8000]), Expiry::Never).await.unwrap();
            many_small.set(&format!("s{i}"), bytes("x"), Expiry::Never).await.unwrap();
        }
        for store in [few_large, many_small] {
            let (entries, weight) = store.kept();
            assert!(entries > 50 && entries <= 1000, "{entries}");
            assert!(weight <= bounds.max_bytes, "{weight}");
        }
    }

    #[tokio::test]
    async fn a_store_of_one_entry_keeps_one() {
        let (store, _) = store(Bounds { max_entries: 1, max_bytes: 1 << 20 });
        for name in ["a", "b", "c"] {
            store.set(name, bytes("x"), Expiry::Never).await.unwrap();
        }
        assert_eq!(store.kept().0, 1);
    }

    #[tokio::test]
    async fn a_value_larger_than_the_store_is_an_error_and_not_a_silent_loss() {
        let (store, _) = store(Bounds { max_entries: 100, max_bytes: 10_000 });
        let error = store.set("a", Bytes::from(vec![0; 20_000]), Expiry::Never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLarge);
    }

    #[tokio::test]
    async fn any_change_of_the_name_invalidates_a_fill() {
        let (store, micros) = store(Bounds::default());
        let begin = |name: &'static str| store.begin_fill(name, bytes("token"), SECOND, None);
        let commit =
            |name: &'static str| store.commit_fill(name, bytes("token"), bytes("loaded"), Expiry::Never);

        assert_eq!(begin("free").await.unwrap(), FillStart::Begun);
        assert!(commit("free").await.unwrap());
        assert_eq!(store.get("free").await.unwrap(), Some(bytes("loaded")));

        begin("set").await.unwrap();
        store.set("set", bytes("newer"), Expiry::Never).await.unwrap();
        assert!(!commit("set").await.unwrap());
        assert_eq!(store.get("set").await.unwrap(), Some(bytes("newer")));

        begin("deleted").await.unwrap();
        store.delete("deleted").await.unwrap();
        assert!(!commit("deleted").await.unwrap());

        begin("expired").await.unwrap();
        micros.store(1_000_000, Ordering::Release);
        assert!(!commit("expired").await.unwrap());
    }

    #[tokio::test]
    async fn a_tag_keeps_its_version_for_as_long_as_it_is_used() {
        let (store, micros) = store(Bounds::default());
        for seconds in 0..10u64 {
            micros.store(seconds * 1_500_000, Ordering::Release);
            let kept = store.version("tag", seconds + 1, SECOND).await.unwrap();
            assert_eq!(kept.version, 1, "after {seconds}");
            assert!(kept.left >= SECOND);
        }
        micros.fetch_add(2_000_000, Ordering::AcqRel);
        assert_eq!(store.get("tag").await.unwrap(), None);
    }
}
