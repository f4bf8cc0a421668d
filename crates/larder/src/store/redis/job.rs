//! Jobs on Redis: each operation is one script.

use std::time::Duration;

use super::wire::Reply;

use super::lock_names::{FENCE_KEPT, digits, fence_name, origin_name, with_last};
use super::node::Replay;
use super::{RedisStore, bytes, flag, millis, number, script, unexpected, version_text};
use crate::error::Result;
use crate::store::job::{Began, BeginJob, JobStore, LastRun, RunName, lock_of_job};
use crate::store::lock::{process_suffix, wake_name};

/// Writes milliseconds; 0 stays 0.
fn span(span: Duration) -> String {
    if span.is_zero() { "0".to_owned() } else { millis(span) }
}

fn text(value: &Reply) -> Result<String> {
    let bytes = bytes(value.clone())?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn began(answer: Reply) -> Result<Began> {
    let parts = match answer {
        Reply::Array(parts) => parts,
        Reply::Int(until) if until < 0 => return Ok(Began::Quarantined { until: until.unsigned_abs() }),
        other => return Err(unexpected(&other)),
    };
    Ok(match parts.as_slice() {
        [Reply::Int(1), fence, Reply::Int(period)] => {
            Began::Started { fence: number(fence)?, period: *period }
        }
        [Reply::Int(0)] => Began::Gone,
        [Reply::Int(2), at, by] => Began::Done { at: number(at)?, by: text(by)? },
        [Reply::Int(3), since, by] => Began::Running { since: number(since)?, by: text(by)? },
        [Reply::Int(4), until] => Began::BackingOff { until: number(until)? },
        [Reply::Int(5), attempts] => {
            Began::GaveUp { attempts: u32::try_from(number(attempts)?).unwrap_or(u32::MAX) }
        }
        _ => return Err(unexpected(&Reply::Array(parts.clone()))),
    })
}

impl JobStore for RedisStore {
    async fn begin_job(&self, run: &RunName, begin: BeginJob) -> Result<Began> {
        let (record, lock) = (run.record(), run.lock());
        let fence = fence_name(&lock);
        let given_up = wake_name(&lock, begin.token);
        let keys = [run.job.as_str(), &record, &lock, &fence, &given_up];
        let schedule = begin.schedule;
        let arguments = [
            version_text(begin.token),
            millis(begin.ttl),
            millis(begin.ttl + FENCE_KEPT),
            process_suffix().to_owned(),
            schedule.map_or_else(|| "0".to_owned(), |schedule| span(schedule.every)),
            schedule.map_or_else(|| "0".to_owned(), |schedule| span(schedule.offset)),
            schedule.map_or_else(|| "0".to_owned(), |schedule| span(schedule.tolerance)),
            schedule.map_or(0, |schedule| schedule.catch_up).to_string(),
            begin.attempts.to_string(),
            span(begin.backoff),
            u8::from(begin.at_most_once).to_string(),
            millis(begin.keep),
        ];
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let Some(longest) = begin.quarantine else {
            let script = &script::BEGIN_JOB;
            return began(self.network.run_script(&run.job, script, &keys, &arguments, Replay::Never).await?);
        };
        let (origin, longest) = (origin_name(&lock), digits(longest));
        let (keys, arguments) = (with_last(&keys, &*origin), with_last(&arguments, longest.as_bytes()));
        let script = &script::BEGIN_JOB_QUARANTINED;
        began(self.network.run_script(&run.job, script, &keys, &arguments, Replay::Never).await?)
    }

    async fn end_job(
        &self,
        run: &RunName,
        token: u64,
        period: i64,
        completed: bool,
        keep: Duration,
    ) -> Result<bool> {
        let (record, lock) = (run.record(), run.lock());
        let keys = [run.job.as_str(), &record, &lock];
        let arguments = [
            version_text(token),
            process_suffix().to_owned(),
            period.to_string(),
            u8::from(completed).to_string(),
            millis(keep),
        ];
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        flag(&self.network.run_script(&run.job, &script::END_JOB, &keys, &arguments, Replay::Safe).await?)
    }

    async fn last_run(&self, job: &str) -> Result<Option<LastRun>> {
        let lock = lock_of_job(job);
        let keys = [job, &lock];
        let answer = self.network.run_script(job, &script::LAST_RUN, &keys, &[], Replay::Safe).await?;
        let Reply::Array(parts) = answer else { return Err(unexpected(&answer)) };
        let [started, ended, by, outcome, held] = parts.as_slice() else { return Ok(None) };
        let ended = number(ended)?;
        Ok(Some(LastRun {
            started: number(started)?,
            ended: (ended > 0).then_some(ended),
            by: text(by)?,
            completed: text(outcome)? == "completed",
            held: flag(held)?,
        }))
    }
}
