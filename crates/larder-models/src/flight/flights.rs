//! One flight, step by step.

use super::state::{Outcome, State};
use crate::store::{Claim, Entry, Nonce, Row};
use crate::token::Token;

/// A load under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// A caller that arrives now joins it.
    pub attached: bool,
    /// The row as it was when a forced refresh started this.
    pub forced: Option<Row>,
    /// What the call that started it had found.
    pub old: Option<Row>,
    /// Its progress.
    pub stage: Stage,
}

/// The progress of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// To fill what is empty, or to refresh the value with this nonce.
    Begin(Option<Nonce>),
    /// Another process's placeholder is there.
    Waiting(Token),
    /// The row has not been read. `None`: it will not be stored.
    Loading(Option<Claim>),
    /// The row has been read.
    Loaded(Option<Claim>, Row),
    /// Another value was there. The waiters have no outcome yet.
    Found(Row),
}

impl Flight {
    /// The next step; `Err` if it was the last.
    pub(super) fn step(self, state: &mut State) -> Result<Self, Outcome> {
        let stage = match self.stage {
            Stage::Begin(seen) => self.begin(seen, state)?,
            Stage::Waiting(placeholder) if state.store.entry == Entry::Placeholder(placeholder) => self.stage,
            Stage::Waiting(_) => match state.store.entry {
                Entry::Value { row, .. } => Stage::Found(row),
                Entry::Placeholder(placeholder) => Stage::Waiting(placeholder),
                Entry::Empty => Stage::Begin(None),
            },
            Stage::Found(row) => return Err(Outcome::Value(row)),
            Stage::Loading(claim) => Stage::Loaded(claim, state.row),
            Stage::Loaded(claim, row) => {
                if let Some(claim) = claim
                    && !state.commit(claim, row)
                    && self.forced.is_some()
                {
                    state.store.delete();
                }
                // Without a fence, a forced refresh has promised nothing to later callers.
                let lasts = self.forced.filter(|_| claim.is_some());
                return Err(lasts.map_or(Outcome::Value(row), |begun| Outcome::Refreshed(row, begun)));
            }
        };
        Ok(Self { stage, ..self })
    }

    fn begin(self, seen: Option<Nonce>, state: &mut State) -> Result<Stage, Outcome> {
        let token = state.fresh();
        if self.forced.is_some() {
            let claim = match state.store.entry {
                Entry::Value { nonce, .. } => state.store.take_over_refresh(token, nonce),
                Entry::Empty | Entry::Placeholder(_) => state.store.take_over_entry(token),
            };
            return Ok(Stage::Loading(Some(claim)));
        }
        if let Some(nonce) = seen {
            // Another process refreshes it: the old value is returned.
            let claim = state.store.begin_refresh(token, nonce).ok_or(Outcome::Nothing)?;
            return Ok(Stage::Loading(Some(claim)));
        }
        match state.store.begin_fill(token) {
            Ok(claim) => Ok(Stage::Loading(Some(claim))),
            Err(Entry::Value { row, .. }) => Ok(Stage::Found(row)),
            Err(Entry::Placeholder(placeholder)) => Ok(Stage::Waiting(placeholder)),
            Err(Entry::Empty) => Ok(Stage::Begin(None)),
        }
    }

    /// Whether it has changed the store, or still will.
    pub(super) fn holds_a_fence(&self) -> bool {
        match self.stage {
            Stage::Begin(_) | Stage::Waiting(_) => true,
            Stage::Loading(claim) | Stage::Loaded(claim, _) => claim.is_some(),
            Stage::Found(_) => false,
        }
    }

    /// An order that does not depend on how tokens are named.
    pub(super) fn rank(&self) -> (bool, Option<Row>, u8, Row) {
        let (stage, row) = match self.stage {
            Stage::Begin(seen) => (u8::from(seen.is_some()), 0),
            Stage::Waiting(_) => (2, 0),
            Stage::Loading(claim) => (3 + u8::from(claim.is_some()), 0),
            Stage::Loaded(claim, row) => (5 + u8::from(claim.is_some()), row),
            Stage::Found(row) => (7, row),
        };
        (self.attached, self.forced, stage, row)
    }

    pub(super) fn tokens(&mut self) -> impl Iterator<Item = &mut Token> {
        let (first, second) = match &mut self.stage {
            Stage::Begin(Some(Nonce::Random(token))) | Stage::Waiting(token) => (Some(token), None),
            Stage::Loading(Some(claim)) | Stage::Loaded(Some(claim), _) => match claim {
                Claim::Placeholder(token) => (Some(token), None),
                Claim::Refresh { token, nonce: Nonce::Random(nonce) } => (Some(token), Some(nonce)),
                Claim::Refresh { token, .. } => (Some(token), None),
            },
            Stage::Begin(_) | Stage::Found(_) | Stage::Loading(None) | Stage::Loaded(None, _) => (None, None),
        };
        first.into_iter().chain(second)
    }
}
