//! All steps, and the properties that must hold between them.

use stateright::{Model, Property};

use super::state::State;
use super::{Failover, GRANTS_AGAIN, ONE_HOLDER, RENEWS};

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the holder, if any, whose clock misses it.
    Tick(Option<usize>),
    /// A caller asks a server for the lock.
    Grant(usize, usize),
    /// A holder asks a server for more time.
    Renew(usize, usize),
    /// A holder frees the lock at a server.
    Release(usize, usize),
    /// A holder dies.
    Die(usize),
    /// The replica copies all data of the master.
    Replicate,
    /// The replica is promoted.
    Promote,
    /// The master restarts, without its data.
    Restart,
    /// The old master stops.
    Stop,
}

impl Model for Failover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick(None));
        for (c, holder) in state.holders.iter().enumerate() {
            if holder.lease.is_none() && holder.attempt < self.attempts {
                actions.extend(state.serving().map(|s| Action::Grant(c, s)));
            }
            if holder.lease.is_some() {
                actions.extend([Action::Die(c), Action::Tick(Some(c))]);
                actions.extend(state.serving().map(|s| Action::Release(c, s)));
            }
            if holder.is_valid() {
                actions.extend(state.serving().map(|s| Action::Renew(c, s)));
            }
        }
        match state.goes_on {
            Some(_) => actions.push(Action::Stop),
            None => actions.push(Action::Replicate),
        }
        if state.ids < self.failovers {
            actions.push(Action::Restart);
            if state.goes_on.is_none() {
                actions.push(Action::Promote);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(self, action)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, state: &State| {
                state.holders.iter().filter(|holder| holder.is_valid()).count() <= 1
            }),
            Property::sometimes(GRANTS_AGAIN, |_, state: &State| {
                state.holders.iter().any(|holder| holder.is_valid() && holder.after_failover)
            }),
            Property::sometimes(RENEWS, |_, state: &State| {
                state.holders.iter().any(|holder| holder.is_valid() && holder.in_quarantine)
            }),
        ]
    }
}
