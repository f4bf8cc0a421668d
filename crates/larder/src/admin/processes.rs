//! The processes that announced themselves.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Admin;
use crate::error::Result;

/// The counters of a process since it connected, over all its caches, locks and limiters. They contain no keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessCounters {
    /// Keys that were read and found, near hits included.
    pub hits: u64,
    /// Of those, how many were found in the process.
    pub near_hits: u64,
    /// Keys that were read and not found.
    pub misses: u64,
    /// Loaders that ran to their end.
    pub loads: u64,
    /// Of those, how many failed.
    pub load_failures: u64,
    /// Locks and permits that were granted.
    pub locks_granted: u64,
    /// Locks and permits that expired before they were released.
    pub locks_lost: u64,
    /// Invalidations that wait for the server.
    pub queued: u64,
    /// Calls of all caches that failed.
    pub errors: u64,
}

/// A process that announced itself: [`LarderBuilder::presence`](crate::LarderBuilder::presence).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The name that it gave itself.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its process id on that host.
    pub pid: u32,
    /// larder's version in it.
    pub version: String,
    /// The random ids of its tokens, newest first: the upper 32 bits of each.
    pub ids: Vec<u32>,
    /// When it connected, in the server's time.
    pub started: SystemTime,
    /// How long it has been connected, as of its last record.
    pub uptime: Duration,
    /// How long ago it wrote its record: 10 s at most if it is well. After 35 s the record is gone.
    pub seen_ago: Duration,
    /// Its counters.
    pub counters: ProcessCounters,
}

impl Admin {
    /// Lists the processes that announced themselves, by name.
    ///
    /// Costs two round trips.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn processes(&self) -> Result<Vec<Process>> {
        super::unfinished()
    }
}
