//! The checks.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::event::{Event, Kind};
use super::writes::{Write, Writes};

/// What a history without violations contained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// All reads.
    pub reads: usize,
    /// Those of them that saw nothing.
    pub misses: usize,
    /// Those of them that the check could have objected to: they saw something, and a write that they had to see, had
    /// ended before they started. A test should insist on some.
    pub judged: usize,
    /// All writes.
    pub writes: usize,
    /// How many keys were written or read.
    pub keys: usize,
    /// How far behind the read was that lagged most: from the end of the earliest write (by any process) newer than
    /// what it saw to its start; zero if no read was behind.
    pub largest_staleness: Duration,
}

/// A violation in a history, or why it cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A read that saw less than it had to.
    Stale {
        /// The read.
        read: Event,
        /// The last write that it had to see.
        write: Event,
        /// How far behind it was, measured as [`Summary::largest_staleness`].
        behind: Duration,
    },
    /// Two writes of a key at the same time, so that it is not known which came first. The history cannot be judged.
    Overlap {
        /// The one that started first.
        earlier: Event,
        /// The one that started before that ended.
        later: Event,
    },
    /// Two writes of a key whose versions do not increase. The history cannot be judged.
    Disorder {
        /// The one that came first.
        earlier: Event,
        /// The one that came after it without a greater version.
        later: Event,
    },
    /// An event that ends before it starts. The history cannot be judged.
    Backwards(Event),
}

/// Whether each process saw its own writes (C1): a read that starts after a write by the same process has ended sees
/// nothing older than that write.
///
/// # Errors
///
/// All violations, at most one a read, in the order of `events`; or what keeps the history from being judged.
pub fn read_your_writes(events: &[Event]) -> Result<Summary, Vec<Violation>> {
    let own = Writes::by(events, |event| (event.process, event.key));
    judge(events, |read, _| own.get(&(read.process, read.key))?.last_before(read.start))
}

/// Whether no process lagged further behind than `bound`: a read that starts more than `bound` after a write by any
/// process has ended sees nothing older than that write.
///
/// # Errors
///
/// As [`read_your_writes`].
pub fn bounded_staleness(events: &[Event], bound: Duration) -> Result<Summary, Vec<Violation>> {
    let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    judge(events, |read, writes| writes.last_before(read.start.checked_sub(bound)?))
}

/// Judges each read by the last write that it had to see, which `required` finds among those of its key.
fn judge<'a>(
    events: &'a [Event],
    required: impl Fn(&Event, &Writes<'a>) -> Option<Write<'a>>,
) -> Result<Summary, Vec<Violation>> {
    let writes = Writes::by(events, |event| event.key);
    let backwards = events.iter().filter(|event| event.end < event.start).copied();
    let flaws = writes.values().flat_map(Writes::flaws);
    let mut violations: Vec<Violation> = backwards.map(Violation::Backwards).chain(flaws).collect();
    if !violations.is_empty() {
        return Err(violations);
    }
    let mut summary = Summary::of(events);
    for read in events {
        let (Kind::Read(Some(seen)), Some(writes)) = (read.kind, writes.get(&read.key)) else { continue };
        let behind = writes.first_newer(seen).map_or(0, |newer| read.start.saturating_sub(newer.event.end));
        let behind = Duration::from_nanos(behind);
        summary.largest_staleness = summary.largest_staleness.max(behind);
        if let Some(required) = required(read, writes) {
            summary.judged += 1;
            if seen < required.version {
                violations.push(Violation::Stale { read: *read, write: *required.event, behind });
            }
        }
    }
    if violations.is_empty() { Ok(summary) } else { Err(violations) }
}

impl Summary {
    /// What can be counted without judging.
    fn of(events: &[Event]) -> Self {
        let count = |wanted: fn(&Kind) -> bool| events.iter().filter(|event| wanted(&event.kind)).count();
        let keys: BTreeSet<u32> = events.iter().map(|event| event.key).collect();
        Self {
            reads: count(|kind| matches!(kind, Kind::Read(_))),
            misses: count(|kind| matches!(kind, Kind::Read(None))),
            writes: count(|kind| matches!(kind, Kind::Write(_))),
            keys: keys.len(),
            ..Self::default()
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { read, write, behind } => {
                write!(f, "{behind:?} behind: \"{}\" had to see \"{}\"", read.to_line(), write.to_line())
            }
            Self::Overlap { earlier, later } => {
                write!(f, "writes of a key overlap: \"{}\" and \"{}\"", earlier.to_line(), later.to_line())
            }
            Self::Disorder { earlier, later } => {
                let (earlier, later) = (earlier.to_line(), later.to_line());
                write!(f, "versions of a key do not increase: \"{earlier}\", then \"{later}\"")
            }
            Self::Backwards(event) => write!(f, "it ends before it starts: \"{}\"", event.to_line()),
        }
    }
}
