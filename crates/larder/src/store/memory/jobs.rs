//! Jobs of the embedded store: the specification of the scripts of `lua/job/`.
//!
//! A job's table is locked before that of its lock, never the other way round.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::MemoryStore;
use super::shards::Shards;
use crate::clock::Tick;
use crate::error::Result;
use crate::store::job::{Began, BeginJob, ENDS_KEPT, JobStore, LastRun, RunName, Schedule, lock_of_job};
use crate::store::lock::{Attempted, Queue, process_suffix};

#[derive(Debug, Clone)]
struct Mark {
    period: i64,
    at: u64,
    by: String,
}

#[derive(Default)]
struct Record {
    /// The period of the last try, and how many tries it has had.
    tried: Option<(i64, u32)>,
    /// When that began or ended.
    last: u64,
    /// Of the last ends, the newest first.
    ends: VecDeque<u64>,
    done: Option<Mark>,
    /// Whose start counts as completion.
    burned: Option<Mark>,
}

#[derive(Default)]
struct Job {
    last: Option<LastRun>,
    /// By slot; the schedule's under none. Each with when it is forgotten.
    records: HashMap<Option<String>, (Record, Tick)>,
    kept_until: Option<Tick>,
}

#[derive(Default)]
pub(super) struct Jobs(Shards<HashMap<String, Job>>);

fn signed(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The period that a call at `now` is for.
fn period_of(now: u64, schedule: Schedule, record: &Record, attempts: u32) -> i64 {
    let shifted =
        i64::try_from(now).unwrap_or(i64::MAX) + signed(schedule.tolerance) - signed(schedule.offset);
    let current = shifted.div_euclid(signed(schedule.every).max(1));
    let Some(done) = record.done.as_ref().filter(|_| schedule.catch_up > 0) else { return current };
    let missed = current.min((done.period + 1).max(current - i64::from(schedule.catch_up)));
    match record.tried {
        // A missed period that was given up does not hold up the next.
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
        let job = jobs.entry(run.job.clone()).or_default();
        job.records.retain(|_, (_, until)| *until > tick);
        let (record, kept) = job.records.entry(run.slot.clone()).or_insert_with(|| (Record::default(), tick));
        let period = begin.schedule.map_or(0, |schedule| period_of(now, schedule, record, begin.attempts));
        if let Some(Mark { at, by, .. }) = record.done.clone().filter(|mark| mark.period >= period) {
            return Began::Done { at, by };
        }
        if self.lock_is_held(&run.lock()) {
            let (since, by) =
                job.last.as_ref().map_or((now, String::new()), |last| (last.started, last.by.clone()));
            return Began::Running { since, by };
        }
        if let Some(Mark { at, by, .. }) = record.burned.clone().filter(|mark| mark.period >= period) {
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
        let taken = self.take_lock(&run.lock(), begin.token, begin.ttl, Queue::GoAway, process_suffix());
        let Attempted::Granted { fence } = taken else { return Began::Gone };
        let by = process_suffix().trim_start().to_owned();
        (record.tried, record.last) = (Some((period, tries.saturating_add(1))), now);
        if begin.at_most_once {
            record.burned = Some(Mark { period, at: now, by: by.clone() });
        }
        *kept = tick.after(begin.keep);
        job.kept_until = Some(tick.after(begin.keep));
        job.last = Some(LastRun { started: now, ended: None, by, completed: false, held: true });
        Began::Started { fence, period }
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
        let job = jobs.entry(run.job.clone()).or_default();
        let known = job.records.get_mut(&run.slot).filter(|(_, until)| *until > tick);
        if !self.free_lock(&run.lock(), token) {
            return Ok(known.is_some_and(|(record, _)| record.ends.contains(&token)));
        }
        let (record, kept) = job.records.entry(run.slot.clone()).or_insert_with(|| (Record::default(), tick));
        record.last = now;
        record.ends.push_front(token);
        record.ends.truncate(ENDS_KEPT);
        if completed && record.done.as_ref().is_none_or(|done| done.period < period) {
            let by = process_suffix().trim_start().to_owned();
            record.done = Some(Mark { period, at: now, by });
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
        let known = jobs.get(job).filter(|job| job.kept_until.is_some_and(|until| until > tick));
        let held = self.lock_is_held(&lock_of_job(job));
        Ok(known.and_then(|job| job.last.clone()).map(|last| LastRun { held, ..last }))
    }
}
