//! A distributed cache toolkit on Redis and Valkey, with an embedded store for a laptop.
//!
//! One handle, a [`Larder`], hands out typed [`Cache`]s that load through without stampedes,
//! [locks](lock::Lock) with fences, and [rate limiters](limit::RateLimiter) that never admit more than their limit. The
//! same program runs on `memory:`, on one server, on a cluster and under Sentinel; only the URL changes.
//!
//! ```
//! use std::time::Duration;
//! use larder::{Cache, Larder, Quota};
//!
//! # async fn load() -> Result<String, std::io::Error> { Ok("Ann".into()) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let larder = Larder::connect("memory:").await?; // or "redis://127.0.0.1:6379"
//!
//! let users: Cache<String> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
//! let user = users.get_or_load(123, || async { load().await }).await?;
//!
//! let guard = larder.lock("reports").ttl(Duration::from_secs(10)).acquire().await?;
//! guard.release().await?;
//!
//! let limiter = larder.rate_limiter("api", Quota::per_minute(100))?;
//! assert!(limiter.allow("endpoint1").await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `redis` (default) | Redis, Valkey, Redis Cluster, Sentinel |
//! | `tls` (default) | `rediss://` |
//! | `macros` (default) | [`#[larder::cached]`](cached) |
//! | `msgpack` | `Format::MessagePack` |
//! | `compress` | `CacheBuilder::compress_above`, LZ4 |
//! | `metrics` | counters and histograms through the `metrics` facade |
//! | `trace` | a span for each load |
//! | `tower` | [`http`]: `RateLimitLayer` for axum, hyper and tonic |
//! | `axum` | `tower`, and [`http`] finds axum's `ConnectInfo` and `OriginalUri` by itself |
//! | `uuid` | `CacheKey` for `uuid::Uuid` |
//! | `testing` | [`testing`]: a store for your tests, with a clock and faults that the test moves |
//! | `admin` | [`admin`]: what is inside a store, for tools |
//!
//! larder needs a tokio runtime with time enabled and, for servers, I/O.

#![cfg_attr(
    larder_interleavings,
    allow(
        dead_code,
        unfulfilled_lint_expectations,
        reason = "the interleaving tests are built without features"
    )
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(feature = "admin")]
pub mod admin;
mod background;
mod backoff;
mod builder;
mod cache;
mod caches;
mod call;
mod clock;
mod context;
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no store without it asks for them"))]
mod credentials;
mod endpoint;
mod envelope;
mod error;
mod fence;
pub mod guide;
mod health;
#[cfg(feature = "tower")]
pub mod http;
#[cfg(all(test, larder_interleavings))]
mod interleavings;
mod invalidation;
mod key;
mod keyspace;
mod larder;
pub mod limit;
pub mod lock;
#[cfg(feature = "metrics")]
pub mod metrics;
mod name;
mod near;
mod presence;
mod random;
mod recency;
mod runtimes;
mod stats;
mod store;
mod sync;
mod tasks;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod tokens;
mod url;
mod value;
mod write;

// The connection
pub use builder::LarderBuilder;
pub use call::Call;
pub use credentials::Credentials;
pub use error::{Error, ErrorKind, Result};
pub use health::{ConnectionHealth, ConnectionRole, ConnectionState, Health, Purpose};
pub use larder::Larder;
pub use stats::{CacheStats, InvalidationStats, LockStats, OperationStats, Stats};
pub use write::{OrQueue, WriteCall, WriteOutcome};

// The cache
pub use cache::{
    Cache, CacheBuilder, Entry, EntryVersion, Explanation, Foreign, HoldsError, HotKey, IsError, IsText,
    Load, LoadContext, LoadEntry, LoadError, LoadMany, LoadOutput, LoadSetup, LoadSource, LoaderError,
    LoaderFailure, NearVerdict, OnceError, ParseVersionError, RunOnce, Set, SetIf, SetMany, Source, Stored,
    Tag, TagSnapshot, WhenAbandoned,
};
pub use key::{CacheKey, DisplayKey, KeyText, OwnedKey};
#[doc = include_str!("doc/cached.md")]
#[doc(inline)]
#[cfg(feature = "macros")]
pub use larder_macros::cached;
pub use near::Near;
pub use store::Expiry;
pub use value::{Format, Value};

// Rate limits
pub use limit::Quota;

/// The program of the README, so that it compiles. The pages of docs/ are in [`guide`].
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
