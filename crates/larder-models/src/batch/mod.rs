//! Batches of a rate limit: permits that are taken in batches, charged to the end of their batch, and spent by
//! processes.
//!
//! The problem: a batch is charged at one time and spent at others, by processes that know only their own
//! clocks, whose requests and answers are late or lost, and that die. The mechanism is that of larder's
//! limits: every decision counts the bucket in which it is made, a window of buckets before it, the oldest in
//! full, and everything that lies ahead. A batch, at most half of what is left, is charged to the bucket in
//! which its batch ends. The batch's time counts from before the request left, less what a clock may miss.
//! What is not spent is given back once, where it was charged.
//!
//! Time passes in ticks, and a bucket is a tick. Uses in ticks no further apart than a window may be within
//! one span of its length, so [`BOUND`] is about a window of ticks plus one. A process's clock may miss one
//! tick of a batch's time. A request may be carried out after its sender gave up, and its answer may never
//! arrive. A process may die at any point, and starts again with nothing.
//!
//! Invariant: R1, [`BOUND`]. Also, to show that the model is not safe only because nothing happens: all of
//! the limit can be used from batches, and all processes can hold permits at one time.
//!
//! Not modelled: the exact log (the same with ticks without length), several quotas, turns that are booked
//! (another model), `reset`, changes of quotas, a record that is lost, a server whose clock steps.

mod state;

pub use state::{Held, Left, Process, Reply, Request, State};

use stateright::{Model, Property};

/// Ticks of a window.
pub const WINDOW: usize = 2;
/// Ticks of a batch.
pub const SPAN: usize = 2;
/// The most permits of a batch.
pub const BATCH: u8 = 2;

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A batch is charged to the time at which it is taken.
    ChargedWhenTaken,
    /// A batch's time is not shortened by what a clock may miss.
    NoMargin,
    /// A batch's time counts from the answer.
    DeadlineFromAnswer,
    /// A batch is spent after its end.
    SpentAfterEnd,
    /// A process that gets no answer assumes that it has the batch.
    LostReplySpent,
    /// What is given back is spent as well.
    SpentAndGivenBack,
    /// What is given back is sent twice, in case the first request was lost.
    GivenBackTwice,
    /// The oldest bucket, which is partly in the window, does not count.
    OldestLeftOut,
    /// What lies ahead does not count.
    AheadLeftOut,
}

/// The participants, and their parameters.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// How many processes.
    pub processes: usize,
    /// How much may be used in any window.
    pub limit: u8,
    /// How many requests are under way at most.
    pub requests: usize,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the process, if any, whose clock misses it.
    Tick(Option<usize>),
    /// A permit is used without a batch, by one decision of the server.
    Check,
    /// A process asks for a batch.
    Ask(usize),
    /// A process stops waiting for the answer.
    GiveUp(usize),
    /// A process uses a permit of its batch.
    Spend(usize),
    /// A process gives back what is left of its batch.
    GiveBack(usize),
    /// A process dies, and starts again.
    Die(usize),
    /// A request under way is carried out.
    Serve(usize),
    /// A request is lost.
    Lose(usize),
    /// An answer arrives.
    Deliver(usize),
}

/// R1.
pub const BOUND: &str = "no window holds more uses than the limit";
/// The model is not safe only because nothing happens.
pub const USED_UP: &str = "all of the limit can be used out of batches";
/// The model is not safe only because one process has everything.
pub const TWO_HOLD: &str = "all processes can hold permits at one time";

impl Model for Batches {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.processes)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Tick(None), Action::Check]);
        for (p, process) in state.processes.iter().enumerate() {
            if process.asking.is_none() {
                actions.push(Action::Ask(p));
            } else {
                actions.push(Action::GiveUp(p));
            }
            if process.held.is_some() {
                actions.extend([Action::Spend(p), Action::GiveBack(p)]);
            }
            if process.held.is_some() || process.asking.is_some() {
                actions.extend([Action::Tick(Some(p)), Action::Die(p)]);
            }
        }
        actions.extend((0..state.requests.len()).flat_map(|i| [Action::Serve(i), Action::Lose(i)]));
        // A lost answer is one whose process has given up.
        actions.extend((0..state.replies.len()).map(Action::Deliver));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(self.limit, self.mistake, action)?;
        next.normalise();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOUND, |model: &Self, state: &State| state.used() <= model.limit),
            Property::sometimes(USED_UP, |model: &Self, state: &State| {
                state.used() == model.limit && state.all_ahead()
            }),
            Property::sometimes(TWO_HOLD, |model: &Self, state: &State| {
                state.processes.iter().filter(|process| process.held.is_some()).count() == model.processes
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.requests.len() <= self.requests
    }
}
