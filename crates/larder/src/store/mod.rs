//! The seam between what things mean and where they are kept.
//!
//! A store has a few operations, each atomic and each one round trip on a warm connection. It speaks of names, bytes
//! and spans of time; it knows neither serde nor policies nor tasks. [`Memory`](memory::MemoryStore) is the embedded
//! default and at the same time the specification: a property test drives it and a real server through the same
//! histories and compares every answer.

pub(crate) mod limit;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;

#[cfg(all(test, feature = "redis"))]
mod equivalence;
#[cfg(all(test, feature = "redis"))]
mod equivalence_limits;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use memory::MemoryStore;
#[cfg(feature = "redis")]
use redis::RedisStore;

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Expiry {
    /// Until it is deleted or evicted.
    Never,
    /// For this long from now. Less than a millisecond counts as one.
    After(Duration),
}

impl Expiry {
    /// Whole milliseconds, rounded up, so that nothing expires before its time and nothing asks for zero.
    pub(crate) fn as_millis(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::After(span) => {
                Some(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1))
            }
        }
    }
}

/// The answer to [`Store::begin_fill`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FillStart {
    /// The placeholder stands: load, then commit.
    Begun,
    /// Something is there: a value that came in between, or the placeholder of another loader.
    Occupied(Bytes),
}

/// The answer to [`Store::acquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    Granted {
        fence: u64,
    },
    /// Somebody else holds it, for this long at most unless they extend.
    Held {
        remaining: Duration,
    },
}

/// What every store can do. Each operation is atomic, and safe to drop at any point: the store may then still carry it
/// out.
pub(crate) trait Store: Send + Sync + 'static {
    /// Answers when the store does.
    fn ping(&self) -> impl Future<Output = Result<()>> + Send;

    /// The store's own time in milliseconds since 1970, as far as it is known here. Costs nothing.
    fn now(&self) -> u64;

    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// In the order of `names`.
    fn get_many(&self, names: &[String]) -> impl Future<Output = Result<Vec<Option<Bytes>>>> + Send;

    /// The first bytes of what is there, as many as an envelope's header has; empty where nothing is.
    fn peek(&self, name: &str) -> impl Future<Output = Result<Bytes>> + Send;

    fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> impl Future<Output = Result<()>> + Send;

    fn set_many(&self, entries: Vec<(String, Bytes, Expiry)>) -> impl Future<Output = Result<()>> + Send;

    /// Whether anything was there. A fill under way counts, and is voided.
    fn delete(&self, name: &str) -> impl Future<Output = Result<bool>> + Send;

    /// In the order of `names`.
    fn delete_many(&self, names: &[String]) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Gives what is there a new expiry; whether anything was.
    fn touch(&self, name: &str, expiry: Expiry) -> impl Future<Output = Result<bool>> + Send;

    /// How long what is there will be kept, and its first bytes as [`peek`](Self::peek) gives them.
    fn remaining(&self, name: &str) -> impl Future<Output = Result<Option<(Bytes, Expiry)>>> + Send;

    /// Puts `placeholder` under a name that is empty, or that still holds just the `unreadable` bytes. Anything that
    /// happens to the name afterwards (a set, a delete, an expiry, an eviction, by anybody) voids the fill.
    fn begin_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        liveness: Duration,
        unreadable: Option<Bytes>,
    ) -> impl Future<Output = Result<FillStart>> + Send;

    /// Replaces `placeholder` by `value`, if it still stands; whether it did.
    fn commit_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Takes `placeholder` away, if it still stands.
    fn abandon_fill(&self, name: &str, placeholder: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// The versions of tags, in the order of `names`. A tag without one is given its `candidate`. Each is kept for at
    /// least `span` from now.
    fn versions(
        &self,
        names: &[String],
        candidates: &[u64],
        span: Duration,
    ) -> impl Future<Output = Result<Vec<u64>>> + Send;

    /// The versions of tags as they are, in the order of `names`; none is made.
    fn known_versions(&self, names: &[String]) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send;

    /// Replaces a tag's version: whatever carries the old one is void.
    fn renew_version(
        &self,
        name: &str,
        version: u64,
        span: Duration,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Takes a free lock for `token`.
    fn acquire(&self, name: &str, token: u64, ttl: Duration)
    -> impl Future<Output = Result<Acquired>> + Send;

    /// Gives the holder at least `ttl` from now; whether `token` still held it.
    fn extend(&self, name: &str, token: u64, ttl: Duration) -> impl Future<Output = Result<bool>> + Send;

    /// Frees the lock; whether `token` still held it.
    fn release(&self, name: &str, token: u64) -> impl Future<Output = Result<bool>> + Send;
}

/// The store that a `Larder` stands on.
pub(crate) enum AnyStore {
    Memory(MemoryStore),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

impl AnyStore {
    /// Ends the connections. What is under way is still answered.
    pub(crate) fn close(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.close(),
        }
    }
}

macro_rules! on_either {
    ($self:ident.$operation:ident($($argument:expr),*)) => {
        match $self {
            Self::Memory(store) => store.$operation($($argument),*).await,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.$operation($($argument),*).await,
        }
    };
}

impl Store for AnyStore {
    async fn ping(&self) -> Result<()> {
        on_either!(self.ping())
    }

    fn now(&self) -> u64 {
        match self {
            Self::Memory(store) => store.now(),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.now(),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        on_either!(self.get(name))
    }

    async fn get_many(&self, names: &[String]) -> Result<Vec<Option<Bytes>>> {
        on_either!(self.get_many(names))
    }

    async fn peek(&self, name: &str) -> Result<Bytes> {
        on_either!(self.peek(name))
    }

    async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()> {
        on_either!(self.set(name, value, expiry))
    }

    async fn set_many(&self, entries: Vec<(String, Bytes, Expiry)>) -> Result<()> {
        on_either!(self.set_many(entries))
    }

    async fn delete(&self, name: &str) -> Result<bool> {
        on_either!(self.delete(name))
    }

    async fn delete_many(&self, names: &[String]) -> Result<Vec<bool>> {
        on_either!(self.delete_many(names))
    }

    async fn touch(&self, name: &str, expiry: Expiry) -> Result<bool> {
        on_either!(self.touch(name, expiry))
    }

    async fn remaining(&self, name: &str) -> Result<Option<(Bytes, Expiry)>> {
        on_either!(self.remaining(name))
    }

    async fn begin_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        liveness: Duration,
        unreadable: Option<Bytes>,
    ) -> Result<FillStart> {
        on_either!(self.begin_fill(name, placeholder, liveness, unreadable))
    }

    async fn commit_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<bool> {
        on_either!(self.commit_fill(name, placeholder, value, expiry))
    }

    async fn abandon_fill(&self, name: &str, placeholder: Bytes) -> Result<()> {
        on_either!(self.abandon_fill(name, placeholder))
    }

    async fn versions(&self, names: &[String], candidates: &[u64], span: Duration) -> Result<Vec<u64>> {
        on_either!(self.versions(names, candidates, span))
    }

    async fn known_versions(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        on_either!(self.known_versions(names))
    }

    async fn renew_version(&self, name: &str, version: u64, span: Duration) -> Result<()> {
        on_either!(self.renew_version(name, version, span))
    }

    async fn acquire(&self, name: &str, token: u64, ttl: Duration) -> Result<Acquired> {
        on_either!(self.acquire(name, token, ttl))
    }

    async fn extend(&self, name: &str, token: u64, ttl: Duration) -> Result<bool> {
        on_either!(self.extend(name, token, ttl))
    }

    async fn release(&self, name: &str, token: u64) -> Result<bool> {
        on_either!(self.release(name, token))
    }
}
