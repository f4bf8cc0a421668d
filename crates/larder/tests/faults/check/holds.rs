//! Locks, lock groups, semaphores, read-write locks, runs of jobs and elections: who held what, and who waited.

use larder_testkit::history::{
    Attempt, Ending, Held, fences_increase, first_come_first_served, served_in_order, within_capacity,
};

use super::attempts::Attempts;
use super::{Case, Verdict};
use crate::fleet::nanos;
use crate::work::{elections, groups, jobs, locks, rw, semaphores};

/// The most time between a grant on the server and the moment at which a live waiter learns of it. A lost wake-up costs
/// a quarter of a second.
const NOTIFIED_WITHIN: u64 = 350_000_000;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let all = Attempts::of(case);
    for thing in locks::THINGS {
        let (attempts, holds) = all.thing(thing);
        one_at_a_time(case, verdict, ("L1: one holder", "L2: fences increase"), &holds);
        if thing == locks::QUARANTINED && !case.of("failover").is_empty() {
            // Quarantine holds through each failover in which the old master had stopped.
            let (judged, found) = within_capacity(&holds, 1, &case.unplanned);
            verdict.judge("L1: one holder, with quarantine", judged, found);
        }
        in_order(case, verdict, "L4: first come, first served", &attempts);
    }
    for note in case.of("lost") {
        let [_, revived, told, begin, at, _] = note.numbers;
        let silent = told == 0 && case.awake.holds(note.process, begin, at);
        let wrong = (revived == 1 || silent).then_some(note);
        verdict.judge("L3: a guard knows that it is lost", 1, wrong);
    }
    for thing in elections::THINGS {
        let (_, holds) = all.thing(thing);
        one_at_a_time(case, verdict, ("elections: one leader", "elections: fences increase"), &holds);
    }
    for thing in jobs::JOBS {
        let (judged, found) = within_capacity(&all.thing(thing).1, 1, &case.losses);
        verdict.judge("jobs: one run at a time", judged, found);
    }
    let (attempts, holds) = all.thing(semaphores::THING);
    let (judged, found) = within_capacity(&holds, semaphores::PERMITS, &case.losses);
    verdict.judge("semaphores: never more than the permits", judged, found);
    let (judged, found) = served_in_order(&attempts, &attempts, &case.calm, NOTIFIED_WITHIN);
    verdict.judge("semaphores: first come, first served", judged, found);
    read_write(case, verdict, &all);
    lock_groups(case, verdict, &all);
}

fn in_order(case: &Case<'_>, verdict: &mut Verdict, promise: &'static str, attempts: &[Attempt]) {
    let order = first_come_first_served(attempts, &case.calm);
    let (judged, overtaken) = order.map_or_else(|found| (0, found), |judged| (judged, Vec::new()));
    verdict.judge(promise, judged, overtaken);
}

/// Checks that each lock of a group has one holder, and that of several waiters for overlapping sets one always gets
/// its set.
fn lock_groups(case: &Case<'_>, verdict: &mut Verdict, all: &Attempts) {
    for bit in 0..groups::LOCKS.len() {
        let (attempts, holds) = all.member(groups::THING, bit);
        one_at_a_time(case, verdict, ("groups: one holder of each lock", "groups: fences increase"), &holds);
        in_order(case, verdict, "groups: first come, first served", &attempts);
    }
    for tried in all.all(groups::THING) {
        let Attempt { process, asked, end, .. } = tried.attempt;
        let ended = match end {
            Ending::Granted { at, .. } => at,
            Ending::GaveUp { at } => at,
            Ending::Unknown => continue,
        };
        let waited_in_vain = case
            .calm
            .stretches(process, asked, ended)
            .into_iter()
            .any(|(from, until)| until - from >= nanos(groups::MAX_WAIT) * 2 / 3);
        let granted = usize::from(matches!(end, Ending::Granted { .. }));
        verdict.judge("groups: no deadlock", granted, waited_in_vain.then_some(tried));
    }
}

fn one_at_a_time(
    case: &Case<'_>,
    verdict: &mut Verdict,
    promises: (&'static str, &'static str),
    holds: &[Held],
) {
    let (judged, found) = within_capacity(holds, 1, &case.losses);
    verdict.judge(promises.0, judged, found);
    let (judged, found) = fences_increase(holds, &case.losses);
    verdict.judge(promises.1, judged, found);
}

fn read_write(case: &Case<'_>, verdict: &mut Verdict, all: &Attempts) {
    let (_, holds) = all.thing(rw::THING);
    let (judged, found) = within_capacity(&holds, rw::ALL, &case.losses);
    verdict.judge("rw: a writer is alone", judged, found);
    let writers: Vec<Held> = holds.iter().filter(|held| held.weight == rw::ALL).copied().collect();
    let (judged, found) = fences_increase(&writers, &case.losses);
    verdict.judge("rw: write fences increase", judged, found);
    // Readers and writers exclude each other, so the first that was noted as a holder was granted first.
    let (reading, writing) = (all.seen(rw::THING, 1), all.seen(rw::THING, rw::ALL));
    let (judged, found) = served_in_order(&writing, &reading, &case.calm, 0);
    verdict.judge("rw: no writer is overtaken by later readers", judged, found);
    let (judged, found) = served_in_order(&reading, &writing, &case.calm, 0);
    verdict.judge("rw: no reader is overtaken by later writers", judged, found);
}
