//! Counts: kept here always, and reported to the `metrics` facade with the feature `metrics`.

use std::collections::BTreeSet;
#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(feature = "metrics")]
use metrics as facade;

#[cfg(not(feature = "metrics"))]
mod facade {
    pub(crate) struct Counter;
    pub(crate) struct Histogram;
}

/// A metric of the facade, made when something is first reported. Without the feature `metrics` it is nothing.
pub(crate) struct Metric<M> {
    #[cfg(feature = "metrics")]
    name: &'static str,
    #[cfg(feature = "metrics")]
    label: Option<(&'static str, Box<str>)>,
    #[cfg(feature = "metrics")]
    made: OnceLock<M>,
    #[cfg(not(feature = "metrics"))]
    made: std::marker::PhantomData<M>,
}

pub(crate) type Counter = Metric<facade::Counter>;
pub(crate) type Histogram = Metric<facade::Histogram>;

impl<M> Metric<M> {
    /// Makes a metric without labels.
    pub(crate) const fn new(name: &'static str) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = name;
        Self {
            #[cfg(feature = "metrics")]
            name,
            #[cfg(feature = "metrics")]
            label: None,
            #[cfg(feature = "metrics")]
            made: OnceLock::new(),
            #[cfg(not(feature = "metrics"))]
            made: std::marker::PhantomData,
        }
    }

    /// Makes a metric with the cache's label.
    #[cfg(feature = "metrics")]
    pub(super) fn of_cache(name: &'static str, cache: &str) -> Self {
        Self { label: Some(("cache", cache.into())), ..Self::new(name) }
    }

    /// Makes a metric of a cache, whose label only the facade needs.
    #[cfg(not(feature = "metrics"))]
    pub(super) const fn of_cache(name: &'static str, _: &str) -> Self {
        Self::new(name)
    }
}

impl Counter {
    #[inline]
    pub(crate) fn increment(&self, amount: u64) {
        #[cfg(feature = "metrics")]
        self.made.get_or_init(|| self.make()).increment(amount);
        #[cfg(not(feature = "metrics"))]
        let _ = amount;
    }

    #[cfg(feature = "metrics")]
    #[cold]
    fn make(&self) -> metrics::Counter {
        match &self.label {
            Some((label, value)) => metrics::counter!(self.name, *label => value.to_string()),
            None => metrics::counter!(self.name),
        }
    }
}

impl Histogram {
    /// Makes the histogram before anything is recorded.
    pub(crate) fn register(&self) {
        #[cfg(feature = "metrics")]
        self.made.get_or_init(|| metrics::histogram!(self.name));
    }

    pub(crate) fn record(&self, span: Duration) {
        #[cfg(feature = "metrics")]
        self.made.get_or_init(|| metrics::histogram!(self.name)).record(span);
        #[cfg(not(feature = "metrics"))]
        let _ = span;
    }
}

/// A count that is also reported to the facade.
pub(super) struct Count {
    value: AtomicU64,
    counter: Counter,
}

impl Count {
    pub(super) fn new(metric: &'static str, cache: &str) -> Self {
        Self { value: AtomicU64::new(0), counter: Counter::of_cache(metric, cache) }
    }

    pub(super) fn add(&self, amount: usize) {
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        self.value.fetch_add(amount, Relaxed);
        self.counter.increment(amount);
    }

    pub(super) fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// One near hit in this many is recorded. A power of two.
pub(crate) const SAMPLED: u64 = 64;

/// A count that all threads add to, millions of times a second. A thread has a part to itself for as long as it runs:
/// it adds with a load and a store, and no other processor waits for its cache line. Threads beyond the parts share one
/// atomic count.
pub(super) struct NearCount {
    own: [CounterShard; 32],
    shared: CounterShard,
    counter: Counter,
}

/// A part in its own cache line.
#[repr(align(128))]
#[derive(Default)]
struct CounterShard(AtomicU64);

/// The number of a thread, which no other thread has at the same time.
struct ThreadNumber(usize);

/// The numbers of threads that have ended, and the smallest number that was never given. The smallest free number is
/// given first, so that threads which run for long get a part of their own though many others ended before.
static NUMBERS: Mutex<(BTreeSet<usize>, usize)> = Mutex::new((BTreeSet::new(), 0));

thread_local! {
    static NUMBER: ThreadNumber = {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        ThreadNumber(numbers.0.pop_first().unwrap_or_else(|| {
            numbers.1 += 1;
            numbers.1 - 1
        }))
    };
}

impl Drop for ThreadNumber {
    fn drop(&mut self) {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).0.insert(self.0);
    }
}

impl NearCount {
    pub(super) fn new(cache: &str) -> Self {
        let counter = Counter::of_cache("larder_cache_near_hits_total", cache);
        Self { own: Default::default(), shared: CounterShard::default(), counter }
    }

    /// Adds one, and returns whether this hit is one of the sample.
    #[inline]
    pub(super) fn add_one(&self) -> bool {
        self.counter.increment(1);
        // A thread that is ending may have given its number back.
        let own = NUMBER.try_with(|number| self.own.get(number.0)).ok().flatten();
        let before = match own {
            Some(own) => {
                let before = own.0.load(Relaxed);
                own.0.store(before + 1, Relaxed);
                before
            }
            None => self.shared.0.fetch_add(1, Relaxed),
        };
        before.is_multiple_of(SAMPLED)
    }

    pub(super) fn get(&self) -> u64 {
        self.own.iter().chain([&self.shared]).map(|part| part.0.load(Relaxed)).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// More threads at once than there are parts, then as many again, which take over their numbers.
    #[test]
    fn every_near_hit_of_every_thread_is_counted_in_a_part_of_its_own() {
        const THREADS: usize = 40;
        let count = NearCount::new("user");
        for round in 1..=2 {
            let together = Barrier::new(THREADS);
            let hit = || {
                together.wait();
                for _ in 0..1000 {
                    count.add_one();
                }
                together.wait();
                NUMBER.with(|number| number.0)
            };
            let numbers: HashSet<usize> = thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(hit)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!((numbers.len(), count.get()), (THREADS, round * 40_000));
        }
    }
}
