//! How many callers have joined a queue, and how late the machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::lock::{Guard, SemaphorePermit};
use larder_testkit::Server;
use tokio::task::JoinHandle;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Metadata, span};

/// Counts the attempts of this thread that have joined a queue.
pub struct QueuedAttempts {
    count: Arc<AtomicU64>,
    _second: Dispatch,
    _here: DefaultGuard,
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl tracing::Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::TRACE && metadata.target() == "larder::lock"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl QueuedAttempts {
    pub fn listen() -> Self {
        let counter = Counter::default();
        // While there is only one subscriber, the thread that meets an event first decides for all threads whether it
        // is enabled.
        let second = Dispatch::new(Counter::default());
        Self { count: counter.0.clone(), _second: second, _here: tracing::subscriber::set_default(counter) }
    }

    /// Waits until this many attempts have joined a queue.
    pub async fn until(&self, count: u64) {
        super::until("they are queued", async || self.count.load(Ordering::SeqCst) >= count).await;
    }
}

/// Measures how late this process wakes up.
pub struct Lateness {
    worst: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Lateness {
    pub fn watch() -> Self {
        let worst = Arc::<AtomicU64>::default();
        let seen = worst.clone();
        let task = tokio::spawn(async move {
            let step = Duration::from_millis(5);
            loop {
                let began = Instant::now();
                tokio::time::sleep(step).await;
                let late = began.elapsed().saturating_sub(step);
                seen.fetch_max(u64::try_from(late.as_micros()).unwrap(), Ordering::SeqCst);
            }
        });
        Self { worst, task }
    }

    /// How much `hops` wake-ups in a row, each as late as the latest so far, add to a time.
    pub fn of(&self, hops: u32) -> Duration {
        hops * (Duration::from_micros(self.worst.load(Ordering::SeqCst)) + Duration::from_millis(5))
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asserts that a guard is valid no longer than the server holds its lock.
#[track_caller]
pub fn ends_no_later_than(server: &Server, lock: &str, guard: &Guard) {
    let (began, remaining) = (Instant::now(), guard.remaining());
    let left: i64 = server.query(&["PTTL", lock]);
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)) + began.elapsed();
    assert!(remaining <= left, "valid for {remaining:?}, held for {left:?}");
}

/// The same for the one permit that is taken.
#[track_caller]
pub fn permit_ends_no_later_than(server: &Server, semaphore: &str, permit: &SemaphorePermit) {
    let (began, remaining) = (Instant::now(), permit.remaining());
    let (seconds, micros): (u64, u64) = server.query(&["TIME"]);
    let ends: Vec<(String, f64)> = server.query(&["ZRANGE", semaphore, "0", "0", "WITHSCORES"]);
    let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
    let left = Duration::from_secs_f64(ends[0].1 / 1000.0).saturating_sub(now) + began.elapsed();
    assert!(remaining <= left, "valid for {remaining:?}, held for {left:?}");
}
