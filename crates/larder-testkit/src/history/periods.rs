//! Checks the runs of a job: no period is completed twice, and none is skipped.
//!
//! A run belongs to the period of its grant, whose time is in the run's fence. A period must be completed if some
//! process called the job and had no fault for an uninterrupted half of the period, and no other run was under way in
//! that time or had died less than a lease before it.

use std::collections::BTreeMap;

use super::{Calm, Losses};

/// A run whose body began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The process that ran it.
    pub process: u32,
    /// Which period, as a number of the server's clock.
    pub period: u64,
    /// A time before it was requested.
    pub asked: u64,
    /// A time after it ended, if its end is known.
    pub ended: Option<u64>,
    /// Whether its completion was acknowledged.
    pub completed: bool,
}

/// When processes called a job, and how.
#[derive(Debug, Clone, Copy)]
pub struct Called {
    /// The length of a period.
    pub every: u64,
    /// When period 0 begins, on the clock of the notes, and less than zero as a rule.
    pub zero: i128,
    /// For how long a run that died, or failed, delays the next one.
    pub lease: u64,
}

/// A violation in the runs of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeriodViolation {
    /// Two runs completed one period.
    Twice(Run, Run),
    /// A period was not completed though this process could have.
    Skipped {
        /// The period.
        period: u64,
        /// The process.
        process: u32,
        /// Since when it was calm.
        since: u64,
    },
}

/// Judges the runs of one job. `present` says when each process called it: how many periods were judged to be complete
/// or skipped, and all violations.
#[must_use]
pub fn once_a_period(
    runs: &[Run],
    present: &[(u32, u64, u64)],
    called: Called,
    calm: &Calm,
    losses: &Losses,
) -> (usize, Vec<PeriodViolation>) {
    let mut violations = Vec::new();
    let mut completed: BTreeMap<u64, Run> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.completed) {
        if let Some(before) = completed.insert(run.period, *run) {
            let (from, until) = (before.asked.min(run.asked), run.ended.max(before.ended));
            if !losses.touch(from, until.unwrap_or(u64::MAX)) {
                violations.push(PeriodViolation::Twice(before, *run));
            }
        }
    }
    let begin =
        |period: u64| u64::try_from(called.zero + i128::from(period) * i128::from(called.every)).unwrap_or(0);
    let spans =
        |pick: fn(u64, u64) -> u64, of: fn(&(u32, u64, u64)) -> u64| present.iter().map(of).reduce(pick);
    let (Some(first), Some(last)) = (spans(u64::min, |it| it.1), spans(u64::max, |it| it.2)) else {
        return (0, violations);
    };
    let number =
        |at: u64| u64::try_from((i128::from(at) - called.zero) / i128::from(called.every)).unwrap_or(0);
    let mut judged = 0;
    for period in number(first) + 1..number(last) {
        if completed.contains_key(&period) {
            judged += 1;
            continue;
        }
        // A run of this period whose end is not known may have completed it.
        let unknown = |run: &&Run| run.period == period && run.ended.is_none();
        if runs.iter().any(|run| unknown(&run)) || losses.touch(begin(period), begin(period + 1)) {
            continue;
        }
        if let Some((process, since)) = could_have_run(begin(period), runs, present, called, calm) {
            judged += 1;
            violations.push(PeriodViolation::Skipped { period, process, since });
        }
    }
    (judged, violations)
}

/// A process that had half the period, which begins at `begin`, to itself, and since when.
fn could_have_run(
    begin: u64,
    runs: &[Run],
    present: &[(u32, u64, u64)],
    called: Called,
    calm: &Calm,
) -> Option<(u32, u64)> {
    let end = begin.saturating_add(called.every);
    for (process, from, until) in present {
        for (since, till) in calm.stretches(*process, begin.max(*from), end.min(*until)) {
            // What other runs leave of it.
            let mut free = vec![(since, till)];
            for run in runs {
                let gone = run.ended.unwrap_or_else(|| calm.until(run.process, run.asked).max(run.asked));
                let gone = gone.saturating_add(called.lease);
                free = free
                    .into_iter()
                    .flat_map(|(a, b)| [(a, b.min(run.asked)), (a.max(gone), b)])
                    .filter(|(a, b)| a < b)
                    .collect();
            }
            if let Some((since, _)) = free.iter().find(|(a, b)| b - a >= called.every / 2) {
                return Some((*process, *since));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::Fault;
    use super::*;

    const CALLED: Called = Called { every: 100, zero: 0, lease: 20 };

    fn run(process: u32, period: u64, asked: u64, ended: Option<u64>, completed: bool) -> Run {
        Run { process, period, asked, ended, completed }
    }

    fn judge(runs: &[Run], faults: &[Fault], losses: &Losses) -> (usize, Vec<PeriodViolation>) {
        // Periods 1 and 2 are judged.
        once_a_period(runs, &[(1, 0, 310), (2, 0, 310)], CALLED, &Calm::of(faults), losses)
    }

    #[test]
    fn a_period_that_is_completed_twice_is_found_unless_data_was_lost() {
        let runs = [
            run(1, 1, 100, Some(110), true),
            run(2, 1, 120, Some(130), true),
            run(1, 2, 200, Some(210), true),
        ];
        let (judged, found) = judge(&runs, &[], &Losses::default());
        assert_eq!((judged, found.len()), (2, 1));
        assert!(matches!(found.first(), Some(PeriodViolation::Twice(..))));
        assert_eq!(judge(&runs, &[], &Losses::of([(112, 115)])).1, []);
    }

    #[test]
    fn a_period_that_a_calm_process_could_have_completed_is_skipped() {
        let second = run(1, 2, 200, Some(210), true);
        let (judged, found) = judge(&[second], &[], &Losses::default());
        assert_eq!(judged, 2);
        assert_eq!(found, [PeriodViolation::Skipped { period: 1, process: 1, since: 100 }]);
        let struck = |process, from, until| Fault { process, from, until };
        let all = [struck(None, 140, 160)];
        assert_eq!(judge(&[second], &all, &Losses::default()).1, [], "no half period is calm");
        let one = [struck(Some(1), 140, 160)];
        assert_eq!(judge(&[second], &one, &Losses::default()).1.len(), 1, "the other process is calm");
        assert_eq!(judge(&[second], &[], &Losses::of([(150, 151)])).1, []);
    }

    #[test]
    fn a_run_that_failed_or_died_holds_up_a_period_and_one_with_an_unknown_end_may_have_completed_it() {
        let second = run(1, 2, 200, Some(210), true);
        let failed = |ended| run(2, 1, 120, Some(ended), false);
        assert_eq!(judge(&[second, failed(135)], &[], &Losses::default()).1, [], "155 to 200 is too short");
        assert_eq!(judge(&[second, failed(121)], &[], &Losses::default()).1.len(), 1);
        assert_eq!(judge(&[second, run(2, 1, 110, None, false)], &[], &Losses::default()).1, []);
    }
}
