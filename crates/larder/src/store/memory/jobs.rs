//! Jobs of the embedded store: the specification of the scripts in `lua/job/`.
//!
//! A job's table is locked before the table of its lock, never after it.

use std::collections::{HashMap, VecDeque};
#[cfg(feature = "admin")]
use std::sync::MutexGuard;
use std::time::Duration;

use super::MemoryStore;
use super::shards::Shards;
use crate::clock::Tick;
use crate::error::Result;
use crate::store::job::{Began, BeginJob, ENDS_KEPT, JobSchedule, JobStore, LastRun, RunName, lock_of_job};
use crate::store::lock::{Attempted, WhenHeld, process_suffix};

#[derive(Debug, Clone)]
struct JobMark {
    period: i64,
    at: u64,
    by: String,
}

#[derive(Default)]
struct JobRecord {
    /// The period of the last try, and how many tries it has had.
    tried: Option<(i64, u32)>,
    /// When the last try began or ended.
    last: u64,
    /// The tokens of the last ends, newest first.
    ends: VecDeque<u64>,
    done: Option<JobMark>,
    /// The last period whose start counts as completion.
    burned: Option<JobMark>,
}

#[derive(Default)]
struct MemoryJob {
    last: Option<LastRun>,
    /// By slot, and `None` for the schedule; each with when it is forgotten.
    records: HashMap<Option<String>, (JobRecord, Tick)>,
    kept_until: Option<Tick>,
}

impl MemoryJob {
    fn is_forgotten(&self, now: Tick) -> bool {
        let kept = self.records.values().map(|(_, until)| *until).chain(self.kept_until);
        kept.max().is_none_or(|until| until <= now)
    }
}

#[derive(Default)]
struct JobTable {
    jobs: HashMap<String, MemoryJob>,
    /// At this size, what has expired is removed: the table has doubled since that was last done.
    sweep_at: usize,
}

impl JobTable {
    fn job(&mut self, name: &str, now: Tick) -> &mut MemoryJob {
        if self.jobs.len() >= self.sweep_at {
            self.jobs.retain(|_, job| !job.is_forgotten(now));
            self.sweep_at = self.jobs.len().saturating_mul(2).max(64);
        }
        self.jobs.entry(name.to_owned()).or_default()
    }
}

#[derive(Default)]
pub(super) struct Jobs(Shards<JobTable>);

#[cfg(test)]
impl Jobs {
    /// How many names are kept.
    fn known(&self) -> usize {
        self.0.all().map(|table| table.jobs.len()).sum()
    }
}

fn signed(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the period that a call at `now` is for.
fn period_of(now: u64, schedule: JobSchedule, record: &JobRecord, attempts: u32) -> i64 {
    let shifted =
        i64::try_from(now).unwrap_or(i64::MAX) + signed(schedule.tolerance) - signed(schedule.offset);
    let current = shifted.div_euclid(signed(schedule.every).max(1));
    let Some(done) = record.done.as_ref().filter(|_| schedule.catch_up > 0) else { return current };
    let missed = current.min((done.period + 1).max(current - i64::from(schedule.catch_up)));
    match record.tried {
        // A missed period that has no try left does not delay the next one.
        Some((tried, tries)) if tried >= missed && tries >= attempts => current.min(tried + 1),
        Some((tried, _)) if tried > missed => current.min(tried),
        _ => missed,
    }
}

impl MemoryStore {
    fn begin(&self, run: &RunName, begin: BeginJob) -> Began {
        let (now, tick) = (self.now_micros() / 1000, self.clock.now());
        if self.was_given_up(&run.lock(), begin.token) {
            return Began::Gone;
        }
        let mut jobs = self.jobs.0.of(&run.job);
        let job = jobs.job(&run.job, tick);
        job.records.retain(|_, (_, until)| *until > tick);
        let (record, kept) =
            job.records.entry(run.slot.clone()).or_insert_with(|| (JobRecord::default(), tick));
        // What is refused, in this order: the period is done, a run is under way, its start counted as
        // completion, its tries.
        let period = begin.schedule.map_or(0, |schedule| period_of(now, schedule, record, begin.attempts));
        if let Some(JobMark { at, by, .. }) = record.done.clone().filter(|mark| mark.period >= period) {
            return Began::Done { at, by };
        }
        if self.lock_is_held(&run.lock()) {
            let (since, by) =
                job.last.as_ref().map_or((now, String::new()), |last| (last.started, last.by.clone()));
            return Began::Running { since, by };
        }
        if let Some(JobMark { at, by, .. }) = record.burned.clone().filter(|mark| mark.period >= period) {
            return Began::Done { at, by };
        }
        let tries = match record.tried {
            Some((tried, tries)) if tried == period => {
                let until =
                    record.last.saturating_add(u64::try_from(begin.backoff.as_millis()).unwrap_or(u64::MAX));
                if tries >= begin.attempts {
                    return Began::GaveUp { attempts: tries };
                } else if until > now {
                    return Began::BackingOff { until };
                }
                tries
            }
            _ => 0,
        };
        // Begin: take the lock, then record the try.
        let taken = self.take_lock(&run.lock(), begin.token, begin.ttl, WhenHeld::Return, process_suffix());
        let Attempted::Granted { fence } = taken else { return Began::Gone };
        let by = process_suffix().trim_start().to_owned();
        (record.tried, record.last) = (Some((period, tries.saturating_add(1))), now);
        if begin.at_most_once {
            record.burned = Some(JobMark { period, at: now, by: by.clone() });
        }
        *kept = tick.after(begin.keep);
        job.kept_until = Some(tick.after(begin.keep));
        job.last = Some(LastRun { started: now, ended: None, by, completed: false, held: true });
        Began::Started { fence, period }
    }
}

#[cfg(feature = "admin")]
impl MemoryStore {
    pub(super) fn names_of_jobs(&self, now: Tick) -> Vec<String> {
        let kept = |job: &MemoryJob| job.kept_until.is_some_and(|until| until > now);
        let known = |table: MutexGuard<'_, JobTable>| {
            let jobs = table.jobs.iter().filter(|(_, job)| kept(job));
            jobs.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        self.jobs.0.all().flat_map(known).collect()
    }
}

impl JobStore for MemoryStore {
    async fn begin_job(&self, run: &RunName, begin: BeginJob) -> Result<Began> {
        Ok(self.begin(run, begin))
    }

    async fn end_job(
        &self,
        run: &RunName,
        token: u64,
        period: i64,
        completed: bool,
        keep: Duration,
    ) -> Result<bool> {
        let (now, tick) = (self.now_micros() / 1000, self.clock.now());
        let mut jobs = self.jobs.0.of(&run.job);
        let job = jobs.job(&run.job, tick);
        let known = job.records.get_mut(&run.slot).filter(|(_, until)| *until > tick);
        if !self.free_lock(&run.lock(), token) {
            return Ok(known.is_some_and(|(record, _)| record.ends.contains(&token)));
        }
        let (record, kept) =
            job.records.entry(run.slot.clone()).or_insert_with(|| (JobRecord::default(), tick));
        record.last = now;
        record.ends.push_front(token);
        record.ends.truncate(ENDS_KEPT);
        if completed && record.done.as_ref().is_none_or(|done| done.period < period) {
            let by = process_suffix().trim_start().to_owned();
            record.done = Some(JobMark { period, at: now, by });
        }
        *kept = tick.after(keep);
        job.kept_until = Some(tick.after(keep));
        if let Some(last) = &mut job.last {
            (last.ended, last.completed) = (Some(now), completed);
        }
        Ok(true)
    }

    async fn last_run(&self, job: &str) -> Result<Option<LastRun>> {
        let tick = self.clock.now();
        let jobs = self.jobs.0.of(job);
        let known = jobs.jobs.get(job).filter(|job| job.kept_until.is_some_and(|until| until > tick));
        let held = self.lock_is_held(&lock_of_job(job));
        Ok(known.and_then(|job| job.last.clone()).map(|last| LastRun { held, ..last }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::Bounds;
    use super::*;
    use crate::clock::Clock;
    use crate::store::NoSink;

    #[tokio::test]
    async fn the_names_of_jobs_are_forgotten_with_their_records() {
        let micros = Arc::new(AtomicU64::new(0));
        let clock = Clock::Manual(micros.clone());
        let store = MemoryStore::new(Bounds::default(), clock, Arc::new(NoSink));
        let (ttl, keep) = (Duration::from_secs(1), Duration::from_secs(10));
        for number in 0..100_000u64 {
            let run = RunName { job: format!("job-{number}"), slot: Some("s".into()) };
            let begin = BeginJob {
                token: number + 1,
                ttl,
                schedule: None,
                attempts: 1,
                backoff: Duration::ZERO,
                at_most_once: false,
                keep,
                quarantine: None,
            };
            let Began::Started { period, .. } = store.begin_job(&run, begin).await.unwrap() else {
                panic!("{run:?}")
            };
            assert!(store.end_job(&run, number + 1, period, true, keep).await.unwrap());
            micros.fetch_add(1_000_000, Ordering::AcqRel);
        }
        // Ten are kept at a time; each of the 32 tables is swept when it holds 64.
        assert!(store.jobs.known() <= 32 * 64, "{} names are kept", store.jobs.known());
    }
}
