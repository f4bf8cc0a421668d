//! Who takes part, and the places where it could have been made otherwise.

use crate::store::Row;

/// How flights go. [`Rules::sound`] is the right way; each other choice of the last three fields is a mistake.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Callers in this process.
    pub callers: usize,
    /// Its writers.
    pub writers: usize,
    /// Flights in the air at once, detached ones included.
    pub flights: usize,
    /// The row goes from 0 to this.
    pub rows: Row,
    /// Callers may force a refresh.
    pub forced: bool,
    /// Another process fills the same key.
    pub remote: bool,
    /// Begins get no answer, loaders fail, leases vanish.
    pub faults: bool,
    /// Callers are brought into order, and so into fewer states; a history is easier to read without.
    pub sorted: bool,
    /// When a write detaches the flight.
    pub detach: Detach,
    /// What a forced refresh does about a flight that there is.
    pub join: Forced,
    /// Whose old value a caller takes when the load fails it.
    pub old: Old,
}

impl Rules {
    /// Flights as they should be.
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
    /// When it was answered, or given up.
    WhenDone,
    /// When it begins: one may start between that and the delete.
    WhenBegun,
    /// Not at all.
    Never,
}

/// What a forced refresh does about a flight that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// It detaches it, starts one that others join, and when that ends detaches whatever flies by then: a write may have
    /// detached its own meanwhile, and another have started.
    FencesAsAWrite,
    /// The same without the end.
    TakesThePlace,
    /// It joins it.
    Joins,
    /// It flies alone, and leaves the other to be joined.
    FliesBeside,
}

/// Whose old value a caller takes when the load fails it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// The one that the call itself has found.
    OfTheCaller,
    /// The one that the flight was started with, found by another call before.
    OfTheFlight,
}
