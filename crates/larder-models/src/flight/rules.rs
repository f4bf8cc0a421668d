//! The participants, and the choices in which the protocol could be wrong.

use crate::store::Row;

/// How flights work. [`Rules::sound`] is correct; each other choice of the last three fields is a mistake.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Callers in this process.
    pub callers: usize,
    /// Writers in this process.
    pub writers: usize,
    /// Flights at one time, detached ones included.
    pub flights: usize,
    /// The row goes from 0 to this.
    pub rows: Row,
    /// Callers may force a refresh.
    pub forced: bool,
    /// Another process fills the same key.
    pub remote: bool,
    /// Begins get no answer, loaders fail, claims vanish.
    pub faults: bool,
    /// Callers are sorted, which leads to fewer states; a history is easier to read without.
    pub sorted: bool,
    /// When a write detaches the flight.
    pub detach: Detach,
    /// What a forced refresh does with an existing flight.
    pub join: Forced,
    /// Which old value a caller takes when the load fails.
    pub old: Old,
}

impl Rules {
    /// The correct protocol.
    pub fn sound() -> Self {
        Self {
            callers: 2,
            writers: 1,
            flights: 2,
            rows: 1,
            forced: false,
            remote: true,
            faults: true,
            sorted: true,
            detach: Detach::WhenDone,
            join: Forced::FencesAsAWrite,
            old: Old::OfTheCaller,
        }
    }
}

/// When a write detaches the flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// When the write was answered, or given up.
    WhenDone,
    /// When the write begins: a flight may start between that and the delete.
    WhenBegun,
    /// Never.
    Never,
}

/// What a forced refresh does with an existing flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Detaches it and starts one that others join. When that ends, detaches any flight that exists by then:
    /// a write may have detached the refresh's own flight in the meantime, and another may have started.
    FencesAsAWrite,
    /// The same, without detaching at the end.
    TakesThePlace,
    /// Joins it.
    Joins,
    /// Flies alone, and leaves the other flight to be joined.
    FliesBeside,
}

/// Which old value a caller takes when the load fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// The value that the call itself has found.
    OfTheCaller,
    /// The value with which the flight was started, found by an earlier call.
    OfTheFlight,
}
