//! Judges each promise by the notes of a round.

mod attempts;
mod cache;
mod elections;
mod holds;
mod jobs;
mod limits;
#[cfg(test)]
mod planted;

use std::collections::BTreeMap;
use std::fmt::Debug;

use larder_testkit::history::{Calm, Fault, Losses, Note, Notes};

use crate::work::{elections as roles, groups, locks, rw, semaphores};

/// All promises that are judged here.
pub(crate) const PROMISES: [&str; 33] = [
    "C1: you read your own writes",
    "C2: a near copy is at most 2 s behind",
    "C3: nothing older is stored after a write",
    "C4: one load a key",
    "C5: a stale value is better than none",
    "C6: an outage is never reported as an absence",
    "C6: an outage costs a call its timeout at most",
    "L1: one holder",
    "L1: one holder, with quarantine",
    "L2: fences increase",
    "L3: a guard knows that it is lost",
    "L4: first come, first served",
    "R1: never more than the limit",
    "R2: a refusal charges nothing",
    "R3: capacity returns on time",
    "R5: retry_after is true",
    "elections: a new leader in time",
    "elections: fences increase",
    "elections: observers see no earlier leader again",
    "elections: one leader",
    "groups: fences increase",
    "groups: first come, first served",
    "groups: no deadlock",
    "groups: one holder of each lock",
    "jobs: no period completed twice",
    "jobs: no period skipped",
    "jobs: one run at a time",
    "rw: a writer is alone",
    "rw: no reader is overtaken by later writers",
    "rw: no writer is overtaken by later readers",
    "rw: write fences increase",
    "semaphores: first come, first served",
    "semaphores: never more than the permits",
];

/// How often a promise was judged, and its violations.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) judged: u64,
    pub(crate) violations: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) promises: BTreeMap<&'static str, Judged>,
    pub(crate) operations: BTreeMap<&'static str, u64>,
    /// Times that were measured, in nanoseconds.
    pub(crate) times: BTreeMap<&'static str, Vec<u64>>,
    /// How many attempts were noted as queued: without them no order can be judged.
    pub(crate) queued: usize,
}

impl Verdict {
    fn judge<V: Debug>(
        &mut self,
        promise: &'static str,
        judged: usize,
        violations: impl IntoIterator<Item = V>,
    ) {
        assert!(PROMISES.contains(&promise), "{promise:?} is not listed");
        let violations: Vec<V> = violations.into_iter().collect();
        if judged == 0 && violations.is_empty() {
            return;
        }
        let all = self.promises.entry(promise).or_default();
        all.judged += judged as u64;
        all.violations.extend(violations.into_iter().map(|violation| format!("{violation:?}")));
    }

    fn time(&mut self, name: &'static str, nanos: u64) {
        self.times.entry(name).or_default().push(nanos);
    }

    fn count(&mut self, operation: &'static str, count: usize) {
        if count > 0 {
            *self.operations.entry(operation).or_default() += count as u64;
        }
    }
}

/// A round's notes, and the times in which promises bind.
struct Case<'a> {
    notes: &'a Notes,
    /// Free of all faults.
    calm: Calm,
    /// Free of times in which a process itself stalled.
    awake: Calm,
    /// When acknowledged data may have been lost, by any cause.
    losses: Losses,
    /// When all data were lost.
    wiped: Losses,
    /// When a replica became master: writes that were acknowledged in that time may be lost, earlier ones are not.
    failovers: Losses,
    /// When a replica became master without a planned failover, while the old master continued.
    unplanned: Losses,
    /// Free of injected faults of processes and servers.
    struck: Calm,
    /// The monotonic clock and the wall clock at one moment, in nanoseconds.
    clock: (u64, u64),
    end: u64,
}

impl<'a> Case<'a> {
    /// Whether slots can move.
    fn on_cluster(&self) -> bool {
        !self.of("cluster").is_empty()
    }

    fn of(&self, word: &str) -> &'a [Note] {
        self.notes.of(word)
    }
}

pub(crate) fn judge(notes: &Notes) -> Verdict {
    let fault = |note: &Note| {
        let process = (note.process != 0).then_some(note.process);
        Fault { process, from: note.numbers[0], until: note.numbers[1] }
    };
    let stalls: Vec<Fault> = notes.of("stall").iter().map(fault).collect();
    let struck: Vec<Fault> = notes.of("struck").iter().map(fault).collect();
    let seen = notes.of("fault").iter().map(fault);
    let faults: Vec<Fault> = seen.chain(struck.iter().copied()).chain(stalls.iter().copied()).collect();
    let times = |word: &str, kind: Option<u64>| {
        let of = |note: &&Note| kind.is_none_or(|kind| note.numbers[2] == kind);
        let all: Vec<_> =
            notes.of(word).iter().filter(of).map(|note| (note.numbers[0], note.numbers[1])).collect();
        all
    };
    let (wiped, failovers) = (times("loss", None), times("failover", None));
    let clock = notes.of("clock")[0].numbers;
    let case = Case {
        notes,
        calm: Calm::of(&faults),
        awake: Calm::of(&stalls),
        struck: Calm::of(&struck),
        losses: Losses::of(wiped.iter().chain(&failovers).copied()),
        wiped: Losses::of(wiped),
        failovers: Losses::of(failovers),
        unplanned: Losses::of(times("failover", Some(1))),
        clock: (clock[0], clock[1]),
        end: notes.of("end")[0].numbers[0],
    };
    let mut verdict = Verdict { queued: notes.of("queued").len(), ..Verdict::default() };
    cache::judge(&case, &mut verdict);
    holds::judge(&case, &mut verdict);
    elections::judge(&case, &mut verdict);
    jobs::judge(&case, &mut verdict);
    limits::judge(&case, &mut verdict);
    count(&case, &mut verdict);
    verdict
}

/// The operations by kind.
fn count(case: &Case<'_>, verdict: &mut Verdict) {
    let of = |words: &[&str]| words.iter().map(|word| case.of(word).len()).sum::<usize>();
    let things = |word: &str, holds: &dyn Fn(u64) -> bool| {
        case.of(word).iter().filter(|note| holds(note.numbers[0])).count()
    };
    let by_load = |note: &&Note| note.numbers[4] == 1;
    let loads =
        [case.of("read"), case.of("failed_read")].iter().flat_map(|all| all.iter()).filter(by_load).count();
    verdict.count("cache: reads", of(&["read", "failed_read", "kept"]) - loads);
    verdict.count("cache: loads", of(&["loading", "fallback"]) + loads);
    verdict.count("cache: loaders run", of(&["load"]));
    verdict.count("cache: writes and invalidations", of(&["write"]));
    let lock = |it: u64| locks::THINGS.contains(&it);
    let election = |it: u64| roles::THINGS.contains(&it);
    verdict.count("locks: attempts", things("asked", &lock));
    verdict.count("locks: extensions", of(&["extended"]));
    verdict.count("locks: releases", things("parted", &lock));
    verdict.count("semaphores: attempts", things("asked", &|it| it == semaphores::THING));
    verdict.count("semaphores: releases", things("parted", &|it| it == semaphores::THING));
    verdict.count("read-write locks: attempts", things("asked", &|it| it == rw::THING));
    verdict.count("read-write locks: releases", things("parted", &|it| it == rw::THING));
    verdict.count("lock groups: attempts", things("asked", &|it| it == groups::THING));
    verdict.count("lock groups: releases", things("parted", &|it| it == groups::THING));
    verdict.count("elections: campaigns", things("asked", &election));
    verdict.count("elections: resignations", things("parted", &election));
    verdict.count("elections: observations", of(&["leader"]));
    verdict.count("jobs: calls", of(&["ran", "unknown", "refused"]));
    // A trial of refusals makes three decisions, and a trial of a caller that retries makes at least five.
    verdict.count("limits: decisions", of(&["decided"]) + 3 * of(&["refusal"]) + 5 * of(&["again"]));
}
