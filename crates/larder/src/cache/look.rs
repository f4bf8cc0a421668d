//! Reading an entry: from the near tier where a copy may be believed, else from the store; and judging what was found.
//!
//! What counts is decided in one place. An entry is served while its versions (its tags' and its cache's clear) are still
//! the current ones, which are known through the tracked connection without a round trip when warm; and it is fresh while its
//! envelope says so, in the server's time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::{Found, Kept, More, NearCopy, Source};
use super::{Cache, NearTier};
use crate::clock::Moment;
use crate::envelope::{TagVersion, has_envelope, tags};
use crate::error::Result;
use crate::name::Name;
use crate::near::{Copied, Ticket};
use crate::store::trust::Seen;
use crate::store::{Expiry, Store, Tracked};
use crate::value::{Decoded, Meta};

/// A look at the store, under way. Boxed, because what asks the store moves about until it does.
pub(super) type LookUp<'a, V> = Pin<Box<dyn Future<Output = Result<Found<V>>> + Send + 'a>>;

/// Versions that were asked for with what carries them, so that each need not ask again.
type Learned = HashMap<Name, Option<u64>>;

/// Whether the versions of an entry are the current ones, and as what the cache's was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes(Option<Seen>),
    No,
}

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Reads an entry and counts what it was.
    pub(super) async fn look(&self, entry: &str) -> Result<Found<V>> {
        if let Some(kept) = self.look_near(entry, NearCopy::kept)? {
            self.shared.meter.near_hit();
            return Ok(Found::Fresh(kept));
        }
        self.look_past_near(Name::from(entry)).await
    }

    /// Reads an entry that is not near, and counts what it was. The future of a cache without a near tier is half as large,
    /// and what allocating and filling it takes is a good part of what a read costs here.
    pub(super) fn look_past_near(&self, entry: Name) -> LookUp<'_, V> {
        if self.shared.near.get().is_none() {
            return Box::pin(async move {
                let store = self.context.store()?;
                let found = match store.get(&entry).await? {
                    None => Found::Nothing,
                    Some(bytes) => self.judge(&entry, bytes).await?,
                };
                Ok(self.counted(found))
            });
        }
        Box::pin(async move { Ok(self.counted(self.look_at_store(&entry).await?)) })
    }

    fn counted(&self, found: Found<V>) -> Found<V> {
        match found {
            Found::Fresh(_) => self.shared.meter.hits(1),
            _ => self.shared.meter.misses(1),
        }
        found
    }

    /// What `take` makes of the near copy, if there is one that may be believed.
    #[inline]
    pub(super) fn look_near<T>(&self, entry: &str, take: impl FnOnce(NearCopy<V>) -> T) -> Result<Option<T>> {
        let Some(near) = self.near_tier() else { return Ok(None) };
        let lanes = self.context.store()?.lanes();
        let Some(Copied { what: copy, .. }) = near.copies.find(entry) else { return Ok(None) };
        let now = self.context.clock.moment();
        let believed =
            now.mono() < copy.until && lanes.believe(copy.seen, now) && !self.context.outbox.is_pending();
        let believed = believed && copy.more.as_ref().is_none_or(|more| self.holds(more, now));
        Ok(believed.then(|| take(copy)))
    }

    /// Whether what else a near copy stands on may still be believed.
    fn holds(&self, more: &More, now: Moment) -> bool {
        let cleared = self.context.store().is_ok_and(|store| store.lanes().believe(more.clear_seen, now));
        cleared && (more.tags.is_empty() || self.tags_known_to_hold(&more.tags).unwrap_or(false))
    }

    /// Whether tags hold, as far as that is known here.
    fn tags_known_to_hold(&self, tags: &[TagVersion]) -> Result<bool> {
        let (lanes, now) = (self.context.store()?.lanes(), self.context.clock.moment());
        let versions = &self.context.changes.versions;
        Ok(tags.iter().all(|tag| {
            let known = versions.known(&self.context.keyspace.tag(&tag.tag), lanes, now);
            known.is_some_and(|known| known.version == tag.version)
        }))
    }

    /// Reads an entry from the store, and keeps a near copy of what is fresh.
    pub(super) async fn look_at_store(&self, entry: &str) -> Result<Found<V>> {
        let store = self.context.store()?;
        let Some(near) = self.shared.near.get() else {
            return match store.get(entry).await? {
                None => Ok(Found::Nothing),
                Some(bytes) => self.judge(entry, bytes).await,
            };
        };
        let ticket = near.copies.ticket(entry);
        let tracked = store.get_tracked(entry).await?;
        self.judge_tracked(near, entry, ticket, tracked, None).await
    }

    /// Judges what a tracked read found, and keeps a near copy of it if it is fresh.
    pub(super) async fn judge_tracked(
        &self,
        near: &NearTier<V>,
        entry: &str,
        ticket: Ticket,
        tracked: Tracked,
        learned: Option<&Learned>,
    ) -> Result<Found<V>> {
        let Tracked { bytes: Some(bytes), seen, mut left } = tracked else { return Ok(Found::Nothing) };
        if self.is_overdue(entry) {
            return Ok(Found::Unusable(bytes));
        }
        let size = bytes.len();
        if left.is_none() && !has_envelope(&bytes) {
            // Bare JSON does not say when it ends, and the server tells of an expiry only when it comes across it.
            left = match Box::pin(self.context.store()?.remaining(entry)).await? {
                Some((_, Expiry::After(left))) => Some(left),
                _ => None,
            };
        }
        let decoded = self.decode(&bytes);
        let (value, meta) = match decoded {
            Decoded::Value(value, meta) => (value, meta),
            decoded => return self.judge_decoded(decoded, bytes).await,
        };
        let held = match self.known_to_hold(&meta, learned)? {
            Some(held) => held,
            None => Box::pin(self.ask_whether_held(&meta)).await?,
        };
        let Held::Yes(clear_seen) = held else { return Ok(Found::Unusable(bytes)) };
        let kept = Kept::new(value, Source::Server, &meta);
        let now = self.context.store()?.now();
        if kept.is_stale(now) {
            return Ok(Found::Stale(Kept { source: Source::Stale, ..kept }));
        }
        // Where nobody would tell of a `clear`, no copy is kept that only a `clear` could void.
        let clear_seen = if meta.clear_version == 0 { seen } else { clear_seen };
        if seen.is_none() {
            // Nobody told of a change before this answer: a copy that is older must not be served after it.
            near.copies.invalidate(entry);
        }
        if let (Some(seen), Some(clear_seen)) = (seen, clear_seen) {
            let mut age = near.max_age;
            let ends = if kept.fresh_until != 0 { kept.fresh_until } else { meta.expires_at };
            if ends != 0 {
                age = age.min(Duration::from_millis(ends.saturating_sub(now)));
            }
            age = left.map_or(age, |left| age.min(left));
            let ordinary = meta.tags.is_empty() && kept.fresh_until == 0 && clear_seen == seen;
            let more = || More {
                clear_seen,
                tags: meta.tags,
                nonce: kept.nonce,
                fresh_until: kept.fresh_until,
                load_cost: kept.load_cost,
            };
            let copy = NearCopy {
                value: kept.value.clone(),
                seen,
                until: self.context.clock.moment().mono_after(age),
                written_at: kept.written_at,
                more: (!ordinary).then(|| Arc::new(more())),
            };
            let bytes = u32::try_from(size).unwrap_or(u32::MAX);
            near.copies.insert(entry, ticket, Copied { what: copy, bytes });
        }
        Ok(Found::Fresh(kept))
    }

    /// Whether this process has yet to tell the server that what it has under a name is old.
    pub(super) fn is_overdue(&self, entry: &str) -> bool {
        self.context.outbox.holds(entry, &self.shared.clear)
    }

    /// What stored bytes are to a reader.
    pub(super) async fn judge(&self, entry: &str, bytes: Bytes) -> Result<Found<V>> {
        self.judge_with(entry, bytes, None).await
    }

    async fn judge_decoded(&self, decoded: Decoded<V>, bytes: Bytes) -> Result<Found<V>> {
        Ok(match decoded {
            Decoded::Value(value, meta) => {
                let held = self.held(&meta).await?;
                return self.judged(value, &meta, held, bytes);
            }
            Decoded::Absence(meta) => match self.held(&meta).await? {
                Held::Yes(_) => Found::Absent(bytes),
                Held::No => Found::Unusable(bytes),
            },
            Decoded::Placeholder(meta) => match self.held(&meta).await? {
                Held::Yes(_) => Found::Placeholder(bytes),
                Held::No => Found::Unusable(bytes),
            },
            Decoded::Unreadable(_) => Found::Unusable(bytes),
        })
    }

    fn judged(&self, value: V, meta: &Meta, held: Held, bytes: Bytes) -> Result<Found<V>> {
        if held == Held::No {
            return Ok(Found::Unusable(bytes));
        }
        let kept = Kept::new(value, Source::Server, meta);
        Ok(if kept.is_stale(self.context.store()?.now()) {
            Found::Stale(Kept { source: Source::Stale, ..kept })
        } else {
            Found::Fresh(kept)
        })
    }

    pub(super) fn decode(&self, bytes: &Bytes) -> Decoded<V> {
        self.shared.meter.read(bytes.len());
        let decoded = crate::value::decode(bytes, self.context.limits.max_value_bytes);
        if let Decoded::Unreadable(reason) = decoded {
            self.shared.meter.unreadable(reason);
        }
        decoded
    }

    /// Whether the versions that an entry carries are the current ones.
    async fn held(&self, meta: &Meta) -> Result<Held> {
        match self.known_to_hold(meta, None)? {
            Some(held) => Ok(held),
            None => self.ask_whether_held(meta).await,
        }
    }

    /// The same, as far as that is known here or was learned: no round trip.
    fn known_to_hold(&self, meta: &Meta, learned: Option<&Learned>) -> Result<Option<Held>> {
        if meta.clear_version == 0 && meta.tags.is_empty() {
            return Ok(Some(Held::Yes(None)));
        }
        let (lanes, now) = (self.context.store()?.lanes(), self.context.clock.moment());
        let version = |name: &Name| {
            if let Some(known) = self.context.changes.versions.known(name, lanes, now) {
                return Some((Some(known.version), Some(known.seen)));
            }
            learned.and_then(|learned| learned.get(name)).map(|version| (*version, None))
        };
        let mut clear_seen = None;
        if meta.clear_version != 0 {
            let Some((current, seen)) = version(&self.shared.clear) else { return Ok(None) };
            if current != Some(meta.clear_version) {
                return Ok(Some(Held::No));
            }
            clear_seen = seen;
        }
        for tag in &meta.tags {
            let name = self.context.keyspace.tag(&tag.tag);
            if self.context.outbox.replaces(&name) {
                return Ok(Some(Held::No));
            }
            match version(&name) {
                Some((current, _)) if current == Some(tag.version) => {}
                Some(_) => return Ok(Some(Held::No)),
                None => return Ok(None),
            }
        }
        Ok(Some(Held::Yes(clear_seen)))
    }

    /// The same, asking the server for what is not known: one round trip, all at once.
    async fn ask_whether_held(&self, meta: &Meta) -> Result<Held> {
        let store = self.context.store()?;
        let versions = &self.context.changes.versions;
        let clear = async {
            if meta.clear_version == 0 {
                return Ok(Some((0, None)));
            }
            versions.ask(store, &self.shared.clear).await
        };
        let names: Vec<Name> = meta.tags.iter().map(|tag| self.context.keyspace.tag(&tag.tag)).collect();
        let tags =
            async { if names.is_empty() { Ok(Vec::new()) } else { versions.ask_many(store, &names).await } };
        let (clear, tags) = futures_util::future::try_join(clear, tags).await?;
        let clear = clear.filter(|(version, _)| *version == meta.clear_version);
        let tags_hold = tags.iter().zip(&meta.tags).all(|(known, tag)| *known == Some(tag.version));
        Ok(match clear {
            Some((_, seen)) if tags_hold => Held::Yes(seen),
            _ => Held::No,
        })
    }

    /// Whether a version of the cache's clear is the current one.
    pub(super) async fn is_current(&self, clear_version: u64) -> Result<bool> {
        let meta = Meta { clear_version, ..Meta::default() };
        Ok(matches!(self.held(&meta).await?, Held::Yes(_)))
    }

    /// Reads entries, and counts what they were: in the order of `names`, one round trip for those that can be read together.
    pub(super) async fn look_many(&self, names: &[Name]) -> Result<Vec<Found<V>>> {
        let mut found = Vec::with_capacity(names.len());
        let mut asked = Vec::new();
        for (place, name) in names.iter().enumerate() {
            found.push(match self.look_near(name, NearCopy::kept)? {
                Some(kept) => {
                    self.shared.meter.near_hit();
                    Found::Fresh(kept)
                }
                None => {
                    asked.push(place);
                    Found::Nothing
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
        let store = self.context.store()?;
        let mut answers = Vec::with_capacity(wanted.len());
        if let Some(near) = self.shared.near.get() {
            let tickets: Vec<Ticket> = wanted.iter().map(|name| near.copies.ticket(name)).collect();
            let read = store.get_many_tracked(&wanted).await?;
            let learned = self.learn(read.iter().filter_map(|read| read.bytes.as_ref())).await?;
            for ((name, ticket), tracked) in wanted.iter().zip(tickets).zip(read) {
                answers.push(self.judge_tracked(near, name, ticket, tracked, learned.as_ref()).await?);
            }
        } else {
            let read = store.get_many(&wanted).await?;
            let learned = self.learn(read.iter().flatten()).await?;
            for (name, bytes) in wanted.iter().zip(read) {
                answers.push(match bytes {
                    None => Found::Nothing,
                    Some(bytes) => self.judge_with(name, bytes, learned.as_ref()).await?,
                });
            }
        }
        for (place, answer) in asked.into_iter().zip(answers) {
            match answer {
                Found::Fresh(_) => self.shared.meter.hits(1),
                _ => self.shared.meter.misses(1),
            }
            if let Some(found) = found.get_mut(place) {
                *found = answer;
            }
        }
        Ok(found)
    }

    /// Asks at once for all versions that these values carry and that are not known. Nothing, as a rule.
    async fn learn(&self, values: impl Iterator<Item = &Bytes>) -> Result<Option<Learned>> {
        let store = self.context.store()?;
        let (lanes, now) = (store.lanes(), self.context.clock.moment());
        let unknown = |name: &Name| self.context.changes.versions.known(name, lanes, now).is_none();
        let mut names: Vec<Name> = Vec::new();
        for bytes in values {
            if names.is_empty() && has_envelope(bytes) && unknown(&self.shared.clear) {
                names.push(self.shared.clear.clone());
            }
            for tag in tags(bytes) {
                let name = self.context.keyspace.tag(tag);
                if unknown(&name) {
                    names.push(name);
                }
            }
        }
        if names.is_empty() {
            return Ok(None);
        }
        names.sort_unstable();
        names.dedup();
        let versions = Box::pin(self.context.changes.versions.ask_many(store, &names)).await?;
        Ok(Some(names.into_iter().zip(versions).collect()))
    }

    /// As [`judge`](Self::judge), with versions that were asked for.
    async fn judge_with(&self, entry: &str, bytes: Bytes, learned: Option<&Learned>) -> Result<Found<V>> {
        if self.is_overdue(entry) {
            return Ok(Found::Unusable(bytes));
        }
        match self.decode(&bytes) {
            Decoded::Value(value, meta) => {
                let held = match self.known_to_hold(&meta, learned)? {
                    Some(held) => held,
                    // Rare, and large as a future: boxed, so that every other read need not carry it.
                    None => Box::pin(self.ask_whether_held(&meta)).await?,
                };
                self.judged(value, &meta, held, bytes)
            }
            decoded => Box::pin(self.judge_decoded(decoded, bytes)).await,
        }
    }

    /// The current versions for what will be kept for `span`: the cache's clear, and those of `tags`. No round trip when warm.
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

    /// The cache's near tier, where this handle reads it.
    fn near_tier(&self) -> Option<&Arc<NearTier<V>>> {
        if self.policy.asks_server { None } else { self.shared.near.get() }
    }
}
