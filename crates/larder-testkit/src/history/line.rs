//! Who came to stand in line for a lock, and whether they were served in the order in which they came.
//!
//! The problem: that a waiter was overtaken shows in no process, and who came first is known for certain of few: two requests
//! that were under way at once may have arrived in either order. The mechanism: each attempt is noted with the time before it was
//! made ([`LineRecorder::asked`]), the time after its process was told that it stands in line, and the time after it was granted,
//! with its fence. An attempt that was told so before another was even made stands before it; fences say in which order the
//! server granted them.
//!
//! An attempt is *live* from the moment when its process was told that it stands in line until it is granted or gives up,
//! or until the first [`Fault`] of its process or of what all share begins. Whoever came after a live attempt and was known to
//! be granted while it lived, and before it was granted, has overtaken it. A fault that was not over when it came to stand
//! in line ends its life at once: nothing is asked of those who were struck, nor of anybody on their behalf, for as long as
//! the fault says. Losing its place while it is live is no excuse: the first time in line counts.
//!
//! Invariants: nothing is called a violation that could be explained by two requests under way at once, by a clock, or by a
//! fault that is noted. Searching costs n log n, and one look for each pair that met.
//!
//! Not guaranteed: that anything is found where all is faults: see the number of pairs that were judged.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::now;

/// An attempt at a lock, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Whose it is.
    pub process: u32,
    /// Which of its attempts.
    pub number: u64,
    /// Nanoseconds of the monotonic clock before anything was done for it.
    pub asked: u64,
    /// After its process was first told that it stands in line.
    pub in_line: Option<u64>,
    /// How it ended.
    pub end: Ending,
}

/// How an [`Attempt`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this fence, which was known at this time.
    Granted {
        /// The grant's number.
        fence: u64,
        /// A time after it.
        at: u64,
    },
    /// It was still waiting at this time, and gave up after that.
    GaveUp {
        /// A time before it.
        at: u64,
    },
    /// Nobody noted it: its process was killed.
    Unknown,
}

/// A time in which nothing is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// To the attempts of this process; to nobody, where there is none.
    pub process: Option<u32>,
    /// When it began.
    pub from: u64,
    /// When its last effect was over.
    pub until: u64,
}

/// A live waiter, and who was served before it though it came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overtaken {
    /// Who came first.
    pub waiter: Attempt,
    /// Who was served first.
    pub by: Attempt,
}

impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was overtaken by {:?}", self.waiter, self.by)
    }
}

/// Notes attempts and faults in a file of the process's own.
#[derive(Debug)]
pub struct LineRecorder {
    process: u32,
    file: File,
}

impl LineRecorder {
    /// Notes go to a file of this process in the folder.
    ///
    /// # Errors
    ///
    /// Where the file cannot be made.
    pub fn create(folder: &Path, process: u32) -> io::Result<Self> {
        let path = folder.join(format!("{process}.line"));
        Ok(Self { process, file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// The attempt of this number is about to be made.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written; so for the others.
    pub fn asked(&self, number: u64) -> io::Result<()> {
        self.note(format!("a {} {number} {}\n", self.process, now()))
    }

    /// It stands in line.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn in_line(&self, number: u64) -> io::Result<()> {
        self.note(format!("l {} {number} {}\n", self.process, now()))
    }

    /// It has been granted.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn granted(&self, number: u64, fence: u64) -> io::Result<()> {
        self.note(format!("g {} {number} {fence} {}\n", self.process, now()))
    }

    /// It waited until `at` for certain, and was not granted.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn gave_up(&self, number: u64, at: u64) -> io::Result<()> {
        self.note(format!("e {} {number} {at}\n", self.process))
    }

    /// Nothing is promised to this process, or to nobody, for a time.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn fault(&self, Fault { process, from, until }: Fault) -> io::Result<()> {
        let process = process.map_or_else(|| "-".to_owned(), |process| process.to_string());
        self.note(format!("f {process} {from} {until}\n"))
    }

    /// One write a line: what was noted is there though the process is killed.
    fn note(&self, line: String) -> io::Result<()> {
        (&self.file).write_all(line.as_bytes())
    }
}

/// All attempts and faults that the files of a folder tell of. A line that a killed process did not finish is none.
///
/// # Errors
///
/// Where a file cannot be read.
pub fn read_line_notes(folder: &Path) -> io::Result<(Vec<Attempt>, Vec<Fault>)> {
    let mut attempts: BTreeMap<(u32, u64), Attempt> = BTreeMap::new();
    let mut faults = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "line") {
            continue;
        }
        let text = fs::read_to_string(path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
            let process = number(1).and_then(|process| u32::try_from(process).ok());
            let (Some(first), Some(second), third) = (number(2), number(3), number(4)) else { continue };
            let what = words.first().copied().unwrap_or_default();
            if what == "f" {
                faults.push(Fault { process, from: first, until: second });
                continue;
            }
            let Some(process) = process else { continue };
            let key = (process, first);
            match (what, third) {
                ("a", _) => {
                    let end = Ending::Unknown;
                    let new = Attempt { process, number: first, asked: second, in_line: None, end };
                    attempts.insert(key, new);
                }
                ("l", _) => {
                    if let Some(attempt) = attempts.get_mut(&key) {
                        attempt.in_line.get_or_insert(second);
                    }
                }
                ("g", Some(at)) => {
                    if let Some(attempt) = attempts.get_mut(&key) {
                        attempt.end = Ending::Granted { fence: second, at };
                    }
                }
                ("e", _) => {
                    if let Some(attempt) = attempts.get_mut(&key) {
                        attempt.end = Ending::GaveUp { at: second };
                    }
                }
                _ => {}
            }
        }
    }
    Ok((attempts.into_values().collect(), faults))
}

/// Whether nobody overtook a live waiter: the number of pairs of which that was to be asked.
///
/// # Errors
///
/// All that were overtaken.
pub fn first_come_first_served(attempts: &[Attempt], faults: &[Fault]) -> Result<usize, Vec<Overtaken>> {
    let mut granted: Vec<(u64, u64, Attempt)> = attempts
        .iter()
        .filter_map(|attempt| match attempt.end {
            Ending::Granted { fence, at } => Some((fence, at, *attempt)),
            _ => None,
        })
        .collect();
    granted.sort_by_key(|(_, _, attempt)| attempt.asked);
    let calm = Calm::of(attempts, faults);
    let (mut judged, mut overtaken) = (0, Vec::new());
    for waiter in attempts {
        let Some(since) = waiter.in_line else { continue };
        let (own, ended) = match waiter.end {
            Ending::Granted { fence, at } => (fence, at),
            Ending::GaveUp { at } => (u64::MAX, at),
            Ending::Unknown => continue,
        };
        let lives = calm.until(waiter.process, since);
        let first = granted.partition_point(|(_, _, other)| other.asked < since);
        let later = granted.iter().skip(first).take_while(|(_, _, other)| other.asked <= ended.min(lives));
        for (fence, at, by) in later {
            // Of who gives up, it is known until when it waited; of who is granted, before whom.
            let before = if own == u64::MAX { *at <= ended } else { *fence < own };
            if before && *at <= lives {
                overtaken.push(Overtaken { waiter: *waiter, by: *by });
            }
            judged += usize::from(if before { *at <= lives } else { own != u64::MAX && ended <= lives });
        }
    }
    if overtaken.is_empty() { Ok(judged) } else { Err(overtaken) }
}

/// When each process is struck next: its faults and everybody's, in order and apart from each other.
struct Calm(BTreeMap<u32, Vec<Fault>>);

impl Calm {
    fn of(attempts: &[Attempt], faults: &[Fault]) -> Self {
        let processes = attempts.iter().map(|attempt| attempt.process);
        let mut struck: BTreeMap<u32, Vec<Fault>> = processes.map(|process| (process, Vec::new())).collect();
        for (process, own) in &mut struck {
            let concerns = |fault: &&Fault| fault.process.is_none_or(|other| other == *process);
            let mut all: Vec<Fault> = faults.iter().filter(concerns).copied().collect();
            all.sort_by_key(|fault| fault.from);
            for fault in all {
                match own.last_mut().filter(|last| fault.from <= last.until) {
                    Some(last) => last.until = last.until.max(fault.until),
                    None => own.push(fault),
                }
            }
        }
        Self(struck)
    }

    /// When the first fault begins that is not over at `since`.
    fn until(&self, process: u32, since: u64) -> u64 {
        let faults = self.0.get(&process).map_or(&[][..], Vec::as_slice);
        let next = faults.partition_point(|fault| fault.until < since);
        faults.get(next).map_or(u64::MAX, |fault| fault.from)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says so by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(process: u32, asked: u64, in_line: u64, fence: u64, at: u64) -> Attempt {
        let end = Ending::Granted { fence, at };
        Attempt { process, number: asked, asked, in_line: Some(in_line), end }
    }

    fn gave_up(process: u32, asked: u64, in_line: u64, at: u64) -> Attempt {
        Attempt { end: Ending::GaveUp { at }, ..granted(process, asked, in_line, 0, 0) }
    }

    fn fault(process: Option<u32>, from: u64, until: u64) -> Fault {
        Fault { process, from, until }
    }

    #[test]
    fn served_in_the_order_in_which_they_came_is_right() {
        let history = [granted(1, 0, 10, 1, 50), granted(2, 11, 20, 2, 60), granted(3, 21, 30, 3, 70)];
        assert_eq!(first_come_first_served(&history, &[]), Ok(3));
    }

    #[test]
    fn who_came_later_and_is_served_before_a_live_waiter_has_overtaken_it() {
        let (waiter, by) = (granted(1, 0, 10, 2, 60), granted(2, 11, 20, 1, 50));
        let found = first_come_first_served(&[waiter, by], &[]);
        assert_eq!(found, Err(vec![Overtaken { waiter, by }]));
        // So has who did not even stand in line.
        let by = Attempt { in_line: None, ..by };
        assert!(first_come_first_served(&[by, waiter], &[]).is_err());
    }

    #[test]
    fn a_waiter_that_is_never_served_is_overtaken_by_who_is_served_while_it_waits() {
        let by = granted(2, 11, 20, 1, 50);
        assert!(first_come_first_served(&[gave_up(1, 0, 10, 55), by], &[]).is_err());
        assert_eq!(first_come_first_served(&[gave_up(1, 0, 10, 49), by], &[]), Ok(0), "it may have gone");
        let unknown = Attempt { end: Ending::Unknown, ..gave_up(1, 0, 10, 0) };
        assert_eq!(first_come_first_served(&[unknown, by], &[]), Ok(0), "it was killed");
    }

    #[test]
    fn two_that_asked_at_once_may_be_served_in_either_order() {
        assert_eq!(
            first_come_first_served(&[granted(1, 0, 10, 2, 60), granted(2, 9, 20, 1, 50)], &[]),
            Ok(0)
        );
    }

    #[test]
    fn who_is_struck_by_a_fault_may_be_overtaken_from_then_on_and_nobody_else() {
        let history = [granted(1, 0, 10, 2, 60), granted(2, 11, 20, 1, 50)];
        for excused in [
            fault(Some(1), 40, 45),
            fault(None, 50 - 1, 49),
            fault(Some(1), 0, 10), // not over when it came to stand in line
            fault(None, 5, u64::MAX),
        ] {
            assert_eq!(first_come_first_served(&history, &[excused]), Ok(0), "{excused:?}");
        }
        for no_excuse in [
            fault(Some(2), 0, 100),
            fault(Some(1), 0, 9),   // over before
            fault(Some(1), 51, 99), // begun when it had been overtaken
        ] {
            assert!(first_come_first_served(&history, &[no_excuse]).is_err(), "{no_excuse:?}");
        }
    }

    #[test]
    fn a_waiter_that_lost_its_place_is_judged_by_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "a 1 7 0\nl 1 7 10\na 2 1 11\nl 2 1 20\ng 2 1 1 50\nl 1 7 55\ng 1 7 2 60\nf - 100 200\nf 3 1 2\n\
                     a 1 8 61\ne 1 8 70\na 1 9 9";
        fs::write(folder.path().join("1.line"), lines).unwrap();
        let (attempts, faults) = read_line_notes(folder.path()).unwrap();
        assert_eq!(faults, [fault(None, 100, 200), fault(Some(3), 1, 2)]);
        let ends: Vec<Ending> = attempts.iter().map(|attempt| attempt.end).collect();
        let expected = [
            Ending::Granted { fence: 2, at: 60 },
            Ending::GaveUp { at: 70 },
            Ending::Granted { fence: 1, at: 50 },
        ];
        assert_eq!(ends, expected);
        assert!(first_come_first_served(&attempts, &faults).is_err());
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = LineRecorder::create(folder.path(), 3).unwrap();
        recorder.asked(1).unwrap();
        recorder.in_line(1).unwrap();
        recorder.granted(1, 77).unwrap();
        recorder.asked(2).unwrap();
        recorder.gave_up(2, 5).unwrap();
        recorder.fault(fault(Some(3), 1, 2)).unwrap();
        recorder.fault(fault(None, 3, 4)).unwrap();
        let (attempts, faults) = read_line_notes(folder.path()).unwrap();
        assert_eq!(faults, [fault(Some(3), 1, 2), fault(None, 3, 4)]);
        let [first, second] = attempts.as_slice() else { panic!("{attempts:?}") };
        assert!(matches!(first.end, Ending::Granted { fence: 77, at } if Some(at) >= first.in_line));
        assert!(first.in_line >= Some(first.asked));
        assert_eq!((second.in_line, second.end), (None, Ending::GaveUp { at: 5 }));
    }

    /// As the module's head says it.
    fn by_definition(attempts: &[Attempt], faults: &[Fault]) -> usize {
        let overtakes = |waiter: &Attempt, by: &Attempt| {
            let (Some(since), Ending::Granted { fence, at }) = (waiter.in_line, by.end) else { return false };
            let struck = |fault: &Fault| {
                fault.process.is_none_or(|it| it == waiter.process) && fault.until >= since && fault.from < at
            };
            let before = match waiter.end {
                Ending::Granted { fence: own, at } => fence < own && by.asked <= at,
                Ending::GaveUp { at: ended } => at <= ended,
                Ending::Unknown => false,
            };
            by.asked >= since && before && !faults.iter().any(struck)
        };
        attempts.iter().map(|waiter| attempts.iter().filter(|by| overtakes(waiter, by)).count()).sum()
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        let end = prop_oneof![
            4 => (0..20u64, 0..10u64).prop_map(|(fence, at)| Ending::Granted { fence, at }),
            2 => (0..10u64).prop_map(|at| Ending::GaveUp { at }),
            1 => Just(Ending::Unknown),
        ];
        (1..4u32, 0..30u64, prop::option::of(0..8u64), end).prop_map(|(process, asked, line, end)| {
            let in_line = line.map(|line| asked + line);
            let from = in_line.unwrap_or(asked);
            let end = match end {
                Ending::Granted { fence, at } => Ending::Granted { fence, at: from + at },
                Ending::GaveUp { at } => Ending::GaveUp { at: from + at },
                Ending::Unknown => Ending::Unknown,
            };
            Attempt { process, number: asked, asked, in_line, end }
        })
    }

    proptest! {
        #[test]
        fn any_history_is_judged_as_the_definition_says(
            attempts in prop::collection::vec(any_attempt(), 0..12),
            faults in prop::collection::vec((prop::option::of(1..4u32), 0..40u64, 0..10u64), 0..4),
        ) {
            let faults: Vec<Fault> =
                faults.into_iter().map(|(process, from, span)| fault(process, from, from + span)).collect();
            let found = first_come_first_served(&attempts, &faults).map_or_else(|found| found.len(), |_| 0);
            prop_assert_eq!(found, by_definition(&attempts, &faults));
        }
    }
}
