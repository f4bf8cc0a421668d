//! Checks what processes read from a cache against what they wrote.
//!
//! The problem: no single process can check whether a cache keeps its promises between processes. Each process knows
//! what it saw and when. Only the notes of all processes together show whether a value was older than allowed.
//!
//! The mechanism: each process notes every read and acknowledged write as an [`Event`] with the times of its start and
//! end on the machine's monotonic clock, which all processes share ([`now`]), and appends it to a file of its own as a
//! line ([`Recorder`]). The parent reads all files ([`read_files`]) and judges: [`read_your_writes`],
//! [`bounded_staleness`]. The versions of a key increase in the order in which they were written and a key has one
//! writer at a time, so the writes of a key, by version, are also in the order of their times, and each read needs one
//! binary search: n events cost n log n.
//!
//! Invariants: nothing is called a violation that two clocks, or two calls at the same time, could explain; a history
//! whose writes break the condition above is not judged but refused. A line that a killed process did not finish is no
//! event.
//!
//! Not guaranteed: events of several machines cannot be compared, and neither can those before and after a suspend of
//! one, because the monotonic clock stops meanwhile. A version without a recorded write (its writer died
//! before the acknowledgement, or reported a failure) is judged by its number alone. What no read looked at is not
//! checked: see [`Summary::judged`].
//!
//! ```
//! use std::time::Duration;
//! use larder_testkit::history::{Event, Kind, bounded_staleness, read_your_writes};
//!
//! let event = |process, start, end, kind| Event { process, task: 0, key: 7, start, end, kind };
//! let history = [
//!     event(1, 0, 10, Kind::Write(1)),
//!     event(1, 20, 30, Kind::Write(2)),
//!     event(2, 100, 110, Kind::Read(Some(1))), // 70 ns behind
//! ];
//! assert!(read_your_writes(&history).is_ok()); // another process wrote
//! let summary = bounded_staleness(&history, Duration::from_nanos(70)).unwrap();
//! assert_eq!(summary.largest_staleness, Duration::from_nanos(70));
//! let violations = bounded_staleness(&history, Duration::from_nanos(69)).unwrap_err();
//! println!("{}", violations[0]);
//! ```

mod calm;
mod check;
mod event;
mod files;
mod holders;
mod loads;
mod notes;
mod periods;
mod queue;
#[cfg(test)]
mod tests;
mod windows;
mod writes;

pub use calm::{Calm, Fault, Losses};
pub use check::{Summary, Violation, bounded_staleness, read_your_writes};
pub use event::{Event, Kind, now};
pub use files::{Recorder, read_files};
pub use holders::{Held, TooMany, fences_increase, within_capacity};
pub use loads::{Loaded, one_load};
pub use notes::{Note, Notebook, Notes};
pub use periods::{Called, PeriodViolation, Run, once_a_period};
pub use queue::{Attempt, Ending, Overtaken, first_come_first_served, served_in_order};
pub use windows::{Admitted, Exceeded, within_limit};
