//! A load over several processes: the cold fill, and the refresh of a value, with writers around them.
//!
//! The problem: a loader reads the row, a writer changes it and deletes the entry, and the loader stores what
//! it read. The mechanism: a cold fill stores only over its own placeholder. A refresh stores only over the
//! value from which it began, and only while it still has its claim.
//!
//! Anything that can happen to a key may happen between any two steps: writers (first the row, then `delete`
//! or `set`; one may die in between), another program's SET and DEL, expiry and eviction (for a cache the
//! same as a DEL), a process that dies, a loader that fails, a reply that is lost, and a request that arrives
//! after its sender gave up. Histories are unbounded; only the number of rows is not.
//!
//! Invariants, each a property below:
//! - what a loader read before a write, a DEL, a SET or an eviction is never stored after it;
//! - a value that a loader stored is no older than any completed write;
//! - what a loader read before a forced refresh began is not stored after it, if the row has changed since;
//! - once a forced refresh has returned, there is no loaded value that is older than its beginning;
//! - at most one load at a time has a fence that is still valid;
//! - without interference every process finishes, at the latest when the placeholder expires.
//!
//! Not modelled: callers (a loader runs in its own task, so a cancelled caller changes nothing; see
//! [`flight`](crate::flight)), a load without a fence (it stores nothing), tags (see [`tags`](crate::tags)),
//! the loss of a wake-up, failover to a replica that lags, and a `set` that takes effect after its caller got
//! a timeout.

mod drain;
mod process;
mod rules;
mod state;

pub use process::Process;
pub use rules::{
    BareRefresh, BeginLost, ForcedBegin, ForcedInvalidated, ForcedOverFill, Rules, SoftExpire, Tokens,
};
pub use state::{Broken, Read, Request, State, Writer};

use crate::store::{By, Entry};
use stateright::{Model, Property};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It took effect, and its sender knows.
    Arrived,
    /// It took effect, and its sender does not know.
    Lost,
    /// Its sender has given up, and it is still under way.
    Late,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A process reads the value, to fill or to refresh it.
    ReadEntry(usize),
    /// A process must refresh, whatever there is.
    Force(usize),
    /// A process reads a value, to mark it stale.
    ReadToExpire(usize),
    /// A process asks for its fence.
    Begin(usize, Reply),
    /// A process's loader reads the row.
    ReadRow(usize),
    /// A process's loader fails.
    Fail(usize),
    /// A process's loader finds that the origin no longer has the value, and the old value is deleted.
    Gone(usize),
    /// A process stores what it read.
    Commit(usize, Reply),
    /// A process gives up what it may hold.
    Leave(usize, Reply),
    /// What a process waits for has changed: it reads again.
    Wake(usize),
    /// A process writes the value back with a new nonce, marked stale.
    MarkStale(usize),
    /// A process dies, and starts again.
    Die(usize),
    /// A request whose sender gave up arrives.
    LateArrives,
    /// A request whose sender gave up is lost.
    LateIsLost,
    /// A writer changes the row.
    WriteRow(usize),
    /// Then the writer deletes the entry.
    Delete(usize),
    /// Or it sets the entry.
    Set(usize),
    /// Or it dies before either.
    WriterDies(usize),
    /// Another program sets bare JSON of the current row.
    ForeignSet,
    /// The entry expires, is evicted, or another program deletes it.
    EntryVanishes,
    /// The claim expires or is evicted.
    ClaimVanishes,
}

/// The protocol, correct or with one mistake.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The protocol and its participants.
    pub rules: Rules,
}

/// C3 by the order of events.
pub const INVALIDATED: &str = "what was read before a write is not stored after it";
/// C3 by what readers get.
pub const STALE: &str = "a loaded value is no older than a completed write";
/// A forced refresh invalidates earlier loads as a write does.
pub const OUTRUN: &str = "what was read before a forced refresh is not stored after it";
/// A forced refresh does not leave the old value.
pub const REFRESHED: &str = "after a forced refresh has returned, there is no older loaded value";
/// C4.
pub const ONE_LOAD: &str = "at most one load has a valid fence";
/// No process waits for ever.
pub const DRAINS: &str = "without interference every process finishes";
/// The model is not safe only because nothing happens.
pub const FILLS: &str = "a fill can store";
/// The same for a refresh.
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
        if state.store.refresh.is_some() {
            actions.push(Action::ClaimVanishes);
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
            Property::always(INVALIDATED, |_, state: &State| state.broken != Some(Broken::Invalidated)),
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
