//! Time, which does not pass unless a scenario says so.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) const START: Self = Self(0);

    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    pub(crate) fn mono(self) -> u64 {
        self.0
    }

    pub(crate) fn awake(self) -> u64 {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(pub(crate) Duration);

impl Tick {
    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
