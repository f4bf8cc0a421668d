//! Changes of single entries, tags and caches.

use std::time::Duration;

use super::{Admin, EntryValue, StoredFormat};
use crate::error::Result;
use crate::store::Expiry;

/// How [`Admin::set`] stores a value. Whatever is not given is taken from the entry that is replaced.
///
/// ```
/// use std::time::Duration;
/// use larder::admin::{EntryWrite, StoredFormat};
///
/// let how = EntryWrite::default().ttl(Duration::from_secs(3600)).tag("team:7").format(StoredFormat::Json);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct EntryWrite {
    pub(super) expiry: Option<Expiry>,
    pub(super) stale_for: Option<Duration>,
    pub(super) format: Option<StoredFormat>,
    pub(super) compress: Option<bool>,
    pub(super) tags: Option<Vec<String>>,
}

impl EntryWrite {
    /// Sets the time to live. Default: what is left of the existing entry's.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.expiry(Expiry::After(ttl))
    }

    /// Sets the expiry, which may be never. Default: what is left of the existing entry's.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Sets how long the entry may be served as stale after its time to live. Default: as the existing entry, or not.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.stale_for = Some(stale_for);
        self
    }

    /// Sets the format. Default: that of the existing entry, or JSON; `Raw` for bytes.
    pub fn format(mut self, format: StoredFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets whether to compress the value by LZ4, if that makes it smaller. Default: as the existing entry, or not.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = Some(compress);
        self
    }

    /// Adds a tag. Default: the tags of the existing entry.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.get_or_insert_default().push(tag.into());
        self
    }

    /// Stores the entry without tags.
    pub fn no_tags(mut self) -> Self {
        self.tags = Some(Vec::new());
        self
    }
}

impl Admin {
    /// Stores a value, replacing any existing one. Invalidates loads under way and near copies, as any write does.
    ///
    /// Costs a round trip, and others for the existing entry and the versions of its tags.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): there is no entry to take the time to live from, and
    ///   none was given; the name is not that of a cache; the tags are invalid, or the format cannot carry them; this
    ///   build has no such format; or the value is not of the format.
    /// - [`ValueTooLarge`](crate::ErrorKind::ValueTooLarge), [`KeyTooLong`](crate::ErrorKind::KeyTooLong): make it
    ///   smaller, or raise the limit.
    pub async fn set(&self, cache: &str, key: &str, value: &EntryValue, how: EntryWrite) -> Result<()> {
        let _ = (cache, key, value, how);
        super::unfinished()
    }

    /// Deletes an entry, and returns whether anything was there. Like [`Cache::delete`](crate::Cache::delete); an
    /// outage is an error, and nothing is queued.
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn delete(&self, cache: &str, key: &str) -> Result<bool> {
        let _ = (cache, key);
        super::unfinished()
    }

    /// Marks an entry as stale, and returns whether there was one. Like [`Cache::expire`](crate::Cache::expire); an
    /// outage is an error, and nothing is queued.
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn expire(&self, cache: &str, key: &str) -> Result<bool> {
        let _ = (cache, key);
        super::unfinished()
    }

    /// Gives an entry a new time to live from now, and returns whether there was a valid one. Like
    /// [`Cache::touch`](crate::Cache::touch).
    ///
    /// # Errors
    ///
    /// The same as [`entry`](Self::entry).
    pub async fn touch(&self, cache: &str, key: &str, ttl: Duration) -> Result<bool> {
        let _ = (cache, key, ttl);
        super::unfinished()
    }

    /// Invalidates every entry that carries a tag. Like [`Tag::invalidate`](crate::Tag::invalidate); an outage is an
    /// error, and the invalidation is queued in this process too.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the tag is empty or too long.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<()> {
        self.larder.tag(tag).invalidate().await
    }

    /// Invalidates every entry of a cache, of any schema. Costs one round trip. Bare JSON stays valid. `cache` has no
    /// schema: `user@2` is refused, because a clear covers all schemas.
    ///
    /// [`count_cache`](Self::count_cache) estimates how many entries that are.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache, or has a schema.
    pub async fn clear(&self, cache: &str) -> Result<()> {
        let _ = cache;
        super::unfinished()
    }
}
