//! Tags: one word that invalidates any number of entries, whatever their keys, without visiting them.
//!
//! A tag has a version, which is a random number. An entry carries the versions that its tags had before its data was
//! read, and is valid only while those are still the tags' versions. Invalidating a tag replaces its version: one
//! write, whatever the number of entries, and no clock is compared. A version that is lost differs too, so its
//! entries are misses.
//!
//! A tag that only the loader can name has no version from before the load. For those tags there is the *epoch*, a
//! version of the whole namespace that every invalidation replaces before it replaces the tag's version. A fill whose
//! epoch has changed is not stored.

use std::sync::Arc;
use std::time::Duration;

use crate::context::{Context, RENEWAL_SPAN};
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::store::{Store, read_version};
use crate::value::Format;
use crate::write::WriteCall;

const LONGEST_TAG: usize = 200;
const MOST_TAGS: usize = 64;

/// A tag, by its name. Made by [`Larder::tag`](crate::Larder::tag).
#[derive(Clone)]
pub struct Tag {
    context: Arc<Context>,
    tag: String,
}

impl Tag {
    pub(crate) fn new(context: Arc<Context>, tag: String) -> Self {
        Self { context, tag }
    }

    /// Invalidates every entry that carries this tag, in every cache of this namespace, and keeps every load under
    /// way whose value would carry it from storing.
    ///
    /// Costs two round trips, whatever the number of entries.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the tag is empty or too long.
    ///
    /// If the server is away, the invalidation is queued, and the error's [`is_queued`](Error::is_queued) is true.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have invalidated the tag; the invalidation is queued.
    pub fn invalidate(&self) -> WriteCall<'_, impl Future<Output = Result<()>> + Send> {
        WriteCall::new(self.context.limits.response_timeout, &self.context.tag_meter, async move {
            check(&self.tag)?;
            let invalidating = Invalidating { tag: self, answered: false };
            let store = self.context.store()?;
            let renew = async {
                // Replace the epoch before the tag's version: see the module's documentation.
                store
                    .renew_version(&self.context.keyspace.epoch(), self.context.random.nonce(), RENEWAL_SPAN)
                    .await?;
                let name = self.context.keyspace.tag(&self.tag);
                store.renew_version(&name, self.context.random.nonce(), RENEWAL_SPAN).await
            };
            invalidating.answered(renew.await)
        })
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tag").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// An invalidation under way. However it ends, `Drop` forgets the versions known here and detaches the loads that
/// would carry the tag. If the invalidation may not have taken effect, `Drop` queues it.
struct Invalidating<'a> {
    tag: &'a Tag,
    answered: bool,
}

impl Invalidating<'_> {
    fn answered(mut self, answer: Result<()>) -> Result<()> {
        self.answered = !answer.as_ref().is_err_and(Error::is_outage);
        if self.answered { answer } else { answer.map_err(Error::queued) }
    }
}

impl Drop for Invalidating<'_> {
    fn drop(&mut self) {
        let Tag { context, tag } = self.tag;
        let (epoch, name) = (context.keyspace.epoch(), context.keyspace.tag(tag));
        if !self.answered && !context.is_embedded() {
            context.queue_tag(&name);
        }
        context.invalidations.versions.changed(&epoch);
        context.invalidations.versions.changed(&name);
        context.caches.detach_tagged(tag);
    }
}

/// The versions that tags had at one moment. Take it with [`Larder::tag_snapshot`](crate::Larder::tag_snapshot)
/// before you read data that you will [`set`](crate::Cache::set) under those tags. If a tag is invalidated in
/// between, the value is invalid.
#[derive(Debug, Clone)]
pub struct TagSnapshot(pub(super) Vec<TagVersion>);

impl TagSnapshot {
    pub(crate) async fn take(context: &Context, tags: Vec<String>) -> Result<Self> {
        let tags = checked(tags, Format::Json)?;
        let mut versions = Vec::with_capacity(tags.len());
        for tag in tags {
            let name = context.keyspace.tag(&tag);
            let version = ensure(context, &name, RENEWAL_SPAN).await?;
            versions.push(TagVersion { tag, version });
        }
        Ok(Self(versions))
    }
}

/// Refuses tags that an entry cannot carry; sorts the others and removes duplicates.
pub(crate) fn checked(mut tags: Vec<String>, format: Format) -> Result<Vec<String>> {
    if tags.is_empty() {
        return Ok(tags);
    }
    if format == Format::Plain {
        return Err(Error::invalid("entries of Format::Plain cannot carry tags: choose another format"));
    }
    tags.sort_unstable();
    tags.dedup();
    check_count(tags.len())?;
    tags.iter().try_for_each(|tag| check(tag))?;
    Ok(tags)
}

/// Refuses more tags than an entry can carry.
pub(super) fn check_count(count: usize) -> Result<()> {
    if count > MOST_TAGS {
        return Err(Error::invalid(format!("an entry carries at most {MOST_TAGS} tags, not {count}")));
    }
    Ok(())
}

/// Returns the epoch for a load that is about to begin. It may be older than the server's; then the fill is not
/// stored.
pub(super) async fn epoch(context: &Context) -> Result<u64> {
    ensure(context, &context.keyspace.epoch(), RENEWAL_SPAN).await
}

/// Reads the current epoch from the server (one round trip).
pub(super) async fn current_epoch(context: &Context) -> Result<Option<u64>> {
    let read = context.store()?.get_tracked(&context.keyspace.epoch()).await?;
    Ok(read.bytes.as_deref().and_then(read_version))
}

async fn ensure(context: &Context, name: &str, span: Duration) -> Result<u64> {
    let now = (context.clock.moment(), context.clock.now());
    let candidate = context.random.nonce();
    context.invalidations.versions.ensure(context.store()?, name, candidate, span, now).await
}

fn check(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.len() > LONGEST_TAG {
        return Err(Error::invalid(format!("a tag has 1 to {LONGEST_TAG} bytes, not {}", tag.len())));
    }
    Ok(())
}
