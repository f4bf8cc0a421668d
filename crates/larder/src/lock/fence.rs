//! The number of a grant, and how a release went.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that grows with every grant of a lock: write it with what the lock protects, and refuse writes whose number
/// is lower than the highest seen.
///
/// It is the server's time in microseconds at the grant, or one more than the last where that is higher; so it goes on growing
/// after an expiry, a restart, and lost data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// Makes a fence of a number that was stored, or that another process sent.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, below 2⁵³: exact in a SQL `BIGINT`, in JSON, and in a double.
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

/// How a release went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The lock was held until now, and is free or somebody else's.
    Released,
    /// The lock's time was over before: somebody else may have held it since.
    AlreadyLost,
    /// The server did not answer: the lock may be free. It is freed in the background, or ends with its time.
    Unknown,
}
