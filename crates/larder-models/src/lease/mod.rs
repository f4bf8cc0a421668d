//! Leases of a rate limit: permits that are taken in batches, charged to the end of their lease, and spent by processes.
//!
//! The problem: a batch is charged at one time and spent at others, by processes that know only their own clocks, whose
//! requests and answers are late or lost, and that die. The mechanism is that of larder's limits: every decision counts
//! the bucket it is made in, a window of buckets before it, the oldest in full, and all that lies ahead; a batch, at most
//! half of what is left, is charged to the bucket in which its lease ends; its time counts from before the request left, less
//! what a clock may miss; what is not spent goes back to where it was charged, once.
//!
//! Time passes in ticks, and a bucket is a tick. Uses in ticks that are no further apart than a window may lie within one
//! span of its length, so [`BOUND`] is about a window of ticks and one more. A process's clock may miss one tick of a lease's time.
//! A request may be carried out after its sender gave it up, and its answer may never come. A process may die at
//! any point, and begins anew with nothing.
//!
//! Invariant: R1, [`BOUND`]. And, so that the model is not safe by idleness alone, all of the limit can be used out of leases,
//! and all processes can hold permits at one time.
//!
//! Not modelled: the exact log (the same with ticks without length), several quotas, turns that are booked (a model of their own), `reset`, changes
//! of quotas, a record that is lost, a server whose clock steps.

mod state;

pub use state::{Held, Left, Process, Reply, Request, State};

use stateright::{Model, Property};

/// Ticks of a window.
pub const WINDOW: usize = 2;
/// Ticks of a lease.
pub const SPAN: usize = 2;
/// Permits that a lease takes at most.
pub const BATCH: u8 = 2;

/// What may be wrong with a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A batch is charged to the time at which it is taken.
    ChargedWhenTaken,
    /// What a clock may miss is not taken off a lease's time.
    NoMargin,
    /// A lease's time counts from the answer.
    DeadlineFromAnswer,
    /// A lease is spent after its end.
    SpentAfterEnd,
    /// Who gets no answer takes the batch for granted.
    LostReplySpent,
    /// What is given back is spent all the same.
    SpentAndGivenBack,
    /// What is given back is sent twice, in case that the first was lost.
    GivenBackTwice,
    /// The oldest bucket, of which the window covers a part, is not counted.
    OldestLeftOut,
    /// What lies ahead is not counted.
    AheadLeftOut,
}

/// Who takes part, and how.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    /// How many processes.
    pub processes: usize,
    /// How much may be used in any window.
    pub limit: u8,
    /// How many requests are under way at most.
    pub requests: usize,
    /// What is wrong.
    pub mistake: Option<Mistake>,
}

/// One step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the process, if any, whose clock misses it.
    Tick(Option<usize>),
    /// Somebody uses a permit without a lease, by one decision of the server.
    Check,
    /// A process asks for a batch.
    Ask(usize),
    /// It waits for the answer no longer.
    GiveUp(usize),
    /// It uses a permit of its lease.
    Spend(usize),
    /// It gives back what its lease has left.
    GiveBack(usize),
    /// It dies, and begins anew.
    Die(usize),
    /// A request under way is carried out.
    Serve(usize),
    /// It is lost.
    Lose(usize),
    /// An answer arrives.
    Deliver(usize),
}

/// R1.
pub const BOUND: &str = "no window holds more uses than the limit";
/// The model is not safe for the reason alone that nothing happens.
pub const USED_UP: &str = "all of the limit can be used out of leases";
/// Nor because one process has it all.
pub const TWO_HOLD: &str = "all processes can hold permits at one time";

impl Model for Leases {
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
        // A lost answer is one that is given up.
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
