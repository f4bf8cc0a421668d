//! Elections: what observers see, and how soon another process leads after a leader was killed or has resigned.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_testkit::history::{Ending, Losses};

use super::attempts::{Attempts, Tried};
use super::{Case, Verdict};
use crate::fleet::{NOTICED_WITHIN, nanos};
use crate::work::elections::{THINGS, TTL};

/// The most time between the end of a killed leader's lease and the next leader.
const LATE: Duration = Duration::from_millis(700);
/// For how long a killed process may keep its place in the queue.
const BEFORE: u64 = 1_500_000_000;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    observed(case, verdict);
    let all = Attempts::of(case);
    for thing in THINGS {
        let mut grants: Vec<&Tried> = all.all(thing).iter().filter(|tried| tried.fence.is_some()).collect();
        grants.sort_by_key(|tried| tried.fence);
        for pair in grants.windows(2) {
            let (lead, next) = (pair[0], pair[1]);
            after_kill(case, verdict, lead, next);
            after_resign(case, verdict, lead, next);
        }
    }
    let measured = measured(case);
    for note in case.of("round_trip").iter().filter(|note| measured.touch(note.numbers[0], note.numbers[1])) {
        verdict.time("round trip", note.numbers[1] - note.numbers[0]);
    }
}

/// The times in which only leaders failed.
fn measured(case: &Case<'_>) -> Losses {
    Losses::of(case.of("measured").iter().map(|note| (note.numbers[0], note.numbers[1])))
}

fn granted_at(tried: &Tried) -> Option<u64> {
    match tried.attempt.end {
        Ending::Granted { at, .. } => Some(at),
        _ => None,
    }
}

/// Checks that a process that waited when the leader was killed leads within the lease and a little more, if there was
/// no other fault. The time of stalls of the processes and the server is added to the limit.
fn after_kill(case: &Case<'_>, verdict: &mut Verdict, lead: &Tried, next: &Tried) {
    let process = lead.attempt.process;
    let Some(kill) = case.of("killed").iter().find(|note| note.process == process) else { return };
    let (killed, Some(at)) = (kill.numbers[0], granted_at(next)) else { return };
    // It led when it was killed: its leadership was noted a moment before, and it had not begun to resign.
    let led = lead.parting.is_none() && lead.held.is_some_and(|(_, until)| until + 20_000_000 > killed);
    let waits = next.attempt.queued.is_some_and(|since| since < killed) && next.attempt.process != process;
    let until = at.min(killed + nanos(TTL + LATE));
    let others = case.of("ready").iter().filter(|note| note.process != process && note.numbers[0] < until);
    let since = killed.saturating_sub(BEFORE);
    // A process that was killed before that time is no longer waited for.
    let gone = |of: u32| case.of("killed").iter().any(|note| note.process == of && note.numbers[0] < since);
    let calm = others.map(|note| note.process).all(|of| gone(of) || case.struck.holds(of, since, until));
    // Outside of these times an overloaded machine may be slow without a noted stall.
    let judged = measured(case).touch(killed, killed) && !case.losses.touch(since, until);
    if !led || !waits || !calm || !judged {
        return;
    }
    let stalls = [case.of("stall"), case.of("fault")];
    let stalled: u64 = stalls
        .iter()
        .flat_map(|notes| notes.iter())
        .filter(|note| note.process != process)
        .map(|note| (note.numbers[0].max(killed), (note.numbers[1] - nanos(NOTICED_WITHIN)).min(at)))
        .map(|(from, until)| until.saturating_sub(from))
        .sum();
    verdict.time("elections: a new leader after kill -9", at - killed);
    let wrong = (at - killed > nanos(TTL + LATE) + stalled).then_some((lead, next, killed));
    verdict.judge("elections: a new leader in time", 1, wrong);
}

/// The time from a call of `resign` until the next candidate in the queue knows that it leads.
fn after_resign(case: &Case<'_>, verdict: &mut Verdict, lead: &Tried, next: &Tried) {
    let (Some((resigned, true)), Some(at)) = (lead.parting, granted_at(next)) else { return };
    let waits = next.attempt.queued.is_some_and(|since| since < resigned);
    let calm = [lead, next].iter().all(|tried| case.calm.holds(tried.attempt.process, resigned, at));
    if waits && calm && at > resigned && measured(case).touch(resigned, at) {
        verdict.time("elections: handover after resign", at - resigned);
    }
}

/// No observer sees an earlier leader after a later one, unless the later one was lost in a failover.
fn observed(case: &Case<'_>, verdict: &mut Verdict) {
    let mut latest: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for note in case.of("leader") {
        let [thing, start, end, fence, ..] = note.numbers;
        let last = latest.entry((note.process, thing)).or_default();
        let lost = case.failovers.touch(last.1, end);
        let wrong = (fence != 0 && fence < last.0 && !lost).then_some((note, *last));
        // Only the fence of the earlier leader is known, and it may have been granted during the failover.
        *last = if lost { (fence, start) } else { (fence.max(last.0), start) };
        verdict.judge("elections: observers see no earlier leader again", 1, wrong);
    }
}
