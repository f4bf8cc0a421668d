//! Flights: the loads of one process for one key, for which its callers wait together.
//!
//! The problem: a caller that joins a running load gets what that load has read, which may be older than a
//! write that the same process has completed (C1). The mechanism: when a write is answered or given up, it
//! detaches the flight. Callers that wait still get its value; a later caller starts a new flight. A forced
//! refresh detaches when it starts and when it ends, because in between a write may have detached its flight
//! and a call may have started another.
//!
//! The store is the real one of [`store`](crate::Store), with another process that fills the same key.
//! Entries vanish at any time; a loader fails, or a begin gets no answer; a caller gives up, or stops waiting
//! and takes the value that it had found and considered too old (fail-safe, C5).
//!
//! Invariants: no call returns anything older than a write of this process that was complete, or a forced
//! refresh that had returned, when the call started. A forced refresh returns nothing older than its own
//! start. At most one flight can be joined.
//!
//! Not modelled: `set` (two that race leave either row, and C1 is then about the order in which they were
//! stored), the storing without a fence of `Format::Plain`, near copies, writes of other processes (a call
//! may join a load of its own process that such a write has invalidated: it gets the older row, which is not
//! stored).

mod flights;
mod rules;
mod state;

pub use flights::{Flight, Stage};
pub use rules::{Detach, Forced, Old, Rules};
pub use state::{Caller, Remote, State, Writer};

use stateright::{Model, Property};

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A call starts: it gets what is there, and returns it unless there is nothing.
    Call(usize),
    /// A call starts, and finds a value that it considers too old.
    CallForFresher(usize),
    /// A forced refresh starts.
    Force(usize),
    /// A call joins a flight, or starts one.
    Join(usize),
    /// A call takes the value that it had found.
    TimesOut(usize),
    /// A call is dropped.
    GoesAway(usize),
    /// A flight takes its next step. The last step gives all waiters the value.
    Fly(usize),
    /// A flight gets no answer to its begin, which took effect.
    BeginLost(usize),
    /// A flight's loader fails.
    Fail(usize),
    /// This process's writer changes the row.
    WriteRow(usize),
    /// This process begins to delete the entry.
    BeginDelete(usize),
    /// The entry is deleted.
    Delete(usize),
    /// The delete returns.
    Return(usize),
    /// The delete is given up.
    GiveUp(usize),
    /// The other process's fill goes on.
    Remote,
    /// The entry expires, is evicted, or is deleted by another program.
    EntryVanishes,
    /// The claim expires or is evicted.
    ClaimVanishes,
}

/// The flights of one process.
#[derive(Clone, Copy, Debug)]
pub struct Flights {
    /// The protocol and its participants.
    pub rules: Rules,
}

/// C1.
pub const OWN_WRITES: &str = "no call returns less than what its process had completed when it started";
/// C4, within a process.
pub const ONE_FLIGHT: &str = "one flight can be joined";
/// Some calls get a result.
pub const RETURNS: &str = "a call can wait for a flight";

impl Model for Flights {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.rules)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken {
            return;
        }
        // What each caller may do next.
        for (c, caller) in state.callers.iter().enumerate() {
            match caller {
                Caller::Idle => {
                    actions.extend([Action::Call(c), Action::CallForFresher(c)]);
                    if self.rules.forced {
                        actions.push(Action::Force(c));
                    }
                }
                Caller::HasRead { .. } => actions.extend([Action::Join(c), Action::GoesAway(c)]),
                Caller::Joined { .. } => actions.extend([Action::TimesOut(c), Action::GoesAway(c)]),
            }
        }
        // Each flight goes on; with faults, its begin is lost or its load fails.
        for (f, flight) in state.flights.iter().enumerate() {
            match flight.map(|flight| flight.stage) {
                None => {}
                Some(Stage::Begin(_)) if self.rules.faults => {
                    actions.extend([Action::Fly(f), Action::BeginLost(f)]);
                }
                Some(Stage::Loading(_) | Stage::Loaded(..)) if self.rules.faults => {
                    actions.extend([Action::Fly(f), Action::Fail(f)]);
                }
                Some(_) => actions.push(Action::Fly(f)),
            }
        }
        // A writer writes its row, then deletes the entry, and may give up at any moment.
        for (w, writer) in state.writers.iter().enumerate() {
            match writer {
                Writer::Ready if state.row < self.rules.rows => actions.push(Action::WriteRow(w)),
                Writer::Ready => {}
                Writer::Wrote(_) => actions.push(Action::BeginDelete(w)),
                Writer::Deleting(_) => actions.extend([Action::Delete(w), Action::GiveUp(w)]),
                Writer::Deleted(_) => actions.extend([Action::Return(w), Action::GiveUp(w)]),
            }
        }
        // What the server and other processes may do at any time.
        actions.push(Action::EntryVanishes);
        if self.rules.remote {
            actions.push(Action::Remote);
        }
        if self.rules.faults {
            actions.push(Action::ClaimVanishes);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(&self.rules, action)?;
        next.normalise(&self.rules);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OWN_WRITES, |_, state: &State| !state.broken),
            Property::always(ONE_FLIGHT, |_, state: &State| {
                state.flights.iter().flatten().filter(|flight| flight.attached).count() <= 1
            }),
            Property::sometimes(RETURNS, |_, state: &State| {
                let joined = |caller: &Caller| matches!(caller, Caller::Joined { .. });
                state.callers.iter().all(joined) && state.flights.iter().flatten().count() == 1
            }),
        ]
    }
}
