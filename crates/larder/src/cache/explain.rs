//! Why a key is served, or is not.

use std::fmt;
use std::time::Duration;

use super::verdict::{Cause, Judged, Verdict, VersionReplies, classify, tags_hold};
use crate::context::Context;
use crate::envelope::nonce;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::store::{Expiry, RefreshClaim, Store, read_version};

/// What there is under a name and why a read gets it or not. Made by [`Larder::explain`](crate::Larder::explain); shown in
/// words by its `Display`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The whole name on the server.
    pub name: String,
    /// Whether a `get` that may use the near tier is served from it.
    pub near: NearVerdict,
    /// What stands in the store.
    pub stored: Stored,
    /// How long that will be kept; `None` where nothing stands or it does not expire.
    pub remaining: Option<Duration>,
    /// The token of the process that refreshes the value at the moment.
    pub refreshing: Option<u64>,
}

/// Whether the near tier serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NearVerdict {
    /// No copy is there, or the cache has no near tier.
    Absent,
    /// A copy is there and is served.
    Served,
    /// A copy is there and is older than the near tier keeps copies.
    TooOld,
    /// A copy is there, and the connection that would tell of changes is broken or silent.
    Untrusted,
    /// A copy is there, and one of its tags was invalidated, or its version is to be asked for.
    TagsUnknown,
    /// An invalidation of the entry, of its cache or of one of its tags is queued: no copy of it is served until the server
    /// has answered.
    InvalidationsQueued,
}

/// What stands under a name, and whether a reader takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Nothing.
    Nothing,
    /// A value that is served.
    Fresh,
    /// A value past its time, which only a load that fails or is slow gives.
    Stale,
    /// The origin is known to have no such thing.
    Absent,
    /// A loader is at work, with this token.
    Loading(u64),
    /// A value that was voided because this has another version by now: `clear` or a tag.
    Void {
        /// `clear`, or the tag's name.
        by: String,
    },
    /// Something that this process wrote to since: its invalidation waits to be sent, and until then it is taken for absent.
    Overdue,
    /// Bytes without an envelope: bare JSON, or nobody's.
    Bare,
    /// Damaged: the reason.
    Unreadable(&'static str),
}

impl Explanation {
    /// `entry` is the name without the namespace, as `user:123` or `user@2:123`.
    pub(crate) async fn of(context: &Context, entry: &str) -> Result<Self> {
        let name = context.keyspace.whole(entry);
        let store = context.store()?;
        let near = near(context, &name, &clear_of(context, entry));
        let bytes = store.get(&name).await?;
        let remaining = match store.remaining(&name).await? {
            Some((_, Expiry::After(left))) => Some(left),
            _ => None,
        };
        let lease = store.get(&Keyspace::lease(&name)).await?.as_deref().and_then(RefreshClaim::read);
        // One for another value was left behind.
        let own = bytes.as_deref().and_then(nonce);
        let refreshing = lease.filter(|claim| Some(claim.nonce) == own).map(|claim| claim.token);
        let stored = match bytes {
            None => Stored::Nothing,
            Some(bytes) => stored(classified(context, &clear_of(context, entry), &name, &bytes).await?),
        };
        Ok(Self { name: name.as_str().to_owned(), near, stored, remaining, refreshing })
    }
}

/// The clear version of an entry's cache, by the entry's name.
fn clear_of(context: &Context, entry: &str) -> Name {
    context.keyspace.clear(entry.split([':', '@']).next().unwrap_or_default())
}

fn near(context: &Context, name: &str, clear: &str) -> NearVerdict {
    let queue = &context.invalidations;
    if queue.covers(name, clear) {
        return NearVerdict::InvalidationsQueued;
    }
    let Some(copy) = context.near_copy(name) else { return NearVerdict::Absent };
    if copy.tags.iter().any(|tag| queue.replaces(&context.keyspace.tag(&tag.tag))) {
        return NearVerdict::InvalidationsQueued;
    }
    let Ok(store) = context.store() else { return NearVerdict::Untrusted };
    let now = context.clock.moment();
    let believed = store.lanes().is_valid(copy.seen, now) && store.lanes().is_valid(copy.clear_seen, now);
    if now.mono() >= copy.until {
        NearVerdict::TooOld
    } else if !believed {
        NearVerdict::Untrusted
    } else if tags_hold(context, &copy.tags) {
        NearVerdict::Served
    } else {
        NearVerdict::TagsUnknown
    }
}

/// The verdict of any reader. Only what is not known here is asked for on another connection than the tracked one, which may
/// be what there is to explain.
async fn classified(context: &Context, clear: &Name, name: &str, bytes: &[u8]) -> Result<Judged> {
    let mut classified = classify(context, clear, name, bytes, &VersionReplies::new())?;
    let unknown = classified.unknown();
    if unknown.is_empty() {
        return Ok(classified);
    }
    let read = context.store()?.get_many(&unknown).await?;
    let versions = read.into_iter().map(|bytes| Some((read_version(&bytes?)?, None)));
    classify(context, clear, name, bytes, &unknown.into_iter().zip(versions).collect())
}

/// What a reader makes of it, in the words of this page.
fn stored(classified: Judged) -> Stored {
    match classified.verdict {
        Verdict::Serve(payload) if payload.is_bare() => Stored::Bare,
        Verdict::Serve(_) => Stored::Fresh,
        Verdict::Stale(_) => Stored::Stale,
        Verdict::Absent => Stored::Absent,
        Verdict::Placeholder => Stored::Loading(classified.meta.nonce),
        // All versions were asked for.
        Verdict::Nothing | Verdict::Ask(_) => Stored::Nothing,
        Verdict::Invalid(Cause::Queued) => Stored::Overdue,
        Verdict::Invalid(Cause::Clear) => Stored::Void { by: "clear".to_owned() },
        Verdict::Invalid(Cause::Tag(tag)) => Stored::Void { by: tag },
        Verdict::Unreadable(reason) => Stored::Unreadable(reason),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.stored {
            Stored::Nothing => f.write_str("nothing is stored")?,
            Stored::Fresh => f.write_str("a fresh value")?,
            Stored::Stale => f.write_str("a stale value: get() takes it for absent, get_or_load() loads")?,
            Stored::Absent => f.write_str("known to be absent")?,
            Stored::Loading(token) => write!(f, "being loaded, by the holder of token {token:016x}")?,
            Stored::Void { by } if by == "clear" => {
                f.write_str("void: the cache was cleared since it was read")?
            }
            Stored::Void { by } => write!(f, "void: the tag {by:?} was invalidated since it was read")?,
            Stored::Overdue => f.write_str("older than what was written here: its invalidation is queued")?,
            Stored::Bare => {
                f.write_str("bytes without an envelope, served if they are JSON of the value's shape")?
            }
            Stored::Unreadable(reason) => write!(f, "unreadable ({reason}): a miss")?,
        }
        if let Some(left) = self.remaining {
            write!(f, ", kept for {left:?}")?;
        }
        if let Some(token) = self.refreshing {
            write!(f, ", being refreshed by the holder of token {token:016x}")?;
        }
        match self.near {
            NearVerdict::Absent => f.write_str("; no near copy"),
            NearVerdict::Served => f.write_str("; a near copy is served"),
            NearVerdict::TooOld => f.write_str("; a near copy is too old to be served"),
            NearVerdict::Untrusted => {
                f.write_str("; a near copy is not served while its connection is not heard")
            }
            NearVerdict::TagsUnknown => f.write_str(
                "; a near copy is not served as a tag of it was invalidated, or is to be asked for",
            ),
            NearVerdict::InvalidationsQueued => {
                f.write_str("; no near copy is served while its invalidation is queued")
            }
        }
    }
}
