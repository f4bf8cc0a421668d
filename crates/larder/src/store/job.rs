//! The operations of a store on jobs: at most one run at a time, and at most one completed run for each
//! period or slot.
//!
//! A run holds the job's lock, which is renewed and expires as every lock does.
//! [`begin_job`](JobStore::begin_job) decides in one step whether a run is due, and acquires the lock.
//! [`end_job`](JobStore::end_job) records the run only if its token still holds the lock. So a run that lost
//! its lock cannot complete a period.

use std::future::Future;
use std::time::Duration;

use crate::error::Result;

/// How many ends of runs are recognised when they are sent again.
pub(crate) const ENDS_KEPT: usize = 16;

/// When a job is due, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobSchedule {
    pub(crate) every: Duration,
    pub(crate) offset: Duration,
    /// How long before a boundary a call counts for the next period.
    pub(crate) tolerance: Duration,
    /// How many missed periods are made up for.
    pub(crate) catch_up: u32,
}

/// The run to begin or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunName {
    pub(crate) job: String,
    /// The slot; `None` for a run of the schedule.
    pub(crate) slot: Option<String>,
}

impl RunName {
    #[cfg_attr(
        not(feature = "redis"),
        allow(dead_code, reason = "the embedded store has a record for each job")
    )]
    pub(crate) fn record(&self) -> String {
        match &self.slot {
            None => format!("{}:run", self.job),
            Some(slot) => format!("{}:slot:{slot}", self.job),
        }
    }

    pub(crate) fn lock(&self) -> String {
        lock_of_job(&self.job)
    }
}

/// Returns the name of the lock that a run of the job holds.
pub(crate) fn lock_of_job(job: &str) -> String {
    format!("{job}:lock")
}

/// The terms of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BeginJob {
    pub(crate) token: u64,
    pub(crate) ttl: Duration,
    /// `None` for a slot.
    pub(crate) schedule: Option<JobSchedule>,
    pub(crate) attempts: u32,
    pub(crate) backoff: Duration,
    pub(crate) at_most_once: bool,
    pub(crate) keep: Duration,
    /// As in a [`LockRequest`](super::lock::LockRequest).
    pub(crate) quarantine: Option<Duration>,
}

/// The reply to [`JobStore::begin_job`]. Times are milliseconds of the store's clock since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Began {
    Started {
        fence: u64,
        period: i64,
    },
    Done {
        at: u64,
        by: String,
    },
    Running {
        since: u64,
        by: String,
    },
    BackingOff {
        until: u64,
    },
    GaveUp {
        attempts: u32,
    },
    /// The attempt was cancelled before its request arrived.
    Gone,
    /// As [`Attempted::Quarantined`](super::lock::Attempted::Quarantined).
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store loses nothing"))]
    Quarantined {
        until: u64,
    },
}

/// The last run of a job. Times are as in [`Began`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastRun {
    pub(crate) started: u64,
    pub(crate) ended: Option<u64>,
    pub(crate) by: String,
    /// Whether it completed, if it has ended.
    pub(crate) completed: bool,
    /// Whether its lock is held.
    pub(crate) held: bool,
}

store_operations! {
    /// The operations of every store on jobs. Each is atomic, and one round trip.
    pub(crate) trait JobStore {
        /// Begins a run, if one is due.
        async fn begin_job(&self, run: &RunName, begin: BeginJob) -> Result<Began>;

        /// Records the end of a run and frees its lock; returns false if the token no longer holds it. May be
        /// sent again, also after the ends of later runs: the last [`ENDS_KEPT`] ends are recognised.
        async fn end_job(
            &self,
            run: &RunName,
            token: u64,
            period: i64,
            completed: bool,
            keep: Duration,
        ) -> Result<bool>;

        /// Reads the last run.
        async fn last_run(&self, job: &str) -> Result<Option<LastRun>>;
    }
}
