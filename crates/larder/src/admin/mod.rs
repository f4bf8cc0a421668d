//! What is inside a store, for people and tools that operate it. Feature `admin`.
//!
//! [`Larder::admin`](crate::Larder::admin) samples the keys, pages through a cache, shows and changes single entries
//! of any type, lists locks with their holders and waiters, lists processes, and asks the servers for facts. The
//! command line `larder` is built on it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> larder::Result<()> {
//! use std::time::Duration;
//! use larder::admin::KeyGroup;
//! use larder::{Cache, Larder};
//!
//! let larder = Larder::connect("memory:").await?;
//! let users: Cache<String> = larder.cache("user").ttl(Duration::from_secs(60)).build()?;
//! users.set("123", &"Ann".to_owned()).await?;
//!
//! let admin = larder.admin();
//! let sample = admin.sample(2_000).await?;
//! assert!(sample.groups.iter().any(|group| group.group == KeyGroup::Cache("user".into())));
//! let entry = admin.entry("user", "123").await?.expect("it was just stored");
//! println!("{:?} bytes, value {:?}", entry.stored_bytes, entry.value()?);
//! # Ok(())
//! # }
//! ```
//!
//! - **Caches** are named as on the server: `user`, or `user@2` for schema 2. **Keys** are given as their stored text:
//!   `123`, or `a:1` for the tuple `("a", 1)`. Braces and control characters are escaped if they are not yet.
//! - Nothing here uses `KEYS`. A scan visits 200 keys and then pauses for as long as they took.
//! - Each request is bounded by `response_timeout`. A whole sample or scan takes as many requests as it needs.
//! - The ACL block `admin` in docs/security.md lists the permissions. A fact that the server refuses to show is `None`
//!   or an error of its own; the other facts are there.

mod certificate;
mod entry;
mod facts;
mod glimpse;
mod limits;
mod locks;
mod names;
mod processes;
mod sample;
mod scan;
mod server;
mod url;
mod write;

pub use crate::store::admin::LockKind;
pub use crate::store::raw_reply::RawReply;
pub use entry::{Compression, EntryInfo, EntryKind, EntryReport, EntryTag, EntryValue, Loader, StoredFormat};
pub use locks::{HolderInfo, JobRunInfo, LockInfo, LockScan, WaiterInfo};
pub use names::KeyGroup;
pub use processes::{Process, ProcessCounters};
pub use sample::{Estimate, FormatShare, Sample, SampledGroup, Sampling};
pub use scan::{EntryScan, ScannedEntry};
pub use server::{AclVerdict, Info, LatencyEvent, NodeRole, ServerNode, SlowCommand, StoreOf, TlsFacts};
pub use url::{Deployment, ServerAddress, ServerUrl};
pub use write::EntryWrite;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::limit::{Quotas, RateLimiter};
use crate::presence::Presence;
use crate::store::AnyStore;

/// Looks into a store and changes single things in it. Made by [`Larder::admin`](crate::Larder::admin); cheap to
/// clone.
///
/// For people and tools, not for the path of a request. See the [module](self).
#[derive(Clone)]
pub struct Admin {
    context: Arc<Context>,
    /// Announced for as long as the program has a handle, also if this is the only one.
    _presence: Arc<Presence>,
}

impl Admin {
    pub(crate) fn new(context: Arc<Context>, presence: Arc<Presence>) -> Self {
        Self { context, _presence: presence }
    }

    fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn store(&self) -> Result<&AnyStore> {
        self.context().store()
    }

    /// Returns the store of locks and limits.
    fn coordination(&self) -> Result<&AnyStore> {
        self.store()?;
        Ok(self.context().coordination_even_closed())
    }

    /// Returns how long one request may take.
    fn max_wait(&self) -> Duration {
        self.context().limits.response_timeout
    }

    /// Makes a rate limiter, as [`Larder::rate_limiter`](crate::Larder::rate_limiter) does.
    fn rate_limiter(&self, name: &str, quotas: impl Into<Quotas>) -> Result<RateLimiter> {
        self.context.note_coordination();
        self.context.check_coordination_handle()?;
        RateLimiter::new(self.context.clone(), name, quotas.into())
    }

    /// Bounds one request.
    async fn within<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let max_wait = self.max_wait();
        tokio::time::timeout(max_wait, asked).await.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))
    }

    /// Returns the namespace of the `Larder`, empty if it has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.context().keyspace.namespace()
    }

    /// Returns whether the store is `memory:`, which has no server to ask for facts.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.context().is_embedded()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Returns a time of milliseconds since 1970.
fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
