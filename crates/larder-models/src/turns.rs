//! Turns of a rate limit: charged for a future time, waited for, and then used in time or asked for again.
//!
//! The problem: a waiting caller's turn is charged at the time at which it will be free, and the caller
//! sleeps until then by its own clock. It may wake up late, give up, or lose what it gives back. A turn that
//! is used late is in a window whose charges did not count it. The mechanism is that of larder's limits:
//! every decision counts the bucket in which it is made, a window of buckets before it, and everything that
//! lies ahead. A turn whose caller wakes up too late is given back and not used, and its caller asks again.
//!
//! Time passes in ticks, and a bucket is a tick: late means later than the tick of the turn. Uses in ticks no
//! further apart than a window may be within one span of its length, so [`BOUND`] is about a window of ticks
//! plus one.
//!
//! Invariant: R1, [`BOUND`]. Also, to show that the model is not safe only because nothing happens: all of
//! the limit can be used by turns, and a caller can be late and still be served.
//!
//! Not modelled: leases (another model), turns of several permits, several quotas, blocks, `reset`, a record
//! that is lost, a server whose clock steps.

use stateright::{Model, Property};

/// Ticks of a window.
pub const WINDOW: usize = 2;
/// How many ticks ahead a turn may be booked.
pub const AHEAD: usize = WINDOW + 1;

/// A bucket of the record, by its distance from the last one that can be charged. Past the window it no
/// longer counts.
type Bucket = usize;

const NOW: Bucket = AHEAD;
const BUCKETS: usize = AHEAD + WINDOW + 1;

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A turn is used whenever its caller wakes up.
    UsedHoweverLate,
    /// What was used is given back as well.
    UsedAndGivenBack,
    /// A turn is given back twice, in case the first request was lost.
    GivenBackTwice,
    /// Turns that are booked do not count until their time.
    AheadLeftOut,
    /// A turn is used as soon as it is booked.
    UsedEarly,
}

/// The participants, and their parameters.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// How many callers wait.
    pub callers: usize,
    /// How much may be used in any window.
    pub limit: u8,
    /// How many refunds are under way at most.
    pub refunds: usize,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// A caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// The bucket in which its turn was charged.
    pub turn: Option<Bucket>,
    /// It was late once, and has not been served since.
    pub was_late: bool,
    /// It was late, asked again, and was served.
    pub served_late: bool,
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What was charged to each bucket.
    pub charged: [u8; BUCKETS],
    /// What was used, by how many ticks ago.
    pub uses: [u8; WINDOW + 1],
    /// The callers.
    pub callers: Vec<Caller>,
    /// Refunds on their way to the server, in no order.
    pub refunds: Vec<Bucket>,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes.
    Tick,
    /// A permit that is free now is used, by one decision of the server.
    Check,
    /// A caller books the earliest turn.
    Book(usize),
    /// The caller wakes up, at its turn or later.
    Wake(usize),
    /// The caller gives up.
    Leave(usize),
    /// A refund is carried out.
    Serve(usize),
    /// A refund is lost.
    Lose(usize),
}

/// R1.
pub const BOUND: &str = "no window holds more uses than the limit";
/// The model is not safe only because nothing happens.
pub const ALL_AHEAD: &str = "all of the limit can be booked ahead";
/// A late caller can still be served.
pub const SERVED_LATE: &str = "a caller that was late can be served after it has asked again";

impl Model for Turns {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let callers = vec![Caller::default(); self.callers];
        vec![State { charged: [0; BUCKETS], uses: [0; WINDOW + 1], callers, refunds: Vec::new() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Tick, Action::Check]);
        for (c, caller) in state.callers.iter().enumerate() {
            match caller.turn {
                None => actions.push(Action::Book(c)),
                Some(_) => actions.extend([Action::Wake(c), Action::Leave(c)]),
            }
        }
        actions.extend((0..state.refunds.len()).flat_map(|i| [Action::Serve(i), Action::Lose(i)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(self, action)?;
        next.refunds.retain(|bucket| *bucket < BUCKETS);
        // Callers are alike, and so are refunds.
        next.callers.sort_unstable();
        next.refunds.sort_unstable();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOUND, |model: &Self, state: &State| {
                state.uses.iter().sum::<u8>() <= model.limit
            }),
            Property::sometimes(ALL_AHEAD, |model: &Self, state: &State| {
                state.charged.iter().take(NOW).sum::<u8>() == model.limit
            }),
            Property::sometimes(SERVED_LATE, |_: &Self, state: &State| {
                state.callers.iter().any(|caller| caller.served_late)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.refunds.len() <= self.refunds
    }
}

impl State {
    fn apply(&mut self, model: &Turns, action: Action) -> Option<()> {
        let mistake = model.mistake;
        match action {
            Action::Tick => self.tick()?,
            // A plain check charges and uses a permit in the current bucket.
            Action::Check => {
                if self.room(model, NOW) == 0 {
                    return None;
                }
                *self.charged.get_mut(NOW)? += 1;
                *self.uses.first_mut()? += 1;
            }
            // A caller books the first bucket with room, and sleeps until it.
            Action::Book(c) => {
                let turn = (0..=NOW).rev().find(|bucket| self.room(model, *bucket) > 0)?;
                *self.charged.get_mut(turn)? += 1;
                self.callers.get_mut(c)?.turn = Some(turn);
            }
            // It wakes up: too early it sleeps on, too late it gives the turn back and asks again.
            Action::Wake(c) => {
                let caller = self.callers.get_mut(c)?;
                let turn = caller.turn?;
                if turn < NOW && mistake != Some(Mistake::UsedEarly) {
                    return None;
                }
                caller.turn = None;
                if turn > NOW && mistake != Some(Mistake::UsedHoweverLate) {
                    caller.was_late = true;
                    self.give_back(mistake, turn);
                    return Some(());
                }
                (caller.served_late, caller.was_late) = (caller.was_late, false);
                *self.uses.first_mut()? += 1;
                if mistake == Some(Mistake::UsedAndGivenBack) {
                    self.give_back(mistake, turn);
                }
            }
            // It gives up, and refunds arrive later or are lost.
            Action::Leave(c) => {
                let turn = std::mem::take(self.callers.get_mut(c)?).turn?;
                self.give_back(mistake, turn);
            }
            Action::Serve(i) => {
                let bucket = self.refunds.remove(i);
                let charged = self.charged.get_mut(bucket)?;
                *charged = charged.saturating_sub(1);
            }
            Action::Lose(i) => drop(self.refunds.remove(i)),
        }
        Some(())
    }

    fn give_back(&mut self, mistake: Option<Mistake>, turn: Bucket) {
        let times = if mistake == Some(Mistake::GivenBackTwice) { 2 } else { 1 };
        self.refunds.extend(std::iter::repeat_n(turn, times));
    }

    /// Returns what is free at the time of a bucket: all later charges count, and those of a window before
    /// it.
    fn room(&self, model: &Turns, bucket: Bucket) -> u8 {
        let from = if model.mistake == Some(Mistake::AheadLeftOut) { bucket } else { 0 };
        let counted: u8 = self.charged.iter().take(bucket + WINDOW + 1).skip(from).sum();
        model.limit.saturating_sub(counted)
    }

    fn tick(&mut self) -> Option<()> {
        for turn in self.callers.iter_mut().filter_map(|caller| caller.turn.as_mut()) {
            *turn = (*turn + 1).min(BUCKETS);
        }
        self.refunds.iter_mut().for_each(|bucket| *bucket += 1);
        self.charged.rotate_right(1);
        *self.charged.first_mut()? = 0;
        self.uses.rotate_right(1);
        *self.uses.first_mut()? = 0;
        Some(())
    }
}
