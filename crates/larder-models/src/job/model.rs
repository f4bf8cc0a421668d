//! All steps, and the properties that must hold between them.

use stateright::{Model, Property};

use super::state::{Phase, State};
use super::{
    AT_MOST_ONCE, ATTEMPTS, EVERY, Job, LOSS_NOTICED, NEXT, NO_GHOST, ONCE, ONE_RUN, OWN_PERIOD, PERIODS,
    RETRIED, TRIES, TRUE_RECORD,
};

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the process, if any, whose clock misses it.
    Tick(Option<usize>),
    /// The server's clock is set back by a period.
    StepBack,
    /// A process calls `run`.
    Begin(usize),
    /// A body ends, in success or failure.
    Finish(usize, bool),
    /// An end that was not answered is sent again.
    Again(usize),
    /// A call is dropped, or its lease has ended. A process that dies does the same, and its request is lost.
    GoAway(usize),
    /// A request under way is carried out.
    Serve(usize),
    /// It is lost.
    Lose(usize),
    /// An answer arrives.
    Deliver(usize),
    /// It is lost.
    LoseAnswer(usize),
}

impl Model for Job {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now + 1 < EVERY * PERIODS {
            actions.push(Action::Tick(None));
            actions.extend((0..self.processes).map(|p| Action::Tick(Some(p))));
        }
        if !state.stepped_back {
            actions.push(Action::StepBack);
        }
        for (p, process) in state.processes.iter().enumerate() {
            match process.phase {
                Phase::Idle if process.run < self.runs => actions.push(Action::Begin(p)),
                Phase::Idle => {}
                Phase::Beginning(_) => actions.push(Action::GoAway(p)),
                Phase::Running(left, _) => {
                    actions.push(Action::GoAway(p));
                    if left.ticks > 0 {
                        actions.extend([Action::Finish(p, true), Action::Finish(p, false)]);
                    }
                }
                Phase::Ending(..) => actions.extend([Action::Again(p), Action::GoAway(p)]),
            }
        }
        actions.extend((0..state.requests.len()).flat_map(|i| [Action::Serve(i), Action::Lose(i)]));
        actions.extend((0..state.replies.len()).flat_map(|i| [Action::Deliver(i), Action::LoseAnswer(i)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        if let Action::Tick(Some(p)) = action
            && state.processes.get(p).is_none_or(|process| process.phase == Phase::Idle)
        {
            return None;
        }
        let mut next = state.clone();
        next.apply(self, action)?;
        next.normalise();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_RUN, |_, state: &State| state.running() <= 1),
            Property::always(ONCE, |_, state: &State| {
                state.periods.iter().all(|period| period.completed.len() <= 1)
            }),
            Property::always(OWN_PERIOD, |_, state: &State| !state.foreign),
            Property::always(TRIES, |_, state: &State| {
                // A clock that is set back makes an earlier period the last one again, with all its tries.
                let often = state.periods.iter().any(|period| period.begun > ATTEMPTS);
                !state.too_early && (state.stepped_back || !often)
            }),
            Property::always(TRUE_RECORD, |_, state: &State| {
                let done = state.record.done.and_then(|done| state.periods.get(usize::from(done)));
                done.is_none_or(|period| period.ended_well)
            }),
            Property::always(LOSS_NOTICED, |_, state: &State| !state.misheard),
            Property::always(NO_GHOST, |_, state: &State| {
                state.lock.is_none_or(|(token, _)| !state.ended.contains(&token))
            }),
            Property::sometimes(NEXT, |_, state: &State| {
                state.periods.iter().all(|period| !period.completed.is_empty())
            }),
        ];
        properties.push(if self.at_most_once {
            Property::always(AT_MOST_ONCE, |_, state: &State| {
                state.periods.iter().all(|period| period.begun <= 1)
            })
        } else {
            Property::sometimes(RETRIED, |_, state: &State| {
                state.periods.iter().any(|period| period.begun > 1 && !period.completed.is_empty())
            })
        });
        properties
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.requests.len() + state.replies.len() <= self.under_way
    }
}
