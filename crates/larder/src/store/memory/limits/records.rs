//! Keeps the records and the overrides, and removes those that have ended.
//!
//! A queue has one item for each record and override, with a time at which it may have ended. An item whose record or
//! override is still needed at that time returns to the queue, with the current end. So removal costs nothing
//! while keys are in use. After a flood of keys, the records go soon after their windows have passed: each
//! charge removes a few, and a task removes the rest in steps that each hold the lock for a short time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::record::LimitRecord;
use crate::store::limit::{Label, QuotaSpec};

/// How many keys the task checks while it holds the lock.
const STEP: usize = 1000;
/// The shortest and the longest sleep of the task.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

#[derive(Default)]
pub(super) struct LimitRecords(Mutex<RecordTable>);

/// The override of one key.
#[derive(Debug, Clone)]
pub(super) struct Overridden {
    pub(super) until: u64,
    pub(super) specs: Vec<QuotaSpec>,
    pub(super) labels: Vec<Label>,
}

#[derive(Default)]
pub(super) struct RecordTable {
    records: HashMap<Arc<str>, LimitRecord>,
    /// When each record or override may have ended, soonest first.
    ends: BinaryHeap<Reverse<(u64, Arc<str>)>>,
    /// Keys that have an override.
    pub(super) overrides: HashMap<Arc<str>, Overridden>,
    /// Keeps records that have ended, as a server does whose time the test sets.
    #[cfg(test)]
    keeps_ended: bool,
    /// No task removes records.
    #[cfg(feature = "testing")]
    pub(super) without_task: bool,
    /// The task that removes records, if it runs.
    removing: Option<AbortHandle>,
    /// The caller's clock when an item was last added to the queue, and the time of that.
    seen: Option<(u64, Instant)>,
}

#[cfg(feature = "admin")]
impl super::MemoryLimits {
    /// Returns the names of all records, including those that have ended and are not removed yet.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.state().records.keys().map(|name| name.to_string()).collect()
    }
}

#[cfg(test)]
impl super::MemoryLimits {
    /// For histories in which the test sets the clock: it may advance for one record and go back for the
    /// next.
    pub(crate) fn keeping_ended() -> Self {
        let limits = Self::default();
        limits.0.state().keeps_ended = true;
        limits
    }

    /// How many records there are, and how many fit without allocation.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.0.state();
        (state.records.len(), state.records.capacity())
    }
}

impl LimitRecords {
    pub(super) fn state(&self) -> MutexGuard<'_, RecordTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the task runs, if there is a runtime.
    pub(super) fn remove_in_background(records: &Arc<Self>) {
        let mut state = records.state();
        #[cfg(feature = "testing")]
        if state.without_task {
            return;
        }
        if state.removing.is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let task = Removing { records: Arc::downgrade(records), finished: false };
            state.removing = Some(runtime.spawn(async move { task.run().await }).abort_handle());
        }
    }
}

impl Drop for LimitRecords {
    fn drop(&mut self) {
        if let Some(task) = self.state().removing.take() {
            task.abort();
        }
    }
}

impl RecordTable {
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut LimitRecord> {
        self.records.get_mut(name)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<LimitRecord> {
        self.records.remove(name)
    }

    pub(super) fn insert(&mut self, name: &str, record: LimitRecord, clock: u64) {
        let end = record.expires(clock);
        self.records.insert(name.into(), record);
        self.may_end(name, end, clock);
    }

    /// Notes that the record or the override of a key may end at this time.
    pub(super) fn may_end(&mut self, name: &str, end: u64, clock: u64) {
        self.ends.push(Reverse((end, name.into())));
        self.seen = Some((clock, Instant::now()));
        self.remove_ended(2, clock, None);
        // Keys that are reset and charged again and again leave items behind.
        if self.ends.len() > 2 * (self.records.len() + self.overrides.len()) + STEP {
            let records = self.records.iter().map(|(name, record)| (record.expires(clock), name));
            let overrides = self.overrides.iter().map(|(name, over)| (over.until, name));
            self.ends = records.chain(overrides).map(|(end, name)| Reverse((end, name.clone()))).collect();
        }
    }

    /// Checks up to `most` keys whose record or override may have ended, except this one, and removes what has.
    /// Returns whether there may be more.
    pub(super) fn remove_ended(&mut self, most: usize, clock: u64, except: Option<&str>) -> bool {
        #[cfg(test)]
        if self.keeps_ended {
            return false;
        }
        for _ in 0..most {
            if self.ends.peek().is_none_or(|Reverse((at, _))| *at > clock) {
                return false;
            }
            let Some(Reverse((at, name))) = self.ends.pop() else { return false };
            let record = self.records.get(&name).map(|record| record.expires(clock));
            if except == Some(&*name) && record.is_some_and(|end| end <= clock) {
                self.ends.push(Reverse((at, name)));
                return false;
            }
            if record.is_some_and(|end| end <= clock) {
                self.records.remove(&name);
            }
            let over = self.overrides.get(&name).map(|over| over.until);
            if over.is_some_and(|end| end <= clock) {
                self.overrides.remove(&name);
            }
            // If anything is left of the key, it returns to the queue.
            if let Some(next) = record.into_iter().chain(over).filter(|end| *end > clock).min() {
                self.ends.push(Reverse((next, name)));
            }
        }
        true
    }

    /// One step of the task. Returns how long to sleep after it; `None` if nothing is left.
    fn step(&mut self) -> Option<Duration> {
        let (clock, since) = self.seen.unwrap_or((0, Instant::now()));
        let now = clock.saturating_add(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        if self.remove_ended(STEP, now, None) {
            return Some(Duration::ZERO);
        }
        // Give back the memory that a flood of keys needed.
        if self.records.capacity() > 4 * (self.records.len() + STEP) {
            self.records.shrink_to(2 * self.records.len());
            self.ends.shrink_to(2 * self.ends.len());
        }
        if self.overrides.capacity() > 4 * (self.overrides.len() + STEP) {
            self.overrides.shrink_to(2 * self.overrides.len());
            self.ends.shrink_to(2 * self.ends.len());
        }
        let Some(Reverse((next, _))) = self.ends.peek() else {
            // Under the lock, so that what is added after this starts another task.
            self.removing = None;
            return None;
        };
        Some(Duration::from_micros(next.saturating_sub(now)).clamp(PAUSES.0, PAUSES.1))
    }
}

/// The task. It keeps nothing alive, and runs while there are records or overrides.
struct Removing {
    records: Weak<LimitRecords>,
    /// It has found nothing, and another task may be running by now.
    finished: bool,
}

impl Removing {
    async fn run(mut self) {
        loop {
            let Some(records) = self.records.upgrade() else { return };
            // Bind the result: the lock is released before the await.
            let pause = records.state().step();
            drop(records);
            match pause {
                None => {
                    self.finished = true;
                    return;
                }
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                Some(pause) => tokio::time::sleep(pause).await,
            }
        }
    }
}

impl Drop for Removing {
    fn drop(&mut self) {
        // The runtime may have ended before the records: then the next record starts the task again.
        if let Some(records) = self.records.upgrade().filter(|_| !self.finished) {
            records.state().removing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryLimits;
    use super::*;
    use crate::store::limit::{Charge, ChargeMode, Label, Override, QuotaSpec, Rule};

    const START: u64 = 1_780_000_000_000_000;

    fn charge(limits: &MemoryLimits, name: &str, seconds: u64, clock: u64) {
        let spec = QuotaSpec { rule: Rule::Buckets, limit: 100, width: seconds * 1_000_000 / 60 };
        let charge = Charge {
            specs: &[spec],
            mode: ChargeMode::All,
            cost: 1,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        assert_eq!(limits.charge(name, charge, clock).granted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_is_gone_after_its_windows_without_another_request() {
        let limits = MemoryLimits::default();
        for key in 0..50_000 {
            charge(&limits, &format!("flood{key}"), 5, START);
        }
        charge(&limits, "long", 3600, START);
        assert_eq!(limits.0.state().records.len(), 50_001);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(limits.0.state().records.len(), 50_001, "they still count");
        // A key that is used in the meantime stays.
        charge(&limits, "flood7", 5, START + 4_000_000);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (left, room, queued) = {
            let state = limits.0.state();
            (state.records.len(), state.records.capacity(), state.ends.capacity())
        };
        assert_eq!(left, 2);
        assert!(room < 5_000 && queued < 5_000, "{room} and {queued} for {left} records");
        tokio::time::sleep(Duration::from_secs(4000)).await;
        assert_eq!(limits.0.state().records.len(), 0);
        assert!(limits.0.state().removing.is_none(), "the task has ended");
    }

    #[test]
    fn without_a_runtime_each_charge_removes_some_that_have_ended() {
        let limits = MemoryLimits::default();
        for key in 0..5_000u64 {
            // Ten keys each second, which count for five seconds.
            charge(&limits, &format!("k{key}"), 5, START + key * 100_000);
        }
        assert!(limits.0.state().records.len() < 100, "{}", limits.0.state().records.len());
    }

    #[test]
    fn a_key_that_is_reset_again_and_again_leaves_nothing_behind() {
        let limits = MemoryLimits::default();
        for _ in 0..10_000 {
            charge(&limits, "a", 3600, START);
            limits.forget("a", START);
        }
        assert!(limits.0.state().ends.len() < 3 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn overrides_are_gone_after_their_end_though_nothing_is_asked() {
        let limits = MemoryLimits::default();
        let spec = QuotaSpec { rule: Rule::Buckets, limit: 100, width: 1_000_000 };
        let over = |seconds| Override {
            specs: vec![(spec, Label::default())],
            own: vec![spec],
            lasts: Duration::from_secs(seconds),
        };
        for key in 0..50_000 {
            limits.set_override(&format!("flood{key}"), &over(5), START);
        }
        limits.set_override("long", &over(3600), START);
        // Of a key that was charged, the override goes before the record.
        limits.set_override("charged", &over(5), START);
        charge(&limits, "charged", 60, START);
        let left = || {
            let state = limits.0.state();
            (state.overrides.len(), state.overrides.capacity(), state.records.len())
        };
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(left().0, 50_002, "they still apply");
        // One that is set again lasts from then on.
        limits.set_override("flood7", &over(5), START + 4_000_000);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((left().0, left().2), (2, 1));
        assert!(left().1 < 5_000, "room for {}", left().1);
        tokio::time::sleep(Duration::from_secs(4000)).await;
        assert_eq!((left().0, left().2), (0, 0));
        assert!(limits.0.state().removing.is_none(), "the task has ended");
        for _ in 0..10_000 {
            limits.set_override("again", &over(5), START);
        }
        assert!(limits.0.state().ends.len() < 3 * STEP);
    }
}
