//! A tag that is invalidated: its version is compared each time a copy is found.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::server::{Numbering, Server};
use super::{copy, tier};
use crate::clock::Clock;
use crate::interleavings::{breaks, holds};
use crate::near::{Invalidations, Tier};
use crate::store::interleavings::at;
use crate::store::{InvalidationSink, Store};

/// What a reader is promised.
const OWN: &str = "a read that starts after an own invalidation has returned sees nothing older";
/// What the tier is promised.
const COHERENT: &str = "when all changes are reported, no copy from before the last invalidation is served";

const TAG: &str = "~tag";
const ENTRY: &str = "user:1";

/// What a reader does if the version of a tag is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    IsAsked,
    IsAccepted,
}

#[derive(Clone)]
struct Process {
    server: Arc<Server>,
    invalidations: Arc<Invalidations>,
    copies: Arc<Tier<Box<str>, u64>>,
    unknown: Unknown,
}

impl Process {
    /// Whether a copy may be served without asking the server. The entry is never written, so every copy is from
    /// before the own invalidation.
    fn serves(&self) -> bool {
        self.copies.get(ENTRY).is_some_and(|carried| {
            match self.invalidations.versions.known(TAG, self.server.store.sessions(), at(0)) {
                Some(known) => known.version == carried,
                None => self.unknown == Unknown::IsAccepted,
            }
        })
    }

    fn read(&self) {
        let invalidated = *self.server.floor.lock() > 0;
        if self.serves() {
            assert!(!invalidated, "{OWN}");
            return;
        }
        let ticket = self.copies.ticket(ENTRY);
        let Some(carried) = self.server.read(ENTRY) else { return };
        let asked = block_on(self.invalidations.versions.ask(&self.server.store, TAG)).unwrap_or_default();
        if asked.is_some_and(|(version, _)| version == carried) {
            self.copies.insert(ENTRY, ticket, copy(carried));
        }
    }

    /// What a load does whose value will be stored with the tag.
    fn ensure(&self) {
        let (store, candidate) = (&self.server.store, self.server.next());
        let now = (at(0), Clock::Manual(Arc::default()).now());
        let _ =
            block_on(self.invalidations.versions.ensure(store, TAG, candidate, Duration::from_secs(1), now));
    }

    fn invalidate(&self) {
        self.server.renew();
        self.invalidations.versions.changed(TAG);
        *self.server.floor.lock() = 1;
    }
}

fn scenario(numbering: Numbering, unknown: Unknown) {
    let (server, pushed) = Server::new(TAG, ENTRY, numbering);
    let invalidations = Arc::new(Invalidations::default());
    let process = Process { server, invalidations: invalidations.clone(), copies: Arc::new(tier()), unknown };
    let handler = thread::spawn(move || pushed.into_iter().for_each(|name| invalidations.changed(&name)));
    let readers = [(); 2].map(|()| {
        let process = process.clone();
        thread::spawn(move || [(); 2].into_iter().for_each(|()| process.read()))
    });
    let foreign = thread::spawn({
        let process = process.clone();
        move || {
            process.server.lose();
            process.ensure();
        }
    });
    process.invalidate();
    process.read();
    for thread in readers.into_iter().chain([foreign]) {
        let _ = thread.join();
    }
    // The handler ends when the server is gone. Then the tag is checked through another one.
    let (idle, _) = Server::new(TAG, ENTRY, numbering);
    let Process { server, invalidations, copies, unknown } = process;
    drop(server);
    let _ = handler.join();
    let process = Process { server: idle, invalidations, copies, unknown };
    assert!(!process.serves(), "{COHERENT}");
}

/// What larder does.
#[test]
fn an_invalidated_tag_serves_nothing_old() {
    holds("a tag that is invalidated", || scenario(Numbering::Unique, Unknown::IsAsked));
}

/// The mistake: a copy is served while the version of its tag is not known.
#[test]
fn a_copy_that_is_served_while_its_tag_is_unknown_is_caught() {
    breaks("unknown tags are accepted", &[OWN, COHERENT], || {
        scenario(Numbering::Unique, Unknown::IsAccepted);
    });
}

/// The mistake: versions are counted, so that one which is lost and made again equals an old one.
#[test]
fn counted_versions_are_caught() {
    breaks("counted versions", &[OWN, COHERENT], || scenario(Numbering::Counted, Unknown::IsAsked));
}
