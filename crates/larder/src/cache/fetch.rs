//! Reading entries from the store: what a read finds, and what it means for the caller.
//!
//! Only [`validity`](super::validity) decides whether an entry may be served. This module reads the entry, asks the
//! server for versions that are not known here, and decodes the value last, and only if it is served.
//!
//! A read checks the queue of invalidations before it is sent. Its reply may be from before an invalidation that has
//! left the queue by the time the reply arrives.

use std::borrow::Cow;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::Cache;
use super::local::Fetched;
use super::lookup::{CachedValue, Lookup, NearCopy, Source};
use super::validity::{Cause, Classified, Verdict, VersionReplies, ask, classified, classify};
use crate::clock::RECENT;
use crate::envelope::TagVersion;
use crate::error::Result;
use crate::name::Name;
use crate::near::InsertTicket;
use crate::store::{Store, Tracked};
use crate::value::{Value, decode};

/// A read from the store. Boxed, because the future is moved before it is first polled.
pub(super) type Fetch<'a, V> = Pin<Box<dyn Future<Output = Result<Lookup<V>>> + Send + 'a>>;

impl<V> Cache<V>
where
    V: Value,
{
    /// Reads an entry, from the near tier if it has a copy, and counts a hit or a miss.
    pub(super) async fn lookup(&self, entry: &str) -> Result<Lookup<V>> {
        if let Some(cached) = self.get_local(entry, NearCopy::cached)? {
            self.near_hit(|| Ok(Name::from(entry)));
            return Ok(Lookup::Fresh(cached));
        }
        self.fetch_counted(Name::from(entry)).await
    }

    /// Reads an entry from the store, and counts a hit or a miss. Without a near tier the future is half as large,
    /// which matters: allocating and filling it is a good part of the cost of a read.
    pub(super) fn fetch_counted(&self, entry: Name) -> Fetch<'_, V> {
        self.note_read(&entry, 1);
        if self.shared.near.get().is_none() {
            return Box::pin(async move {
                let store = self.context.store()?;
                let covered = self.is_covered(&entry);
                let found = match store.get(&entry).await? {
                    None => Lookup::Nothing,
                    Some(bytes) if covered => Lookup::Unusable(bytes),
                    Some(bytes) => self.classify(&entry, bytes).await?,
                };
                Ok(self.counted(found))
            });
        }
        Box::pin(async move { Ok(self.counted(self.fetch(&entry).await?)) })
    }

    fn counted(&self, found: Lookup<V>) -> Lookup<V> {
        match found {
            Lookup::Fresh(_) => self.shared.meter.hits(1),
            _ => self.shared.meter.misses(1),
        }
        found
    }

    /// Reads an entry from the store, and keeps a near copy if it is fresh.
    pub(super) async fn fetch(&self, entry: &str) -> Result<Lookup<V>> {
        let store = self.context.store()?;
        let covered = self.is_covered(entry);
        let Some(near) = self.shared.near.get() else {
            return match store.get(entry).await? {
                None => Ok(Lookup::Nothing),
                Some(bytes) if covered => Ok(Lookup::Unusable(bytes)),
                Some(bytes) => self.classify(entry, bytes).await,
            };
        };
        let key = self.near_key(entry);
        let ticket = near.copies.ticket(&key);
        let read = store.get_tracked(entry).await?;
        let Tracked { bytes: Some(bytes), stamp, left } = read else { return Ok(Lookup::Nothing) };
        if covered {
            return Ok(Lookup::Unusable(bytes));
        }
        let classified = classified(&self.context, &self.shared.clear, entry, &bytes).await?;
        let mut fetched = Fetched { key, ticket, stamp, clear_stamp: None, left, size: bytes.len() };
        if classified.is_served() && Self::end_is_unknown(&fetched, &classified.meta) {
            let ends = Box::pin(store.remaining_many(&[Name::from(entry)])).await?;
            fetched.left = ends.first().copied().flatten();
        }
        self.found_tracked(fetched, classified, bytes)
    }

    /// Whether an invalidation of the entry is queued. Call it before the request is sent: the invalidation may be
    /// answered during the request, whose own reply may still be older.
    #[inline]
    pub(super) fn is_covered(&self, entry: &str) -> bool {
        let queue = &self.context.invalidation_queue;
        queue.is_pending() && queue.covers(entry, &self.shared.clear)
    }

    /// Decides what stored bytes mean for a reader, and decodes them.
    pub(super) async fn classify(&self, entry: &str, bytes: Bytes) -> Result<Lookup<V>> {
        let classified = classified(&self.context, &self.shared.clear, entry, &bytes).await?;
        Ok(self.found(&classified, bytes))
    }

    /// Decides the same without decoding, for callers that need only the verdict.
    pub(super) async fn verdict(&self, entry: &str, bytes: &[u8]) -> Result<Classified> {
        self.shared.meter.read(bytes.len());
        classified(&self.context, &self.shared.clear, entry, bytes).await
    }

    /// Decodes the value if the verdict allows to serve it.
    fn found(&self, classified: &Classified, bytes: Bytes) -> Lookup<V> {
        self.shared.meter.read(bytes.len());
        let (payload, source) = match &classified.verdict {
            Verdict::Serve(payload) => (*payload, Source::Server),
            Verdict::Stale(payload) => (*payload, Source::Stale),
            Verdict::Absent => return Lookup::Absent(bytes),
            Verdict::Placeholder => return Lookup::Placeholder(bytes),
            Verdict::Nothing => return Lookup::Nothing,
            Verdict::Invalid(_) | Verdict::Ask(_) => return Lookup::Unusable(bytes),
            Verdict::Unreadable(reason) => {
                self.shared.meter.unreadable(reason);
                return Lookup::Unusable(bytes);
            }
        };
        match decode(&bytes, payload, self.context.limits.max_value_bytes) {
            Ok(value) if source == Source::Stale => {
                Lookup::Stale(CachedValue::new(value, source, &classified.meta))
            }
            Ok(value) => Lookup::Fresh(CachedValue::new(value, source, &classified.meta)),
            Err(reason) => {
                self.shared.meter.unreadable(reason);
                Lookup::Unusable(bytes)
            }
        }
    }

    /// Does the same, and keeps a near copy if the value is fresh.
    fn found_tracked(&self, fetched: Fetched<'_>, classified: Classified, bytes: Bytes) -> Result<Lookup<V>> {
        let found = self.found(&classified, bytes);
        if let (Lookup::Fresh(cached), Some(near)) = (&found, self.shared.near.get()) {
            // An entry without a clear version can only be invalidated by its own name.
            let clear_stamp =
                if classified.meta.clear_version == 0 { fetched.stamp } else { classified.clear_stamp };
            let fetched = Fetched { clear_stamp, ..fetched };
            self.keep_copy(near, &fetched, cached, classified.meta.expires_at, classified.meta.tags)?;
        }
        Ok(found)
    }

    /// Reads entries in the order of `names`, and counts hits and misses. Names that can be read together share a
    /// round trip.
    pub(super) async fn fetch_many(&self, names: &[Name]) -> Result<Vec<Lookup<V>>> {
        let mut found = Vec::with_capacity(names.len());
        let mut asked = Vec::new();
        for (place, name) in names.iter().enumerate() {
            found.push(match self.get_local(name, NearCopy::cached)? {
                Some(cached) => {
                    self.near_hit(|| Ok(name.clone()));
                    Lookup::Fresh(cached)
                }
                None => {
                    self.note_read(name, 1);
                    asked.push(place);
                    Lookup::Nothing
                }
            });
        }
        if asked.is_empty() {
            return Ok(found);
        }
        let wanted = if asked.len() == names.len() {
            Cow::Borrowed(names)
        } else {
            Cow::Owned(asked.iter().filter_map(|place| names.get(*place)).cloned().collect())
        };
        for (place, answer) in asked.into_iter().zip(self.fetch_from_store(&wanted).await?) {
            if let Some(found) = found.get_mut(place) {
                *found = self.counted(answer);
            }
        }
        Ok(found)
    }

    async fn fetch_from_store(&self, names: &[Name]) -> Result<Vec<Lookup<V>>> {
        let store = self.context.store()?;
        // Check the queue before the read: an entry whose invalidation is queued is not served.
        let covered: Vec<bool> = match self.context.invalidation_queue.is_pending() {
            true => names.iter().map(|name| self.is_covered(name)).collect(),
            false => Vec::new(),
        };
        let invalidate = |mut classified: Vec<Option<Classified>>| {
            for (classified, _) in classified.iter_mut().zip(&covered).filter(|(_, covered)| **covered) {
                if let Some(classified) = classified {
                    classified.verdict = Verdict::Invalid(Cause::Queued);
                }
            }
            classified
        };
        // Without a near tier: read, classify, decode.
        let Some(near) = self.shared.near.get() else {
            let read = store.get_many(names).await?;
            let classified = invalidate(self.classify_many(names, read.iter().map(Option::as_ref)).await?);
            let found =
                classified.into_iter().zip(read).map(|(classified, bytes)| match (classified, bytes) {
                    (Some(classified), Some(bytes)) => self.found(&classified, bytes),
                    _ => Lookup::Nothing,
                });
            return Ok(found.collect());
        };
        // With one: take the tickets before the read, so that an invalidation during it keeps the copy from being made.
        let tickets: Vec<InsertTicket> =
            names.iter().map(|name| near.copies.ticket(&self.near_key(name))).collect();
        let read = store.get_many_tracked(names).await?;
        let classified =
            invalidate(self.classify_many(names, read.iter().map(|read| read.bytes.as_ref())).await?);
        let mut fetched: Vec<Fetched<'_>> = names
            .iter()
            .zip(tickets)
            .zip(&read)
            .map(|((name, ticket), read)| {
                let size = read.bytes.as_ref().map_or(0, Bytes::len);
                Fetched {
                    key: self.near_key(name),
                    ticket,
                    stamp: read.stamp,
                    clear_stamp: None,
                    left: read.left,
                    size,
                }
            })
            .collect();
        self.ask_ends(names, &mut fetched, &classified).await?;
        fetched
            .into_iter()
            .zip(classified)
            .zip(read)
            .map(|((fetched, classified), read)| match (classified, read.bytes) {
                (Some(classified), Some(bytes)) => self.found_tracked(fetched, classified, bytes),
                _ => Ok(Lookup::Nothing),
            })
            .collect()
    }

    /// Classifies what was read. Asks for all versions that are not known here in one request; usually all are known.
    async fn classify_many<'a>(
        &self,
        names: &[Name],
        read: impl Iterator<Item = Option<&'a Bytes>> + Clone,
    ) -> Result<Vec<Option<Classified>>> {
        let classify_all = |answers: &VersionReplies| {
            let read = names.iter().zip(read.clone());
            read.map(|(name, bytes)| {
                bytes
                    .map(|bytes| classify(&self.context, &self.shared.clear, name, bytes, answers))
                    .transpose()
            })
            .collect::<Result<Vec<_>>>()
        };
        let mut answers = VersionReplies::new();
        loop {
            let mut classified = classify_all(&answers)?;
            let unknown: Vec<Name> = classified.iter_mut().flatten().flat_map(Classified::unknown).collect();
            if unknown.is_empty() {
                return Ok(classified);
            }
            answers.extend(Box::pin(ask(&self.context, unknown)).await?);
        }
    }

    /// Asks in one request how long bare JSON will be kept, if near copies of it are to be made.
    async fn ask_ends(
        &self,
        names: &[Name],
        fetched: &mut [Fetched<'_>],
        classified: &[Option<Classified>],
    ) -> Result<()> {
        let (unknown_names, mut unknown): (Vec<Name>, Vec<&mut Fetched<'_>>) = names
            .iter()
            .zip(fetched)
            .zip(classified)
            .filter_map(|((name, fetched), classified)| {
                let classified = classified.as_ref().filter(|classified| classified.is_served())?;
                Self::end_is_unknown(fetched, &classified.meta).then(|| (name.clone(), fetched))
            })
            .unzip();
        if unknown.is_empty() {
            return Ok(());
        }
        let ends = Box::pin(self.context.store()?.remaining_many(&unknown_names)).await?;
        for (fetched, left) in unknown.iter_mut().zip(ends) {
            fetched.left = left;
        }
        Ok(())
    }

    /// Returns the current versions for an entry that is kept for `span`: the cache's clear version and those of
    /// `tags`. Costs no round trip if they are known here.
    pub(super) async fn versions(&self, tags: &[String], span: Duration) -> Result<(u64, Vec<TagVersion>)> {
        if !self.has_versions() {
            return Ok((0, Vec::new()));
        }
        if tags.is_empty() {
            let (versions, clock) = (&self.context.invalidations.versions, &self.context.clock);
            let sessions = self.context.store()?.sessions();
            // `recent` may be as old as that.
            let until = clock.recent().after(span.saturating_add(RECENT));
            if let Some(clear) = versions.kept_clear(&self.shared.clear, sessions, clock.moment(), until) {
                return Ok((clear, Vec::new()));
            }
        }
        // Rare without tags, and a large future. Boxed, so that other writes need not carry it.
        Box::pin(self.ensure_versions(tags, span)).await
    }

    async fn ensure_versions(&self, tags: &[String], span: Duration) -> Result<(u64, Vec<TagVersion>)> {
        let store = self.context.store()?;
        let now = (self.context.clock.moment(), self.context.clock.now());
        let ensure = async |name: &Name| {
            let candidate = self.context.random.nonce();
            self.context.invalidations.versions.ensure(store, name, candidate, span, now).await
        };
        let names: Vec<Name> = std::iter::once(Name::clone(&self.shared.clear))
            .chain(tags.iter().map(|tag| self.context.keyspace.tag(tag)))
            .collect();
        let mut found = try_join_all(names.iter().map(ensure)).await?.into_iter();
        let clear = found.next().unwrap_or_default();
        let tags = tags.iter().zip(found).map(|(tag, version)| TagVersion { tag: tag.clone(), version });
        Ok((clear, tags.collect()))
    }
}
