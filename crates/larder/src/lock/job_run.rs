//! The result of running a job, and the state of its last run.

use std::time::{Duration, SystemTime};

/// What [`Job::run`](super::Job::run) did. Times are the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "the body's own error is inside"]
pub enum JobRun<T, E> {
    /// The body ran here and returned this. `Ok` is recorded as the completion of the period or slot.
    Ran(Result<T, E>),
    /// The job was already completed for this period or slot.
    AlreadyDone {
        /// When it was completed.
        at: SystemTime,
        /// The process that completed it, `<host>:<process id>`.
        by: String,
    },
    /// A run of the job is in progress, for this period or another one.
    Running {
        /// When that run started.
        since: SystemTime,
        /// The process that runs it, `<host>:<process id>`.
        by: String,
    },
    /// A run of this period failed or died, and it is too early to retry.
    BackingOff {
        /// When the next attempt is allowed.
        until: SystemTime,
    },
    /// All attempts of this period failed or died.
    GaveUp {
        /// The number of attempts.
        attempts: u32,
    },
}

/// The last run of a job. Made by [`Job::status`](super::Job::status).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobStatus {
    /// When it started, by the server's clock.
    pub started: SystemTime,
    /// When it ended. `None` for a run that is in progress or died.
    pub ended: Option<SystemTime>,
    /// The process that runs or ran it, `<host>:<process id>`.
    pub by: String,
    /// The state or result of the run.
    pub outcome: JobOutcome,
}

impl JobStatus {
    /// Returns how long the run took, if it ended.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        self.ended?.duration_since(self.started).ok()
    }
}

/// The state or result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// The run is in progress.
    Running,
    /// The body returned `Ok`.
    Completed,
    /// The body returned an error.
    Failed,
    /// The run lost its lock: its process died or was cut off, or its body was dropped.
    Died,
}
