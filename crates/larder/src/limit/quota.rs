//! How many, in how long.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::store::Window;

const LARGEST_LIMIT: u64 = u32::MAX as u64;
const SHORTEST_WINDOW: Duration = Duration::from_millis(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(366 * 24 * 3600);

/// At most `limit` in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u64,
    window: Duration,
}

impl Quota {
    /// At most `limit`, from 1 to 2³²−1, in any `window`, from a millisecond to 366 days.
    #[must_use]
    pub const fn new(limit: u64, window: Duration) -> Self {
        Self { limit, window }
    }

    /// At most `limit` in any second.
    #[must_use]
    pub const fn per_second(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(1))
    }

    /// At most `limit` in any 60 seconds.
    #[must_use]
    pub const fn per_minute(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(60))
    }

    /// At most `limit` in any 60 minutes.
    #[must_use]
    pub const fn per_hour(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(3600))
    }

    /// At most `limit` in any 24 hours.
    #[must_use]
    pub const fn per_day(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(24 * 3600))
    }

    /// In the store's terms, or why it makes no sense.
    pub(super) fn window(self) -> Result<Window> {
        if !(1..=LARGEST_LIMIT).contains(&self.limit) {
            return Err(Error::invalid(format!("a limit is from 1 to {LARGEST_LIMIT}, not {}", self.limit)));
        }
        if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&self.window) {
            return Err(Error::invalid(format!(
                "a window is from {SHORTEST_WINDOW:?} to 366 days, not {:?}",
                self.window
            )));
        }
        Ok(Window::new(self.limit, self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_cover_the_window() {
        for micros in [1_000u64, 1_001, 59_999, 60_000, 1_000_000, 3_600_000_001] {
            let quota = Quota::new(5, Duration::from_micros(micros));
            assert!(quota.window().unwrap().bucket_micros * Window::BUCKETS >= micros, "{micros}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Quota::per_second(0).window().is_err());
        assert!(Quota::per_second(u64::MAX).window().is_err());
        assert!(Quota::new(1, Duration::ZERO).window().is_err());
        assert!(Quota::new(1, Duration::MAX).window().is_err());
    }
}
