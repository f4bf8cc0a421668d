//! Explains why a key is served or not.

use std::fmt;
use std::time::Duration;

use super::validity::{Cause, Classified, Verdict, VersionReplies, classify, tags_hold};
use crate::context::Context;
use crate::envelope::nonce;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::near::ClearVersion;
use crate::store::{Expiry, RefreshClaim, Store, read_version};

/// What is stored under a name, and why a read returns it or not. Made by
/// [`Larder::explain`](crate::Larder::explain); its `Display` says it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The full name on the server.
    pub name: String,
    /// Whether a `get` that may use the near tier is served from it.
    pub near: NearVerdict,
    /// What the store holds.
    pub stored: Stored,
    /// How long the entry will be kept; `None` if there is none or it does not expire.
    pub remaining: Option<Duration>,
    /// The token of the refresh of the value that is under way, if there is one.
    pub refreshing: Option<u64>,
}

/// Whether the near tier serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NearVerdict {
    /// There is no copy, or the cache has no near tier.
    Absent,
    /// There is a copy, and it is served.
    Served,
    /// There is a copy, but it is older than the near tier keeps copies.
    TooOld,
    /// There is a copy, but the connection that would report changes is broken or silent.
    Untrusted,
    /// There is a copy, but one of its tags was invalidated, or the tag's version must be read first.
    TagsUnknown,
    /// An invalidation of the entry, of its cache or of one of its tags is queued. No copy is served until the server
    /// has answered it.
    InvalidationsQueued,
}

/// What is stored under a name, and whether a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Nothing is stored.
    Nothing,
    /// A value that is served.
    Fresh,
    /// A value past its time to live, which only a failed or slow load returns.
    Stale,
    /// The origin is known to have no such value.
    Absent,
    /// A load is under way, with this token.
    Loading(u64),
    /// A value that is invalid, because its cache was cleared or a tag was invalidated since.
    Invalidated {
        /// `clear`, or the tag's name.
        by: String,
    },
    /// A value that this process has written over or deleted since. The invalidation is queued, and until it is sent
    /// the value counts as absent.
    Overdue,
    /// Bytes without an envelope: bare JSON, or another program's bytes.
    Bare,
    /// A damaged entry, with the reason.
    Unreadable(&'static str),
}

impl Explanation {
    /// Explains an entry. `entry` is the name without the namespace, for example `user:123` or `user@2:123`.
    pub(crate) async fn of(context: &Context, entry: &str) -> Result<Self> {
        let name = context.keyspace.whole(entry);
        let store = context.store()?;
        let near = near(context, &name, &clear_of(context, entry));
        let bytes = store.get(&name).await?;
        let remaining = match store.remaining(&name).await? {
            Some((_, Expiry::After(left))) => Some(left),
            _ => None,
        };
        let claim = store.get(&Keyspace::refresh_claim(&name)).await?.as_deref().and_then(RefreshClaim::read);
        // A claim for another value was left behind by an earlier refresh.
        let own = bytes.as_deref().and_then(nonce);
        let refreshing = claim.filter(|claim| Some(claim.nonce) == own).map(|claim| claim.token);
        let stored = match bytes {
            None => Stored::Nothing,
            Some(bytes) => stored(classified(context, &clear_of(context, entry), &name, &bytes).await?),
        };
        Ok(Self { name: name.as_str().to_owned(), near, stored, remaining, refreshing })
    }
}

/// Returns the clear version's name of an entry's cache, by the entry's name.
fn clear_of(context: &Context, entry: &str) -> ClearVersion {
    ClearVersion::new(context.keyspace.clear(entry.split([':', '@']).next().unwrap_or_default()))
}

fn near(context: &Context, name: &str, clear: &str) -> NearVerdict {
    let queue = &context.invalidation_queue;
    if queue.covers(name, clear) {
        return NearVerdict::InvalidationsQueued;
    }
    let Some(copy) = context.caches.near_copy(name) else { return NearVerdict::Absent };
    if copy.tags.iter().any(|tag| queue.replaces(&context.keyspace.tag(&tag.tag))) {
        return NearVerdict::InvalidationsQueued;
    }
    let Ok(store) = context.store() else { return NearVerdict::Untrusted };
    let now = context.clock.moment();
    let valid =
        store.sessions().is_valid(copy.stamp, now) && store.sessions().is_valid(copy.clear_stamp, now);
    if now.mono() >= copy.until {
        NearVerdict::TooOld
    } else if !valid {
        NearVerdict::Untrusted
    } else if tags_hold(context, &copy.tags) {
        NearVerdict::Served
    } else {
        NearVerdict::TagsUnknown
    }
}

/// Returns the verdict that any reader gets. Versions that are not known here are read on a connection other than the
/// tracked one, because that one may be what the caller wants to have explained.
async fn classified(context: &Context, clear: &ClearVersion, name: &str, bytes: &[u8]) -> Result<Classified> {
    let mut classified = classify(context, clear, name, bytes, &VersionReplies::new())?;
    let unknown = classified.unknown();
    if unknown.is_empty() {
        return Ok(classified);
    }
    let read = context.store()?.get_many(&unknown).await?;
    let versions = read.into_iter().map(|bytes| Some((read_version(&bytes?)?, None)));
    classify(context, clear, name, bytes, &unknown.into_iter().zip(versions).collect())
}

/// Translates a verdict into the public words.
fn stored(classified: Classified) -> Stored {
    match classified.verdict {
        Verdict::Serve(payload) if payload.is_bare() => Stored::Bare,
        Verdict::Serve(_) => Stored::Fresh,
        Verdict::Stale(_) => Stored::Stale,
        Verdict::Absent => Stored::Absent,
        Verdict::Placeholder => Stored::Loading(classified.meta.nonce),
        // Cannot be `Ask`: all versions were read above.
        Verdict::Nothing | Verdict::Ask(_) => Stored::Nothing,
        Verdict::Invalid(Cause::Queued) => Stored::Overdue,
        Verdict::Invalid(Cause::Clear) => Stored::Invalidated { by: "clear".to_owned() },
        Verdict::Invalid(Cause::Tag(tag)) => Stored::Invalidated { by: tag },
        Verdict::Unreadable(reason) => Stored::Unreadable(reason),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        // What the store has under the name, and whether a read serves it.
        match &self.stored {
            Stored::Nothing => f.write_str("nothing is stored")?,
            Stored::Fresh => f.write_str("a fresh value")?,
            Stored::Stale => f.write_str("a stale value: a miss for get(), and get_or_load() loads")?,
            Stored::Absent => f.write_str("known to be absent")?,
            Stored::Loading(token) => write!(f, "being loaded, by the holder of token {token:016x}")?,
            Stored::Invalidated { by } if by == "clear" => {
                f.write_str("invalid: the cache was cleared since it was read")?
            }
            Stored::Invalidated { by } => {
                write!(f, "invalid: the tag {by:?} was invalidated since it was read")?
            }
            Stored::Overdue => f.write_str("older than what was written here: its invalidation is queued")?,
            Stored::Bare => {
                f.write_str("bytes without an envelope, served if they are JSON of the value's shape")?
            }
            Stored::Unreadable(reason) => write!(f, "unreadable ({reason}): a miss")?,
        }
        // How long it is kept, and who replaces it meanwhile.
        if let Some(left) = self.remaining {
            write!(f, ", kept for {left:?}")?;
        }
        if let Some(token) = self.refreshing {
            write!(f, ", being refreshed by the holder of token {token:016x}")?;
        }
        // This process's copy, and why it is or is not served.
        match self.near {
            NearVerdict::Absent => f.write_str("; no near copy"),
            NearVerdict::Served => f.write_str("; a near copy is served"),
            NearVerdict::TooOld => f.write_str("; a near copy is too old to be served"),
            NearVerdict::Untrusted => {
                f.write_str("; a near copy is not served while its connection is silent")
            }
            NearVerdict::TagsUnknown => f.write_str(
                "; a near copy is not served: one of its tags was invalidated, or has an unknown version",
            ),
            NearVerdict::InvalidationsQueued => {
                f.write_str("; no near copy is served while its invalidation is queued")
            }
        }
    }
}
