//! All steps, and the properties that must hold between them.

use stateright::{Model, Property};

use super::callers::{Phase, State};
use super::{
    ALONE, BUSY, CLAIM, DOWNGRADED, FENCE, GRANTED, HELD, NO_GHOST, NUMBER, ONE_CLAIM, ORDER, Pool, TOGETHER,
};

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the caller, if any, whose clock misses it.
    Tick(Option<usize>),
    /// An attempt begins.
    Take(usize),
    /// A waiter asks whether it is its turn.
    Confirm(usize),
    /// A holder asks for more time.
    Renew(usize),
    /// A writer asks to go on as a reader.
    Downgrade(usize),
    /// An attempt or a guard is dropped or released. A process that dies does the same, and its request is lost.
    End(usize),
    /// A waiter's process sends a heartbeat.
    FallSilent(usize),
    /// It has sent none for long.
    Silence(usize),
    /// The number of permits is set.
    Set(u8),
    /// The server's clock is set back.
    StepBack,
    /// A request under way is carried out.
    Serve(usize),
    /// A request is lost.
    Lose(usize),
    /// An answer arrives.
    Deliver(usize),
    /// An answer is lost.
    LoseAnswer(usize),
}

impl Model for Pool {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick(None));
        for (c, caller) in state.callers.iter().enumerate() {
            match caller.phase {
                Phase::Idle if caller.token.attempt < self.attempts => actions.push(Action::Take(c)),
                Phase::Idle => {}
                Phase::Asking(_) | Phase::Confirming(_) | Phase::Exchanging(_) => {
                    actions.push(Action::End(c));
                }
                Phase::Waiting => {
                    actions.extend([Action::Confirm(c), Action::FallSilent(c), Action::End(c)]);
                    if self.silence {
                        actions.push(Action::Silence(c));
                    }
                }
                Phase::Holding(left) => {
                    actions.extend([Action::End(c), Action::Tick(Some(c))]);
                    if left.ticks > 0 {
                        actions.push(Action::Renew(c));
                    }
                    if self.rw && caller.token.weight > 1 && left.ticks > 0 {
                        actions.push(Action::Downgrade(c));
                    }
                }
                Phase::Renewing { .. } => actions.extend([Action::End(c), Action::Tick(Some(c))]),
            }
        }
        if let Some(permits) = self.lowered_to.filter(|_| !state.was_set) {
            actions.push(Action::Set(permits));
        }
        // One writer has one fence.
        if self.rw && self.weights.iter().filter(|weight| **weight == self.permits).count() > 1 {
            actions.push(Action::StepBack);
        }
        actions.extend((0..state.requests.len()).flat_map(|i| [Action::Serve(i), Action::Lose(i)]));
        actions.extend((0..state.replies.len()).flat_map(|i| [Action::Deliver(i), Action::LoseAnswer(i)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(self, action)?;
        next.normalise();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NUMBER, |_, state: &State| state.valid() <= state.most),
            Property::always(GRANTED, |_, state: &State| !state.server.faults.over),
            Property::always(HELD, |_, state: &State| {
                state.callers.iter().filter(|caller| caller.is_valid()).all(|caller| {
                    let held = state.server.held.iter().find(|held| held.token == caller.token);
                    held.is_some_and(|held| held.left > 0 && held.claim.is_none())
                })
            }),
            Property::always(ORDER, |_, state: &State| !state.server.faults.overtaken),
            Property::always(BUSY, |_, state: &State| !state.server.faults.idle),
            Property::always(ONE_CLAIM, |_, state: &State| {
                let claims = state.server.held.iter().filter(|held| held.claim.is_some());
                !state.server.faults.again && claims.map(|claim| claim.left).all(|left| left <= CLAIM)
            }),
            Property::always(NO_GHOST, |_, state: &State| !state.server.has_ghost()),
        ];
        if self.weights.len() > 2 {
            properties.push(Property::sometimes(TOGETHER, |_, state: &State| {
                state.callers.iter().filter(|caller| caller.waited && caller.is_valid()).count() > 1
            }));
        }
        if self.rw {
            properties.extend([
                Property::always(ALONE, |model: &Self, state: &State| {
                    let valid = || state.callers.iter().filter(|caller| caller.is_valid());
                    !valid().any(|caller| caller.token.weight == model.permits) || valid().count() == 1
                }),
                Property::always(FENCE, |_, state: &State| !state.server.faults.fence),
            ]);
        }
        if self.rw && self.weights.len() > 2 {
            properties.push(Property::sometimes(DOWNGRADED, |_, state: &State| {
                let valid = || state.callers.iter().filter(|caller| caller.is_valid());
                valid().any(|caller| caller.downgraded) && valid().any(|caller| caller.waited)
            }));
        }
        properties
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.requests.len() + state.replies.len() <= self.under_way
    }
}
