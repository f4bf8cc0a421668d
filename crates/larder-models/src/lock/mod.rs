//! A lock of several processes: its queue, claims, deadlines and late requests.
//!
//! The problem: each process knows only its own clock and the answers that it got; requests and answers are
//! late or lost; a process may be paused for any time. The mechanism is that of larder's lock scripts: a
//! token for each attempt, a claim for the next waiter, a confirmation that alone makes a holder, and a
//! deadline counted from before the request that was answered.
//!
//! Time passes in ticks, between any two steps. A process that is paused takes no steps, and one whose
//! wake-up is lost confirms at its heartbeat, at any time. Its clock may miss one tick of a lock's time. A
//! request may be carried out after its sender gave up, and an answer may never arrive. A process may die at
//! any point.
//!
//! Invariants, each a property below: at most one process considers itself the holder; a lock that was lost
//! stays lost; an attempt that the server has been asked to end never holds the lock. Also, to show that the
//! model is not safe only because nothing happens: every process can hold the lock, and a claim can be
//! confirmed.
//!
//! Not modelled: fences (one counter at the server, in which nothing here can go wrong), which waiters are
//! live, failover.

mod state;

pub use state::{Answer, Held, Left, Phase, Process, Reply, Request, State, Token};

use stateright::{Model, Property};

/// Ticks that the server keeps a lock.
pub const TTL: u8 = 3;
/// Ticks of a claim.
pub const CLAIM: u8 = 1;

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A release frees the lock of any holder.
    NoTokenCheck,
    /// A deadline is not shortened by what a clock may miss.
    NoMargin,
    /// The answer to a renewal also counts after the deadline.
    RevivingExtend,
    /// A process that learns of its claim considers itself the holder from then on.
    DeadlineFromPush,
    /// A deadline counts from the answer.
    DeadlineFromAnswer,
    /// An attempt that was cancelled is not remembered.
    NoTombstone,
}

/// The participants, and their parameters.
#[derive(Clone, Copy, Debug)]
pub struct LockQueue {
    /// How many processes.
    pub processes: usize,
    /// How often each tries.
    pub attempts: u8,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; the process, if any, whose clock misses it.
    Tick(Option<usize>),
    /// An attempt begins.
    Ask(usize),
    /// A waiter asks whether it is its turn.
    Confirm(usize),
    /// A process learns of its claim.
    Push(usize),
    /// A holder asks for more time.
    Extend(usize),
    /// A holder gives the lock back.
    Release(usize),
    /// An attempt or a guard is dropped.
    GoAway(usize),
    /// The process dies.
    Die(usize),
    /// A request under way is carried out.
    Serve(usize),
    /// It is lost.
    Lose(usize),
    /// An answer arrives.
    Deliver(usize),
    /// It is lost.
    LoseAnswer(usize),
}

/// L1.
pub const ONE_HOLDER: &str = "at most one process considers itself the holder";
/// L3.
pub const STAYS_LOST: &str = "a lock that was lost stays lost";
/// L5.
pub const NO_GHOST: &str = "an attempt that was ended does not hold the lock";
/// The model is not safe only because nothing happens.
pub const HANDS_OVER: &str = "a lock that was handed over can be held";

impl Model for LockQueue {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.processes)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick(None));
        for (p, process) in state.processes.iter().enumerate() {
            match process.phase {
                Phase::Idle if process.attempt < self.attempts => actions.push(Action::Ask(p)),
                Phase::Idle => {}
                Phase::Asking(_) | Phase::Confirming(_) => {
                    actions.extend([Action::GoAway(p), Action::Die(p)])
                }
                Phase::Queued => {
                    actions.extend([Action::Confirm(p), Action::GoAway(p), Action::Die(p)]);
                    if self.mistake == Some(Mistake::DeadlineFromPush) {
                        actions.push(Action::Push(p));
                    }
                }
                Phase::Holding(_) => {
                    actions.extend([
                        Action::Extend(p),
                        Action::Release(p),
                        Action::Die(p),
                        Action::Tick(Some(p)),
                    ]);
                }
                Phase::Extending { .. } => actions.extend([Action::Release(p), Action::Tick(Some(p))]),
            }
        }
        actions.extend((0..state.requests.len()).flat_map(|i| [Action::Serve(i), Action::Lose(i)]));
        actions.extend((0..state.replies.len()).flat_map(|i| [Action::Deliver(i), Action::LoseAnswer(i)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(self.mistake, action)?;
        next.normalise();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, state: &State| state.valid_holders() <= 1),
            Property::always(STAYS_LOST, |_, state: &State| {
                !state.processes.iter().any(|process| process.lost && process.is_holder())
            }),
            Property::always(NO_GHOST, |_, state: &State| {
                state.holder.is_none_or(|held| !state.ended.contains(&held.token))
            }),
            Property::sometimes(HANDS_OVER, |_, state: &State| {
                state.handed_over
                    && state.valid_holders() == 1
                    && state.processes.iter().any(|p| p.attempt > 0)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.requests.len() <= 2 && state.replies.len() <= 2
    }
}
