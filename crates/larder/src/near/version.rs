//! The versions of tags and caches, kept near: every read compares them, and that must not cost a round trip.
//!
//! The protocol is that of entries: a version that was read through a tracked connection is kept until the
//! server reports a change of it, or until its session is no longer valid. A version is a random number, so
//! it is only ever compared for equality.

use std::time::Duration;

use super::recency::Recency;
use super::tier::{Copied, InsertTicket, Tier};
use crate::clock::{Moment, Tick};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::session::{ReadStamp, Sessions};
use crate::store::{KeptVersion, Store, Tracked, read_version};

/// The most bytes of this table: some fifty thousand versions.
const BYTES: u64 = 8 << 20;

/// A near tier of any type.
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

/// A cached version, and the session that vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownVersion {
    pub(crate) version: u64,
    pub(crate) seen: ReadStamp,
    /// How long the server keeps it at least, if that is known.
    kept_until: Option<Tick>,
}

pub(crate) struct Versions {
    known: Tier<KnownVersion>,
    /// What this process uses without asking the server.
    pub(crate) recency: Recency,
}

impl Default for Versions {
    fn default() -> Self {
        Self { known: Tier::new(BYTES), recency: Recency::default() }
    }
}

impl Versions {
    /// Returns a version that is cached and valid. No round trip.
    pub(crate) fn known(&self, name: &str, sessions: &Sessions, now: Moment) -> Option<KnownVersion> {
        let known = self.known.get(name).filter(|known| sessions.is_valid(known.seen, now))?;
        self.recency.used_version(name);
        Some(known)
    }

    /// Returns whether a version is cached, valid or not.
    pub(crate) fn is_kept(&self, name: &str) -> bool {
        self.known.find(name).is_some()
    }

    /// Returns the tags that were used since the last call.
    pub(crate) fn used_tags(&self) -> Vec<Name> {
        let used = self.recency.take_tags();
        if used.is_empty() {
            return Vec::new();
        }
        let names = self.known.names().filter(|name| name.starts_with("~tag") && used.contains(name));
        names.map(|name| Name::from(&*name)).collect()
    }

    /// Reads versions on the tracked connection, and returns the names whose cached version differs from the
    /// server's. One round trip for names that can be read together. The cached versions stay as they are.
    pub(crate) async fn outdated<'a>(&self, store: &impl Store, names: &'a [Name]) -> Result<Vec<&'a Name>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let read = store.get_many_tracked(names).await?;
        let differs = |(name, read): (&'a Name, Tracked)| {
            let version = read.bytes.as_deref().and_then(read_version);
            self.known.get(name).is_some_and(|known| Some(known.version) != version).then_some(name)
        };
        Ok(names.iter().zip(read).filter_map(differs).collect())
    }

    /// Reads the current version in one round trip; does not create it if it is missing.
    pub(crate) async fn ask(
        &self,
        store: &impl Store,
        name: &str,
    ) -> Result<Option<(u64, Option<ReadStamp>)>> {
        let ticket = self.known.ticket(name);
        let read = store.get_tracked(name).await.map_err(unchecked)?;
        let version = read.bytes.as_deref().and_then(read_version);
        if let (Some(version), Some(seen)) = (version, read.seen) {
            self.keep(name, ticket, KnownVersion { version, seen, kept_until: None });
        }
        Ok(version.map(|version| (version, read.seen)))
    }

    /// Reads current versions, in the order of `names`: one round trip for names that can be read together.
    pub(crate) async fn ask_many(
        &self,
        store: &impl Store,
        names: &[Name],
    ) -> Result<Vec<Option<(u64, Option<ReadStamp>)>>> {
        let tickets: Vec<InsertTicket> = names.iter().map(|name| self.known.ticket(name)).collect();
        let read = store.get_many_tracked(names).await.map_err(unchecked)?;
        Ok(names
            .iter()
            .zip(tickets)
            .zip(read)
            .map(|((name, ticket), read)| {
                let version = read.bytes.as_deref().and_then(read_version)?;
                if let Some(seen) = read.seen {
                    self.keep(name, ticket, KnownVersion { version, seen, kept_until: None });
                }
                Some((version, read.seen))
            })
            .collect())
    }

    /// Returns a version for an entry that will be kept for `span`, and creates it if it is missing. No round
    /// trip if the version is known to be kept for that long.
    pub(crate) async fn ensure(
        &self,
        store: &impl Store,
        name: &str,
        candidate: u64,
        span: Duration,
        now: (Moment, Tick),
    ) -> Result<u64> {
        let (moment, tick) = now;
        if let Some(known) = self.known(name, store.sessions(), moment)
            && known.kept_until.is_some_and(|until| until >= tick.after(span))
        {
            return Ok(known.version);
        }
        let ticket = self.known.ticket(name);
        let KeptVersion { version, left, seen } =
            store.version(name, candidate, span).await.map_err(unchecked)?;
        if let Some(seen) = seen {
            self.keep(name, ticket, KnownVersion { version, seen, kept_until: Some(tick.after(left)) });
        }
        Ok(version)
    }

    fn keep(&self, name: &str, ticket: InsertTicket, known: KnownVersion) {
        self.known.insert(name, ticket, Copied { what: known, bytes: 64 });
    }

    pub(crate) fn changed(&self, name: &str) {
        self.known.invalidate(name);
    }

    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store names each change"))]
    pub(crate) fn all_changed(&self) {
        self.known.invalidate_all();
    }
}

/// On a cluster the version may be on another node than the entry. The error then names a node that the
/// reader did not ask for, so it says why.
fn unchecked(error: Error) -> Error {
    error.in_context("cannot check whether the entry was invalidated")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(millis * 1_000_000, millis * 1_000_000)
    }

    #[test]
    fn a_version_is_valid_no_longer_than_its_connection_gives_signs_of_life() {
        let (versions, sessions) = (Versions::default(), Sessions::remote());
        let seen = sessions.open(sessions.take().unwrap());
        versions.keep(
            "~tag",
            versions.known.ticket("~tag"),
            KnownVersion { version: 7, seen, kept_until: None },
        );
        assert_eq!(versions.known("~tag", &sessions, at(0)), None, "no heartbeat was answered yet");
        sessions.renew(seen, at(0));
        assert_eq!(versions.known("~tag", &sessions, at(1900)).map(|known| known.version), Some(7));
        assert_eq!(versions.known("~tag", &sessions, at(2000)), None, "the connection is silent");
        sessions.renew(seen, at(2000));
        assert!(versions.known("~tag", &sessions, at(2000)).is_some());
        sessions.end(seen);
        assert_eq!(versions.known("~tag", &sessions, at(2000)), None, "the connection has broken");
    }
}
