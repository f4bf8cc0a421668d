//! A cache that is cleared: an entry's version is compared when its copy is inserted, and all copies go when
//! the version changes.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::changes::Invalidations;
use super::server::{Server, Versions};
use super::tier::Tier;
use super::{copy, tier};
use crate::clock::Moment;
use crate::store::{InvalidationSink, Store};

/// What a reader is promised.
pub const OWN: &str = "a read that starts after an own clear has returned sees nothing older";
/// What the tier is promised.
pub const COHERENT: &str = "when all changes are reported, no copy is from before the last clear";

const CLEAR: &str = "~clear";
const ENTRY: &str = "user:1";

/// What is dropped first when a change of the version is reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Version,
    Copies,
}

#[derive(Clone)]
struct Process {
    server: Arc<Server>,
    changes: Arc<Invalidations>,
    copies: Arc<Tier<u64>>,
}

impl Process {
    fn read(&self) {
        let floor = self.server.with(|state| state.floor);
        if let Some(version) = self.copies.get(ENTRY) {
            assert!(version >= floor, "{OWN}");
            return;
        }
        let ticket = self.copies.ticket(ENTRY);
        let carried = self.server.read(ENTRY);
        let versions = &self.changes.versions;
        let current = match versions.known(CLEAR, self.server.lanes(), Moment::START) {
            Some(known) => Some(known.version),
            None => {
                block_on(versions.ask(&*self.server, CLEAR)).unwrap_or_default().map(|(version, _)| version)
            }
        };
        if current == Some(carried) {
            self.copies.insert(ENTRY, ticket, copy(carried));
        }
    }

    fn told(&self, name: &str, first: First) {
        if first == First::Copies && name == CLEAR {
            self.copies.invalidate_all();
            self.changes.versions.changed(CLEAR);
        } else {
            self.changes.changed(name);
        }
    }

    fn clear(&self, first: First) {
        self.server.renew();
        if first == First::Version {
            self.changes.versions.changed(CLEAR);
        }
        self.copies.invalidate_all();
        if first == First::Copies {
            self.changes.versions.changed(CLEAR);
        }
        self.server.with(|state| state.floor = 2);
    }
}

fn scenario(first: First) {
    let (server, pushed) = Server::new(CLEAR, Versions::Random);
    let (changes, copies) = (Arc::new(Invalidations::default()), Arc::new(tier()));
    changes.register("user:", copies.clone());
    changes.register(CLEAR, copies.clone());
    let process = Process { server, changes, copies };
    // Another server, because a reference to this one would keep the pushes coming.
    let (idle, _) = Server::new(CLEAR, Versions::Random);
    let handling = Process { server: idle, ..process.clone() };
    let handler = thread::spawn(move || pushed.into_iter().for_each(|name| handling.told(&name, first)));
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
    for thread in readers.into_iter().chain([foreign]) {
        let _ = thread.join();
    }
    let Process { server, copies, .. } = process;
    let current = server.current();
    drop(server);
    let _ = handler.join();
    assert!(copies.get(ENTRY).is_none_or(|carried| Some(carried) == current), "{COHERENT}");
}

/// larder's order.
pub fn version_first() {
    scenario(First::Version);
}

/// The mistake: the copies go first, and the version that they were compared with is still known for a
/// moment.
pub fn copies_first() {
    scenario(First::Copies);
}
