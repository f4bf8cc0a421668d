//! The seam between what things mean and where they are kept.
//!
//! A store has a few operations, each atomic and each one round trip on a warm connection. It speaks of names, bytes
//! and spans of time; it knows neither serde nor policies nor tasks. [`Memory`](memory::MemoryStore) is the embedded
//! default and at the same time the specification: a property test drives it and a real server through the same
//! histories and compares every answer.

// Before the rooms that use it: textual scope.
macro_rules! on_either {
    ($self:ident.$operation:ident($($argument:expr),*)) => {
        match $self {
            $crate::store::AnyStore::Memory(store) => store.$operation($($argument),*).await,
            #[cfg(feature = "redis")]
            $crate::store::AnyStore::Redis(store) => store.$operation($($argument),*).await,
        }
    };
}

pub(crate) mod group;
pub(crate) mod job;
pub(crate) mod limit;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod once;
pub(crate) mod permit;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod share;
mod sync;
pub(crate) mod trust;

#[cfg(all(test, feature = "redis"))]
mod equivalence;
#[cfg(all(test, feature = "redis"))]
mod equivalence_jobs;
#[cfg(all(test, feature = "redis"))]
mod equivalence_limits;
#[cfg(all(test, feature = "redis"))]
mod equivalence_locks;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::Result;
use crate::name::Name;
use memory::MemoryStore;
#[cfg(feature = "redis")]
use redis::RedisStore;
use trust::{ReadStamp, Sessions};

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

/// A version as stored: sixteen hexadecimal digits, exact in any language, which a person can read.
pub(crate) fn read_version(bytes: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(bytes).ok()?, 16).ok()
}

/// The answer to [`Store::begin_fill`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FillStart {
    /// The placeholder stands: load, then commit.
    Begun,
    /// Something is there: a value that came in between, or the placeholder of another loader.
    Occupied(Bytes),
}

/// Whether a lease is taken from whoever holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    No,
    Yes,
}

/// What says that a load is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// These bytes under the entry's own name.
    Placeholder(Bytes),
    /// This in the entry's lease.
    Refresh(RefreshClaim),
}

/// A claim on refreshing a value that stays until it is replaced. It names the value: a lease that was left behind for
/// another one is free to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefreshClaim {
    pub(crate) token: u64,
    /// The nonce of the value that is to be replaced.
    pub(crate) nonce: u64,
}

impl RefreshClaim {
    /// As stored: two numbers of sixteen hexadecimal digits.
    pub(crate) fn write(self) -> Bytes {
        Bytes::from(format!("{:016x}{:016x}", self.token, self.nonce))
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (token, nonce) = bytes.split_at_checked(16)?;
        Some(Self { token: read_version(token)?, nonce: read_version(nonce)? })
    }
}

/// The answer to [`Store::begin_refresh`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshStart {
    /// The lease is held: load, then commit.
    Begun,
    /// Another loader refreshes this value.
    Busy,
    /// Another value is there by now, or none.
    Changed,
}

/// What a tracked read found.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) bytes: Option<Bytes>,
    /// Proof that a change will be told; `None` where nothing tells.
    pub(crate) seen: Option<ReadStamp>,
    /// How long it will be kept, where that is known without asking.
    pub(crate) left: Option<Duration>,
}

/// A version, and for how long it is kept at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptVersion {
    pub(crate) version: u64,
    pub(crate) left: Duration,
    pub(crate) seen: Option<ReadStamp>,
}

/// Who is told what changed: in the order in which the store says it, before any later answer. It must not block.
pub(crate) trait InvalidationSink: Send + Sync + 'static {
    /// What was read of this name may have changed.
    fn changed(&self, name: &str);

    /// Everything that was read may have changed.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store names each change"))]
    fn all_changed(&self);
}

/// What orders the writers of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fencing {
    pub(crate) number: u64,
    /// How long it is remembered.
    pub(crate) kept: Duration,
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
    fn get_many(&self, names: &[Name]) -> impl Future<Output = Result<Vec<Option<Bytes>>>> + Send;

    /// The first bytes of what is there, as many as an envelope's header has; empty where nothing is.
    fn peek(&self, name: &str) -> impl Future<Output = Result<Bytes>> + Send;

    fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> impl Future<Output = Result<()>> + Send;

    /// Each is stored or fails alone: the answers are in the order of `entries`.
    fn set_many(&self, entries: Vec<(Name, Bytes, Expiry)>) -> impl Future<Output = Vec<Result<()>>> + Send;

    /// Reads, and from now on tells the [`InvalidationSink`] when the name changes, where the store can.
    fn get_tracked(&self, name: &str) -> impl Future<Output = Result<Tracked>> + Send;

    /// In the order of `names`.
    fn get_many_tracked(&self, names: &[Name]) -> impl Future<Output = Result<Vec<Tracked>>> + Send;

    /// What of that may still be believed.
    fn lanes(&self) -> &Sessions;

    /// Which node serves a name at the moment, by any number: requests to one node do not wait for another. Costs nothing.
    fn node(&self, name: &str) -> usize;

    /// Whether anything was there; a fill under way counts. It voids a fill or a refresh under way.
    fn delete(&self, name: &str) -> impl Future<Output = Result<bool>> + Send;

    /// Each is deleted or fails alone: the answers are in the order of `names`.
    fn delete_many(&self, names: &[Name]) -> impl Future<Output = Vec<Result<bool>>> + Send;

    /// Gives what is there a new expiry; whether anything was.
    fn touch(&self, name: &str, expiry: Expiry) -> impl Future<Output = Result<bool>> + Send;

    /// How long what is there will be kept, and its first bytes as [`peek`](Self::peek) gives them.
    fn remaining(&self, name: &str) -> impl Future<Output = Result<Option<(Bytes, Expiry)>>> + Send;

    /// How long each will be kept, where it is there and that is bounded: in the order of `names`.
    fn remaining_many(&self, names: &[Name]) -> impl Future<Output = Result<Vec<Option<Duration>>>> + Send;

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

    /// Takes the lease on refreshing an entry whose value still carries the claim's nonce. `force` takes it from any
    /// holder.
    fn begin_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        liveness: Duration,
        force: Force,
    ) -> impl Future<Output = Result<RefreshStart>> + Send;

    /// Replaces the value that carries the claim's nonce while the claim holds the lease, which ends; whether it did.
    /// Without a new value the old one is deleted.
    fn commit_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        value: Option<Bytes>,
        expiry: Expiry,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Gives the lease back, if the claim holds it.
    fn abandon_refresh(&self, name: &str, claim: RefreshClaim) -> impl Future<Output = Result<()>> + Send;

    /// The loader is alive: its placeholder, or its lease, stands for `liveness` from now.
    fn renew_load(
        &self,
        name: &str,
        claim: Claim,
        liveness: Duration,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Replaces what carries `nonce`, keeping its expiry where none is given; whether it did. It voids refreshes under
    /// way.
    fn restamp(
        &self,
        name: &str,
        nonce: u64,
        value: Bytes,
        expiry: Option<Expiry>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The version of a tag, which is given `candidate` if it has none. It is kept for at least `span` from now.
    fn version(
        &self,
        name: &str,
        candidate: u64,
        span: Duration,
    ) -> impl Future<Output = Result<KeptVersion>> + Send;

    /// Replaces a version: whatever carries the old one is invalid. A store that has no room for a new version removes the
    /// old one, which invalidates just as well.
    fn renew_version(
        &self,
        name: &str,
        version: u64,
        span: Duration,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Stores a value unless a higher fence has written it; whether it did.
    fn set_fenced(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        fence: Fencing,
    ) -> impl Future<Output = Result<bool>> + Send;
}

/// Whether a store may lose what it was given before its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// No server has been reached yet.
    #[default]
    NotAsked,
    Never,
    /// At its limit of memory, by this policy.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store evicts no locks"))]
    Evicts(String),
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store evicts no locks"))]
    Unknown,
}

/// The store that a `Larder` stands on.
pub(crate) enum AnyStore {
    /// Shared, so that in tests several programs can stand on one.
    Memory(Arc<MemoryStore>),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

impl AnyStore {
    /// Whether locks and limits can be evicted, as far as the store said so when it was connected.
    pub(crate) fn eviction(&self) -> Eviction {
        match self {
            Self::Memory(_) => Eviction::Never,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.eviction(),
        }
    }

    /// Changes whenever a connection has come up again after it was lost; `None` for a store that has none.
    pub(crate) fn reconnects(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Memory(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(store) => Some(store.reconnects()),
        }
    }

    /// Waits for the first attempt to connect, and gives its failure.
    pub(crate) async fn ready(&self) -> Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.ready().await,
        }
    }

    /// Ends the connections. What is under way is still answered.
    pub(crate) fn close(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.close(),
        }
    }
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

    async fn get_many(&self, names: &[Name]) -> Result<Vec<Option<Bytes>>> {
        on_either!(self.get_many(names))
    }

    async fn get_tracked(&self, name: &str) -> Result<Tracked> {
        on_either!(self.get_tracked(name))
    }

    async fn get_many_tracked(&self, names: &[Name]) -> Result<Vec<Tracked>> {
        on_either!(self.get_many_tracked(names))
    }

    #[inline]
    fn lanes(&self) -> &Sessions {
        match self {
            Self::Memory(store) => store.lanes(),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.lanes(),
        }
    }

    fn node(&self, name: &str) -> usize {
        match self {
            Self::Memory(store) => store.node(name),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.node(name),
        }
    }

    async fn peek(&self, name: &str) -> Result<Bytes> {
        on_either!(self.peek(name))
    }

    async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()> {
        on_either!(self.set(name, value, expiry))
    }

    async fn set_many(&self, entries: Vec<(Name, Bytes, Expiry)>) -> Vec<Result<()>> {
        on_either!(self.set_many(entries))
    }

    async fn delete(&self, name: &str) -> Result<bool> {
        on_either!(self.delete(name))
    }

    async fn delete_many(&self, names: &[Name]) -> Vec<Result<bool>> {
        on_either!(self.delete_many(names))
    }

    async fn touch(&self, name: &str, expiry: Expiry) -> Result<bool> {
        on_either!(self.touch(name, expiry))
    }

    async fn remaining(&self, name: &str) -> Result<Option<(Bytes, Expiry)>> {
        on_either!(self.remaining(name))
    }

    async fn remaining_many(&self, names: &[Name]) -> Result<Vec<Option<Duration>>> {
        on_either!(self.remaining_many(names))
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

    async fn begin_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        liveness: Duration,
        force: Force,
    ) -> Result<RefreshStart> {
        on_either!(self.begin_refresh(name, claim, liveness, force))
    }

    async fn commit_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        value: Option<Bytes>,
        expiry: Expiry,
    ) -> Result<bool> {
        on_either!(self.commit_refresh(name, claim, value, expiry))
    }

    async fn abandon_refresh(&self, name: &str, claim: RefreshClaim) -> Result<()> {
        on_either!(self.abandon_refresh(name, claim))
    }

    async fn renew_load(&self, name: &str, claim: Claim, liveness: Duration) -> Result<bool> {
        on_either!(self.renew_load(name, claim, liveness))
    }

    async fn restamp(&self, name: &str, nonce: u64, value: Bytes, expiry: Option<Expiry>) -> Result<bool> {
        on_either!(self.restamp(name, nonce, value, expiry))
    }

    async fn version(&self, name: &str, candidate: u64, span: Duration) -> Result<KeptVersion> {
        on_either!(self.version(name, candidate, span))
    }

    async fn renew_version(&self, name: &str, version: u64, span: Duration) -> Result<()> {
        on_either!(self.renew_version(name, version, span))
    }

    async fn set_fenced(&self, name: &str, value: Bytes, expiry: Expiry, fence: Fencing) -> Result<bool> {
        on_either!(self.set_fenced(name, value, expiry, fence))
    }
}
