//! A cache that is cleared: an entry's version is compared when its copy is inserted, and all copies are dropped when
//! the version changes.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::server::{Numbering, Server};
use super::{copy, tier};
use crate::interleavings::{breaks, holds};
use crate::near::{ClearVersion, EntryKey, EntryKeyRef, Invalidations, Tier};
use crate::store::interleavings::at;
use crate::store::{InvalidationSink, Store};

/// What a reader is promised.
const OWN: &str = "a read that starts after an own clear has returned sees nothing older";
/// What the tier is promised.
const COHERENT: &str = "when all changes are reported, no copy is from before the last clear";

const CLEAR: &str = "~clear";
const ENTRY: &str = "user:1";

fn key() -> EntryKeyRef<'static> {
    EntryKeyRef::int(0, 1)
}

/// What is dropped first when a change of the version is reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Version,
    Copies,
}

#[derive(Clone)]
struct Process {
    server: Arc<Server>,
    invalidations: Arc<Invalidations>,
    copies: Arc<Tier<EntryKey, u64>>,
    version: Arc<ClearVersion>,
}

impl Process {
    fn read(&self) {
        let floor = *self.server.floor.lock();
        if let Some(version) = self.copies.get(&key()) {
            assert!(version >= floor, "{OWN}");
            return;
        }
        let ticket = self.copies.ticket(&key());
        let Some(carried) = self.server.read(ENTRY) else { return };
        let (versions, store) = (&self.invalidations.versions, &self.server.store);
        let current = match versions.known_clear(&self.version, store.sessions(), at(0)) {
            Some(known) => Some(known.version),
            None => block_on(versions.ask(store, CLEAR)).unwrap_or_default().map(|(version, _)| version),
        };
        if current == Some(carried) {
            self.copies.insert(key(), ticket, copy(carried));
        }
    }

    fn handle(&self, name: &str, first: First) {
        if first == First::Copies && name == CLEAR {
            self.copies.invalidate_all();
            self.invalidations.versions.changed(CLEAR);
        } else {
            self.invalidations.changed(name);
        }
    }

    fn clear(&self, first: First) {
        self.server.renew();
        if first == First::Version {
            self.invalidations.versions.changed(CLEAR);
        }
        self.copies.invalidate_all();
        if first == First::Copies {
            self.invalidations.versions.changed(CLEAR);
        }
        *self.server.floor.lock() = 2;
    }
}

fn scenario(first: First) {
    let (server, pushed) = Server::new(CLEAR, ENTRY, Numbering::Unique);
    let (invalidations, copies) = (Arc::new(Invalidations::default()), Arc::new(tier()));
    invalidations.register("user", copies.clone());
    invalidations.register(CLEAR, copies.clone());
    let version = Arc::new(ClearVersion::new(CLEAR.into()));
    let process = Process { server, invalidations, copies, version };
    if first == First::Copies {
        // The mistake shows only if the version is known. Known from the start, it is found in fewer schedules.
        process.read();
    }
    // Another server, because a reference to this one would keep its channel open.
    let (idle, _) = Server::new(CLEAR, ENTRY, Numbering::Unique);
    let handling = Process { server: idle, ..process.clone() };
    let mut handle = Some(move || pushed.into_iter().for_each(|name| handling.handle(&name, first)));
    let mut handler = None;
    // The mistake shows while the push for the clear is on its way. With a handler that starts late, it is found in
    // fewer schedules.
    if first == First::Version {
        handler = handle.take().map(thread::spawn);
    }
    let readers = [(); 2].map(|()| {
        let process = process.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| process.read()))
    });
    let foreign = thread::spawn({
        let server = process.server.clone();
        move || {
            server.renew();
            server.write(ENTRY);
        }
    });
    process.clear(first);
    process.read();
    let handler = handler.or_else(|| handle.take().map(thread::spawn));
    for thread in readers.into_iter().chain([foreign]) {
        let _ = thread.join();
    }
    let Process { server, copies, .. } = process;
    let current = server.current();
    drop(server);
    let _ = handler.map(|handler| handler.join());
    assert!(copies.get(&key()).is_none_or(|carried| Some(carried) == current), "{COHERENT}");
}

/// larder's order.
#[test]
fn a_cleared_cache_serves_nothing_old() {
    holds("a cache that is cleared", || scenario(First::Version));
}

/// The mistake: the copies are dropped first, and the version that they were compared with is still known for a moment.
#[test]
fn copies_that_are_dropped_before_their_version_are_caught() {
    breaks("copies before the version", &[OWN, COHERENT], || scenario(First::Copies));
}
