//! The fence of a grant: of a lock, and of what is written under it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that grows with every grant of a lock. Store it with what the lock protects, and refuse writes whose
/// number is lower than the highest seen.
///
/// The number is the server's time in microseconds at the grant, or the last number plus one if that is higher. So
/// it keeps growing after an expiry, a restart or lost data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// Makes a fence from a number that was stored or that another process sent.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number. It is below 2⁵³: exact in a SQL `BIGINT`, in JSON and in a double.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
