//! A load over several processes: the cold fill and the refresh of a standing value, with writers around them.
//!
//! The problem: a loader reads the row, a writer changes it and deletes the entry, the loader stores what it read. The
//! mechanism: a cold fill stores only over its own placeholder; a refresh stores only over the value that it began from,
//! and only while the sibling lease is still its own.
//!
//! Everything that can befall a key may happen between any two steps: writers (the row first, then `delete` or `set`;
//! one may die in between), another program's SET and DEL, expiry and eviction (for a cache the same as a DEL), a
//! process that dies, a loader that fails, a reply that is lost, and a request that arrives after its sender gave it up.
//! There is no end to them: histories are unbounded, only the number of rows is not.
//!
//! Invariants, each a property below:
//! - what a loader read before a write, a DEL, a SET or an eviction is never stored after it;
//! - a value that a loader stored is no older than any completed write;
//! - what a loader read before a forced refresh began is not stored after it, if the row has changed since;
//! - once a forced refresh has returned, no loaded value stands that is older than its beginning;
//! - one load at a time has a fence that stands;
//! - left alone, everybody comes to an end, by the placeholder's expiry at the latest.
//!
//! Not modelled: callers (a loader runs in a task of its own, so a cancelled caller changes nothing; see
//! [`flight`](crate::flight)), a load without a fence (it stores nothing), tags (see [`tags`](crate::tags)), the loss of
//! a wake-up, failover to a replica that lags, and a `set` that takes effect after its caller was told of a timeout.

mod drain;
mod process;
mod rules;
mod state;

pub use process::Process;
pub use rules::{BareRefresh, BeginLost, ForcedBegin, ForcedOverFill, ForcedVoid, Rules, SoftExpire, Tokens};
pub use state::{Broken, Read, Request, State, Writer};

use crate::store::{By, Entry};
use stateright::{Model, Property};

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It took effect, and its sender knows.
    Came,
    /// It took effect, and its sender does not know.
    Lost,
    /// Its sender has given it up, and it is still under way.
    Late,
}

/// One step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A process looks for the value, to fill or to refresh it.
    Look(usize),
    /// A process is told to refresh, whatever there is.
    Force(usize),
    /// A process looks for a value, to mark it stale.
    LookToExpire(usize),
    /// It asks for its fence.
    Begin(usize, Reply),
    /// Its loader reads the row.
    ReadRow(usize),
    /// Its loader fails.
    Fail(usize),
    /// Its loader finds the origin to have no such thing, and what was to be replaced goes.
    Gone(usize),
    /// It stores what it read.
    Commit(usize, Reply),
    /// It gives back what it may hold.
    Leave(usize, Reply),
    /// What it waits for has changed: it looks again.
    Wake(usize),
    /// It writes the value back with a fresh nonce, marked stale.
    MarkStale(usize),
    /// It dies, and starts anew.
    Die(usize),
    /// The request that was given up arrives.
    LateArrives,
    /// It never does.
    LateIsLost,
    /// A writer changes the row.
    WriteRow(usize),
    /// Then deletes the entry.
    Delete(usize),
    /// Or sets it.
    Set(usize),
    /// Or dies before either.
    WriterDies(usize),
    /// Another program sets bare JSON of the row as it is.
    ForeignSet,
    /// The entry expires, is evicted, or another program deletes it.
    EntryVanishes,
    /// The lease does.
    LeaseVanishes,
}

/// The protocol as it is, or with one mistake.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How it goes, and who takes part.
    pub rules: Rules,
}

/// C3 by order of events.
pub const VOIDED: &str = "what was read before a write is not stored after it";
/// C3 by what readers see.
pub const STALE: &str = "a loaded value is no older than a completed write";
/// A forced refresh fences as a write does.
pub const OUTRUN: &str = "what was read before a forced refresh is not stored after it";
/// Nor does it leave behind what was there.
pub const REFRESHED: &str = "after a forced refresh has returned, no older loaded value stands";
/// C4.
pub const ONE_LOAD: &str = "one load has a fence that stands";
/// Nobody waits for ever.
pub const DRAINS: &str = "left alone, everybody comes to an end";
/// The model is not safe for the reason alone that nothing happens.
pub const FILLS: &str = "a fill can store";
/// As above.
pub const REFRESHES: &str = "a refresh can store";

impl Model for Load {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.rules)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (p, process) in state.processes.iter().enumerate() {
            process.actions(p, &self.rules, state, actions);
        }
        if state.late.is_some() {
            actions.extend([Action::LateArrives, Action::LateIsLost]);
        }
        for (w, writer) in state.writers.iter().enumerate() {
            match writer {
                Writer::Ready if state.row < self.rules.rows => actions.push(Action::WriteRow(w)),
                Writer::Ready => {}
                Writer::Wrote(_) => {
                    actions.extend([Action::Delete(w), Action::Set(w), Action::WriterDies(w)]);
                }
            }
        }
        if self.rules.foreign_set {
            actions.push(Action::ForeignSet);
        }
        if state.store.entry != Entry::Empty {
            actions.push(Action::EntryVanishes);
        }
        if state.store.lease.is_some() {
            actions.push(Action::LeaseVanishes);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(&self.rules, action);
        next.normalise(&self.rules);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn by(state: &State, who: By) -> bool {
            matches!(state.store.entry, Entry::Value { by, .. } if by == who)
        }
        let mut properties = vec![
            Property::always(VOIDED, |_, state: &State| state.broken != Some(Broken::Voided)),
            Property::always(STALE, |_, state: &State| match state.store.entry {
                Entry::Value { row, by, .. } => by == By::Writer || row >= state.floor,
                Entry::Empty | Entry::Placeholder(_) => true,
            }),
            Property::always(OUTRUN, |_, state: &State| state.broken != Some(Broken::Outrun)),
            Property::always(REFRESHED, |_, state: &State| match state.store.entry {
                Entry::Value { row, by, .. } => by == By::Writer || row >= state.refreshed,
                Entry::Empty | Entry::Placeholder(_) => true,
            }),
            Property::always(ONE_LOAD, |_, state: &State| state.standing_fences() <= 1),
            Property::sometimes(FILLS, |_, state: &State| by(state, By::Fill)),
            Property::sometimes(REFRESHES, |_, state: &State| by(state, By::Refresh)),
        ];
        if self.rules.check_draining {
            properties.push(Property::always(DRAINS, |model: &Load, state| drain::ends(&model.rules, state)));
        }
        properties
    }
}
