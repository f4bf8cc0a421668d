//! Readers that insert what they read, beside writers: one of this process, which invalidates when its write
//! is answered, and one of another process, whose change is pushed.

use std::sync::Arc;

use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;

use super::mistaken::{Mistake, Mistaken};
use super::{Copies, tier};
use crate::interleavings::{breaks, holds};
use crate::sync::Mutex;

/// What a reader is promised.
const OWN: &str = "a read that starts after an own write has returned sees nothing older";
/// What the tier is promised.
const COHERENT: &str = "when all changes are reported, no copy is older than the server's value";

const NAMES: [&str; 2] = ["a", "b"];

/// How a change is reported.
#[derive(Clone, Copy)]
enum Report {
    ByName,
    AsAll,
}

impl Report {
    fn to(self, copies: &impl Copies, name: &str) {
        match self {
            Self::ByName => copies.invalidate(name),
            Self::AsAll => copies.invalidate_all(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Row {
    value: u64,
    /// The server will push the next change.
    tracked: bool,
    /// The value of the newest own write that has returned.
    floor: u64,
}

struct Server {
    rows: [Mutex<Row>; 2],
    pushes: Sender<usize>,
}

impl Server {
    fn read(&self, i: usize) -> u64 {
        self.with(i, |row| {
            row.tracked = true;
            row.value
        })
    }

    fn write(&self, i: usize) -> u64 {
        self.with(i, |row| {
            row.value += 1;
            if std::mem::take(&mut row.tracked) {
                let _ = self.pushes.send(i);
            }
            row.value
        })
    }

    fn with<T>(&self, i: usize, change: impl FnOnce(&mut Row) -> T) -> T {
        change(&mut self.rows.get(i).unwrap_or(&self.rows[0]).lock())
    }
}

fn name(i: usize) -> &'static str {
    NAMES.get(i).copied().unwrap_or_default()
}

fn read(server: &Server, copies: &impl Copies, i: usize) {
    let floor = server.with(i, |row| row.floor);
    let ticket = match copies.get(name(i)) {
        Some(value) => {
            assert!(value >= floor, "{OWN}");
            return;
        }
        None => copies.ticket(name(i)),
    };
    let value = server.read(i);
    copies.insert(name(i), ticket, value);
}

fn scenario(copies: impl Copies, report: Report) {
    let copies = Arc::new(copies);
    let (pushes, pushed) = channel();
    let server = Arc::new(Server { rows: Default::default(), pushes });
    let handler = thread::spawn({
        let copies = copies.clone();
        move || pushed.into_iter().for_each(|i| report.to(&*copies, name(i)))
    });
    let reader = |names: [usize; 2]| {
        let (server, copies) = (server.clone(), copies.clone());
        thread::spawn(move || names.into_iter().for_each(|i| read(&server, &*copies, i)))
    };
    let readers = [reader([0, 0]), reader([1, 0])];
    let foreign = thread::spawn({
        let server = server.clone();
        move || {
            for i in [0, 1] {
                server.write(i);
            }
        }
    });
    let written = server.write(0);
    report.to(&*copies, name(0));
    server.with(0, |row| row.floor = written);
    read(&server, &*copies, 0);

    for thread in readers.into_iter().chain([foreign]) {
        let _ = thread.join();
    }
    let values = [0, 1].map(|i| server.with(i, |row| row.value));
    drop(server);
    let _ = handler.join();
    for (i, value) in values.into_iter().enumerate() {
        assert!(copies.get(name(i)).is_none_or(|copy| copy == value), "{COHERENT}");
    }
}

/// larder's tier, with each change reported by its name.
#[test]
fn copies_whose_changes_are_reported_by_name_are_never_old() {
    holds("copies, reported by name", || scenario(tier::<Box<str>, _>(), Report::ByName));
}

/// larder's tier, with each report saying that any name may have changed.
#[test]
fn copies_whose_changes_are_reported_all_at_once_are_never_old() {
    holds("copies, reported all at once", || scenario(tier::<Box<str>, _>(), Report::AsAll));
}

/// The tier in which the mistakes are made, without any mistake.
#[test]
fn the_small_tier_is_sound_without_its_mistakes() {
    holds("the small tier", || scenario(Mistaken::new(Mistake::None), Report::ByName));
}

/// The mistake: the tier inserts without comparing the ticket.
#[test]
fn an_insert_without_the_ticket_is_caught() {
    is_caught("no ticket", Mistake::Unchecked, Report::ByName);
}

/// The mistake: the tier compares the ticket under the lock, and inserts without it.
#[test]
fn an_insert_without_the_lock_is_caught() {
    is_caught("insert without the lock", Mistake::Unguarded, Report::ByName);
}

/// The mistake: the tier removes a copy before it increments the number.
#[test]
fn a_removal_before_the_number_changes_is_caught() {
    is_caught("removes first", Mistake::RemovesFirst, Report::ByName);
}

/// The mistake: the tier removes all copies before it increments the number.
#[test]
fn a_clear_before_the_numbers_change_is_caught() {
    is_caught("clears first", Mistake::ClearsFirst, Report::AsAll);
}

fn is_caught(name: &str, mistake: Mistake, report: Report) {
    breaks(name, &[OWN, COHERENT], move || scenario(Mistaken::new(mistake), report));
}
