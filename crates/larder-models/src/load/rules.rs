//! The participants, and the choices in which the protocol could be wrong.

use crate::store::{Check, Checks, Row};

/// How the protocol works. [`Rules::sound`] is correct; each other choice of a field is a mistake, which a
/// test shows.
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
    /// Loaders may find that the origin no longer has the value.
    pub gone: bool,
    /// Another program sets bare JSON.
    pub foreign_set: bool,
    /// Requests may arrive after their sender gave up.
    pub late: bool,
    /// Processes and writers are sorted, which leads to fewer states; a history is easier to read without.
    pub sorted: bool,
    /// Whether [`DRAINS`](super::DRAINS) is checked, which is expensive.
    pub check_draining: bool,
    /// The scripts' comparisons.
    pub checks: Checks,
    /// How a placeholder's token is made.
    pub tokens: Tokens,
    /// What follows a begin without an answer.
    pub begin_lost: BeginLost,
    /// How a forced refresh begins.
    pub forced_begin: ForcedBegin,
    /// What a forced refresh does with another process's fill.
    pub forced_over_fill: ForcedOverFill,
    /// What a forced refresh does that could not be stored.
    pub forced_invalidated: ForcedInvalidated,
    /// What a forced refresh does with a value that has no nonce.
    pub bare_refresh: BareRefresh,
    /// How a value is marked stale.
    pub marking: SoftExpire,
}

impl Rules {
    /// The correct protocol, with two processes, two writers and everything that can happen to them.
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
            checks: Checks { placeholder: Check::Made, nonce: Check::Made, refresh: Check::Made },
            tokens: Tokens::Random,
            begin_lost: BeginLost::StoresNothing,
            forced_begin: ForcedBegin::Atomic,
            forced_over_fill: ForcedOverFill::TakesOver,
            forced_invalidated: ForcedInvalidated::Deletes,
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
    /// One more than what is there: after an expiry it starts again.
    Counted,
}

/// What a process does that got no answer to its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginLost {
    /// It loads, removes what it may have stored, and stores no value.
    StoresNothing,
    /// It goes on, and relies on the commit to find out.
    GoesOn,
}

/// How a forced refresh begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedBegin {
    /// One script: if there is a value, it takes the claim and returns the value's nonce; otherwise it stores
    /// its own placeholder.
    Atomic,
    /// It reads the value, and takes the claim afterwards.
    ReadThenClaim,
}

/// What a forced refresh does to a fill under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedOverFill {
    /// It replaces the other's placeholder by its own.
    TakesOver,
    /// It loads beside it, and stores nothing.
    LoadsBeside,
}

/// What a forced refresh does that was invalidated: its claim expired, or there is another value by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedInvalidated {
    /// It deletes what is there, as `delete` does. Starting again would do as well.
    Deletes,
    /// It returns what it has loaded, and leaves what is there.
    LeavesIt,
}

/// What a forced refresh does to a value without a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareRefresh {
    /// It replaces the value by a placeholder.
    Replaces,
    /// It uses the bytes as a nonce.
    ComparesBytes,
}

/// How a value is marked stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftExpire {
    /// Only if it still has the nonce that was read.
    ComparesNonce,
    /// A plain SET of what was read.
    PlainSet,
}
