//! What came of running a job, and what is known of its last run.

use std::time::{Duration, SystemTime};

/// What [`Job::run`](super::Job::run) did. Times are the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "the body's own error is inside"]
pub enum JobRun<T, E> {
    /// The body ran here, and returned this. `Ok` is recorded as the completion of the period or slot.
    Ran(Result<T, E>),
    /// It was completed before.
    AlreadyDone {
        /// When.
        at: SystemTime,
        /// By which process, `<host>:<process id>`.
        by: String,
    },
    /// A run of the job is under way, of this period or another.
    Running {
        /// Since when.
        since: SystemTime,
        /// In which process.
        by: String,
    },
    /// A run of this period failed or died, and it is not yet time to try again.
    BackingOff {
        /// When it is.
        until: SystemTime,
    },
    /// All attempts of this period failed or died.
    GaveUp {
        /// How many there were.
        attempts: u32,
    },
}

/// The last run of a job. Made by [`Job::status`](super::Job::status).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobStatus {
    /// When it began, by the server's clock.
    pub started: SystemTime,
    /// When it ended. None while it runs, and of one that died.
    pub ended: Option<SystemTime>,
    /// The process that ran it, `<host>:<process id>`.
    pub by: String,
    /// What came of it.
    pub outcome: JobOutcome,
}

impl JobStatus {
    /// How long it took, if it ended.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        self.ended?.duration_since(self.started).ok()
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// It runs.
    Running,
    /// Its body returned `Ok`.
    Completed,
    /// Its body returned an error.
    Failed,
    /// It lost its lock: its process died or was cut off, or its body was dropped.
    Died,
}
