//! A tag that is invalidated: its version is compared each time a copy is found.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::changes::Invalidations;
use super::server::{Server, Versions};
use super::tier::Tier;
use super::{copy, tier};
use crate::clock::{Moment, Tick};
use crate::store::{InvalidationSink, Store};

/// What a reader is promised.
pub const OWN: &str = "a read that starts after an own invalidation has returned sees nothing older";
/// What the tier is promised.
pub const COHERENT: &str =
    "when all changes are reported, no copy from before the last invalidation is served";

const TAG: &str = "~tag";
const ENTRY: &str = "user:1";

/// What a reader does if the version of a tag is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    IsAsked,
    Holds,
}

#[derive(Clone)]
struct Process {
    server: Arc<Server>,
    changes: Arc<Invalidations>,
    copies: Arc<Tier<(u64, bool)>>,
    unknown: Unknown,
}

impl Process {
    /// What may be served without asking: the version, and whether the copy is from before the own
    /// invalidation.
    fn served(&self) -> Option<(u64, bool)> {
        self.copies.get(ENTRY).filter(|(carried, _)| {
            match self.changes.versions.known(TAG, self.server.lanes(), Moment::START) {
                Some(known) => known.version == *carried,
                None => self.unknown == Unknown::Holds,
            }
        })
    }

    fn read(&self) {
        let invalidated = self.server.with(|state| state.floor > 0);
        if let Some((_, old)) = self.served() {
            assert!(!old || !invalidated, "{OWN}");
            return;
        }
        let ticket = self.copies.ticket(ENTRY);
        let carried = self.server.read(ENTRY);
        let asked = block_on(self.changes.versions.ask(&*self.server, TAG)).unwrap_or_default();
        if asked.is_some_and(|(version, _)| version == carried) {
            self.copies.insert(ENTRY, ticket, copy((carried, true)));
        }
    }

    /// What a load does whose value will be stored with the tag.
    fn ensure(&self) {
        let now = (Moment::START, Tick(Duration::ZERO));
        let ensured = self.changes.versions.ensure(&*self.server, TAG, 0, Duration::from_secs(1), now);
        let _ = block_on(ensured);
    }

    fn invalidate(&self) {
        self.server.renew();
        self.changes.versions.changed(TAG);
        self.server.with(|state| state.floor = 1);
    }
}

/// The entry is never written, so what it carries is from before every invalidation.
fn scenario(versions: Versions, unknown: Unknown) {
    let (server, pushed) = Server::new(TAG, versions);
    let changes = Arc::new(Invalidations::default());
    let process = Process { server, changes: changes.clone(), copies: Arc::new(tier()), unknown };
    let handler = thread::spawn(move || pushed.into_iter().for_each(|name| changes.changed(&name)));
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
    // Everything that was pushed is handled once the last sender is gone; then the tag is checked through
    // another store.
    let (idle, _) = Server::new(TAG, versions);
    let Process { server, changes, copies, unknown } = process;
    drop(server);
    let _ = handler.join();
    let process = Process { server: idle, changes, copies, unknown };
    assert!(process.served().is_none(), "{COHERENT}");
}

/// What larder does.
pub fn compared() {
    scenario(Versions::Random, Unknown::IsAsked);
}

/// The mistake: a copy is served while the version of its tag is not known.
pub fn unknown_holds() {
    scenario(Versions::Random, Unknown::Holds);
}

/// The mistake: versions are counted, so that one which is lost and made again equals an old one.
pub fn counted() {
    scenario(Versions::Counted, Unknown::IsAsked);
}
