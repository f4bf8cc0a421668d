//! The near tier: decoded values in this process, in front of the store, and never stale beyond a bound.
//!
//! A copy is made of what was read through a tracked connection, and dropped when the server tells that the name changed.
//! [`tier`] keeps copies, and orders "insert what was read" against "it has changed meanwhile"; [`changes`] is who
//! the store tells; [`version`] keeps the versions of tags and caches the same way. Whether a copy may still be believed
//! is the store's to say (`store/trust.rs`): a copy whose connection broke or fell silent is not served.
//!
//! Not promised: that two processes see a change at the same instant. A near read is at most [`Near::STALENESS`] behind,
//! and as a rule the time that one message takes.

mod asking;
mod calls;
mod changes;
mod recency;
mod sync;
mod tier;
mod version;

use std::time::Duration;

pub(crate) use asking::Asking;
pub(crate) use calls::Subscription;
pub(crate) use changes::{Invalidations, Watch};
pub(crate) use recency::SAMPLED;
pub(crate) use tier::{Copied, InsertTicket, Tier};
pub(crate) use version::AnyTier;

use crate::error::{Error, Result};
use crate::store::trust::Sessions;

/// How much a cache keeps in this process, and for how long. Given to [`CacheBuilder::near`](crate::CacheBuilder::near).
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use larder::{Cache, Near};
///
/// let pages: Cache<Arc<String>> =
///     larder.cache("page").ttl(Duration::from_secs(600)).near(Near::bytes(32 << 20)).build()?;
/// # let _ = pages; Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a near tier is turned on by CacheBuilder::near()"]
pub struct Near {
    max_bytes: u64,
    max_age: Duration,
}

impl Near {
    /// How far a near read may lag behind the server at worst: when the connection that tells of changes has fallen silent
    /// without breaking. From then on reads ask the server until it is heard again.
    pub const STALENESS: Duration = Sessions::BOUND;

    /// Keeps values whose stored sizes add up to this many bytes, names included. Decoded values take more or less than their
    /// stored form, which is what is counted.
    pub fn bytes(max_bytes: u64) -> Self {
        Self { max_bytes, max_age: Duration::from_secs(60) }
    }

    /// How long a copy is used before the server is asked again, whatever was told. Default: 60 s.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.max_bytes == 0 || self.max_age.is_zero() {
            return Err(Error::invalid("a near tier of no bytes or no age keeps nothing: leave near() out"));
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
