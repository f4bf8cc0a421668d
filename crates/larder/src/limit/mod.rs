//! Rate limits over a sliding window that never admits more than the limit.
//!
//! A limiter charges a record on the store, in the store's time, in one atomic step. The rule is strict buckets, which
//! `store/memory/limits.rs` explains: in no span of the window's length is more than the limit admitted, whatever the
//! clients' clocks do, and what was admitted counts again at most a sixtieth of the window late. A refusal charges
//! nothing. A key takes about 260 bytes and is gone when its window is.

mod quota;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::context::Context;
use crate::error::Result;
use crate::key::CacheKey;
use crate::store::{Charged, Store, Window};
use crate::telemetry::LimitMeter;
pub use quota::Quota;

/// A rate limiter under a name. Made by [`Larder::rate_limiter`](crate::Larder::rate_limiter); cheap to clone.
///
/// In no span of the window's length is more than the limit admitted, by the store's own clock. What was admitted counts
/// again at most a sixtieth of the window late: a minute's quota, used up at once, is back after 60 to 61 seconds. A
/// refusal charges nothing. A key takes about 260 bytes and is gone when its window is. A server that evicts can forget
/// what it has admitted: give limits one that does not. When the server is away, `check` is an error, and whether the
/// request may pass is for the program to say.
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use larder::Quota;
///
/// let limiter = larder.rate_limiter("api", Quota::per_minute(2))?;
/// assert!(limiter.allow("endpoint1").await?);
/// assert_eq!(limiter.remaining("endpoint1").await?, 1);
/// assert!(limiter.check("endpoint1").await?.is_allowed());
///
/// let refused = limiter.check("endpoint1").await?;
/// assert!(!refused.is_allowed() && refused.retry_after().is_some());
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    context: Arc<Context>,
    meter: Arc<LimitMeter>,
    name: String,
    quota: Quota,
    window: Window,
}

impl RateLimiter {
    pub(crate) fn new(context: Arc<Context>, name: &str, quota: Quota) -> Result<Self> {
        let window = quota.window()?;
        context.keyspace.limit(name, "")?;
        let meter = context.limit_meter(name);
        Ok(Self { context, meter, name: name.to_owned(), quota, window })
    }

    /// The quota that the limiter was made with.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Whether one more may pass, and if so charges it: [`check`](Self::check) without the figures.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub fn allow(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<bool>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.meter.check, async move {
            Ok(self.decide(&entry?).await?.is_allowed())
        })
    }

    /// Whether one more may pass, and if so charges it.
    ///
    /// One round trip. A refusal is a decision, not an error, and charges nothing.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request. After `TimedOut` and `Disconnected` it may have been charged.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged.
    pub fn check(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<Decision>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.meter.check, async move {
            self.decide(&entry?).await
        })
    }

    /// How many more may pass now. Charges nothing and writes nothing.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub fn remaining(&self, key: impl CacheKey) -> Call<'_, impl Future<Output = Result<u64>> + Send> {
        let entry = self.entry(key);
        Call::new(self.context.limits.response_timeout, &self.meter.remaining, async move {
            Ok(self.context.coordination()?.usage(&entry?, self.window, 1).await?.remaining)
        })
    }

    async fn decide(&self, entry: &str) -> Result<Decision> {
        let charged = self.context.coordination()?.charge(entry, self.window, 1).await?;
        self.meter.decided(charged.allowed);
        Ok(Decision { limit: self.window.limit, charged })
    }

    fn entry(&self, key: impl CacheKey) -> Result<String> {
        let entry = self.context.keyspace.limit(&self.name, key)?;
        self.context.limits.check_key(&entry)?;
        Ok(entry)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

/// What a limiter decided, and what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    limit: u64,
    charged: Charged,
}

impl Decision {
    /// Whether it may pass; if so it was charged.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.charged.allowed
    }

    /// The quota's limit.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many more may pass now, after this one.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.charged.remaining
    }

    /// When the same request would pass if nobody else asks; `None` where it passed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (!self.charged.allowed).then_some(self.charged.retry_after)
    }

    /// When the whole limit is there again if nobody else asks.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.charged.reset_after
    }
}
