//! Who takes part, and the places where the protocol could have been made otherwise.

use crate::store::{Check, Checks, Row};

/// How the protocol goes. [`Rules::sound`] is the right one; each other choice of a field is a mistake that a test
/// shows to be one.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Processes, each with one loader.
    pub processes: usize,
    /// Writers, each of which changes the row and then the cache.
    pub writers: usize,
    /// The row goes from 0 to this.
    pub rows: Row,
    /// Processes may force a refresh.
    pub forced: bool,
    /// Processes may mark a value stale.
    pub soft_expire: bool,
    /// Loaders may find the origin to have no such thing.
    pub gone: bool,
    /// Another program sets bare JSON.
    pub foreign_set: bool,
    /// Requests may arrive after they were given up.
    pub late: bool,
    /// Processes and writers are brought into order, and so into fewer states; a history is easier to read without.
    pub sorted: bool,
    /// Whether [`DRAINS`](super::DRAINS) is checked: dear.
    pub check_draining: bool,
    /// The scripts' comparisons.
    pub checks: Checks,
    /// How a placeholder's token is made.
    pub tokens: Tokens,
    /// After a begin without an answer.
    pub begin_lost: BeginLost,
    /// How a forced refresh begins.
    pub forced_begin: ForcedBegin,
    /// A forced refresh where somebody else's fill is under way.
    pub forced_over_fill: ForcedOverFill,
    /// A forced refresh that could not be stored.
    pub forced_void: ForcedVoid,
    /// A forced refresh of a value that carries no nonce.
    pub bare_refresh: BareRefresh,
    /// How a value is marked stale.
    pub marking: SoftExpire,
}

impl Rules {
    /// The protocol as it should be, with two processes, two writers and everything that can happen to them.
    pub fn sound() -> Self {
        Self {
            processes: 2,
            writers: 2,
            rows: 2,
            forced: false,
            soft_expire: false,
            gone: false,
            foreign_set: false,
            late: false,
            sorted: true,
            check_draining: false,
            checks: Checks { placeholder: Check::Made, nonce: Check::Made, lease: Check::Made },
            tokens: Tokens::Random,
            begin_lost: BeginLost::StoresNothing,
            forced_begin: ForcedBegin::Atomic,
            forced_over_fill: ForcedOverFill::TakesOver,
            forced_void: ForcedVoid::Deletes,
            bare_refresh: BareRefresh::Replaces,
            marking: SoftExpire::ComparesNonce,
        }
    }
}

/// How a placeholder's token is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Random: never the same again.
    Random,
    /// One more than what stands there: after an expiry it begins anew.
    Counted,
}

/// What a process does that got no answer to its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginLost {
    /// It loads, gives back what may stand, and stores nothing.
    StoresNothing,
    /// It goes on, trusting that the commit will find out.
    GoesOn,
}

/// How a forced refresh begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedBegin {
    /// One script: where a value stands, the lease is taken over and the value's nonce returned; else a placeholder of
    /// its own is put there.
    Atomic,
    /// It gets the value, and takes the lease over afterwards.
    LookThenLease,
}

/// What a forced refresh does to a fill under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedOverFill {
    /// It puts its own placeholder in place of the other's.
    TakesOver,
    /// It loads beside it, and stores nothing.
    LoadsBeside,
}

/// What a forced refresh does that was voided: its lease ran out, or the value is another by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedVoid {
    /// It deletes what is there, as `delete` does. To begin anew would do as well.
    Deletes,
    /// It returns what it has loaded, and leaves what is there.
    LeavesIt,
}

/// What a forced refresh does to a value without a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareRefresh {
    /// It puts a placeholder in its place.
    Replaces,
    /// It takes the bytes for a nonce.
    ComparesBytes,
}

/// How a value is marked stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftExpire {
    /// Only if it still carries the nonce that was read.
    ComparesNonce,
    /// A plain SET of what was read.
    PlainSet,
}
