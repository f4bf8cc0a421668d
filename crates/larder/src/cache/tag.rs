//! Tags: one word that voids any number of entries, whatever their keys, without visiting them.
//!
//! A tag has a version, a random number. An entry carries the versions that its tags had before its data was read, and
//! counts only while they are the tags' versions still. Invalidating a tag gives it another number: one write,
//! whatever the number of entries, and no clock is compared. A version that is lost is another number too, and so a
//! miss.

use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::context::Context;
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::store::{Expiry, Store};
use crate::value::Format;

/// How long a version is kept at least: it must outlive every entry that carries it.
const SHORTEST_SPAN: Duration = Duration::from_secs(24 * 3600);
/// For entries without an expiry. A tag that no entry was given for so long is forgotten, and its entries with it.
const UNBOUNDED_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);
const LONGEST_TAG: usize = 200;
const MOST_TAGS: usize = 64;

/// A tag by its name. Made by [`Larder::tag`](crate::Larder::tag).
#[derive(Clone)]
pub struct Tag {
    context: Arc<Context>,
    tag: String,
}

impl Tag {
    pub(crate) fn new(context: Arc<Context>, tag: &str) -> Self {
        Self { context, tag: tag.to_owned() }
    }

    /// Voids every entry that carries this tag, in every cache of this namespace, and every load under way whose value
    /// would carry it.
    ///
    /// One round trip, whatever the number of entries.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. After `TimedOut` and `Disconnected` the tag may or may not have been
    /// invalidated: call again.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have invalidated the tag.
    pub fn invalidate(&self) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.tag_meter, async move {
            check(&self.tag)?;
            let name = self.context.keyspace.tag(&self.tag);
            let _detached = DetachWhenDone(self);
            self.context.store()?.renew_version(&name, self.context.random.nonce(), SHORTEST_SPAN).await
        })
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tag").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// Detaches the loads that would carry the tag, also where it is not known whether the invalidation took effect.
struct DetachWhenDone<'a>(&'a Tag);

impl Drop for DetachWhenDone<'_> {
    fn drop(&mut self) {
        self.0.context.detach_tagged(&self.0.tag);
    }
}

/// Refuses tags that cannot be carried, and brings the others into order.
pub(super) fn checked(mut tags: Vec<String>, format: Format) -> Result<Vec<String>> {
    if tags.is_empty() {
        return Ok(tags);
    }
    if format == Format::Plain {
        return Err(Error::invalid("Format::Plain has no envelope that could carry tags"));
    }
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MOST_TAGS {
        return Err(Error::invalid(format!("an entry carries at most {MOST_TAGS} tags, not {}", tags.len())));
    }
    tags.iter().try_for_each(|tag| check(tag))?;
    Ok(tags)
}

/// The tags' versions of now, for an entry that will be kept for `expiry`: one round trip where there are any.
pub(super) async fn versions(context: &Context, tags: &[String], expiry: Expiry) -> Result<Vec<TagVersion>> {
    if tags.is_empty() {
        return Ok(Vec::new());
    }
    let span = match expiry {
        Expiry::Never => UNBOUNDED_SPAN,
        Expiry::After(ttl) => ttl.max(SHORTEST_SPAN),
    };
    let names: Vec<String> = tags.iter().map(|tag| context.keyspace.tag(tag)).collect();
    let candidates: Vec<u64> = tags.iter().map(|_| context.random.nonce()).collect();
    let versions = context.store()?.versions(&names, &candidates, span).await?;
    Ok(tags.iter().zip(versions).map(|(tag, version)| TagVersion { tag: tag.clone(), version }).collect())
}

fn check(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.len() > LONGEST_TAG {
        return Err(Error::invalid(format!("a tag has 1 to {LONGEST_TAG} bytes, not {}", tag.len())));
    }
    Ok(())
}
