//! A tag's version in the memory of a process that invalidates the tag itself.
//!
//! The problem: a version in memory is dropped by a push on the tracked connection. The process's own
//! invalidation is answered on another connection, and may return before the push arrives. The mechanism:
//! when an invalidation returns, it drops what is in memory and cancels the fetch under way, whose reply may
//! be older. The next reader fetches again.
//!
//! Invariants: what is in memory is no older than an own invalidation that has returned (C1), and while it is
//! older than the server's version, a push is on its way (C2).
//!
//! Not modelled: a broken connection (memory is emptied before it serves again), several tags.

use stateright::{Model, Property};

/// How many invalidations there are, of this process and others.
const MOST: u8 = 4;

/// What an own invalidation does to the memory when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReturn {
    /// Drops it, and cancels the fetch under way.
    DropsBoth,
    /// Drops it, and keeps the reply of the fetch under way.
    DropsMemory,
    /// Leaves it to the push.
    Nothing,
    /// Stores the new version there.
    PutsOwn,
}

/// A process with one tag.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What an own invalidation does.
    pub on_return: OnReturn,
}

/// What the server has sent on the tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// The tag's version, and whether its reply is still wanted.
    Version(u8, Wanted),
    /// The tag's version has changed.
    Changed,
}

/// Whether a fetch's reply is put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// It is.
    Yes,
    /// The fetch was cancelled.
    No,
}

/// Versions are counted here, so that "older" has a meaning; the protocol only compares them for equality.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// At the server.
    pub version: u8,
    /// The server will push the next change.
    pub tracked: bool,
    /// In memory.
    pub memory: Option<u8>,
    /// A fetch that has not reached the server.
    pub asked: Option<Wanted>,
    /// On its way from the server.
    pub wire: Vec<Message>,
    /// An own invalidation that has taken effect, and not returned.
    pub own: Option<u8>,
    /// The newest own invalidation that has returned.
    pub floor: u8,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A reader finds nothing in memory and no fetch under way: it starts one.
    Ask,
    /// The server answers.
    Answer,
    /// The next message arrives.
    Receive,
    /// This process invalidates the tag, on another connection.
    Own,
    /// That call returns.
    Return,
    /// Another process invalidates the tag, or the server loses the version.
    Foreign,
}

/// C1.
pub const OWN: &str = "memory is no older than an own invalidation that has returned";
/// C2.
pub const COHERENT: &str = "while memory is older than the server, a push is on its way";

impl State {
    fn change(&mut self) {
        self.version += 1;
        if std::mem::take(&mut self.tracked) {
            self.wire.push(Message::Changed);
        }
    }

    fn fetching(&self) -> bool {
        let answered = |message: &Message| matches!(message, Message::Version(_, Wanted::Yes));
        self.asked == Some(Wanted::Yes) || self.wire.iter().any(answered)
    }

    fn give_up(&mut self) {
        self.asked = self.asked.map(|_| Wanted::No);
        for message in &mut self.wire {
            if let Message::Version(_, wanted) = message {
                *wanted = Wanted::No;
            }
        }
    }
}

impl Model for Memory {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (memory, asked, own) = (None, None, None);
        vec![State { version: 0, tracked: false, memory, asked, wire: Vec::new(), own, floor: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // A cancelled fetch is still ahead on the same connection.
        if state.memory.is_none() && !state.fetching() && state.asked.is_none() {
            actions.push(Action::Ask);
        }
        if state.asked.is_some() {
            actions.push(Action::Answer);
        }
        if !state.wire.is_empty() {
            actions.push(Action::Receive);
        }
        if state.own.is_some() {
            actions.push(Action::Return);
        }
        if state.version < MOST {
            actions.push(Action::Foreign);
            if state.own.is_none() {
                actions.push(Action::Own);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Ask => next.asked = Some(Wanted::Yes),
            Action::Answer => {
                let wanted = next.asked.take()?;
                next.tracked = true;
                next.wire.push(Message::Version(next.version, wanted));
            }
            Action::Receive => match next.wire.remove(0) {
                Message::Version(version, Wanted::Yes) => next.memory = Some(version),
                Message::Version(_, Wanted::No) => {}
                Message::Changed => next.memory = None,
            },
            Action::Own => {
                next.change();
                next.own = Some(next.version);
            }
            Action::Return => {
                let own = next.own.take()?;
                next.floor = own;
                match self.on_return {
                    OnReturn::Nothing => {}
                    OnReturn::DropsMemory => next.memory = None,
                    OnReturn::PutsOwn => {
                        next.memory = Some(own);
                        next.give_up();
                    }
                    OnReturn::DropsBoth => {
                        next.memory = None;
                        next.give_up();
                    }
                }
            }
            Action::Foreign => next.change(),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OWN, |_, state: &State| {
                state.memory.is_none_or(|version| version >= state.floor)
            }),
            Property::always(COHERENT, |_, state: &State| {
                state.memory.is_none_or(|version| version == state.version)
                    || state.wire.contains(&Message::Changed)
            }),
            Property::sometimes("memory can be had", |_, state: &State| state.memory.is_some()),
        ]
    }
}
