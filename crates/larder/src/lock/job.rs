//! Jobs: work that runs once in the fleet for each period, or for each slot that a scheduler names.
//!
//! A lock that is held for half a period is not enough: a run that ends early leaves the rest of the period open,
//! and the clocks of processes differ. So completion is recorded on the server, in the same step that checks that
//! the run still holds its lock, and periods follow the server's clock.
//!
//! Invariants: one run at a time while L1 holds; a period is completed at most once; a run that lost its lock
//! completes nothing.
//!
//! Not guaranteed: that side effects happen once. A run that lost its lock may have done half of its work, and the
//! next run does it again. Let the resource that it writes to check the fence.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::coordinator::Coordinator;
use super::failover::{Failover, quarantined};
use super::guard::{Guard, Keep, LockHandle};
use super::job_run::{JobOutcome, JobRun, JobStatus};
use super::lease::{self, Lease, lost};
use super::release::{Ending, end_in_background};
use super::{DEFAULT_TTL, Lock};
use crate::background::{Retry, retry_with};
use crate::backoff::Backoff;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::keyspace::Keyspace;
use crate::store::job::{Began, BeginJob, JobSchedule, JobStore, RunName, lock_of_job};
use crate::store::lock::QueueTiming;

const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
const LONGEST_PERIOD: Duration = Duration::from_secs(366 * 24 * 3600);
const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_TOLERANCE: Duration = Duration::from_secs(5);
const DEFAULT_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const SHORTEST_KEEP: Duration = Duration::from_secs(1);
/// A server cannot keep a key for any time that a `Duration` can express.
const LONGEST_KEEP: Duration = Duration::from_secs(3660 * 24 * 3600);
const LONGEST_SLOT: usize = 200;

/// Work that runs once in the fleet for each period. Made by [`Larder::job`](crate::Larder::job).
///
/// Every process calls [`run`](Self::run) as often as it likes, from a timer or a scheduler. At most one run is in
/// progress at a time, and each period of the server's clock is completed at most once, in any process. A run
/// belongs to the period in which it starts. A run holds a lock that is renewed; if its process dies, the run ends
/// when the lock expires.
///
/// ```
/// use std::time::Duration;
/// use larder::lock::JobRun;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// // Each day at 03:00 UTC.
/// let nightly = larder.job("nightly").every(Duration::from_secs(86_400)).offset(Duration::from_secs(3 * 3600));
/// let run = nightly.run(|lock| async move {
///     println!("reporting with fence {}", lock.fence());
///     Ok::<_, std::io::Error>(())
/// });
/// match run.await? {
///     JobRun::Ran(Ok(())) => println!("done for today"),
///     JobRun::Ran(Err(error)) => println!("failed: {error}; the next call may try again"),
///     JobRun::AlreadyDone { by, .. } | JobRun::Running { by, .. } => println!("{by} does it"),
///     _ => println!("later"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a job is run by run() or run_slot()"]
pub struct Job {
    locks: Arc<Coordinator>,
    name: String,
    every: Option<Duration>,
    offset: Duration,
    tolerance: Option<Duration>,
    catch_up: u32,
    attempts: u32,
    backoff: Duration,
    at_most_once: bool,
    ttl: Duration,
    max_hold: Duration,
    keep: Duration,
    failover: Failover,
}

impl Job {
    pub(crate) fn new(locks: Arc<Coordinator>, name: &str) -> Self {
        Self {
            name: locks.context.keyspace.job(name),
            locks,
            every: None,
            offset: Duration::ZERO,
            tolerance: None,
            catch_up: 0,
            attempts: 3,
            backoff: Duration::from_secs(1),
            at_most_once: false,
            ttl: DEFAULT_TTL,
            max_hold: DEFAULT_MAX_HOLD,
            keep: DEFAULT_KEEP,
            failover: Failover::default(),
        }
    }

    /// Sets the length of a period, 10 ms to 366 days. Periods are counted from 1970-01-01 00:00 UTC by the
    /// server's clock.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = Some(every);
        self
    }

    /// Sets how much later each period starts: 3 h with a period of a day is 03:00 UTC. Below 366 days. Default: 0.
    pub fn offset(mut self, offset: Duration) -> Self {
        self.offset = offset;
        self
    }

    /// Sets how long before the start of a period a call already counts for it, so that a scheduler that fires
    /// early does not skip a period. Default: 5 s, and at most a twentieth of the period.
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Makes up for up to this many missed periods, the oldest first, one for each call. They and two more periods may
    /// last 3660 days together. Default: 0, missed periods are skipped.
    pub fn catch_up(mut self, periods: u32) -> Self {
        self.catch_up = periods;
        self
    }

    /// Sets the number of attempts in a period, including runs that failed or died. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the delay before the next attempt: after the end of a failed run, or after the start of one that died.
    /// At most 366 days. Default: 1 s.
    pub fn backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// Completes a period at the start of its run, whatever its result: there is no second attempt. For work that
    /// must not happen twice, even if that means that it may not happen at all.
    pub fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// Sets the time to live of a run's lock: how long others wait after its process dies. The lock is renewed.
    /// Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Limits the duration of a run: after that it loses its lock. Default: 24 hours.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Sets how long the record of a slot is kept after its run, and the record of a schedule after its last run (at
    /// least two periods): 1 s to 3660 days. The record of a run that died is kept for `max_hold` longer. Default: 30
    /// days.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Refuses to start a run after a failover until every lease of the old master has expired: see
    /// [`Lock::quarantine`]. It does not restore a completion that the failover lost.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.failover.quarantine = Some(max_lease);
        self
    }

    /// Runs the body if the job is due: no run is in progress, this period is not completed, and another attempt is
    /// allowed.
    ///
    /// One round trip to begin and one to end, plus the renewals of the lock.
    ///
    /// # Errors
    ///
    /// After an error of the request that begins the run, the body has not started. The attempt may count anyway.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`LockLost`](crate::ErrorKind::LockLost): the run lost its lock. The body was stopped at its next await,
    ///   or ended too late to be recorded.
    /// - [`Quarantined`](crate::ErrorKind::Quarantined): a failover may have lost the lock of a run. Retry after
    ///   the time that the error names.
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): [`every`](Self::every) is missing, or a setting is
    ///   out of bounds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body and releases the lock in the background. The attempt counts.
    pub async fn run<T, E, F>(&self, body: impl FnOnce(LockHandle) -> F) -> Result<JobRun<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let Some(every) = self.every else {
            return Err(Error::invalid("run() needs a period: set every(), or use run_slot()"));
        };
        if !(SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&every) {
            return Err(Error::invalid(format!(
                "a period lasts {SHORTEST_PERIOD:?} to 366 days, not {every:?}"
            )));
        }
        let tolerance = self.tolerance.unwrap_or(DEFAULT_TOLERANCE.min(every / 20));
        if tolerance >= every {
            return Err(Error::invalid(format!(
                "a tolerance of {tolerance:?} is not below the period of {every:?}"
            )));
        }
        if self.offset >= LONGEST_PERIOD {
            return Err(Error::invalid(format!("an offset of {:?} is not below 366 days", self.offset)));
        }
        let missed = every.saturating_mul(self.catch_up.saturating_add(2));
        if missed > LONGEST_KEEP {
            return Err(Error::invalid(format!(
                "catch_up ({}) and two more periods of {every:?} are longer than 3660 days",
                self.catch_up
            )));
        }
        let schedule = JobSchedule { every, offset: self.offset, tolerance, catch_up: self.catch_up };
        let keep = self.keep.max(missed);
        self.run_one(RunName { job: self.name.clone(), slot: None }, Some(schedule), keep, body).await
    }

    /// Runs the body once for a slot: the scheduler's own name for a period, such as a cron tick or the month of an
    /// invoice.
    ///
    /// # Errors
    ///
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the slot is empty or longer than 200 bytes, or another
    ///   setting is out of bounds.
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`LockLost`](crate::ErrorKind::LockLost): the run lost its lock. The body was stopped at its next await, or
    ///   ended too late to be recorded.
    /// - [`Quarantined`](crate::ErrorKind::Quarantined): a failover may have lost the lock of a run. Retry after the
    ///   time that the error names.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_slot<T, E, F>(
        &self,
        slot: &str,
        body: impl FnOnce(LockHandle) -> F,
    ) -> Result<JobRun<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        if slot.is_empty() || slot.len() > LONGEST_SLOT {
            return Err(Error::invalid(format!("a slot has 1 to {LONGEST_SLOT} bytes, not {}", slot.len())));
        }
        let run = RunName { job: self.name.clone(), slot: Some(Keyspace::slot(slot)) };
        self.run_one(run, None, self.keep, body).await
    }

    /// Returns the state of the last run: when it started and ended, where, and its result. `None` if there was no
    /// run, or its record has expired.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub fn status(&self) -> Call<'_, impl Future<Output = Result<Option<JobStatus>>> + Send> {
        Call::new(self.locks.context.limits.response_timeout, &self.locks.meter.job.status, async move {
            self.check()?;
            let last = self.locks.context.coordination()?.last_run(&self.name).await?;
            Ok(last.map(|last| JobStatus {
                started: at(last.started),
                ended: last.ended.map(at),
                by: last.by,
                outcome: match (last.ended, last.completed) {
                    (Some(_), true) => JobOutcome::Completed,
                    (Some(_), false) => JobOutcome::Failed,
                    (None, _) if last.held => JobOutcome::Running,
                    (None, _) => JobOutcome::Died,
                },
            }))
        })
    }

    async fn run_one<T, E, F>(
        &self,
        run: RunName,
        schedule: Option<JobSchedule>,
        keep: Duration,
        body: impl FnOnce(LockHandle) -> F,
    ) -> Result<JobRun<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.check()?;
        let (guard, period) = match self.begin(&run, schedule, keep).await? {
            Ok(begun) => begun,
            Err(Began::Done { at: millis, by }) => return Ok(JobRun::AlreadyDone { at: at(millis), by }),
            Err(Began::Running { since, by }) => return Ok(JobRun::Running { since: at(since), by }),
            Err(Began::BackingOff { until }) => return Ok(JobRun::BackingOff { until: at(until) }),
            Err(Began::GaveUp { attempts }) => return Ok(JobRun::GaveUp { attempts }),
            Err(Began::Quarantined { until }) => return Err(quarantined(&run.lock(), until)),
            Err(Began::Started { .. } | Began::Gone) => return Err(lost(&run.lock())),
        };
        let result = Lock::hold_for(&guard, body).await?;
        self.end(guard, &run, period, result.is_ok(), keep).await?;
        Ok(JobRun::Ran(result))
    }

    /// Begins a run. Returns its guard and period, or the reason why there is no run.
    async fn begin(
        &self,
        run: &RunName,
        schedule: Option<JobSchedule>,
        keep: Duration,
    ) -> Result<Result<(Guard, i64), Began>> {
        let locks = &self.locks;
        let token = locks.context.tokens.next();
        let lock: Arc<str> = run.lock().into();
        let begin = BeginJob {
            token,
            ttl: self.ttl,
            schedule,
            attempts: if self.at_most_once { 1 } else { self.attempts },
            backoff: self.backoff,
            at_most_once: self.at_most_once,
            // The record must not expire while the run lasts; its end sets that time again.
            keep: keep.saturating_add(self.max_hold.min(LONGEST_KEEP)),
            quarantine: self.failover.quarantine,
        };
        let sent = locks.context.clock.now();
        // From here on, `undo` releases the lock that the request may have acquired if it fails or is dropped.
        let mut undo = Undo { locks, lock: &lock, token, ttl: self.ttl, armed: true };
        let call = Call::new(locks.context.limits.response_timeout, &locks.meter.job.begin, async {
            locks.context.coordination()?.begin_job(run, begin).await
        });
        let began = match call.await {
            Ok(began) => began,
            Err(error) => {
                undo.armed = error.is_indeterminate();
                return Err(error);
            }
        };
        let Began::Started { fence, period } = began else {
            undo.armed = false;
            return Ok(Err(began));
        };
        let mut lease =
            Lease::new(&locks.context.clock, lock.clone(), token, Fence::new(fence), sent, self.ttl);
        lease.failover = self.failover;
        if !lease.is_valid() {
            return Err(lost(&lock));
        }
        undo.armed = false;
        let keep = Some(Keep { max_hold: self.max_hold });
        Ok(Ok((Guard::new(locks, lease, self.ttl, keep), period)))
    }

    /// Records the end of a run. Retries while the lock is renewed.
    async fn end(
        &self,
        guard: Guard,
        run: &RunName,
        period: i64,
        completed: bool,
        keep: Duration,
    ) -> Result<()> {
        let locks = &self.locks;
        // Short pauses, also after many failures: the end is recorded while the lock is held, or not at all.
        let pauses = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
        let recorded = retry_with(pauses, async |_| {
            let call = Call::new(locks.context.limits.response_timeout, &locks.meter.job.end, async {
                locks.context.coordination()?.end_job(run, guard.token(), period, completed, keep).await
            });
            match call.await {
                Err(error) if error.is_retryable() && guard.is_valid() => Retry::Again,
                answer => Retry::Done(answer),
            }
        });
        if !recorded.await? {
            return Err(guard.lost_error());
        }
        guard.ended_elsewhere();
        Ok(())
    }

    fn check(&self) -> Result<()> {
        lease::check(self.ttl, self.failover)?;
        let Self { max_hold, ttl, .. } = self;
        if max_hold < ttl {
            return Err(Error::invalid(format!(
                "max_hold ({max_hold:?}) is shorter than the time to live ({ttl:?})"
            )));
        }
        if self.attempts == 0 {
            return Err(Error::invalid("a job has at least one attempt"));
        }
        if !(SHORTEST_KEEP..=LONGEST_KEEP).contains(&self.keep) {
            return Err(Error::invalid(format!(
                "a job's record is kept for 1 s to 3660 days, not for {:?}",
                self.keep
            )));
        }
        if self.backoff > LONGEST_PERIOD {
            return Err(Error::invalid(format!("a backoff of {:?} is longer than 366 days", self.backoff)));
        }
        self.locks.context.limits.check_key(&lock_of_job(&self.name))?;
        self.locks.context.check_coordination()
    }
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// A start of a run that the server may have carried out.
struct Undo<'a> {
    locks: &'a Arc<Coordinator>,
    lock: &'a Arc<str>,
    token: u64,
    ttl: Duration,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The token is remembered as cancelled, so that a request that arrives later begins nothing.
            let (tried, ending) =
                (self.ttl.max(QueueTiming::REMEMBERED), Ending::GiveUp(QueueTiming::REMEMBERED));
            end_in_background(&self.locks.context, self.lock.clone(), self.token, tried, ending);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("name", &self.name).field("every", &self.every).finish_non_exhaustive()
    }
}
