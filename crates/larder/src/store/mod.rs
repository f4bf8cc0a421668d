//! The seam between what operations mean and where the data is kept.
//!
//! A store has a few operations; each is atomic, and one round trip on a warm connection. Its terms are
//! names, bytes and spans of time: it does not know serde, policies or tasks.
//! [`MemoryStore`](memory::MemoryStore) is the embedded default and also the specification: a property test
//! drives it and a real server through the same histories and compares every reply.

// Before the modules that use it, because macros have textual scope.
/// Defines a trait of store operations, and implements it for [`AnyStore`] by calling the store in use. Each
/// operation is written once, as `async fn` if it may talk to a server; `provided { … }` holds methods with a body.
macro_rules! store_operations {
    ($(#[$meta:meta])* $vis:vis trait $name:ident { $($body:tt)* }) => {
        store_operations!(@ [$(#[$meta])* $vis trait $name] [] [] $($body)*);
    };
    (@ $head:tt [$($declared:tt)*] [$($called:tt)*]
        $(#[$meta:meta])* async fn $operation:ident(&self $(, $name:ident: $type:ty)* $(,)?) -> $out:ty; $($rest:tt)*
    ) => {
        store_operations!(@ $head
            [$($declared)*
                $(#[$meta])* fn $operation(&self $(, $name: $type)*) -> impl Future<Output = $out> + Send;]
            [$($called)* $(#[$meta])* async fn $operation(&self $(, $name: $type)*) -> $out {
                match self {
                    Self::Memory(store) => store.$operation($($name),*).await,
                    #[cfg(feature = "redis")]
                    Self::Redis(store) => store.$operation($($name),*).await,
                    #[cfg(feature = "testing")]
                    Self::World(process) => {
                        let (store, reply) = process.enter(stringify!($operation));
                        let answer = store.$operation($($name),*).await;
                        reply.of(answer).await
                    }
                }
            }]
            $($rest)*
        );
    };
    (@ $head:tt [$($declared:tt)*] [$($called:tt)*]
        $(#[$meta:meta])* fn $operation:ident(&self $(, $name:ident: $type:ty)* $(,)?) -> $out:ty; $($rest:tt)*
    ) => {
        store_operations!(@ $head
            [$($declared)* $(#[$meta])* fn $operation(&self $(, $name: $type)*) -> $out;]
            [$($called)* $(#[$meta])* fn $operation(&self $(, $name: $type)*) -> $out {
                match self {
                    Self::Memory(store) => store.$operation($($name),*),
                    #[cfg(feature = "redis")]
                    Self::Redis(store) => store.$operation($($name),*),
                    #[cfg(feature = "testing")]
                    Self::World(process) => process.$operation($($name),*),
                }
            }]
            $($rest)*
        );
    };
    (@ [$(#[$meta:meta])* $vis:vis trait $name:ident] [$($declared:tt)*] [$($called:tt)*]
        $(provided { $($provided:tt)* })?
    ) => {
        $(#[$meta])*
        $vis trait $name: Send + Sync + 'static {
            $($declared)*
            $($($provided)*)?
        }

        impl $name for $crate::store::AnyStore {
            $($called)*
        }
    };
}

#[cfg(feature = "admin")]
pub(crate) mod admin;
pub(crate) mod group;
#[cfg(all(test, larder_interleavings))]
pub(crate) mod interleavings;
pub(crate) mod job;
pub(crate) mod limit;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod once;
pub(crate) mod permit;
pub(crate) mod presence;
#[cfg(feature = "admin")]
pub(crate) mod raw_reply;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod session;
pub(crate) mod share;
#[cfg(feature = "testing")]
pub(crate) mod world;

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
use crate::health::{ConnectionHealth, Purpose};
use crate::name::Name;
use memory::MemoryStore;
#[cfg(feature = "redis")]
use redis::RedisStore;
use session::{ReadStamp, Sessions};

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

/// Reads a stored version: sixteen hexadecimal digits, which are exact in every language and which a person
/// can read.
pub(crate) fn read_version(bytes: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(bytes).ok()?, 16).ok()
}

/// The reply to [`Store::begin_fill`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FillStart {
    /// The placeholder is stored: load, then commit.
    Begun,
    /// The entry holds something: a value that was stored in between, or another loader's placeholder.
    Occupied(Bytes),
}

/// Whether a refresh is claimed even if another loader has the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    No,
    Yes,
}

/// What marks that a load is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// These bytes, stored as the entry itself.
    Placeholder(Bytes),
    /// This claim, stored beside the entry.
    Refresh(RefreshClaim),
}

/// A claim on refreshing a value that stays in place until the new one replaces it. It names the value by its
/// nonce, so a claim that was left for another value does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefreshClaim {
    pub(crate) token: u64,
    /// The nonce of the value to replace.
    pub(crate) nonce: u64,
}

impl RefreshClaim {
    /// Writes the stored form: two numbers of sixteen hexadecimal digits.
    pub(crate) fn write(self) -> Bytes {
        Bytes::from(format!("{:016x}{:016x}", self.token, self.nonce))
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (token, nonce) = bytes.split_at_checked(16)?;
        Some(Self { token: read_version(token)?, nonce: read_version(nonce)? })
    }
}

/// The reply to [`Store::begin_refresh`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshStart {
    /// The refresh is claimed: load, then commit.
    Begun,
    /// Another loader refreshes this value.
    Busy,
    /// The entry now holds another value, or none.
    Changed,
}

/// The result of a tracked read.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) bytes: Option<Bytes>,
    /// Proof that a change of the entry will be reported; `None` if no report can be expected.
    pub(crate) stamp: Option<ReadStamp>,
    /// How long the entry will be kept, if that is known without another request.
    pub(crate) left: Option<Duration>,
}

/// A version, and how long it is kept at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptVersion {
    pub(crate) version: u64,
    pub(crate) left: Duration,
    pub(crate) stamp: Option<ReadStamp>,
}

/// Receives notifications of changes, in the store's order and before any later reply. Its methods must not
/// block.
pub(crate) trait InvalidationSink: Send + Sync + 'static {
    /// The value that was read under this name may have changed.
    fn changed(&self, name: &str);

    /// Every value that was read may have changed.
    #[cfg_attr(
        not(any(feature = "redis", feature = "testing")),
        expect(dead_code, reason = "the embedded store names each change")
    )]
    fn all_changed(&self);
}

/// A sink for tests that look at a store alone.
#[cfg(test)]
pub(crate) struct NoSink;

#[cfg(test)]
impl InvalidationSink for NoSink {
    fn changed(&self, _: &str) {}

    fn all_changed(&self) {}
}

/// Orders the writers of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fencing {
    pub(crate) number: u64,
    /// How long the fence is remembered.
    pub(crate) kept: Duration,
}

store_operations! {
    /// The operations of every store on cache entries. Each is atomic and safe to drop at any point; the store
    /// may still carry out an operation that was dropped.
    pub(crate) trait Store {
        /// Waits for a reply of the store.
        async fn ping(&self) -> Result<()>;

        /// Returns the store's own time in milliseconds since 1970, as far as this process knows it. No round
        /// trip.
        fn now(&self) -> u64;

        async fn get(&self, name: &str) -> Result<Option<Bytes>>;

        /// Reads entries; the results are in the order of `names`.
        async fn get_many(&self, names: &[Name]) -> Result<Vec<Option<Bytes>>>;

        /// Reads the first bytes of an entry, as many as an envelope's header has; empty if there is no entry.
        async fn peek(&self, name: &str) -> Result<Bytes>;

        async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()>;

        /// Stores entries. Each is stored or fails alone; the results are in the order of `entries`.
        async fn set_many(&self, entries: Vec<(Name, Bytes, Expiry)>) -> Vec<Result<()>>;

        /// Reads an entry. If the store can, it notifies the [`InvalidationSink`] of changes of the name from now
        /// on.
        async fn get_tracked(&self, name: &str) -> Result<Tracked>;

        /// The same for several names; the results are in the order of `names`.
        async fn get_many_tracked(&self, names: &[Name]) -> Result<Vec<Tracked>>;

        /// Returns the sessions, which tell whether a read is still valid.
        fn sessions(&self) -> &Sessions;

        /// Returns a number for the node that serves a name now: requests to different nodes do not wait for each
        /// other. No round trip.
        fn node(&self, name: &str) -> usize;

        /// Deletes an entry, and returns whether there was one; a fill under way counts. Invalidates a fill or
        /// refresh under way.
        async fn delete(&self, name: &str) -> Result<bool>;

        /// Deletes entries. Each is deleted or fails alone; the results are in the order of `names`.
        async fn delete_many(&self, names: &[Name]) -> Vec<Result<bool>>;

        /// Gives an entry a new expiry, and returns whether there was an entry.
        async fn touch(&self, name: &str, expiry: Expiry) -> Result<bool>;

        /// Reads how long an entry will be kept, and its first bytes as [`peek`](Self::peek) does.
        async fn remaining(&self, name: &str) -> Result<Option<(Bytes, Expiry)>>;

        /// Reads how long entries will be kept, in the order of `names`; `None` for an entry that is missing or
        /// never expires.
        async fn remaining_many(&self, names: &[Name]) -> Result<Vec<Option<Duration>>>;

        /// Stores `placeholder` in an entry that is empty, or that still holds exactly the `unreadable` bytes.
        /// Any later change of the entry by any client (a set, a delete, an expiry, an eviction) invalidates the
        /// fill.
        async fn begin_fill(
            &self,
            name: &str,
            placeholder: Bytes,
            liveness: Duration,
            unreadable: Option<Bytes>,
        ) -> Result<FillStart>;

        /// Replaces `placeholder` by `value` if it is still there, and returns whether it was.
        async fn commit_fill(
            &self,
            name: &str,
            placeholder: Bytes,
            value: Bytes,
            expiry: Expiry,
        ) -> Result<bool>;

        /// Removes `placeholder` if it is still there.
        async fn abandon_fill(&self, name: &str, placeholder: Bytes) -> Result<()>;

        /// Claims the refresh of an entry whose value still has the claim's nonce. `force` takes the claim from
        /// any holder.
        async fn begin_refresh(
            &self,
            name: &str,
            claim: RefreshClaim,
            liveness: Duration,
            force: Force,
        ) -> Result<RefreshStart>;

        /// Replaces the value that has the claim's nonce, if the refresh still has its claim, and ends the claim.
        /// Returns whether the value was replaced. Without a new value the old one is deleted.
        async fn commit_refresh(
            &self,
            name: &str,
            claim: RefreshClaim,
            value: Option<Bytes>,
            expiry: Expiry,
        ) -> Result<bool>;

        /// Gives up the claim, if the refresh still has it.
        async fn abandon_refresh(&self, name: &str, claim: RefreshClaim) -> Result<()>;

        /// Renews the placeholder or the claim of a loader that is alive, for `liveness` from now. Returns
        /// whether it was there.
        async fn renew_load(
            &self,
            name: &str,
            claim: Claim,
            liveness: Duration,
        ) -> Result<bool>;

        /// Replaces the value that has `nonce`, and keeps its expiry if none is given. Returns whether it was
        /// replaced. Invalidates refreshes under way.
        async fn restamp(
            &self,
            name: &str,
            nonce: u64,
            value: Bytes,
            expiry: Option<Expiry>,
        ) -> Result<bool>;

        /// Reads the version of a tag, and stores `candidate` if there is none. Keeps it for at least `span` from
        /// now.
        async fn version(
            &self,
            name: &str,
            candidate: u64,
            span: Duration,
        ) -> Result<KeptVersion>;

        /// Replaces a version, which invalidates every entry that carries the old one. A store without room for a
        /// new version removes the old one instead, which invalidates as well.
        async fn renew_version(
            &self,
            name: &str,
            version: u64,
            span: Duration,
        ) -> Result<()>;

        /// Stores a value unless a writer with a higher fence has stored one, and returns whether it was stored.
        async fn set_fenced(
            &self,
            name: &str,
            value: Bytes,
            expiry: Expiry,
            fence: Fencing,
        ) -> Result<bool>;
    }
}

/// Whether a store may evict data before it expires.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// No server has been reached yet.
    #[default]
    NotAsked,
    Never,
    /// At its memory limit, by this policy.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store evicts no locks"))]
    Evicts(String),
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store evicts no locks"))]
    Unknown,
}

/// The store of a `Larder`.
pub(crate) enum AnyStore {
    /// Shared, so that in tests several programs can use one.
    Memory(Arc<MemoryStore>),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
    /// The store of a test's world, as one of its processes sees it.
    #[cfg(feature = "testing")]
    World(world::ProcessStore),
}

impl AnyStore {
    /// Returns whether locks and limits can be evicted, as far as the store reported when it was connected.
    pub(crate) fn eviction(&self) -> Eviction {
        match self {
            Self::Memory(_) => Eviction::Never,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.eviction(),
            #[cfg(feature = "testing")]
            Self::World(_) => Eviction::Never,
        }
    }

    /// A counter that changes each time a lost connection is up again; `None` for a store without
    /// connections.
    pub(crate) fn reconnects(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Memory(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(store) => Some(store.reconnects()),
            #[cfg(feature = "testing")]
            Self::World(_) => None,
        }
    }

    /// Returns the state of its connections now.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "only servers have connections"))]
    pub(crate) fn connections(&self, purpose: Purpose) -> Vec<ConnectionHealth> {
        match self {
            Self::Memory(_) => Vec::new(),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.connections(purpose),
            #[cfg(feature = "testing")]
            Self::World(_) => Vec::new(),
        }
    }

    /// Returns whether it reports all changes now.
    pub(crate) fn is_tracking(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.is_tracking(),
            #[cfg(feature = "testing")]
            Self::World(_) => true,
        }
    }

    /// Waits for the first attempt to connect, and returns its failure.
    pub(crate) async fn ready(&self) -> Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.ready().await,
            #[cfg(feature = "testing")]
            Self::World(_) => Ok(()),
        }
    }

    /// Closes the connections. Requests that are under way are still answered.
    pub(crate) fn close(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.close(),
            #[cfg(feature = "testing")]
            Self::World(_) => {}
        }
    }

    /// Waits here, between a loader's return and the store of its value, if a test has asked for that.
    #[cfg(feature = "testing")]
    pub(crate) async fn loaded(&self, name: &str) {
        if let Self::World(process) = self {
            process.server().stops.pass(name).await;
        }
    }
}
