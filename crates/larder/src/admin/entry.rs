//! One entry: its envelope, its value, and why it is served or not.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Admin, Process};
use crate::cache::Explanation;
use crate::error::Result;
use crate::store::Expiry;

/// The format of a stored value, as its bytes say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoredFormat {
    /// JSON behind the envelope.
    Json,
    /// MessagePack behind the envelope.
    MessagePack,
    /// Bytes as they are, behind the envelope.
    Raw,
    /// JSON without an envelope.
    Plain,
}

impl StoredFormat {
    /// Returns the name for people and scripts: `json`, `msgpack`, `raw` or `plain`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::MessagePack => "msgpack",
            Self::Raw => "raw",
            Self::Plain => "plain",
        }
    }
}

/// The compression of a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// The value is stored as it is.
    None,
    /// LZ4.
    Lz4,
}

/// What kind of entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// A value.
    Value,
    /// The origin is known to have no such value.
    Absence,
    /// A load is under way.
    Placeholder,
    /// Damaged, or of a layout that this build cannot read, with the reason.
    Unreadable(&'static str),
}

/// A tag that an entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryTag {
    /// The tag's name.
    pub tag: String,
    /// The version that the tag had when the data was read.
    pub version: u64,
    /// The version that it has now; `None` if it has none.
    pub current: Option<u64>,
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EntryValue {
    /// A value of `Format::Json`, `MessagePack` or `Plain`. NaN and infinities, which only MessagePack carries, are
    /// `null`.
    Json(serde_json::Value),
    /// A value of `Format::Raw`, or a payload that is not JSON.
    Bytes(Bytes),
}

/// A stored entry. Made by [`Admin::entry`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryInfo {
    /// The full name on the server.
    pub name: String,
    /// What kind of entry it is.
    pub kind: EntryKind,
    /// The format of the value; `None` if there is none or it cannot be read.
    pub format: Option<StoredFormat>,
    /// How the value is compressed.
    pub compression: Compression,
    /// The stored size in bytes, envelope included.
    pub stored_bytes: u64,
    /// How long the server keeps it.
    pub expiry: Expiry,
    /// When it was written, in the server's time. `None` without an envelope.
    pub written_at: Option<SystemTime>,
    /// Until when it is fresh, if it may be served as stale after that. [`SystemTime::UNIX_EPOCH`] and a millisecond
    /// if it was marked as stale.
    pub fresh_until: Option<SystemTime>,
    /// When it ends, as the envelope says it. Another program's `EXPIRE` does not change this.
    pub expires_at: Option<SystemTime>,
    /// How long loading it took.
    pub load_time: Option<Duration>,
    /// The number of this write, different for each; a placeholder's token. 0 without an envelope.
    pub nonce: u64,
    /// The version of the cache's `clear` that it carries; `None` if it carries none.
    pub clear_version: Option<u64>,
    /// The version that the cache's `clear` has now; `None` if it has none.
    pub current_clear_version: Option<u64>,
    /// The tags that it carries.
    pub tags: Vec<EntryTag>,
    pub(super) bytes: Bytes,
    pub(super) max_bytes: usize,
}

impl EntryInfo {
    /// Decodes the value, whatever its format; `None` for an entry without a value.
    ///
    /// # Errors
    ///
    /// - [`Encode`](crate::ErrorKind::Encode): the payload cannot be decoded. [`payload`](Self::payload) returns it.
    /// - [`ValueTooLarge`](crate::ErrorKind::ValueTooLarge): raise `max_value_bytes`.
    pub fn value(&self) -> Result<Option<EntryValue>> {
        super::unfinished()
    }

    /// Returns the bytes of the value, decompressed and not decoded; `None` for an entry without a value.
    ///
    /// # Errors
    ///
    /// - [`Encode`](crate::ErrorKind::Encode): they cannot be decompressed. [`stored`](Self::stored) returns all bytes.
    /// - [`ValueTooLarge`](crate::ErrorKind::ValueTooLarge): raise `max_value_bytes`.
    pub fn payload(&self) -> Result<Option<Bytes>> {
        super::unfinished()
    }

    /// Returns all stored bytes, as they are on the server.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }
}

/// The owner of a load that is under way.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Loader {
    /// The token of the load.
    pub token: u64,
    /// The process that runs it, if it announced itself.
    pub process: Option<Process>,
    /// When the load began, in the server's time; `None` for a refresh, which does not say.
    pub since: Option<SystemTime>,
}

/// Why an entry is served or not. Made by [`Admin::explain`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryReport {
    /// The verdict, as [`Larder::explain`](crate::Larder::explain) gives it.
    pub explanation: Explanation,
    /// The entry; `None` if nothing is stored.
    pub entry: Option<EntryInfo>,
    /// Who loads or refreshes it now.
    pub loader: Option<Loader>,
}

impl Admin {
    /// Reads an entry; `None` if there is none. `cache` is `user`, or `user@2` for schema 2; `key` is the stored text.
    ///
    /// Costs two round trips, and a third for the versions of its tags.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`WrongType`](crate::ErrorKind::WrongType): the key holds another type of data.
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): the key is longer than `max_key_bytes`.
    pub async fn entry(&self, cache: &str, key: &str) -> Result<Option<EntryInfo>> {
        let _ = (cache, key);
        super::unfinished()
    }

    /// Explains why an entry is served or not: absent, a remembered absence, stale, invalidated by a tag or by a clear,
    /// or being loaded and by which process.
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn explain(&self, cache: &str, key: &str) -> Result<EntryReport> {
        let _ = (cache, key);
        super::unfinished()
    }

    /// Returns how long an entry is kept; `None` if there is no value. Like [`Cache::ttl`](crate::Cache::ttl), but of
    /// any type, and also of an entry that is stale or invalid.
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn ttl(&self, cache: &str, key: &str) -> Result<Option<Expiry>> {
        let _ = (cache, key);
        super::unfinished()
    }

    /// Returns whether a reader of the cache gets a value for the key.
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn exists(&self, cache: &str, key: &str) -> Result<bool> {
        let _ = (cache, key);
        super::unfinished()
    }
}
