//! The versions of tags and caches, kept near: every read compares them, and that must not cost a round trip.
//!
//! The protocol is that of entries: a version that was read through a tracked connection is kept until the
//! server reports a change of it, or until its session is no longer valid. A version is a random number, so
//! it is only ever compared for equality.

use std::time::Duration;

use super::clear_version::{ClearVersion, KnownVersion};
use super::recency::Recency;
use super::tier::{Copied, InsertTicket, Tier};
use crate::clock::{Moment, Tick};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::session::{ReadStamp, Sessions};
use crate::store::{KeptVersion, Store, Tracked, read_version};
use crate::sync::{AtomicU64, Ordering};

/// The most bytes of this table: some fifty thousand versions.
const BYTES: u64 = 8 << 20;

pub(crate) struct Versions {
    known: Tier<Box<str>, KnownVersion>,
    /// Counts the changes of `known`, from 1. Incremented after each change and before the function that made it
    /// returns. So what was looked up since this number was read, and while it stays the same, is current.
    changes: AtomicU64,
    /// What this process uses without asking the server.
    pub(crate) recency: Recency,
}

impl Default for Versions {
    fn default() -> Self {
        Self { known: Tier::new(BYTES), changes: AtomicU64::new(1), recency: Recency::default() }
    }
}

impl Versions {
    /// Returns a version that is cached and valid. No round trip.
    pub(crate) fn known(&self, name: &str, sessions: &Sessions, now: Moment) -> Option<KnownVersion> {
        let known = self.known.get(name).filter(|known| sessions.is_valid(known.stamp, now))?;
        self.recency.used_version(name);
        Some(known)
    }

    /// Returns a cache's clear version if it is cached and valid. No round trip, and usually no lookup.
    #[inline]
    pub(crate) fn known_clear(
        &self,
        clear: &ClearVersion,
        sessions: &Sessions,
        now: Moment,
    ) -> Option<KnownVersion> {
        // Read the number before the table. A change that comes in between increments it, and the slot is not used
        // any more. If the table were read first, the slot could keep the version from before the change for ever.
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(known) = clear.slot.get(changes)
            && sessions.is_valid(known.stamp, now)
        {
            return Some(known);
        }
        let known = self.known(clear, sessions, now)?;
        clear.slot.put(changes, known);
        Some(known)
    }

    /// Returns a cache's clear version if it is cached, valid, and kept by the server until `until`.
    pub(crate) fn kept_clear(
        &self,
        clear: &ClearVersion,
        sessions: &Sessions,
        now: Moment,
        until: Tick,
    ) -> Option<u64> {
        let known = self.known_clear(clear, sessions, now)?;
        known.kept_until.is_some_and(|kept| kept >= until).then_some(known.version)
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
        let names = self.known.keys().filter(|name| name.starts_with("~tag") && used.contains(name));
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
            self.known.get(name.as_str()).is_some_and(|known| Some(known.version) != version).then_some(name)
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
        if let (Some(version), Some(stamp)) = (version, read.stamp) {
            self.keep(name, ticket, KnownVersion { version, stamp, kept_until: None });
        }
        Ok(version.map(|version| (version, read.stamp)))
    }

    /// Reads current versions, in the order of `names`: one round trip for names that can be read together.
    pub(crate) async fn ask_many(
        &self,
        store: &impl Store,
        names: &[Name],
    ) -> Result<Vec<Option<(u64, Option<ReadStamp>)>>> {
        let tickets: Vec<InsertTicket> = names.iter().map(|name| self.known.ticket(name.as_str())).collect();
        let read = store.get_many_tracked(names).await.map_err(unchecked)?;
        Ok(names
            .iter()
            .zip(tickets)
            .zip(read)
            .map(|((name, ticket), read)| {
                let version = read.bytes.as_deref().and_then(read_version)?;
                if let Some(stamp) = read.stamp {
                    self.keep(name, ticket, KnownVersion { version, stamp, kept_until: None });
                }
                Some((version, read.stamp))
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
        let KeptVersion { version, left, stamp } =
            store.version(name, candidate, span).await.map_err(unchecked)?;
        if let Some(stamp) = stamp {
            self.keep(name, ticket, KnownVersion { version, stamp, kept_until: Some(tick.after(left)) });
        }
        Ok(version)
    }

    fn keep(&self, name: &str, ticket: InsertTicket, known: KnownVersion) {
        self.known.insert(name, ticket, Copied { what: known, bytes: 64 });
        self.changes.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn changed(&self, name: &str) {
        self.known.invalidate(name);
        self.changes.fetch_add(1, Ordering::Release);
    }

    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store names each change"))]
    pub(crate) fn all_changed(&self) {
        self.known.invalidate_all();
        self.changes.fetch_add(1, Ordering::Release);
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
        let stamp = sessions.open(sessions.take().unwrap());
        versions.keep(
            "~tag",
            versions.known.ticket("~tag"),
            KnownVersion { version: 7, stamp, kept_until: None },
        );
        assert_eq!(versions.known("~tag", &sessions, at(0)), None, "no heartbeat was answered yet");
        sessions.renew(stamp, at(0));
        assert_eq!(versions.known("~tag", &sessions, at(1700)).map(|known| known.version), Some(7));
        assert_eq!(versions.known("~tag", &sessions, at(2000)), None, "the connection is silent");
        sessions.renew(stamp, at(2000));
        assert!(versions.known("~tag", &sessions, at(2000)).is_some());
        sessions.end(stamp);
        assert_eq!(versions.known("~tag", &sessions, at(2000)), None, "the connection has broken");
    }

    #[test]
    fn the_clear_version_in_its_slot_follows_the_table_and_its_session() {
        let (versions, sessions) = (Versions::default(), Sessions::remote());
        let clear = ClearVersion::new("~clear".into());
        let known = |seconds: u64| {
            versions.known_clear(&clear, &sessions, at(seconds * 1000)).map(|known| known.version)
        };
        let keep = |version, stamp, kept_until| {
            versions.keep(
                "~clear",
                versions.known.ticket("~clear"),
                KnownVersion { version, stamp, kept_until },
            );
        };
        let stamp = sessions.open(sessions.take().unwrap());
        sessions.renew(stamp, at(0));
        assert_eq!(known(0), None);
        keep(7, stamp, None);
        assert_eq!([known(0), known(1), known(2)], [Some(7), Some(7), None]);
        versions.changed("~other");
        assert_eq!(known(1), Some(7));
        versions.changed("~clear");
        assert_eq!(known(1), None, "replaced");
        let until = |micros| versions.kept_clear(&clear, &sessions, at(1000), Tick::from_micros(micros));
        keep(8, stamp, None);
        assert_eq!((known(1), until(0)), (Some(8), None));
        keep(8, stamp, Some(Tick::from_micros(5)));
        assert_eq!((until(5), until(6)), (Some(8), None), "the slot has an older time");
        versions.all_changed();
        assert_eq!(known(1), None, "all were replaced");
        keep(9, stamp, None);
        assert_eq!(known(1), Some(9));
        sessions.end(stamp);
        assert_eq!(known(1), None, "the connection has broken");
    }
}
