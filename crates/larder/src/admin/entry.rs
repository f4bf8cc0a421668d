//! One entry: its envelope, its value, and why it is served or not.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::names::{self, CacheName};
use super::{Admin, Process, time};
use crate::cache::{Explanation, Stored};
use crate::envelope::{self, Codec, Glance};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::{Expiry, Store, read_version};
use crate::value::{Meta, OpenedEntry, Payload, decode, open, payload_of};

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
    payload: Payload,
    max_bytes: usize,
    stale: bool,
}

impl EntryInfo {
    /// Returns whether it was a value past its time to live when it was read, by the store's clock. The local clock
    /// may be wrong: do not compare it with [`fresh_until`](Self::fresh_until).
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Decodes the value, whatever its format; `None` for an entry without a value.
    ///
    /// # Errors
    ///
    /// - [`Encode`](crate::ErrorKind::Encode): the payload cannot be decoded. [`payload`](Self::payload) returns it.
    /// - [`ValueTooLarge`](crate::ErrorKind::ValueTooLarge): raise `max_value_bytes`.
    pub fn value(&self) -> Result<Option<EntryValue>> {
        let Some(payload) = self.payload()? else { return Ok(None) };
        let json = || decode::<serde_json::Value>(&self.bytes, self.payload, self.max_bytes);
        match self.format {
            Some(StoredFormat::Raw) | None => Ok(Some(EntryValue::Bytes(payload))),
            // Any bytes may be under a name; readers of JSON treat others as unreadable.
            Some(StoredFormat::Plain) => {
                Ok(Some(json().map_or(EntryValue::Bytes(payload), EntryValue::Json)))
            }
            Some(StoredFormat::Json | StoredFormat::MessagePack) => {
                json().map(|value| Some(EntryValue::Json(value))).map_err(undecodable)
            }
        }
    }

    /// Returns the bytes of the value, decompressed and not decoded; `None` for an entry without a value.
    ///
    /// # Errors
    ///
    /// - [`Encode`](crate::ErrorKind::Encode): they cannot be decompressed. [`stored`](Self::stored) returns all bytes.
    /// - [`ValueTooLarge`](crate::ErrorKind::ValueTooLarge): raise `max_value_bytes`.
    pub fn payload(&self) -> Result<Option<Bytes>> {
        if self.kind != EntryKind::Value {
            return Ok(None);
        }
        payload_of(&self.bytes, self.payload, self.max_bytes).map(Some).map_err(undecodable)
    }

    /// Returns all stored bytes, as they are on the server.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }
}

fn undecodable(reason: &'static str) -> Error {
    match reason {
        "too_large" => Error::new(
            ErrorKind::ValueTooLarge,
            "the stored value takes more than max_value_bytes: raise the limit to read it",
        ),
        "unknown_layout" => Error::new(
            ErrorKind::Encode,
            "this build of larder cannot read the value: turn on the feature msgpack or compress",
        ),
        _ => Error::new(ErrorKind::Encode, format!("the stored value cannot be decoded ({reason})")),
    }
}

impl EntryInfo {
    /// Reads stored bytes, at `now` by the store's clock. The versions that the entry has now are left out.
    fn read(name: &Name, bytes: Bytes, expiry: Expiry, now: u64, max_bytes: usize) -> Self {
        // Parse the envelope. Bytes that cannot be read still have a size and an expiry.
        let (kind, meta, payload) = match open(&bytes) {
            Err(reason) => (EntryKind::Unreadable(reason), Meta::default(), Payload::default()),
            Ok(OpenedEntry { kind, meta, payload }) => {
                let kind = match kind {
                    envelope::EnvelopeKind::Value => EntryKind::Value,
                    envelope::EnvelopeKind::Absence => EntryKind::Absence,
                    envelope::EnvelopeKind::Placeholder => EntryKind::Placeholder,
                };
                (kind, meta, payload)
            }
        };
        let format = (kind == EntryKind::Value).then_some(match payload.coding() {
            None => StoredFormat::Plain,
            Some((Codec::Json, _)) => StoredFormat::Json,
            Some((Codec::MessagePack, _)) => StoredFormat::MessagePack,
            Some((Codec::Raw, _)) => StoredFormat::Raw,
        });
        let compression = match payload.coding() {
            Some((_, envelope::PayloadCompression::Lz4)) => Compression::Lz4,
            _ => Compression::None,
        };
        // In an envelope 0 means "not said".
        let (enveloped, known) = (meta.nonce != 0, |number: u64| (number != 0).then_some(number));
        Self {
            name: name.as_str().to_owned(),
            kind,
            format,
            compression,
            stored_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            expiry,
            written_at: enveloped.then(|| time(meta.written_at)),
            fresh_until: known(meta.fresh_until).map(time),
            expires_at: known(meta.expires_at).map(time),
            load_time: known(meta.load_cost.into()).map(Duration::from_micros),
            nonce: meta.nonce,
            clear_version: known(meta.clear_version),
            current_clear_version: None,
            tags: meta
                .tags
                .into_iter()
                .map(|tag| EntryTag { tag: tag.tag, version: tag.version, current: None })
                .collect(),
            bytes,
            payload,
            max_bytes,
            // As readers decide it.
            stale: kind == EntryKind::Value && known(meta.fresh_until).is_some_and(|until| until <= now),
        }
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
    /// Costs one round trip, and a second for the versions of its tags.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`WrongType`](crate::ErrorKind::WrongType): the key holds another type of data.
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): the key is longer than `max_key_bytes`.
    pub async fn entry(&self, cache: &str, key: &str) -> Result<Option<EntryInfo>> {
        let cache = CacheName::parse(cache)?;
        let name = names::entry(self.context(), &cache, key)?;
        let store = self.store()?;
        let clear = cache.clear(self.context());
        let read = async { tokio::try_join!(store.get(&name), store.remaining(&name), store.get(&clear)) };
        let (bytes, expiry, clear) = Box::pin(self.within(read)).await?;
        // They are read one after the other: the entry may have ended in between.
        let (Some(bytes), Some((_, expiry))) = (bytes, expiry) else { return Ok(None) };
        let mut entry =
            EntryInfo::read(&name, bytes, expiry, store.now(), self.context().limits.max_value_bytes);
        entry.current_clear_version = clear.as_deref().and_then(read_version);
        self.add_tag_versions(&mut entry).await?;
        Ok(Some(entry))
    }

    /// Reads the versions that the tags of an entry have now.
    async fn add_tag_versions(&self, entry: &mut EntryInfo) -> Result<()> {
        if entry.tags.is_empty() {
            return Ok(());
        }
        let names: Vec<Name> = entry.tags.iter().map(|tag| self.context().keyspace.tag(&tag.tag)).collect();
        let read = Box::pin(self.within(self.store()?.get_many(&names))).await?;
        for (tag, bytes) in entry.tags.iter_mut().zip(read) {
            tag.current = bytes.as_deref().and_then(read_version);
        }
        Ok(())
    }

    /// Explains why an entry is served or not: absent, a remembered absence, stale, invalidated by a tag or by a clear,
    /// or being loaded and by which process.
    ///
    /// Costs seven round trips.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn explain(&self, cache: &str, key: &str) -> Result<EntryReport> {
        let explanation = self.verdict(cache, key).await?;
        let entry = self.entry(cache, key).await?;
        let placeholder = match explanation.stored {
            Stored::Loading(token) => Some(token),
            _ => None,
        };
        let loader = match placeholder.or(explanation.refreshing) {
            None => None,
            Some(token) => {
                let process = self.processes_of(&[token]).await?.into_iter().next().flatten();
                let since =
                    entry.as_ref().filter(|_| placeholder.is_some()).and_then(|entry| entry.written_at);
                Some(Loader { token, process, since })
            }
        };
        Ok(EntryReport { explanation, entry, loader })
    }

    /// Returns how long an entry is kept; `None` if there is no value. Like [`Cache::ttl`](crate::Cache::ttl), but of
    /// any type, and also of an entry that is stale or invalid.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn ttl(&self, cache: &str, key: &str) -> Result<Option<Expiry>> {
        let name = names::entry(self.context(), &CacheName::parse(cache)?, key)?;
        let left = Box::pin(self.within(self.store()?.remaining(&name))).await?;
        Ok(left.filter(|(start, _)| envelope::glance(start) != Glance::Nothing).map(|(_, expiry)| expiry))
    }

    /// Returns whether a reader of the cache gets a value for the key.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn exists(&self, cache: &str, key: &str) -> Result<bool> {
        let explanation = self.verdict(cache, key).await?;
        Ok(matches!(explanation.stored, Stored::Fresh | Stored::Bare))
    }

    async fn verdict(&self, cache: &str, key: &str) -> Result<Explanation> {
        let name = names::entry(self.context(), &CacheName::parse(cache)?, key)?;
        let whole = name.as_str();
        let namespace = self.namespace();
        let entry =
            if namespace.is_empty() { whole } else { whole.get(namespace.len() + 1..).unwrap_or(whole) };
        Box::pin(self.within(Explanation::of(self.context(), entry))).await
    }
}
