//! Jobs: each period once, and none skipped.

use std::collections::BTreeMap;

use larder_testkit::history::{Called, Run, once_a_period};

use super::{Case, Verdict};
use crate::fleet::nanos;
use crate::work::jobs::{BACKOFF, EVERY, JOBS, PAUSE, TTL};

/// The run's completion was acknowledged.
const COMPLETED: u64 = 1;
/// The run ended, and it is not known what was recorded.
const UNKNOWN: u64 = 3;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let every = nanos(EVERY);
    let (mono, wall) = case.clock;
    let zero = i128::from(mono) - i128::from(wall);
    let lease = nanos(TTL) + nanos(BACKOFF) + nanos(PAUSE);
    let called = Called { every, zero, lease };
    let gone: BTreeMap<u32, u64> =
        case.of("gone").iter().map(|note| (note.process, note.numbers[0])).collect();
    let present: Vec<(u32, u64, u64)> = case
        .of("ready")
        .iter()
        .map(|note| (note.process, note.numbers[0], gone.get(&note.process).copied().unwrap_or(case.end)))
        .collect();
    let ends: BTreeMap<(u32, u64), (u64, u64)> = case
        .of("ran")
        .iter()
        .map(|note| ((note.process, note.numbers[1]), (note.numbers[2], note.numbers[3])))
        .collect();
    for job in JOBS {
        let runs = case.of("run").iter().filter(|note| note.numbers[0] == job).map(|note| {
            let [_, attempt, fence, asked, ..] = note.numbers;
            let end = ends.get(&(note.process, attempt)).copied();
            Run {
                process: note.process,
                // The fence is the time of the grant in microseconds.
                period: fence * 1000 / every,
                asked,
                ended: end.filter(|(_, outcome)| *outcome != UNKNOWN).map(|(at, _)| at),
                completed: end.is_some_and(|(_, outcome)| outcome == COMPLETED),
            }
        });
        // A start without an answer may hold the lock, even if its request arrives late.
        let begun = case.of("unknown").iter().filter(|note| note.numbers[0] == job).map(|note| {
            let [_, asked, at, ..] = note.numbers;
            let ended = Some(at + 3_000_000_000);
            Run { process: note.process, period: u64::MAX, asked, ended, completed: false }
        });
        let runs: Vec<Run> = runs.chain(begun).collect();
        let is_called =
            ["run", "refused"].iter().any(|word| case.of(word).iter().any(|note| note.numbers[0] == job));
        if !present.is_empty() && is_called {
            let (judged, found) = once_a_period(&runs, &present, called, &case.calm, &case.losses);
            let (twice, skipped): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|it| matches!(it, larder_testkit::history::PeriodViolation::Twice(..)));
            let completed = runs.iter().filter(|run| run.completed).count();
            verdict.judge("jobs: no period completed twice", completed, twice);
            verdict.judge("jobs: no period skipped", judged, skipped);
        }
    }
}
