//! Changes of single entries, tags and caches.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::names::{self, CacheName};
use super::{Admin, Compression, EntryInfo, EntryKind, EntryValue, StoredFormat};
use crate::cache::{SHORTEST_SPAN, Tag, UNBOUNDED_SPAN, checked_tags};
use crate::context::RENEWAL_SPAN;
use crate::envelope::{TagVersion, nonce};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::{Expiry, InvalidationSink, Store};
use crate::value::{EntryTimes, Format, OpenedEntry, WriteStamp, encoded, open, restamped};

/// How many times a change starts over because the entry was written between its read and its write.
const MOST_ATTEMPTS: u32 = 8;

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
        let parsed = CacheName::parse(cache)?;
        let name = names::entry(self.context(), &parsed, key)?;
        // What the caller does not choose is taken from the value that is stored.
        let old = self.entry(cache, key).await?.filter(|old| old.kind == EntryKind::Value);
        let store = self.store()?;
        let format = how.format.unwrap_or_else(|| default_format(old.as_ref(), value));
        let times = times(&how, old.as_ref(), store.now())?;
        let tags = how.tags.unwrap_or_else(|| {
            let old = old.iter().flat_map(|old| &old.tags).map(|tag| tag.tag.clone());
            if format == StoredFormat::Plain { Vec::new() } else { old.collect() }
        });
        // Read the versions before the value is written: an invalidation from now on counts.
        let written = written(format)?;
        let tags = checked_tags(tags, written)?;
        let (clear_version, tags) = match format {
            StoredFormat::Plain => (0, Vec::new()),
            _ => self.versions(&parsed, &tags, times.kept).await?,
        };
        // Encode the value, and store it.
        let stamp = WriteStamp {
            nonce: self.context().random.nonce(),
            written_at: store.now(),
            fresh_until: times.fresh_until,
            expires_at: times.expires_at,
            load_cost: 0,
            clear_version,
            tags,
        };
        let compressed = |old: &EntryInfo| old.compression == Compression::Lz4;
        let compress = how.compress.unwrap_or_else(|| old.as_ref().is_some_and(compressed));
        let most = self.context().limits.max_value_bytes;
        let bytes = match (value, written) {
            (EntryValue::Bytes(bytes), Format::Raw) => encoded(written, compress, most, bytes, stamp)?,
            (EntryValue::Bytes(_), _) => {
                return Err(Error::invalid("bytes need the format raw"));
            }
            (EntryValue::Json(_), Format::Raw) => {
                return Err(Error::invalid("the format raw stores bytes, and the value is JSON"));
            }
            (EntryValue::Json(value), _) => encoded(written, compress, most, value, stamp)?,
        };
        Box::pin(self.within(store.set(&name, bytes, times.kept))).await?;
        self.context().invalidations.changed(&name);
        Ok(())
    }

    /// Returns the current versions of a cache and of tags, for an entry that is kept for so long. Creates those that
    /// are missing.
    async fn versions(
        &self,
        cache: &CacheName<'_>,
        tags: &[String],
        kept: Expiry,
    ) -> Result<(u64, Vec<TagVersion>)> {
        let (context, store) = (self.context(), self.store()?);
        let span = match kept {
            Expiry::Never => UNBOUNDED_SPAN,
            Expiry::After(ttl) => ttl.max(SHORTEST_SPAN),
        };
        let ensure = async |name: Name| {
            let now = (context.clock.moment(), context.clock.now());
            let candidate = context.random.nonce();
            self.within(context.invalidations.versions.ensure(store, &name, candidate, span, now)).await
        };
        let clear = Box::pin(ensure(cache.clear(context))).await?;
        let mut versions = Vec::with_capacity(tags.len());
        for tag in tags {
            let version = Box::pin(ensure(context.keyspace.tag(tag))).await?;
            versions.push(TagVersion { tag: tag.clone(), version });
        }
        Ok((clear, versions))
    }

    /// Deletes an entry, and returns whether anything was there. Like [`Cache::delete`](crate::Cache::delete); an
    /// outage is an error, and nothing is queued.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache, or a setting is
    ///   invalid. Correct the call.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn delete(&self, cache: &str, key: &str) -> Result<bool> {
        let name = names::entry(self.context(), &CacheName::parse(cache)?, key)?;
        let deleted = Box::pin(self.within(self.store()?.delete(&name))).await?;
        self.context().invalidations.changed(&name);
        Ok(deleted)
    }

    /// Marks an entry as stale, and returns whether there was one. Like [`Cache::expire`](crate::Cache::expire); an
    /// outage is an error, and nothing is queued.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache, or a setting is
    ///   invalid. Correct the call.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn expire(&self, cache: &str, key: &str) -> Result<bool> {
        let name = names::entry(self.context(), &CacheName::parse(cache)?, key)?;
        let store = self.store()?;
        for _ in 0..MOST_ATTEMPTS {
            let Some(bytes) = Box::pin(self.within(store.get(&name))).await? else { return Ok(false) };
            let is_value =
                matches!(open(&bytes), Ok(OpenedEntry { kind: crate::envelope::EnvelopeKind::Value, .. }));
            // One millisecond after 1970 is in the past; 0 would mean "until it expires".
            let stale = restamped(&bytes, self.context().random.nonce(), EntryTimes::FreshUntil(1));
            // A load under way, an absence or bytes without an envelope cannot be marked.
            let (Some(old), Some(stale), true) = (nonce(&bytes), stale, is_value) else { break };
            if Box::pin(self.within(store.restamp(&name, old, stale.into(), None))).await? {
                self.context().invalidations.changed(&name);
                return Ok(true);
            }
        }
        self.delete(cache, key).await
    }

    /// Gives an entry a new time to live from now, and returns whether there was a valid one. Like
    /// [`Cache::touch`](crate::Cache::touch).
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache, or a setting is
    ///   invalid. Correct the call.
    /// - [`KeyTooLong`](crate::ErrorKind::KeyTooLong): shorten the key, or raise `max_key_bytes`.
    pub async fn touch(&self, cache: &str, key: &str, ttl: Duration) -> Result<bool> {
        let parsed = CacheName::parse(cache)?;
        let name = names::entry(self.context(), &parsed, key)?;
        let store = self.store()?;
        for _ in 0..MOST_ATTEMPTS {
            if !self.exists(cache, key).await? {
                return Ok(false);
            }
            let Some(entry) = self.entry(cache, key).await? else { return Ok(false) };
            if entry.nonce == 0 {
                let touched = Box::pin(self.within(store.touch(&name, Expiry::After(ttl)))).await?;
                self.context().invalidations.changed(&name);
                return Ok(touched);
            }
            let how = EntryWrite::default().ttl(ttl);
            let times = times(&how, Some(&entry), store.now())?;
            // The versions must live as long as the entry.
            let tags: Vec<String> = entry.tags.iter().map(|tag| tag.tag.clone()).collect();
            self.versions(&parsed, &tags, times.kept).await?;
            let ends = match times.fresh_until {
                0 => EntryTimes::ExpiresAt(times.expires_at),
                end => EntryTimes::FreshUntil(end),
            };
            let Some(bytes) = restamped(entry.stored(), entry.nonce, ends) else { return Ok(false) };
            let written = store.restamp(&name, entry.nonce, bytes.into(), Some(times.kept));
            if Box::pin(self.within(written)).await? {
                self.context().invalidations.changed(&name);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Invalidates every entry that carries a tag. Like [`Tag::invalidate`](crate::Tag::invalidate); an outage is an
    /// error, and the invalidation is queued in this process too.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the tag is empty or too long.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<()> {
        Tag::new(self.context.clone(), tag.into()).invalidate().await
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
        let parsed = CacheName::parse(cache)?;
        parsed.prefix(self.context())?;
        if parsed.schema.is_some() {
            return Err(Error::invalid(format!(
                "a clear covers all schemas: give {:?} without one",
                parsed.cache
            )));
        }
        let (name, version) = (parsed.clear(self.context()), self.context().random.nonce());
        Box::pin(self.within(self.store()?.renew_version(&name, version, RENEWAL_SPAN))).await?;
        self.context().invalidations.changed(&name);
        Ok(())
    }
}

fn written(format: StoredFormat) -> Result<Format> {
    match format {
        StoredFormat::Json => Ok(Format::Json),
        StoredFormat::Plain => Ok(Format::Plain),
        StoredFormat::Raw => Ok(Format::Raw),
        #[cfg(feature = "msgpack")]
        StoredFormat::MessagePack => Ok(Format::MessagePack),
        #[cfg(not(feature = "msgpack"))]
        StoredFormat::MessagePack => {
            Err(Error::invalid("this build of larder has no MessagePack: turn on the feature msgpack"))
        }
    }
}

/// The format of the old entry, unless it cannot hold the value.
fn default_format(old: Option<&EntryInfo>, value: &EntryValue) -> StoredFormat {
    match (value, old.and_then(|old| old.format)) {
        (EntryValue::Bytes(_), _) => StoredFormat::Raw,
        (EntryValue::Json(_), None | Some(StoredFormat::Raw)) => StoredFormat::Json,
        (EntryValue::Json(_), Some(format)) => format,
    }
}

/// How long an entry is fresh and kept, as the envelope and the store have it.
struct Times {
    fresh_until: u64,
    expires_at: u64,
    kept: Expiry,
}

/// Decides how long a new value is fresh and kept, from what the caller gave and from the entry that it replaces. `now`
/// is the server's time.
fn times(how: &EntryWrite, old: Option<&EntryInfo>, now: u64) -> Result<Times> {
    // How much longer the old entry is fresh, if it has a time after that.
    let fresh_for = old.and_then(|old| {
        let until = millis(old.fresh_until?);
        (until > now).then(|| Duration::from_millis(until - now))
    });
    let was_dated = old.is_some_and(|old| old.fresh_until.is_some());
    let old_stale_for = match (old.map(|old| old.expiry), fresh_for) {
        (Some(Expiry::After(left)), Some(fresh)) => left.saturating_sub(fresh),
        _ => Duration::ZERO,
    };
    let stale_for = how.stale_for.unwrap_or(old_stale_for);
    let fresh = match (how.expiry, old) {
        (Some(expiry), _) => expiry,
        (None, Some(old)) => match (old.expiry, fresh_for) {
            (Expiry::After(_), Some(fresh)) => Expiry::After(fresh),
            (expiry, _) => expiry,
        },
        (None, None) => {
            return Err(Error::invalid("nothing is stored here whose time to live could be kept: give one"));
        }
    };
    let Expiry::After(fresh) = fresh else {
        return Ok(Times { fresh_until: 0, expires_at: 0, kept: Expiry::Never });
    };
    let ends = now.saturating_add(Expiry::After(fresh).as_millis().unwrap_or(0));
    let kept = Expiry::After(fresh.saturating_add(stale_for));
    let dated = how.stale_for.map_or(was_dated, |stale_for| !stale_for.is_zero());
    let (fresh_until, expires_at) = if dated { (ends, 0) } else { (0, ends) };
    Ok(Times { fresh_until, expires_at, kept })
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
