//! The near tier: decoded values in this process, in front of the store, and never stale for longer than a
//! bound.
//!
//! A copy is made of a value that was read through a tracked connection, and dropped when the server reports
//! a change of its name. [`tier`] keeps the copies by their [`key`], and decides between "insert what was read"
//! and "it has changed since". [`invalidations`] receives the store's notifications. [`version`] keeps the
//! versions of tags and caches in the same way, and [`clear_version`] the last lookup of a cache's. Whether a copy
//! is still valid is decided by the store (`store/session.rs`): a copy is not served after its connection has
//! broken or fallen silent.
//!
//! Not guaranteed: that two processes see a change at the same instant. A near read is at most
//! [`Near::STALENESS`] behind, and usually as long as one message takes.

mod clear_version;
#[cfg(all(test, larder_interleavings))]
mod interleavings;
mod invalidations;
mod key;
mod recency;
mod tier;
mod version;
mod version_requests;
mod wakeups;

use std::time::Duration;

pub(crate) use clear_version::{ClearVersion, KnownVersion};
pub(crate) use invalidations::{Invalidations, Watch};
pub(crate) use key::{EntryKey, EntryKeyRef, EntryName, GivenKey};
pub(crate) use tier::{AnyTier, Copied, InsertTicket, Tier};
pub(crate) use version_requests::Asking;
pub(crate) use wakeups::{Subscription, Wakeups};

use crate::error::{Error, Result};
use crate::store::session::Sessions;

/// How much a cache keeps in this process, and for how long. Passed to
/// [`CacheBuilder::near`](crate::CacheBuilder::near).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use larder::{Cache, Near};
///
/// let pages: Cache<Arc<String>> =
///     larder.cache("page").ttl(Duration::from_secs(600)).near(Near::bytes(32 << 20)).build()?;
/// # let _ = pages; Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a near tier is turned on by CacheBuilder::near()"]
pub struct Near {
    max_bytes: u64,
    max_age: Duration,
}

impl Near {
    /// The longest time for which a near read can be behind the server. It is reached when the connection
    /// that reports changes falls silent without breaking. From then on reads ask the server, until the
    /// connection answers again.
    pub const STALENESS: Duration = Sessions::BOUND;

    /// Keeps values up to this many bytes in total. A value counts with the size of its stored form and its
    /// key; decoded values may take more or less memory than that.
    pub fn bytes(max_bytes: u64) -> Self {
        Self { max_bytes, max_age: Duration::from_secs(60) }
    }

    /// Sets how long a copy is used before the server is asked again, even if no change was reported.
    /// Default: 60 s.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.max_bytes == 0 || self.max_age.is_zero() {
            return Err(Error::invalid(
                "a near tier of 0 bytes or with a max_age of 0 keeps nothing: leave near() out",
            ));
        }
        Ok(())
    }

    pub(crate) fn max_bytes(self) -> u64 {
        self.max_bytes
    }

    pub(crate) fn age(self) -> Duration {
        self.max_age
    }
}
