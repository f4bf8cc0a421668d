//! The keys of locks, groups and semaphores on the server, and the parts of requests that their scripts share.

use std::time::Duration;

use arrayvec::ArrayString;

use crate::name::Name;
use crate::store::Expiry;
use crate::store::lock::QueueTiming;

/// How long the last fence is remembered after the lock has expired: a clock that steps back by less than
/// this changes nothing.
pub(super) const FENCE_KEPT: Duration = Duration::from_secs(60);

pub(super) fn fence_name(lock: &str) -> Name {
    beside(lock, ":fence")
}

pub(super) fn queue_name(lock: &str) -> Name {
    beside(lock, ":line")
}

pub(super) fn seen_name(lock: &str) -> Name {
    beside(lock, ":seen")
}

/// Returns the name of the marker of a lock with quarantine: the replication id of the server that granted it
/// last.
pub(super) fn origin_name(lock: &str) -> Name {
    beside(lock, ":origin")
}

/// Returns the keys or arguments of a script with quarantine: those of the script, and one more at the end.
pub(super) fn with_last<'a, T: ?Sized>(all: &[&'a T], last: &'a T) -> Vec<&'a T> {
    all.iter().copied().chain([last]).collect()
}

fn beside(lock: &str, what: &str) -> Name {
    let mut name = Name::from(lock);
    name.push_str(what);
    name
}

/// Writes whole milliseconds in decimal digits.
pub(super) fn digits(span: Duration) -> ArrayString<20> {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(Expiry::After(span).as_millis().unwrap_or(1));
    ArrayString::from(text).unwrap_or_default()
}

/// A queue's timing as one argument of a script, written once: for an attempt that waits, for one that does not, and
/// for a release.
pub(super) struct TimingArgument {
    pub(super) enqueue: String,
    pub(super) refuse: String,
    pub(super) release: String,
}

impl TimingArgument {
    pub(super) fn of(timing: QueueTiming) -> Self {
        let release = format!("{} {}", digits(timing.claim), digits(timing.live));
        Self { enqueue: format!("1 {release}"), refuse: format!("0 {release}"), release }
    }
}

/// The keys of a group: what is held, the state, and the queue.
pub(super) fn group_names(group: &str) -> [Name; 3] {
    ["", ":state", ":line"].map(|part| {
        let mut name = Name::from(group);
        name.push_str(part);
        name
    })
}

/// The keys of a semaphore: what is held, the number, the queue, and the heartbeats of its waiters.
pub(super) fn semaphore_names(semaphore: &str) -> [Name; 4] {
    ["", ":number", ":queue", ":seen"].map(|part| {
        let mut name = Name::from(semaphore);
        name.push_str(part);
        name
    })
}
