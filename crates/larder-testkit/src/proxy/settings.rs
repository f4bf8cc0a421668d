//! Which faults apply to which connections.
//!
//! Tracked and untracked connections have separate faults; the scope says which of the two a change applies to.

use std::num::NonZero;
use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// What the client sends: commands.
    ToServer,
    /// What the server sends: replies and pushes.
    ToClient,
    /// Both ways.
    Both,
}

#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) scope: Scope,
    tracked: Faults,
    untracked: Faults,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Scope {
    #[default]
    All,
    Tracked,
    Untracked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Tracked,
    Untracked,
}

/// The faults of the connections of one class.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) cut: bool,
    /// How often the open connections were dropped. A connection stores the number when it opens, and ends when it
    /// changes.
    pub(super) drops: u64,
    pub(super) to_server: Transit,
    pub(super) to_client: Transit,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Transit {
    pub(super) mode: Mode,
    pub(super) delay: Duration,
    /// The most bytes per second; `None` for no limit.
    pub(super) rate: Option<NonZero<u32>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Forward,
    Hold,
    Discard,
}

impl Settings {
    pub(super) fn of(&self, class: Class) -> &Faults {
        match class {
            Class::Tracked => &self.tracked,
            Class::Untracked => &self.untracked,
        }
    }

    /// The faults in scope.
    pub(super) fn faults(&mut self) -> impl Iterator<Item = &mut Faults> {
        let tracked = (self.scope != Scope::Untracked).then_some(&mut self.tracked);
        let untracked = (self.scope != Scope::Tracked).then_some(&mut self.untracked);
        tracked.into_iter().chain(untracked)
    }

    pub(super) fn transits(&mut self, direction: Direction) -> impl Iterator<Item = &mut Transit> {
        self.faults().flat_map(move |faults| {
            let to_server = (direction != Direction::ToClient).then_some(&mut faults.to_server);
            let to_client = (direction != Direction::ToServer).then_some(&mut faults.to_client);
            to_server.into_iter().chain(to_client)
        })
    }

    pub(super) fn restore(&mut self) {
        self.scope = Scope::All;
        for faults in self.faults() {
            // The count of drops stays, because changing it would end connections.
            *faults = Faults { drops: faults.drops, ..Faults::default() };
        }
    }
}

impl Faults {
    /// Whether a connection of this class, which opened when the number was `drops`, must end.
    pub(super) fn ends(&self, drops: u64) -> bool {
        self.cut || self.drops != drops
    }
}
