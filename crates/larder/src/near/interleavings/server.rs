//! A server with one version, an entry that carries it, and one connection for its pushes: the embedded store, whose
//! notifications go into a channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::sync::mpsc::{Receiver, Sender, channel};

use crate::clock::Clock;
use crate::store::memory::{Bounds, MemoryStore};
use crate::store::{InvalidationSink, Store, read_version};
use crate::sync::Mutex;

/// How versions are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    /// Each differs from all others.
    Unique,
    /// Counted, from one if there is none.
    Counted,
}

const SPAN: Duration = Duration::from_secs(1);

/// Pushes names to the process, which handles them later.
struct Pushes(Sender<String>);

impl InvalidationSink for Pushes {
    fn changed(&self, name: &str) {
        let _ = self.0.send(name.to_owned());
    }

    fn all_changed(&self) {}
}

pub(super) struct Server {
    pub(super) store: MemoryStore,
    numbering: Numbering,
    /// The name of the version.
    name: &'static str,
    /// The last number that was given to a version. std's, because it is no step of larder's.
    made: AtomicU64,
    /// The oldest version that an entry may carry and be served: that of this process's newest invalidation that has
    /// returned.
    pub(super) floor: Mutex<u64>,
}

impl Server {
    /// Makes a server whose version and entry are 1, and which has pushed nothing yet.
    pub(super) fn new(
        name: &'static str,
        entry: &'static str,
        numbering: Numbering,
    ) -> (Arc<Self>, Receiver<String>) {
        let (pushes, pushed) = channel();
        let bounds = Bounds { max_entries: 64, max_bytes: 1 << 20 };
        let clock = Clock::Manual(Arc::default());
        let store = MemoryStore::new(bounds, clock, Arc::new(Pushes(pushes)));
        let server = Self { store, numbering, name, made: AtomicU64::new(0), floor: Mutex::new(0) };
        server.renew();
        server.write(entry);
        for _ in [name, entry] {
            let _ = pushed.try_recv();
        }
        (Arc::new(server), pushed)
    }

    /// Reads the version that an entry carries, or that is stored under this name.
    pub(super) fn read(&self, name: &str) -> Option<u64> {
        let read = block_on(self.store.get_tracked(name)).ok()?;
        read_version(&read.bytes?)
    }

    pub(super) fn current(&self) -> Option<u64> {
        self.read(self.name)
    }

    /// Returns the number for a version that replaces the current one.
    pub(super) fn next(&self) -> u64 {
        match self.numbering {
            Numbering::Unique => self.made.fetch_add(1, Ordering::Relaxed) + 1,
            Numbering::Counted => self.current().unwrap_or(0) + 1,
        }
    }

    /// Replaces the version.
    pub(super) fn renew(&self) {
        let _ = block_on(self.store.renew_version(self.name, self.next(), SPAN));
    }

    /// Loses the version, as if it had expired.
    pub(super) fn lose(&self) {
        let _ = block_on(self.store.delete(self.name));
    }

    /// Writes the entry again, with the current version.
    pub(super) fn write(&self, entry: &str) {
        if let Some(version) = self.current() {
            // An entry has the form of a version here, because nothing else of it matters.
            let _ = block_on(self.store.renew_version(entry, version, SPAN));
        }
    }
}
