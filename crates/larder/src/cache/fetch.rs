//! Reading entries from the store: what a read finds, and what becomes of it.
//!
//! Whether something may be served is decided in [`verdict`](super::verdict), and nowhere else. Here is read what it is
//! decided on, the server is asked for what is not known, and what is served is decoded, once and last.
//!
//! A read looks at the queue of invalidations before it is sent, too: its answer may be from before an invalidation that
//! has left the queue when the answer arrives.

use std::borrow::Cow;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use super::kept::{CachedValue, Lookup, NearCopy, Source};
use super::local::Fetched;
use super::verdict::{Cause, Judged, Verdict, VersionReplies, ask, classified, classify};
use crate::envelope::TagVersion;
use crate::error::Result;
use crate::name::Name;
use crate::near::InsertTicket;
use crate::store::{Store, Tracked};
use crate::value::decode;

/// A read from the store, under way. Boxed, because what asks the store moves about until it does.
pub(super) type Fetch<'a, V> = Pin<Box<dyn Future<Output = Result<Lookup<V>>> + Send + 'a>>;

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Reads an entry, from the near tier where that has it, and counts what it was.
    pub(super) async fn lookup(&self, entry: &str) -> Result<Lookup<V>> {
        if let Some(kept) = self.get_local(entry, NearCopy::kept)? {
            self.near_hit(&Name::from(entry));
            return Ok(Lookup::Fresh(kept));
        }
        self.fetch_counted(Name::from(entry)).await
    }

    /// Reads an entry from the store, and counts what it was. The future of a cache without a near tier is half as
    /// large, and what allocating and filling it takes is a good part of what a read costs here.
    pub(super) fn fetch_counted(&self, entry: Name) -> Fetch<'_, V> {
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

    /// Reads an entry from the store, and keeps a near copy of what is fresh.
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
        let ticket = near.copies.ticket(entry);
        let read = store.get_tracked(entry).await?;
        let Tracked { bytes: Some(bytes), seen, left } = read else { return Ok(Lookup::Nothing) };
        if covered {
            return Ok(Lookup::Unusable(bytes));
        }
        let classified = classified(&self.context, &self.shared.clear, entry, &bytes).await?;
        let mut fetched = Fetched { entry, ticket, seen, clear_seen: None, left, size: bytes.len() };
        if classified.is_served() && Self::end_is_unknown(&fetched, &classified.meta) {
            let ends = Box::pin(store.remaining_many(&[Name::from(entry)])).await?;
            fetched.left = ends.first().copied().flatten();
        }
        self.found_tracked(fetched, classified, bytes)
    }

    /// Whether the entry's invalidation is queued. To be asked before the request is sent, too: the invalidation may be
    /// answered while the request is under way, and what that finds may still be older.
    #[inline]
    pub(super) fn is_covered(&self, entry: &str) -> bool {
        let queue = &self.context.invalidations;
        queue.is_pending() && queue.covers(entry, &self.shared.clear)
    }

    /// What stored bytes are to a reader.
    pub(super) async fn classify(&self, entry: &str, bytes: Bytes) -> Result<Lookup<V>> {
        let classified = classified(&self.context, &self.shared.clear, entry, &bytes).await?;
        Ok(self.found(&classified, bytes))
    }

    /// The same for those who decide by the verdict alone.
    pub(super) async fn verdict(&self, entry: &str, bytes: &[u8]) -> Result<Judged> {
        self.shared.meter.read(bytes.len());
        classified(&self.context, &self.shared.clear, entry, bytes).await
    }

    /// Decodes what is to be decoded.
    fn found(&self, classified: &Judged, bytes: Bytes) -> Lookup<V> {
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

    /// The same, and keeps a near copy of what is fresh.
    fn found_tracked(&self, fetched: Fetched<'_>, classified: Judged, bytes: Bytes) -> Result<Lookup<V>> {
        let found = self.found(&classified, bytes);
        if let (Lookup::Fresh(kept), Some(near)) = (&found, self.shared.near.get()) {
            // What carries no clear version can only be invalidated by its own name.
            let clear_seen =
                if classified.meta.clear_version == 0 { fetched.seen } else { classified.clear_seen };
            let fetched = Fetched { clear_seen, ..fetched };
            self.keep_copy(near, &fetched, kept, classified.meta.expires_at, classified.meta.tags)?;
        }
        Ok(found)
    }

    /// Reads entries, and counts what they were: in the order of `names`, one round trip for those that can be read
    /// together.
    pub(super) async fn fetch_many(&self, names: &[Name]) -> Result<Vec<Lookup<V>>> {
        let mut found = Vec::with_capacity(names.len());
        let mut asked = Vec::new();
        for (place, name) in names.iter().enumerate() {
            found.push(match self.get_local(name, NearCopy::kept)? {
                Some(kept) => {
                    self.near_hit(name);
                    Lookup::Fresh(kept)
                }
                None => {
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
        let covered: Vec<bool> = match self.context.invalidations.is_pending() {
            true => names.iter().map(|name| self.is_covered(name)).collect(),
            false => Vec::new(),
        };
        let invalidate = |mut classified: Vec<Option<Judged>>| {
            for (classified, _) in classified.iter_mut().zip(&covered).filter(|(_, covered)| **covered) {
                if let Some(classified) = classified {
                    classified.verdict = Verdict::Invalid(Cause::Queued);
                }
            }
            classified
        };
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
        let tickets: Vec<InsertTicket> = names.iter().map(|name| near.copies.ticket(name)).collect();
        let read = store.get_many_tracked(names).await?;
        let classified =
            invalidate(self.classify_many(names, read.iter().map(|read| read.bytes.as_ref())).await?);
        let mut fetched: Vec<Fetched<'_>> = names
            .iter()
            .zip(tickets)
            .zip(&read)
            .map(|((entry, ticket), read)| {
                let size = read.bytes.as_ref().map_or(0, Bytes::len);
                Fetched { entry, ticket, seen: read.seen, clear_seen: None, left: read.left, size }
            })
            .collect();
        self.ask_ends(&mut fetched, &classified).await?;
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

    /// Judges what was read, asking at once for all versions that are not known. Nothing, as a rule.
    async fn classify_many<'a>(
        &self,
        names: &[Name],
        read: impl Iterator<Item = Option<&'a Bytes>> + Clone,
    ) -> Result<Vec<Option<Judged>>> {
        let judge_all = |answers: &VersionReplies| {
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
            let mut classified = judge_all(&answers)?;
            let unknown: Vec<Name> = classified.iter_mut().flatten().flat_map(Judged::unknown).collect();
            if unknown.is_empty() {
                return Ok(classified);
            }
            answers.extend(Box::pin(ask(&self.context, unknown)).await?);
        }
    }

    /// Asks at once how long bare JSON will be kept, where near copies are to be made of it.
    async fn ask_ends(&self, fetched: &mut [Fetched<'_>], classified: &[Option<Judged>]) -> Result<()> {
        let mut unknown: Vec<&mut Fetched<'_>> = fetched
            .iter_mut()
            .zip(classified)
            .filter_map(|(fetched, classified)| {
                let classified = classified.as_ref().filter(|classified| classified.is_served())?;
                Self::end_is_unknown(fetched, &classified.meta).then_some(fetched)
            })
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<Name> = unknown.iter().map(|fetched| Name::from(fetched.entry)).collect();
        let ends = Box::pin(self.context.store()?.remaining_many(&names)).await?;
        for (fetched, left) in unknown.iter_mut().zip(ends) {
            fetched.left = left;
        }
        Ok(())
    }

    /// The current versions for what will be kept for `span`: the cache's clear, and those of `tags`. No round trip
    /// when warm.
    pub(super) async fn versions(&self, tags: &[String], span: Duration) -> Result<(u64, Vec<TagVersion>)> {
        if !self.has_versions() {
            return Ok((0, Vec::new()));
        }
        let store = self.context.store()?;
        let now = (self.context.clock.moment(), self.context.clock.now());
        let ensure = async |name: &Name| {
            let candidate = self.context.random.nonce();
            self.context.changes.versions.ensure(store, name, candidate, span, now).await
        };
        if tags.is_empty() {
            return Ok((ensure(&self.shared.clear).await?, Vec::new()));
        }
        let names: Vec<Name> = std::iter::once(self.shared.clear.clone())
            .chain(tags.iter().map(|tag| self.context.keyspace.tag(tag)))
            .collect();
        let mut found = try_join_all(names.iter().map(ensure)).await?.into_iter();
        let clear = found.next().unwrap_or_default();
        let tags = tags.iter().zip(found).map(|(tag, version)| TagVersion { tag: tag.clone(), version });
        Ok((clear, tags.collect()))
    }
}
