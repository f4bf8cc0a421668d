//! An entry as a reader sees it: the value, its source and its age.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::envelope::TagVersion;
use crate::store::session::ReadStamp;
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
    /// Past its time to live but within `stale_for`: the load that replaces it failed, is slow, or has not finished.
    Stale,
}

/// A value with its source, age and version. Made by [`Cache::get_entry`](crate::Cache::get_entry) and
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
    /// Returns the value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// Returns the value and drops the rest.
    pub fn into_value(self) -> V {
        self.value
    }

    /// Returns where the value came from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Returns how long ago the value was written, in the server's time; `None` for bare JSON, which does not say.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Returns how long the value will still be kept; `None` if it does not expire or the time is not known.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }

    /// Returns the version that identifies the write of this value, for [`Set::if_version`](crate::Set::if_version).
    /// `None` for bare JSON and for a value that was not read from the server: a near copy, or one that was just
    /// loaded. If the cache has a near tier, read through [`fresh()`](crate::Cache::fresh).
    pub fn version(&self) -> Option<EntryVersion> {
        self.version
    }
}

/// Identifies the write that a value comes from. Returned by [`Entry::version`](crate::Entry::version), for
/// [`Set::if_version`](crate::Set::if_version).
///
/// Displays and parses as text, for example as the `ETag` of a page.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// # let carts = larder.cache::<u32>("cart").no_expiry().build()?;
/// carts.set("ann", &1).await?;
/// let version = carts.get_entry("ann").await?.and_then(|entry| entry.version()).expect("it has an envelope");
/// let etag = format!("\"{version}\"");
/// assert_eq!(etag.trim_matches('"').parse(), Ok(version));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryVersion {
    pub(super) nonce: u64,
    /// The clear version that the entry carried. The entry that replaces it must not survive a `clear` in between.
    pub(super) clear: u64,
}

impl fmt::Display for EntryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.nonce, self.clear)
    }
}

impl FromStr for EntryVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let (nonce, clear) = text.split_at_checked(16).ok_or(ParseVersionError)?;
        if clear.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseVersionError);
        }
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| ParseVersionError);
        Ok(Self { nonce: number(nonce)?, clear: number(clear)? })
    }
}

/// The error of parsing a text that is not an [`EntryVersion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseVersionError;

impl fmt::Display for ParseVersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry's version has 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseVersionError {}

/// A value that was found, with the fields of its envelope.
#[derive(Clone)]
pub(super) struct CachedValue<V> {
    pub(super) value: V,
    pub(super) source: Source,
    /// 0 for bare JSON.
    pub(super) nonce: u64,
    pub(super) written_at: u64,
    /// 0 means fresh until it expires.
    pub(super) fresh_until: u64,
    pub(super) load_cost: u32,
    pub(super) clear_version: u64,
}

impl<V> CachedValue<V> {
    pub(super) fn new(value: V, source: Source, meta: &Meta) -> Self {
        let Meta { nonce, written_at, fresh_until, load_cost, clear_version, .. } = *meta;
        Self { value, source, nonce, written_at, fresh_until, load_cost, clear_version }
    }

    /// Identifies the write that the value comes from, if that is known.
    pub(super) fn version(&self) -> Option<EntryVersion> {
        let read = matches!(self.source, Source::Server | Source::Stale) && self.nonce != 0;
        read.then_some(EntryVersion { nonce: self.nonce, clear: self.clear_version })
    }

    /// Returns its age at `now`, in the server's milliseconds.
    pub(super) fn age(&self, now: u64) -> Option<Duration> {
        (self.written_at != 0).then(|| Duration::from_millis(now.saturating_sub(self.written_at)))
    }
}

/// A value in the near tier. It is small, because memory access dominates the cost of a near hit.
///
/// The fields are cloned in this order, the value last: cloning an `Arc` is an atomic step, which the processor carries
/// out before it loads anything else.
#[derive(Clone)]
pub(super) struct NearCopy<V> {
    pub(super) stamp: ReadStamp,
    /// Nanoseconds of the monotonic clock.
    pub(super) until: u64,
    pub(super) written_at: u64,
    /// What only few copies need.
    pub(super) more: Option<Arc<More>>,
    pub(super) value: V,
}

/// The part of a near copy that only some need: those with tags, with an end of their freshness, or whose clear
/// version was read on another connection.
pub(super) struct More {
    /// The stamp of the cache's clear version when this copy was read.
    pub(super) clear_stamp: ReadStamp,
    pub(super) tags: Vec<TagVersion>,
    pub(super) nonce: u64,
    pub(super) fresh_until: u64,
    pub(super) load_cost: u32,
}

impl<V> NearCopy<V> {
    pub(super) fn cached(self) -> CachedValue<V> {
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

/// What a read of the store found.
pub(super) enum Lookup<V> {
    /// A valid and fresh value.
    Fresh(CachedValue<V>),
    /// A valid value that is past its time to live and still stored.
    Stale(CachedValue<V>),
    /// The origin is known to have no such value. These bytes say so.
    Absent(Bytes),
    /// Another load is under way.
    Placeholder(Bytes),
    /// Nothing is stored under this name.
    Nothing,
    /// Bytes that no reader may use: damaged, foreign, or invalidated.
    Unusable(Bytes),
}

impl<V> fmt::Debug for CachedValue<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedValue").field("source", &self.source).finish_non_exhaustive()
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
