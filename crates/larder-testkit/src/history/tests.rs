//! Histories that must be caught, histories that must not be, and any history beside a checker too simple to be wrong.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says so by panicking")]

use std::time::Duration;

use proptest::prelude::*;

use super::{Event, Kind, Summary, Violation, bounded_staleness, read_your_writes};

fn event(process: u32, start: u64, end: u64, kind: Kind) -> Event {
    Event { process, task: 0, key: 1, start, end, kind }
}

fn write(process: u32, start: u64, end: u64, version: u64) -> Event {
    event(process, start, end, Kind::Write(version))
}

fn read(process: u32, start: u64, version: u64) -> Event {
    event(process, start, start + 1, Kind::Read(Some(version)))
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

#[test]
fn a_process_that_misses_its_own_write_is_caught() {
    let (first, second) = (write(1, 0, 10, 1), write(1, 20, 30, 2));
    let bad = read(1, 31, 1);
    let violations = read_your_writes(&[bad, second, first]).unwrap_err();
    assert_eq!(violations, [Violation::Stale { read: bad, write: second, behind: nanos(1) }]);
    let text = violations[0].to_string();
    assert_eq!(text, "1ns behind: \"1 0 1 31 32 r 1\" had to see \"1 0 1 20 30 w 2\"");
}

#[test]
fn a_process_is_not_held_to_the_writes_of_others_nor_to_those_under_way() {
    let (first, second) = (write(1, 0, 10, 1), write(1, 20, 30, 2));
    let good =
        [first, second, read(2, 31, 1), read(1, 30, 1), read(1, 15, 1), read(1, 31, 2), read(1, 31, 3)];
    let summary = read_your_writes(&good).unwrap();
    let expected =
        Summary { reads: 5, misses: 0, judged: 4, writes: 2, keys: 1, largest_staleness: nanos(1) };
    assert_eq!(summary, expected);
}

#[test]
fn an_own_write_between_those_of_others_is_the_one_that_counts() {
    let history = [write(1, 0, 10, 1), write(2, 20, 30, 2), write(1, 40, 50, 3), write(2, 60, 70, 4)];
    for (version, caught) in [(2, true), (3, false), (4, false)] {
        let with = [&history[..], &[read(1, 100, version)]].concat();
        assert_eq!(read_your_writes(&with).is_err(), caught, "{version}");
    }
    // The other process has seen its own first write at least.
    assert!(read_your_writes(&[&history[..], &[read(2, 35, 1)]].concat()).is_err());
    assert!(read_your_writes(&[&history[..], &[read(2, 35, 2)]].concat()).is_ok());
}

#[test]
fn keys_are_judged_apart_and_a_miss_is_no_violation() {
    let elsewhere = Event { key: 2, ..read(1, 100, 0) };
    let miss = event(1, 100, 101, Kind::Read(None));
    let history = [write(1, 0, 10, 5), elsewhere, miss];
    let summary = read_your_writes(&history).unwrap();
    assert_eq!((summary.reads, summary.misses, summary.judged, summary.keys), (2, 1, 0, 2));
    assert_eq!(summary.largest_staleness, Duration::ZERO);
    assert!(bounded_staleness(&history, Duration::ZERO).is_ok());
}

#[test]
fn staleness_counts_from_the_earliest_write_that_was_missed() {
    let (first, second, third) = (write(1, 0, 10, 1), write(2, 20, 30, 2), write(1, 40, 50, 3));
    let late = read(3, 130, 1);
    let history = [first, second, third, late, read(3, 55, 2)];
    assert_eq!(bounded_staleness(&history, nanos(100)).unwrap().largest_staleness, nanos(100));
    let violations = bounded_staleness(&history, nanos(99)).unwrap_err();
    assert_eq!(violations, [Violation::Stale { read: late, write: second, behind: nanos(100) }]);
    let violations = bounded_staleness(&history, nanos(4)).unwrap_err();
    assert_eq!(violations.len(), 2);
    assert_eq!(bounded_staleness(&history, Duration::MAX).unwrap().judged, 0);
}

#[test]
fn a_read_during_the_write_may_see_either() {
    let history = [write(1, 0, 10, 1), write(1, 20, 30, 2), read(2, 25, 1), read(2, 25, 2), read(2, 30, 1)];
    let summary = bounded_staleness(&history, Duration::ZERO).unwrap();
    assert_eq!((summary.judged, summary.largest_staleness), (3, Duration::ZERO));
}

#[test]
fn writes_that_overlap_or_do_not_increase_are_refused() {
    let flaw = |history: &[Event]| {
        let violations = read_your_writes(history).unwrap_err();
        assert_eq!(bounded_staleness(history, Duration::MAX).unwrap_err(), violations);
        violations[0]
    };
    let (earlier, later) = (write(1, 0, 10, 1), write(2, 9, 20, 2));
    assert_eq!(flaw(&[later, earlier]), Violation::Overlap { earlier, later });
    let later = write(2, 10, 20, 1);
    assert_eq!(flaw(&[later, earlier]), Violation::Disorder { earlier, later });
    let backwards = event(1, 10, 9, Kind::Read(None));
    assert_eq!(flaw(&[earlier, backwards]), Violation::Backwards(backwards));
    // Of different keys they may.
    assert!(read_your_writes(&[earlier, Event { key: 2, ..write(2, 5, 15, 1) }]).is_ok());
}

/// Straight from the definitions: every read beside every write.
mod naive {
    use super::*;

    fn version(event: &Event) -> Option<u64> {
        if let Kind::Write(version) = event.kind { Some(version) } else { None }
    }

    pub(super) fn is_sound(events: &[Event]) -> bool {
        let writes: Vec<&Event> = events.iter().filter(|event| version(event).is_some()).collect();
        let pairs = writes.iter().enumerate().flat_map(|(at, one)| {
            writes
                .iter()
                .enumerate()
                .filter(move |(other, _)| *other != at)
                .map(move |(_, other)| (one, other))
        });
        let mut same_key = pairs.filter(|(one, other)| one.key == other.key);
        events.iter().all(|event| event.start <= event.end)
            && same_key.all(|(one, other)| {
                let before = |a: &Event, b: &Event| a.end <= b.start && version(a) < version(b);
                before(one, other) || before(other, one)
            })
    }

    /// The reads that a write forbids, in order, where `binds` says which writes bind which reads.
    pub(super) fn stale(events: &[Event], binds: impl Fn(&Event, &Event) -> bool) -> Vec<Event> {
        let forbidden = |read: &&Event| {
            let Kind::Read(Some(seen)) = read.kind else { return false };
            events.iter().any(|write| {
                write.key == read.key && version(write).is_some_and(|it| it > seen) && binds(write, read)
            })
        };
        events.iter().filter(forbidden).copied().collect()
    }

    pub(super) fn largest_staleness(events: &[Event]) -> Duration {
        let mut largest = 0;
        for read in events {
            let Kind::Read(Some(seen)) = read.kind else { continue };
            let newer = events.iter().filter(|write| {
                write.key == read.key && version(write).is_some_and(|version| version > seen)
            });
            let earliest = newer.map(|write| write.end).min();
            largest = largest.max(earliest.map_or(0, |end| read.start.saturating_sub(end)));
        }
        Duration::from_nanos(largest)
    }
}

/// Few processes, keys and times, so that they meet.
fn any_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        (0..9_u64).prop_map(Kind::Write),
        (0..9_u64).prop_map(|version| Kind::Read(Some(version))),
        Just(Kind::Read(None)),
    ];
    // One in twenty ends before it starts.
    (0..3_u32, 0..2_u32, 1..30_u64, 0..20_u64, kind).prop_map(|(process, key, start, length, kind)| Event {
        process,
        task: 0,
        key,
        start,
        end: (start + length / 4).saturating_sub(u64::from(length == 0)),
        kind,
    })
}

/// Writes one after the other on each key, and reads anyhow.
fn sound_history() -> impl Strategy<Value = Vec<Event>> {
    let write = (0..3_u32, 0..2_u32, 0..4_u64, 0..4_u64, 1..3_u64);
    let reads = prop::collection::vec((0..3_u32, 0..2_u32, 0..60_u64, prop::option::of(0..20_u64)), 0..40);
    (prop::collection::vec(write, 0..20), reads).prop_flat_map(|(writes, reads)| {
        let (mut times, mut versions) = ([0; 2], [0; 2]);
        let writes = writes.into_iter().map(|(process, key, gap, length, step)| {
            let at = key as usize;
            let start = times[at] + gap;
            times[at] = start + length;
            versions[at] += step;
            Event { process, task: 0, key, start, end: times[at], kind: Kind::Write(versions[at]) }
        });
        let mut events: Vec<Event> = writes.collect();
        events.extend(reads.into_iter().map(|(process, key, start, seen)| Event {
            process,
            task: 0,
            key,
            start,
            end: start,
            kind: Kind::Read(seen),
        }));
        Just(events).prop_shuffle()
    })
}

/// Holds the checks to what the naive one says.
fn compare(events: &[Event], bound: u64) -> Result<(), TestCaseError> {
    let own = |write: &Event, read: &Event| write.process == read.process && read.start > write.end;
    let aged = |write: &Event, read: &Event| read.start > write.end + bound;
    let verdicts = [
        (read_your_writes(events), naive::stale(events, own)),
        (bounded_staleness(events, nanos(bound)), naive::stale(events, aged)),
    ];
    for (verdict, stale) in verdicts {
        match verdict {
            Ok(summary) => {
                prop_assert!(naive::is_sound(events));
                prop_assert_eq!(&stale, &[]);
                prop_assert_eq!(summary.largest_staleness, naive::largest_staleness(events));
            }
            Err(violations) => {
                let found: Option<Vec<Event>> = violations.iter().map(stale_read).collect();
                prop_assert_eq!(found.is_some(), naive::is_sound(events));
                if let Some(found) = found {
                    prop_assert_eq!(found, stale);
                }
            }
        }
    }
    Ok(())
}

fn stale_read(violation: &Violation) -> Option<Event> {
    if let Violation::Stale { read, .. } = violation { Some(*read) } else { None }
}

proptest! {
    #[test]
    fn any_history_is_judged_as_the_definitions_say(
        events in prop::collection::vec(any_event(), 0..8),
        bound in 0..10_u64,
    ) {
        compare(&events, bound)?;
    }

    #[test]
    fn a_sound_history_is_judged_as_the_definitions_say(events in sound_history(), bound in 0..10_u64) {
        prop_assert!(naive::is_sound(&events));
        compare(&events, bound)?;
    }
}
