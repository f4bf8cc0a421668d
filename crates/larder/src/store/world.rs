//! The store of a test's world: the embedded store, as several processes see it that can be cut off from it.
//!
//! All processes of a world use one [`WorldServer`]. Each has a [`ProcessStore`], which passes operations on. The test
//! makes the server be away, be slow, or lose a reply.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::limit::LimitStore;
use super::memory::MemoryStore;
use super::session::Sessions;
use super::{InvalidationSink, Store};
use crate::clock::{Clock, Tick, WorldTime};
use crate::error::{Error, ErrorKind, Result};

/// The store's time when a world begins: 2026-01-01 00:00:00 UTC, in microseconds since 1970.
const START: u64 = 1_767_225_600_000_000;

/// Operations that change nothing, and those by which a process only says that it is still there. A real client sends
/// them again when a reply is lost.
const REPEATED: &[&str] = &[
    "ping",
    "get",
    "get_many",
    "peek",
    "get_tracked",
    "get_many_tracked",
    "remaining",
    "remaining_many",
    "listen",
    "holder",
    "acknowledged",
    "override_of",
    "last_run",
    "permits_in_use",
    "group_holder",
    "heartbeat",
    "extend",
    "renew_load",
    "renew_permits",
    "renew_groups",
    "renew_once",
    "version",
    "announce",
    "withdraw",
    "announced",
    "key_count",
    "sample_keys",
    "scan_names",
    "key_facts",
    "lock_states",
    "node_addresses",
    "info_of",
];

/// What all processes of a world share.
pub(crate) struct WorldServer {
    time: Arc<WorldTime>,
    /// Replaced when everything is deleted.
    store: Mutex<Arc<MemoryStore>>,
    /// Takes the operations that do not reach the store: only the form of its replies is used.
    nowhere: Arc<MemoryStore>,
    sinks: Arc<Sinks>,
    faults: Mutex<Faults>,
    pub(crate) stops: Stops,
}

#[derive(Default)]
struct Faults {
    away_until: Option<Tick>,
    latency: Duration,
    /// How many replies are still to be lost.
    lost: u32,
}

/// Passes the store's notifications on to every process.
#[derive(Default)]
struct Sinks(RwLock<Vec<Weak<dyn InvalidationSink>>>);

impl Sinks {
    fn add(&self, sink: &Arc<impl InvalidationSink>) {
        let sink = Arc::downgrade(sink);
        let mut sinks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(sink);
    }

    fn each(&self, notify: impl Fn(&dyn InvalidationSink)) {
        let sinks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sinks.iter().filter_map(Weak::upgrade).for_each(|sink| notify(&*sink));
    }
}

impl InvalidationSink for Sinks {
    fn changed(&self, name: &str) {
        self.each(|sink| sink.changed(name));
    }

    fn all_changed(&self) {
        self.each(InvalidationSink::all_changed);
    }
}

impl WorldServer {
    pub(crate) fn start(time: Arc<WorldTime>) -> Self {
        let sinks = Arc::new(Sinks::default());
        let clock = || Clock::World { time: time.clone(), ahead: Duration::ZERO };
        let store = MemoryStore::of_world(START, clock(), sinks.clone());
        let nowhere = MemoryStore::of_world(START, clock(), Arc::new(Sinks::default()));
        Self {
            store: Mutex::new(Arc::new(store)),
            nowhere: Arc::new(nowhere),
            sinks,
            faults: Mutex::default(),
            stops: Stops::default(),
            time,
        }
    }

    /// Returns the store's own time in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.store().now()
    }

    /// Cuts all processes off for `span` from now. Their connections break, so they drop what they keep near.
    pub(crate) fn outage(&self, span: Duration) {
        self.faults().away_until = Some(self.tick().after(span));
        self.sinks.all_changed();
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.faults().latency = latency;
    }

    pub(crate) fn lose_next_reply(&self) {
        let mut faults = self.faults();
        faults.lost = faults.lost.saturating_add(1);
    }

    /// Removes an entry, and returns whether there was one.
    pub(crate) fn evict(&self, name: &str) -> bool {
        self.store().evict(name)
    }

    /// Deletes everything.
    pub(crate) fn flush(&self) {
        let clock = Clock::World { time: self.time.clone(), ahead: Duration::ZERO };
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        // A fence is the time of its grant, or one more than the last. The new store does not know the last one, so its
        // time goes on a millisecond later, which is enough for a thousand grants at one time.
        let empty = MemoryStore::of_world(store.now_micros() + 1000, clock, self.sinks.clone());
        *store = Arc::new(empty);
        drop(store);
        self.sinks.all_changed();
    }

    fn store(&self) -> Arc<MemoryStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tick(&self) -> Tick {
        Clock::World { time: self.time.clone(), ahead: Duration::ZERO }.now()
    }

    fn is_away(&self) -> bool {
        let now = self.tick();
        self.faults().away_until.is_some_and(|until| now < until)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A world's store as one process sees it.
pub(crate) struct ProcessStore {
    server: Arc<WorldServer>,
    sessions: Sessions,
}

impl ProcessStore {
    /// Makes the store of another process, which gets the notifications of all changes.
    pub(crate) fn new(server: Arc<WorldServer>, sink: &Arc<impl InvalidationSink>) -> Self {
        server.sinks.add(sink);
        Self { server, sessions: Sessions::embedded() }
    }

    pub(crate) fn server(&self) -> &WorldServer {
        &self.server
    }

    /// Begins an operation, and returns the store that carries it out, and what happens to the reply. The latency is
    /// all on the reply's way, so that requests arrive in the order in which they are made, as on one connection.
    pub(crate) fn enter(&self, operation: &'static str) -> (Arc<MemoryStore>, Replying) {
        let (server, latency) = (self.server.clone(), self.server.faults().latency);
        let refused = |server: Arc<WorldServer>| {
            let error = Error::new(ErrorKind::Refused, "cannot connect: the test's world has an outage");
            (
                server.nowhere.clone(),
                Replying { failure: Some(error.unsent()), latency: Duration::ZERO, server },
            )
        };
        if server.is_away() {
            return refused(server);
        }
        let mut faults = server.faults();
        let lost = faults.lost > 0 && !REPEATED.contains(&operation);
        faults.lost -= u32::from(lost);
        drop(faults);
        let failure = lost.then(disconnected);
        (server.store(), Replying { failure, latency, server })
    }

    pub(crate) fn now(&self) -> u64 {
        self.server.now()
    }

    #[cfg(feature = "admin")]
    pub(crate) fn tls_of(&self, _: &str) -> Option<super::admin::TlsSeen> {
        None
    }

    #[inline]
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn node(&self, name: &str) -> usize {
        self.server.store().node(name)
    }

    pub(crate) fn local_time(&self, name: &str, time: u64) -> Option<Tick> {
        self.server.store().local_time(name, time)
    }

    pub(crate) fn domain(&self, name: &str) -> usize {
        self.server.store().domain(name)
    }
}

fn disconnected() -> Error {
    Error::new(ErrorKind::Disconnected, "the test's world lost the reply: the request may have taken effect")
}

/// A reply on its way back.
pub(crate) struct Replying {
    server: Arc<WorldServer>,
    failure: Option<Error>,
    latency: Duration,
}

impl Replying {
    /// Returns what the process gets for the store's answer.
    pub(crate) async fn of<R: WorldReply>(self, answer: R) -> R {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        // An outage breaks the connections, and the replies that are on their way are lost.
        let failure = self.failure.or_else(|| self.server.is_away().then(disconnected));
        match failure {
            Some(error) => answer.failed(&error),
            None => answer,
        }
    }
}

/// The reply to an operation, which can be replaced by an error.
pub(crate) trait WorldReply {
    fn failed(self, error: &Error) -> Self;
}

impl<T> WorldReply for Result<T> {
    fn failed(self, error: &Error) -> Self {
        Err(error.clone())
    }
}

/// Several operations in one: each fails.
impl<T> WorldReply for Vec<Result<T>> {
    fn failed(self, error: &Error) -> Self {
        self.into_iter().map(|_| Err(error.clone())).collect()
    }
}

/// The loads that a test wants to stop between the loader's return and the store of its value, by their entries.
#[derive(Default)]
pub(crate) struct Stops(Mutex<HashMap<String, Stop>>);

/// Gets, when a load has stopped, the sender whose drop lets the load continue.
type Stop = oneshot::Sender<oneshot::Sender<()>>;

impl Stops {
    /// Stops the next load of this entry.
    pub(crate) fn arm(&self, name: &str) -> oneshot::Receiver<oneshot::Sender<()>> {
        let (stopped, reached) = oneshot::channel();
        self.table().insert(name.to_owned(), stopped);
        reached
    }

    /// Waits here if this load is to be stopped.
    pub(super) async fn pass(&self, name: &str) {
        let stop = self.table().remove(name);
        let Some(stop) = stop else { return };
        let (go, gone) = oneshot::channel();
        if stop.send(go).is_ok() {
            // The test drops the sender to let the load continue.
            let _ = gone.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Stop>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
