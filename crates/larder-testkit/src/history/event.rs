//! One read or write, and its line of text.

use rustix::time::{ClockId, clock_gettime};

/// A read or a write by one task of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which process; a number of the test's own choice. Processes are those who are promised to read their own writes,
    /// so two `Larder`s in one process have a number each.
    pub process: u32,
    /// Which of its tasks; the checks do not look at it.
    pub task: u32,
    /// Which key.
    pub key: u32,
    /// [`now`] before the first thing was done for it.
    pub start: u64,
    /// [`now`] after all was done.
    pub end: u64,
    /// What it was.
    pub kind: Kind,
}

/// What an [`Event`] was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A write that was acknowledged: the database row was changed to this version, and then the cache entry set or
    /// deleted. It starts before the former and ends when the latter has returned.
    Write(u64),
    /// A read, and the version that it saw; none for a miss, which is never a violation.
    Read(Option<u64>),
}

/// The machine's monotonic clock, in nanoseconds: the same in all processes.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // It counts from the start of the machine: neither is ever negative, nor too large within centuries.
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

impl Event {
    /// `process task key start end kind version`, without a line break; the kind is `w` or `r`, a miss has `-`.
    #[must_use]
    pub fn to_line(&self) -> String {
        let Self { process, task, key, start, end, kind } = self;
        let (kind, version) = match kind {
            Kind::Write(version) => ('w', version.to_string()),
            Kind::Read(Some(version)) => ('r', version.to_string()),
            Kind::Read(None) => ('r', "-".to_owned()),
        };
        format!("{process} {task} {key} {start} {end} {kind} {version}")
    }

    /// From what [`Event::to_line`] gave; none for anything else.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let (process, task, key) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        let (start, end) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let kind = match (next()?, next()?) {
            ("w", version) => Kind::Write(version.parse().ok()?),
            ("r", "-") => Kind::Read(None),
            ("r", version) => Kind::Read(Some(version.parse().ok()?)),
            _ => return None,
        };
        next().is_none().then_some(Self { process, task, key, start, end, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_the_event_back() {
        for kind in [Kind::Write(u64::MAX), Kind::Read(Some(0)), Kind::Read(None)] {
            let event = Event { process: 1, task: 2, key: u32::MAX, start: 4, end: u64::MAX, kind };
            assert_eq!(Event::from_line(&event.to_line()), Some(event));
        }
    }

    #[test]
    fn other_lines_are_refused() {
        assert!(Event::from_line("1 2 3 4 5 w 6").is_some());
        for line in ["", "1 2 3 4 5 w", "1 2 3 4 5 w -", "1 2 3 4 5 x 6", "1 2 3 4 5 r 6 7", "1 2 3 4 -5 r 6"]
        {
            assert_eq!(Event::from_line(line), None, "{line}");
        }
    }

    #[test]
    fn the_clock_goes_forward() {
        let first = now();
        assert!(first > 0 && now() >= first);
    }
}
