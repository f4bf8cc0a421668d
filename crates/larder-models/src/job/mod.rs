//! A job: one run at a time, at most one completed run for each period, whichever process runs it and
//! whichever dies.
//!
//! The problem: any process may begin a run, die in it, lose its lock, or learn of its end too late; and
//! periods pass in the meantime. The mechanism is that of `lua/job/begin.lua` and `lua/job/end.lua`, as
//! `lock/job.rs` sends them: one script decides whether a run is due and takes the lock; another records the
//! end, only while the run's token holds the lock, and for the period that the first script replied.
//!
//! Time passes in ticks of the server's clock, which may be set back once. Deadlines are counted from before
//! the request that was answered, and a process's clock may miss one tick of a lease. Requests may be carried
//! out after their sender gave up, an end is sent again if it was not answered, and answers may be lost. A
//! process may die at any point.
//!
//! Not modelled: slots (a slot is a period that does not pass), tolerance and offset (they move a boundary),
//! missed periods that are made up for, renewals (they are those of [`lock`](crate::lock)), records that
//! expire.

mod model;
mod state;

pub use model::Action;
pub use state::{Answer, Left, Phase, Process, Record, Reply, Request, State, Token};

/// Ticks of a run's lock.
pub const TTL: u8 = 2;
/// Ticks of a period.
pub const EVERY: u8 = 3;
/// How many periods pass.
pub const PERIODS: u8 = 2;
/// How often a run is tried in its period.
pub const ATTEMPTS: u8 = 2;
/// How many ends are recognised when they are sent again: 16 in larder. Here no more than this fit into a
/// lease.
pub const ENDS_KEPT: usize = 3;
/// Ticks between two tries.
pub const BACKOFF: u8 = 1;

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A run begins while another is under way.
    BeginsBeside,
    /// The end of a run that lost its lock is recorded.
    EndWithoutToken,
    /// An end completes the period in which it arrives.
    PeriodOfEnd,
    /// Only the last completed period counts as completed.
    LastPeriodOnly,
    /// Only runs that ended count as tries.
    DeadRunsNotCounted,
    /// A try follows a failed one at once.
    NoBackoff,
    /// With at most once, a period counts as completed from its end on, not from its start.
    BurnedAtEnd,
    /// A failed run completes its period.
    FailureCompletes,
    /// A deadline counts from the answer.
    DeadlineFromAnswer,
    /// An end that is sent again after it was recorded gets the answer that the lock was lost.
    EndNotRecognised,
    /// Only the last end is recognised, and no earlier one.
    OneEndRecognised,
    /// A start that was cancelled is not remembered.
    NoTombstone,
}

/// The participants, and their parameters.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// How many processes.
    pub processes: usize,
    /// How many runs each may begin.
    pub runs: u8,
    /// The most requests and answers under way.
    pub under_way: usize,
    /// `at_most_once()`.
    pub at_most_once: bool,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// L1, of runs.
pub const ONE_RUN: &str = "at most one run is under way whose lease is valid";
/// At most one completed run for each period.
pub const ONCE: &str = "no period is completed twice";
/// A run belongs to the period of its grant.
pub const OWN_PERIOD: &str = "a run completes the period in which it began";
/// A run is tried this often, with a pause.
pub const TRIES: &str = "a period's run is tried as often as allowed, with the backoff between tries";
/// Of `at_most_once()`.
pub const AT_MOST_ONCE: &str = "a period is begun at most once";
/// What the record says is true.
pub const TRUE_RECORD: &str = "a period that is recorded as completed has a run that ended well";
/// A run that lost its lock is not recorded.
pub const LOSS_NOTICED: &str = "a run that learns that it lost its lock is not recorded as completed";
/// L5.
pub const NO_GHOST: &str = "a start that was cancelled does not hold the lock";
/// The model is not safe only because nothing happens.
pub const RETRIED: &str = "a period can be completed after its first run died or failed";
/// A second period can be completed.
pub const NEXT: &str = "two periods can be completed, one after the other";
