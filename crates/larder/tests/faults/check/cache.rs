//! Caches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder::Near;
use larder_testkit::history::{
    Event, Kind as Did, Loaded, Note, Summary, Violation, bounded_staleness, one_load, read_your_writes,
};

use super::{Case, Verdict};
use crate::fleet::nanos;
use crate::work::RESPONSE_TIMEOUT;
use crate::work::cache::{FAILED, Kind, LOADED, STORED};

/// On a Cluster a slot may change its master without a notification, until the client fetches the map again.
const ON_CLUSTER: Duration = Near::STALENESS;
/// A call that began during a fault has ended by this time after the fault and its aftermath.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// The most that a call without a loader takes in addition to its timeout.
const SLACK: Duration = Duration::from_millis(200);
/// How a write ended.
const ACKNOWLEDGED: u64 = 0;
const QUEUED: u64 = 1;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    freshness(case, verdict);
    loads(case, verdict);
    fallbacks(case, verdict);
    outages(case, verdict);
}

fn event(note: &Note, kind: Did) -> Event {
    let [key, start, end, ..] = note.numbers;
    Event { process: note.process, task: 0, key: u32::try_from(key).unwrap(), start, end, kind }
}

/// C1, C2 and C3.
fn freshness(case: &Case<'_>, verdict: &mut Verdict) {
    let version = |note: &Note| note.numbers[3];
    let writes = |states: &[u64]| -> Vec<Event> {
        // A new master may lack writes that the old one acknowledged during the failover, so these bind no reader.
        let kept = |note: &&Note| !case.failovers.touch(note.numbers[1], note.numbers[2]);
        let told = case.of("write").iter().filter(|note| states.contains(&note.numbers[4])).filter(kept);
        told.map(|note| event(note, Did::Write(version(note)))).collect()
    };
    let acknowledged: BTreeSet<(u64, u64)> = case
        .of("write")
        .iter()
        .filter(|note| note.numbers[4] == ACKNOWLEDGED)
        .map(|note| (note.numbers[0], version(note)))
        .collect();
    // A `set` that failed may take effect later, as if it had just succeeded.
    let judged = |note: &&Note| {
        let [key, _, _, seen, ..] = note.numbers;
        Kind::of(key) != Kind::Set || seen <= 1 || acknowledged.contains(&(key, seen))
    };
    let read = |note: &Note| event(note, Did::Read((version(note) != 0).then(|| version(note))));
    let reads: Vec<Event> = case.of("read").iter().filter(judged).map(read).collect();
    let own = [writes(&[ACKNOWLEDGED, QUEUED]), reads.clone()].concat();
    report(verdict, "C1: you read your own writes", read_your_writes(&own));

    let flights = Flights::of(case);
    let joined = case.of("read").iter().filter(judged).map(|note| {
        let mut read = read(note);
        read.start = flights.joined(note).unwrap_or(read.start);
        read
    });
    let all: Vec<Event> = writes(&[ACKNOWLEDGED]).into_iter().chain(joined).collect();
    let bound = if case.on_cluster() { Near::STALENESS + ON_CLUSTER } else { Near::STALENESS };
    report(verdict, "C2: a near copy is at most 2 s behind", bounded_staleness(&all, bound));

    // The server's own data are never stale. If a read of the server sees an older value, the value was stored after
    // its invalidation.
    let plain = |event: &Event| Kind::of(u64::from(event.key)) == Kind::DeletedPlain;
    let plain_reads = case.of("read").iter().filter(|note| note.numbers[4] == 0).map(read);
    let server: Vec<Event> =
        writes(&[ACKNOWLEDGED]).into_iter().chain(plain_reads).filter(|event| plain(event)).collect();
    report(verdict, "C3: nothing older is stored after a write", bounded_staleness(&server, Duration::ZERO));
}

fn report(verdict: &mut Verdict, promise: &'static str, found: Result<Summary, Vec<Violation>>) {
    match found {
        Ok(summary) => verdict.judge::<()>(promise, summary.judged, []),
        Err(violations) => verdict.judge(promise, 0, violations),
    }
}

/// The loads of each process. All reads that joined a load get its result.
struct Flights<'a>(BTreeMap<(u32, u64, u64), Vec<&'a Note>>);

impl<'a> Flights<'a> {
    fn of(case: &Case<'a>) -> Self {
        let mut all: BTreeMap<(u32, u64, u64), Vec<&Note>> = BTreeMap::new();
        for note in case.of("load") {
            let [key, _, _, version, ..] = note.numbers;
            all.entry((note.process, key, version)).or_default().push(note);
        }
        Self(all)
    }

    /// Returns when the load began whose result this read got, if it joined a load of its process.
    fn joined(&self, read: &Note) -> Option<u64> {
        let [key, start, end, seen, by_load, _] = read.numbers;
        let loads = self.0.get(&(read.process, key, seen)).filter(|_| by_load == 1)?;
        let under_way = |load: &&&Note| load.numbers[1] <= start && (start..=end).contains(&load.numbers[2]);
        loads.iter().find(under_way).map(|load| load.numbers[1])
    }
}

/// C4.
fn loads(case: &Case<'_>, verdict: &mut Verdict) {
    let loads: Vec<Loaded> = case
        .of("load")
        .iter()
        .filter(|note| LOADED.contains(&note.numbers[0]))
        .map(|note| {
            let [key, from, until, ..] = note.numbers;
            Loaded { process: note.process, key, from, until }
        })
        .collect();
    let (judged, found) = one_load(&loads, &case.calm, &case.losses, nanos(UNDER_WAY));
    verdict.judge("C4: one load a key", judged, found);
}

/// C5.
fn fallbacks(case: &Case<'_>, verdict: &mut Verdict) {
    let mut stored: BTreeMap<u64, u64> = BTreeMap::new();
    for note in case.of("fallback").iter().filter(|note| note.numbers[3] == STORED) {
        let [key, start, end, ..] = note.numbers;
        // A value that was stored during a failover may be lost.
        if !case.failovers.touch(start, end) {
            let first = stored.entry(key).or_insert(u64::MAX);
            *first = end.min(*first);
        }
    }
    for note in case.of("fallback") {
        let [key, start, end, outcome, fails, _] = note.numbers;
        let Some(since) = stored.get(&key).filter(|since| **since < start) else { continue };
        let binds = fails == 1 && !case.wiped.touch(*since, end);
        if binds && case.calm.holds(note.process, start.saturating_sub(nanos(UNDER_WAY)), end) {
            let wrong = (outcome == FAILED).then_some(note);
            verdict.judge("C5: a stale value is better than none", 1, wrong);
        }
    }
}

/// C6.
fn outages(case: &Case<'_>, verdict: &mut Verdict) {
    let stored = case.of("stays").first().map_or([u64::MAX; 6], |note| note.numbers);
    let [since, began, ..] = stored;
    for note in case.of("kept").iter().filter(|note| note.numbers[1] > since) {
        let [_, _, end, outcome, ..] = note.numbers;
        // A failover loses only values that were stored during it.
        if !case.wiped.touch(since, end) && !case.failovers.touch(began, since) {
            verdict.judge("C6: an outage is never reported as an absence", 1, (outcome == 1).then_some(note));
        }
    }
    let bound = nanos(RESPONSE_TIMEOUT + SLACK);
    for word in ["read", "failed_read", "write", "kept"] {
        for note in case.of(word) {
            let [_, start, end, _, by_load, _] = note.numbers;
            let loads = by_load == 1 && word.ends_with("read");
            if !loads && case.awake.holds(note.process, start, end) {
                let wrong = (end - start > bound).then_some((word, note));
                verdict.judge("C6: an outage costs a call its timeout at most", 1, wrong);
            }
        }
    }
}
