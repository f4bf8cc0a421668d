//! Rate limits by name, key and quotas.

use std::time::Duration;

use super::Admin;
use super::names::StoredKey;
use crate::error::Result;
use crate::limit::{Decision, Quota, Quotas};

impl Admin {
    /// Charges `cost` permits of a limiter's key, or refuses. The quotas are the caller's, as everywhere in larder: the
    /// server stores usage only. Other quotas than the program's convert the record; see docs/rate-limits.md.
    ///
    /// Unlike [`RateLimiter::check_n`](crate::limit::RateLimiter::check_n), an outage is an error.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name or a quota is invalid.
    pub async fn check_limit(
        &self,
        limiter: &str,
        key: &str,
        cost: u64,
        quotas: impl Into<Quotas> + Send,
    ) -> Result<Decision> {
        self.rate_limiter(limiter, quotas)?.check_n(StoredKey(key), cost).await
    }

    /// Waits for its turn until `within` is over, and charges like [`check_limit`](Self::check_limit).
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name, a quota or the number of permits is invalid.
    ///   Correct the call.
    pub async fn acquire_limit(
        &self,
        limiter: &str,
        key: &str,
        cost: u64,
        quotas: impl Into<Quotas> + Send,
        within: Duration,
    ) -> Result<Decision> {
        self.rate_limiter(limiter, quotas)?.acquire_n(StoredKey(key), cost, within).await
    }

    /// Returns what [`check_limit`](Self::check_limit) would answer for `cost` permits, and charges nothing.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name or a quota is invalid. Correct the call.
    pub async fn peek_limit(
        &self,
        limiter: &str,
        key: &str,
        cost: u64,
        quotas: impl Into<Quotas> + Send,
    ) -> Result<Decision> {
        let limiter = self.rate_limiter(limiter, quotas)?;
        Box::pin(self.within(limiter.peek(StoredKey(key), cost))).await
    }

    /// Forgets what a key has used, and ends a block. Like
    /// [`RateLimiter::reset`](crate::limit::RateLimiter::reset). Returns whether there was a record.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name or a quota is invalid. Correct the call.
    pub async fn reset_limit(&self, limiter: &str, key: &str) -> Result<bool> {
        // A reset is the same for all quotas.
        self.rate_limiter(limiter, Quota::per_second(1))?.reset(StoredKey(key)).await
    }
}
