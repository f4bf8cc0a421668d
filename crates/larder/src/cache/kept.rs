//! An entry as a reader meets it: the value, where it came from, and how old it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::conditional::EntryVersion;
use crate::envelope::TagVersion;
use crate::store::trust::ReadStamp;
use crate::value::Meta;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A copy in this process.
    Near,
    /// The server, or the embedded store.
    Server,
    /// A loader that has just run.
    Loaded,
    /// Past its time to live, within `stale_for`: the load that would replace it failed, is slow, or is not yet done.
    Stale,
}

/// A value and what is known of it. Made by [`Cache::get_entry`](crate::Cache::get_entry) and
/// [`Load::entry`](crate::Load::entry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<V> {
    pub(super) value: V,
    pub(super) source: Source,
    pub(super) age: Option<Duration>,
    pub(super) remaining: Option<Duration>,
    pub(super) version: Option<EntryVersion>,
}

impl<V> Entry<V> {
    /// The value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The value, and nothing else.
    pub fn into_value(self) -> V {
        self.value
    }

    /// Where the value came from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// How long ago it was written, in the server's time; `None` for bare JSON, which does not say.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// How long it will still be kept; `None` where it does not expire or that is not known.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }

    /// Which write the value comes from, for [`Set::if_version`](crate::Set::if_version). `None` for what was not
    /// read from the server (a near copy, a value that was just loaded) and for bare JSON: where a cache has a near
    /// tier, read through [`fresh()`](crate::Cache::fresh).
    pub fn version(&self) -> Option<EntryVersion> {
        self.version
    }
}

/// A value that was found, with what its envelope said.
#[derive(Clone)]
pub(super) struct CachedValue<V> {
    pub(super) value: V,
    pub(super) source: Source,
    /// 0 for bare JSON.
    pub(super) nonce: u64,
    pub(super) written_at: u64,
    /// 0: until it expires.
    pub(super) fresh_until: u64,
    pub(super) load_cost: u32,
    pub(super) clear_version: u64,
}

impl<V> CachedValue<V> {
    pub(super) fn new(value: V, source: Source, meta: &Meta) -> Self {
        let Meta { nonce, written_at, fresh_until, load_cost, clear_version, .. } = *meta;
        Self { value, source, nonce, written_at, fresh_until, load_cost, clear_version }
    }

    /// Which write it comes from, where that is known.
    pub(super) fn version(&self) -> Option<EntryVersion> {
        let read = matches!(self.source, Source::Server | Source::Stale) && self.nonce != 0;
        read.then_some(EntryVersion { nonce: self.nonce, clear: self.clear_version })
    }

    /// How old it is at `now`, the server's milliseconds.
    pub(super) fn age(&self, now: u64) -> Option<Duration> {
        (self.written_at != 0).then(|| Duration::from_millis(now.saturating_sub(self.written_at)))
    }
}

/// A value in the near tier. It is small, because the time of a near hit is the time that memory takes.
#[derive(Clone)]
pub(super) struct NearCopy<V> {
    pub(super) value: V,
    pub(super) seen: ReadStamp,
    /// Nanoseconds of the clock that nobody can set.
    pub(super) until: u64,
    pub(super) written_at: u64,
    /// What few copies have.
    pub(super) more: Option<Arc<More>>,
}

/// What there is to a near copy that has tags, an end to its freshness, or a cache that is cleared on another connection.
pub(super) struct More {
    /// As what the cache's clear version was believed when this was read.
    pub(super) clear_seen: ReadStamp,
    pub(super) tags: Vec<TagVersion>,
    pub(super) nonce: u64,
    pub(super) fresh_until: u64,
    pub(super) load_cost: u32,
}

impl<V> NearCopy<V> {
    pub(super) fn kept(self) -> CachedValue<V> {
        let (nonce, fresh_until, load_cost) =
            self.more.map_or((0, 0, 0), |more| (more.nonce, more.fresh_until, more.load_cost));
        let (value, written_at) = (self.value, self.written_at);
        CachedValue {
            value,
            source: Source::Near,
            nonce,
            written_at,
            fresh_until,
            load_cost,
            clear_version: 0,
        }
    }
}

/// What a look at the store found.
pub(super) enum Lookup<V> {
    /// A value that counts.
    Fresh(CachedValue<V>),
    /// Past its time, and still there.
    Stale(CachedValue<V>),
    /// The origin is known to have no such thing: these bytes say so.
    Absent(Bytes),
    /// Somebody is loading.
    Placeholder(Bytes),
    /// No such name.
    Nothing,
    /// Something that no reader can use, and what it was: damaged, foreign, or void since a tag was invalidated.
    Unusable(Bytes),
}

impl<V> fmt::Debug for CachedValue<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for Lookup<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh(_) => "Fresh",
            Self::Stale(_) => "Stale",
            Self::Absent(_) => "Absent",
            Self::Placeholder(_) => "Placeholder",
            Self::Nothing => "Nothing",
            Self::Unusable(_) => "Unusable",
        })
    }
}
