//! Locks, semaphores, read-write locks and elections.

use std::collections::BTreeMap;

use larder_testkit::history::{
    Attempt, Ending, Held, fences_increase, first_come_first_served, served_in_order, within_capacity,
};

use super::{Case, Verdict};
use crate::work::{elections, jobs, locks, rw, semaphores};

/// From a grant on the server to the moment when a live waiter knows of it at the latest: a wake-up that is lost costs a
/// quarter of a second.
const TOLD: u64 = 350_000_000;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let all = Attempts::of(case);
    for thing in locks::THINGS {
        let (attempts, holds) = all.thing(thing);
        one_at_a_time(case, verdict, ("L1: one holder", "L2: fences increase"), &holds);
        let order = first_come_first_served(&attempts, &case.calm);
        let (judged, overtaken) = order.map_or_else(|found| (0, found), |judged| (judged, Vec::new()));
        verdict.judge("L4: first come, first served", judged, overtaken);
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
    observed(case, verdict);
    for thing in jobs::JOBS {
        let (judged, found) = within_capacity(&all.thing(thing).1, 1, &case.losses);
        verdict.judge("jobs: one run at a time", judged, found);
    }
    let (attempts, holds) = all.thing(semaphores::THING);
    let (judged, found) = within_capacity(&holds, semaphores::PERMITS, &case.losses);
    verdict.judge("semaphores: never more than the permits", judged, found);
    let (judged, found) = served_in_order(&attempts, &attempts, &case.calm, TOLD);
    verdict.judge("semaphores: first come, first served", judged, found);
    read_write(case, verdict, &all);
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
    // Readers and writers exclude each other, so who was seen to hold it first was granted it first.
    let (reading, writing) = (all.seen(rw::THING, 1), all.seen(rw::THING, rw::ALL));
    let (judged, found) = served_in_order(&writing, &reading, &case.calm, 0);
    verdict.judge("rw: no writer is overtaken by later readers", judged, found);
    let (judged, found) = served_in_order(&reading, &writing, &case.calm, 0);
    verdict.judge("rw: no reader is overtaken by later writers", judged, found);
}

/// Nobody sees an earlier leader after a later one.
fn observed(case: &Case<'_>, verdict: &mut Verdict) {
    let mut latest: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for note in case.of("leader") {
        let [thing, _, _, fence, ..] = note.numbers;
        let last = latest.entry((note.process, thing)).or_default();
        let wrong = (fence != 0 && fence < *last).then_some((note, *last));
        *last = fence.max(*last);
        verdict.judge("elections: observers see no earlier leader again", 1, wrong);
    }
}

/// Each attempt with what came of it, by thing.
struct Attempts(BTreeMap<u64, Vec<Tried>>);

#[derive(Clone, Copy)]
struct Tried {
    attempt: Attempt,
    weight: u64,
    fence: Option<u64>,
    held: Option<(u64, u64)>,
}

impl Attempts {
    fn of(case: &Case<'_>) -> Self {
        let mut all: BTreeMap<(u64, u32, u64), Tried> = BTreeMap::new();
        let new =
            |process, number, asked| Attempt { process, number, asked, in_line: None, end: Ending::Unknown };
        for note in case.of("asked") {
            let [thing, number, asked, weight, ..] = note.numbers;
            let attempt = new(note.process, number, asked);
            all.insert((thing, note.process, number), Tried { attempt, weight, fence: None, held: None });
        }
        for note in case.of("run") {
            let [thing, number, fence, asked, ..] = note.numbers;
            let attempt = new(note.process, number, asked);
            let tried = Tried { attempt, weight: 1, fence: Some(fence), held: None };
            all.insert((thing, note.process, number), tried);
        }
        let mut each = |word: &str, change: &dyn Fn(&mut Tried, [u64; 6])| {
            for note in case.of(word) {
                let [thing, number, ..] = note.numbers;
                if let Some(tried) = all.get_mut(&(thing, note.process, number)) {
                    change(tried, note.numbers);
                }
            }
        };
        each("in_line", &|tried, numbers| {
            tried.attempt.in_line.get_or_insert(numbers[2]);
        });
        each("gave_up", &|tried, numbers| tried.attempt.end = Ending::GaveUp { at: numbers[2] });
        each("granted", &|tried, numbers| {
            let [_, _, fence, at, ..] = numbers;
            tried.attempt.end = Ending::Granted { fence, at };
            tried.fence = (fence != 0).then_some(fence);
        });
        each("held", &|tried, numbers| {
            let at = numbers[2];
            let (from, until) = tried.held.unwrap_or((at, at));
            tried.held = Some((from.min(at), until.max(at)));
        });
        let mut things: BTreeMap<u64, Vec<Tried>> = BTreeMap::new();
        for ((thing, ..), tried) in all {
            things.entry(thing).or_default().push(tried);
        }
        Self(things)
    }

    /// The attempts at a thing, and the holds that came of them.
    fn thing(&self, thing: u64) -> (Vec<Attempt>, Vec<Held>) {
        let all = self.0.get(&thing).map_or(&[][..], Vec::as_slice);
        let attempts = all.iter().map(|tried| tried.attempt).collect();
        let holds = all.iter().filter_map(|tried| {
            let (from, until) = tried.held?;
            let Tried { attempt: Attempt { process, asked, .. }, weight, fence, .. } = *tried;
            Some(Held { process, weight, fence, asked, from, until })
        });
        (attempts, holds.collect())
    }

    /// The attempts of this weight; one that was granted, at the time when it was surely held.
    fn seen(&self, thing: u64, weight: u64) -> Vec<Attempt> {
        let all = self.0.get(&thing).map_or(&[][..], Vec::as_slice);
        let with = all.iter().filter(|tried| tried.weight == weight).map(|tried| {
            let mut attempt = tried.attempt;
            if let Ending::Granted { fence, .. } = attempt.end {
                let seen = |(at, _)| Ending::Granted { fence, at };
                attempt.end = tried.held.map_or(Ending::Unknown, seen);
            }
            attempt
        });
        with.collect()
    }
}
