//! The versions of tags and caches, kept near: a version is compared at every read, and must not cost a round trip.
//!
//! The same protocol as for entries: what was read through a tracked connection is kept until the server tells that it has
//! changed, or its connection is not believed any more. A version is a random number, so comparing is all that is ever
//! done with it.

use std::time::Duration;

use super::tier::{Copied, Ticket, Tier};
use crate::clock::{Moment, Tick};
use crate::error::Result;
use crate::name::Name;
use crate::store::trust::{Lanes, Seen};
use crate::store::{KeptVersion, Store, read_version};

/// What this table may take: some fifty thousand versions.
const BYTES: u64 = 8 << 20;

/// A near tier, whatever it keeps.
pub(crate) trait AnyTier: Send + Sync {
    fn invalidate(&self, name: &str);
    fn invalidate_all(&self);
}

impl<T: Clone + Send + Sync> AnyTier for Tier<T> {
    fn invalidate(&self, name: &str) {
        Tier::invalidate(self, name);
    }

    fn invalidate_all(&self) {
        Tier::invalidate_all(self);
    }
}

/// A version, and as what it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) version: u64,
    pub(crate) seen: Seen,
    /// Until when the server keeps it at least, where it said so.
    kept_until: Option<Tick>,
}

pub(crate) struct Versions(Tier<Known>);

impl Default for Versions {
    fn default() -> Self {
        Self(Tier::new(BYTES))
    }
}

impl Versions {
    /// What is known here and now, without asking.
    pub(crate) fn known(&self, name: &str, lanes: &Lanes, now: Moment) -> Option<Known> {
        self.0.get(name).filter(|known| lanes.believe(known.seen, now))
    }

    /// The version as it is on the server: one round trip. None is made.
    pub(crate) async fn ask(&self, store: &impl Store, name: &str) -> Result<Option<(u64, Option<Seen>)>> {
        let ticket = self.0.ticket(name);
        let read = store.get_tracked(name).await?;
        let version = read.bytes.as_deref().and_then(read_version);
        if let (Some(version), Some(seen)) = (version, read.seen) {
            self.keep(name, ticket, Known { version, seen, kept_until: None });
        }
        Ok(version.map(|version| (version, read.seen)))
    }

    /// Versions as they are on the server, in the order of `names`: one round trip for those that can be read together.
    pub(crate) async fn ask_many(
        &self,
        store: &impl Store,
        names: &[Name],
    ) -> Result<Vec<Option<(u64, Option<Seen>)>>> {
        let tickets: Vec<Ticket> = names.iter().map(|name| self.0.ticket(name)).collect();
        let read = store.get_many_tracked(names).await?;
        Ok(names
            .iter()
            .zip(tickets)
            .zip(read)
            .map(|((name, ticket), read)| {
                let version = read.bytes.as_deref().and_then(read_version)?;
                if let Some(seen) = read.seen {
                    self.keep(name, ticket, Known { version, seen, kept_until: None });
                }
                Some((version, read.seen))
            })
            .collect())
    }

    /// The version for what will be kept for `span`, made if there is none. No round trip where it is known to be kept so
    /// long.
    pub(crate) async fn ensure(
        &self,
        store: &impl Store,
        name: &str,
        candidate: u64,
        span: Duration,
        now: (Moment, Tick),
    ) -> Result<u64> {
        let (moment, tick) = now;
        if let Some(known) = self.known(name, store.lanes(), moment)
            && known.kept_until.is_some_and(|until| until >= tick.after(span))
        {
            return Ok(known.version);
        }
        let ticket = self.0.ticket(name);
        let KeptVersion { version, left, seen } = store.version(name, candidate, span).await?;
        if let Some(seen) = seen {
            self.keep(name, ticket, Known { version, seen, kept_until: Some(tick.after(left)) });
        }
        Ok(version)
    }

    fn keep(&self, name: &str, ticket: Ticket, known: Known) {
        self.0.insert(name, ticket, Copied { what: known, bytes: 64 });
    }

    pub(crate) fn changed(&self, name: &str) {
        self.0.invalidate(name);
    }

    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store names each change"))]
    pub(crate) fn all_changed(&self) {
        self.0.invalidate_all();
    }
}
