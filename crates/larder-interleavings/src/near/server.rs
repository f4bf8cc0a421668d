//! A server with one version, an entry that carries it, and one connection for its pushes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::Mutex;
use shuttle::sync::mpsc::{Receiver, Sender, channel};

use super::mistaken::lock;
use crate::error::Result;
use crate::name::Name;
use crate::store::session::{ReadStamp, Sessions};
use crate::store::{KeptVersion, Store, Tracked};

/// How versions are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// Different from all earlier ones.
    Random,
    /// Counted, from one if there is none.
    Counted,
}

pub(super) struct State {
    version: Option<u64>,
    made: u64,
    /// The version that the entry carries.
    pub(super) entry: u64,
    /// The oldest version that an entry may carry and be served: that of this process's newest invalidation
    /// that has returned.
    pub(super) floor: u64,
    tracked: HashSet<String>,
}

pub(super) struct Server {
    state: Mutex<State>,
    versions: Versions,
    /// The name of the version.
    name: &'static str,
    pushes: Sender<String>,
    lanes: Sessions,
}

impl Server {
    pub(super) fn new(name: &'static str, versions: Versions) -> (Arc<Self>, Receiver<String>) {
        let (pushes, pushed) = channel();
        let state = State { version: Some(1), made: 1, entry: 1, floor: 0, tracked: HashSet::new() };
        let lanes = Sessions::embedded();
        (Arc::new(Self { state: Mutex::new(state), versions, name, pushes, lanes }), pushed)
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    /// Reads the version that the entry carries.
    pub(super) fn read(&self, entry: &str) -> u64 {
        self.with(|state| {
            state.tracked.insert(entry.to_owned());
            state.entry
        })
    }

    pub(super) fn current(&self) -> Option<u64> {
        self.with(|state| state.version)
    }

    /// Replaces the version.
    pub(super) fn renew(&self) {
        self.with(|state| self.put(state, true));
    }

    /// Loses the version, as if it had expired.
    pub(super) fn lose(&self) {
        self.with(|state| self.put(state, false));
    }

    /// Writes the entry again, with the current version.
    pub(super) fn write(&self, entry: &str) {
        self.with(|state| {
            state.entry = state.version.unwrap_or(state.entry);
            self.tell(state, entry);
        });
    }

    fn put(&self, state: &mut State, some: bool) {
        state.version = some.then(|| self.make(state));
        self.tell(state, self.name);
    }

    fn make(&self, state: &mut State) -> u64 {
        state.made = match self.versions {
            Versions::Random => state.made + 1,
            Versions::Counted => state.version.unwrap_or(0) + 1,
        };
        state.made
    }

    fn tell(&self, state: &mut State, name: &str) {
        if state.tracked.remove(name) {
            let _ = self.pushes.send(name.to_owned());
        }
    }
}

impl Store for Server {
    async fn get_tracked(&self, name: &str) -> Result<Tracked> {
        let version = self.with(|state| {
            state.tracked.insert(name.to_owned());
            state.version
        });
        let bytes = version.map(|version| version.to_le_bytes().to_vec());
        Ok(Tracked { bytes, seen: Some(ReadStamp::ALWAYS) })
    }

    async fn get_many_tracked(&self, names: &[Name]) -> Result<Vec<Tracked>> {
        let mut all = Vec::new();
        for name in names {
            all.push(self.get_tracked(name).await?);
        }
        Ok(all)
    }

    fn lanes(&self) -> &Sessions {
        &self.lanes
    }

    async fn version(&self, name: &str, _candidate: u64, span: Duration) -> Result<KeptVersion> {
        let version = self.with(|state| {
            state.tracked.insert(name.to_owned());
            let made = state.version.is_none().then(|| self.make(state));
            state.version = state.version.or(made);
            state.version.unwrap_or_default()
        });
        Ok(KeptVersion { version, left: span, seen: Some(ReadStamp::ALWAYS) })
    }
}
