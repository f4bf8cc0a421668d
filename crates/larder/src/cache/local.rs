//! Near copies: which may be served, and which values that were read become one.

use std::sync::Arc;
use std::time::Duration;

use super::lookup::{CachedValue, More, NearCopy};
use super::validity::tags_hold;
use super::{Cache, NearTier};
use crate::clock::Moment;
use crate::envelope::TagVersion;
use crate::error::Result;
use crate::key::{CacheKey, KeyText};
use crate::name::Name;
use crate::near::{Copied, EntryKeyRef, GivenKey, InsertTicket};
use crate::store::Store;
use crate::store::session::ReadStamp;
use crate::telemetry::SAMPLED;
use crate::value::{Meta, Value};

/// A value that was read on the tracked connection, with the facts that a near copy needs.
pub(super) struct Fetched<'a> {
    pub(super) key: EntryKeyRef<'a>,
    /// Taken before the read was sent.
    pub(super) ticket: InsertTicket,
    pub(super) stamp: Option<ReadStamp>,
    /// The stamp of the read of the cache's clear version.
    pub(super) clear_stamp: Option<ReadStamp>,
    /// How long the server keeps it, if that was asked.
    pub(super) left: Option<Duration>,
    /// Its size as stored.
    pub(super) size: usize,
}

impl<V> Cache<V>
where
    V: Value,
{
    /// Converts the near copy of a key with `take`, if there is one that may be served. Builds the entry's name only
    /// if invalidations are queued.
    #[inline]
    pub(super) fn get_near<K: CacheKey, T>(
        &self,
        key: &K,
        take: impl FnOnce(NearCopy<V>) -> T,
    ) -> Result<Option<T>> {
        let Some(near) = self.near_tier() else { return Ok(None) };
        let Some(plain) = key.plain() else { return self.get_written(near, key, take) };
        // Read the clock first: the processor then does so while it hashes the key.
        let now = self.context.clock.moment();
        // The copy is looked at where it was put. Moving it at once would wait for its parts to leave the store buffer.
        let found = near.copies.find(&GivenKey::new(self.policy.schema, plain));
        let valid = match &found {
            Some(copy) => self.may_serve(&copy.what, now, || self.entry(key))?,
            None if plain.may_be_escaped() => return self.get_written(near, key, take),
            None => false,
        };
        Ok(if valid { found.map(|copy| take(copy.what)) } else { None })
    }

    /// Does the same with the key's text.
    fn get_written<K: CacheKey, T>(
        &self,
        near: &NearTier<V>,
        key: &K,
        take: impl FnOnce(NearCopy<V>) -> T,
    ) -> Result<Option<T>> {
        let mut text = Name::new();
        key.write(&mut KeyText::new(&mut text));
        self.get_found(near, EntryKeyRef::text(self.policy.schema, &text), || self.entry(key), take)
    }

    /// Does the same for an entry whose name is there already.
    pub(super) fn get_local<T>(&self, entry: &str, take: impl FnOnce(NearCopy<V>) -> T) -> Result<Option<T>> {
        let Some(near) = self.near_tier() else { return Ok(None) };
        self.get_found(near, self.near_key(entry), || Ok(Name::from(entry)), take)
    }

    /// Returns the near tier's key of an entry of this handle, by its name.
    pub(super) fn near_key<'n>(&self, entry: &'n str) -> EntryKeyRef<'n> {
        EntryKeyRef::text(self.policy.schema, entry.get(self.policy.prefix.len()..).unwrap_or_default())
    }

    fn get_found<T>(
        &self,
        near: &NearTier<V>,
        key: EntryKeyRef<'_>,
        name: impl FnOnce() -> Result<Name>,
        take: impl FnOnce(NearCopy<V>) -> T,
    ) -> Result<Option<T>> {
        let now = self.context.clock.moment();
        let Some(found) = near.copies.find(&key) else { return Ok(None) };
        let valid = self.may_serve(&found.what, now, name)?;
        Ok(valid.then(|| take(found.what)))
    }

    /// Whether a near copy may be served.
    #[inline]
    fn may_serve(
        &self,
        copy: &NearCopy<V>,
        now: Moment,
        name: impl FnOnce() -> Result<Name>,
    ) -> Result<bool> {
        let sessions = self.context.store()?.sessions();
        Ok(now.mono() < copy.until
            && sessions.is_valid(copy.stamp, now)
            && copy.more.as_ref().is_none_or(|more| self.holds(more, now))
            && !(self.context.invalidation_queue.is_pending() && self.is_covered(&name()?)))
    }

    /// Whether the clear version and the tags that a near copy depends on are still valid.
    fn holds(&self, more: &More, now: Moment) -> bool {
        let cleared =
            self.context.store().is_ok_and(|store| store.sessions().is_valid(more.clear_stamp, now));
        cleared && (more.tags.is_empty() || tags_hold(&self.context, &more.tags))
    }

    /// Keeps a near copy of a fresh value that was just read, if the server will report its changes.
    pub(super) fn keep_copy(
        &self,
        near: &NearTier<V>,
        fetched: &Fetched<'_>,
        cached: &CachedValue<V>,
        expires_at: u64,
        tags: Vec<TagVersion>,
    ) -> Result<()> {
        let Some(stamp) = fetched.stamp else {
            // The reply carries no promise that a change would be reported. An older copy must not be served after
            // it.
            near.copies.invalidate(&fetched.key);
            return Ok(());
        };
        // If a `clear` would not be reported, do not keep a copy that only a `clear` can invalidate.
        let Some(clear_stamp) = fetched.clear_stamp else { return Ok(()) };
        // The copy ends with `max_age`, with the value's freshness, or with the entry, whichever is first.
        let mut age = near.max_age;
        let ends = if cached.fresh_until != 0 { cached.fresh_until } else { expires_at };
        if ends != 0 {
            age = age.min(Duration::from_millis(ends.saturating_sub(self.context.store()?.now())));
        }
        age = fetched.left.map_or(age, |left| age.min(left));
        // Most copies need nothing but the value and its stamp; what others need is behind a pointer.
        let ordinary = tags.is_empty() && cached.fresh_until == 0 && clear_stamp == stamp;
        let more = || More {
            clear_stamp,
            tags,
            nonce: cached.nonce,
            fresh_until: cached.fresh_until,
            load_cost: cached.load_cost,
        };
        let copy = NearCopy {
            value: cached.value.clone(),
            stamp,
            until: self.context.clock.moment().mono_after(age),
            written_at: cached.written_at,
            more: (!ordinary).then(|| Arc::new(more())),
        };
        let bytes = u32::try_from(fetched.size).unwrap_or(u32::MAX);
        near.copies.insert(fetched.key, fetched.ticket, Copied { what: copy, bytes });
        Ok(())
    }

    /// Whether a near copy needs to know when the entry expires and its bytes do not say so: bare JSON. The server
    /// reports an expiry only when it removes the entry, which may be late.
    pub(super) fn end_is_unknown(fetched: &Fetched<'_>, meta: &Meta) -> bool {
        fetched.stamp.is_some() && fetched.left.is_none() && meta.nonce == 0
    }

    /// Returns the cache's near tier, if this handle reads it.
    #[inline]
    fn near_tier(&self) -> Option<&Arc<NearTier<V>>> {
        if self.policy.asks_server { None } else { self.shared.near.get() }
    }
}

impl<V> Cache<V> {
    /// Counts a near hit. `name` is called for one hit in a while, and makes the entry's name.
    #[inline]
    pub(super) fn near_hit(&self, name: impl Fn() -> Result<Name>) {
        if self.shared.meter.near_hit() {
            self.sample_near_hit(name);
        }
    }

    #[cold]
    fn sample_near_hit(&self, name: impl Fn() -> Result<Name>) {
        self.context.invalidations.versions.recency.used_copy(&name);
        if self.counts_reads()
            && let Ok(entry) = name()
        {
            self.note_read(&entry, SAMPLED);
        }
    }
}
