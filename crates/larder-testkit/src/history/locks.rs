//! Who believed to hold a lock, and whether that was allowed.
//!
//! The problem: that two processes hold a lock at once shows in neither. The mechanism: each notes, on the machine's monotonic
//! clock, when it was granted a lock and with which fence, and again and again that it still believed so, by a time read
//! *before* it asked its guard. From the first note of a grant to its last is the time in which it believed for certain; the
//! parent looks whether any two of these overlap. Sorting them is all that it takes: n notes cost n log n.
//!
//! Invariants: what two clocks, or a process stopped between two looks, could explain is not called a violation. A note
//! that a killed process did not finish is none.
//!
//! Not guaranteed: that a holder which looked too seldom is caught; the notes are as dense as the test makes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::now;

/// A grant, as its holder saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Who held it.
    pub process: u32,
    /// The grant's number.
    pub fence: u64,
    /// Nanoseconds of the monotonic clock when it was surely believed for the first time.
    pub from: u64,
    /// And for the last.
    pub until: u64,
}

/// What is wrong with a history of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockViolation {
    /// Two held it at once.
    Overlap(Held, Held),
    /// A later holder has a lower fence.
    Disorder(Held, Held),
    /// Two grants have one fence.
    SameFence(Held, Held),
}

impl fmt::Display for LockViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, one, other) = match self {
            Self::Overlap(one, other) => ("two held it at once", one, other),
            Self::Disorder(one, other) => ("a fence fell", one, other),
            Self::SameFence(one, other) => ("two grants have one fence", one, other),
        };
        write!(f, "{what}: {one:?} and {other:?}")
    }
}

/// Notes grants in a file of the process's own.
#[derive(Debug)]
pub struct LockRecorder {
    process: u32,
    file: Mutex<File>,
}

impl LockRecorder {
    /// Notes go to a file of this process in the folder.
    ///
    /// # Errors
    ///
    /// Where the file cannot be made.
    pub fn create(folder: &Path, process: u32) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).append(true).open(folder.join(format!("{process}.locks")))?;
        Ok(Self { process, file: Mutex::new(file) })
    }

    /// At this time, read before the guard was asked, the grant with this fence was believed.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn believed(&self, fence: u64, at: u64) -> io::Result<()> {
        let line = format!("{} {fence} {at}\n", self.process);
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }

    /// The clock that notes are made on.
    #[must_use]
    pub fn now() -> u64 {
        now()
    }
}

/// All grants that the files of a folder tell of, by process and fence.
///
/// # Errors
///
/// Where a file cannot be read.
pub fn read_locks(folder: &Path) -> io::Result<Vec<Held>> {
    let mut grants: BTreeMap<(u32, u64), Held> = BTreeMap::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "locks") {
            continue;
        }
        let text = fs::read_to_string(path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [process, fence, at] = numbers.as_slice() else { continue };
            let process = u32::try_from(*process).unwrap_or(u32::MAX);
            let new = Held { process, fence: *fence, from: *at, until: *at };
            let held = grants.entry((process, *fence)).or_insert(new);
            (held.from, held.until) = (held.from.min(*at), held.until.max(*at));
        }
    }
    Ok(grants.into_values().collect())
}

/// Whether one held it at a time, with fences that increase.
///
/// # Errors
///
/// All violations, in the order of time.
pub fn one_holder(grants: &[Held]) -> Result<usize, Vec<LockViolation>> {
    let mut grants = grants.to_vec();
    grants.sort_by_key(|held| (held.from, held.until));
    let mut violations = Vec::new();
    let mut latest: Option<Held> = None;
    let mut highest: Option<Held> = None;
    for held in &grants {
        if let Some(before) = latest.filter(|before| before.until > held.from) {
            violations.push(LockViolation::Overlap(before, *held));
        }
        if let Some(before) = highest.filter(|before| before.fence >= held.fence) {
            violations.push(if before.fence == held.fence {
                LockViolation::SameFence(before, *held)
            } else {
                LockViolation::Disorder(before, *held)
            });
        }
        latest = latest.filter(|before| before.until >= held.until).or(Some(*held));
        highest = highest.filter(|before| before.fence >= held.fence).or(Some(*held));
    }
    if violations.is_empty() { Ok(grants.len()) } else { Err(violations) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says so by panicking")]
mod tests {
    use super::*;

    fn held(process: u32, fence: u64, from: u64, until: u64) -> Held {
        Held { process, fence, from, until }
    }

    #[test]
    fn holders_in_turn_with_growing_fences_are_right() {
        assert_eq!(one_holder(&[held(2, 8, 20, 30), held(1, 7, 10, 20), held(1, 9, 30, 30)]), Ok(3));
    }

    #[test]
    fn an_overlap_is_found_also_behind_a_short_holder() {
        let grants = [held(1, 1, 0, 100), held(2, 2, 10, 20), held(3, 3, 50, 60)];
        let overlaps = one_holder(&grants).unwrap_err();
        assert_eq!(overlaps.len(), 2);
        assert!(matches!(
            overlaps[1],
            LockViolation::Overlap(Held { process: 1, .. }, Held { process: 3, .. })
        ));
    }

    #[test]
    fn a_fence_that_falls_or_stays_is_found() {
        let fell = one_holder(&[held(1, 5, 0, 1), held(2, 4, 2, 3)]).unwrap_err();
        assert!(matches!(fell[0], LockViolation::Disorder(..)));
        let stayed = one_holder(&[held(1, 5, 0, 1), held(2, 5, 2, 3)]).unwrap_err();
        assert!(matches!(stayed[0], LockViolation::SameFence(..)));
    }

    #[test]
    fn what_was_noted_is_read_back_without_the_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = LockRecorder::create(folder.path(), 3).unwrap();
        recorder.believed(9, 100).unwrap();
        recorder.believed(9, 150).unwrap();
        recorder.file.lock().unwrap().write_all(b"3 9 9").unwrap();
        assert_eq!(read_locks(folder.path()).unwrap(), [held(3, 9, 100, 150)]);
    }
}
