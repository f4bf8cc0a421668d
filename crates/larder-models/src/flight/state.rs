//! One process, another that fills the same key, and the server between them.

use super::Action;
use super::flights::{Flight, Stage};
use super::rules::{Detach, Forced, Old, Rules};
use crate::store::{Check, Checks, Claim, Entry, Nonce, Row, Store};
use crate::token::{Renaming, Token};

/// A call of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// There is none.
    Idle,
    /// It has read the store.
    HasRead {
        /// What was complete when it started.
        floor: Row,
        /// The value that it found and considers too old.
        old: Option<(Row, Nonce)>,
        /// It is a forced refresh.
        forced: bool,
    },
    /// It waits for a flight.
    Joined {
        /// The flight.
        flight: usize,
        /// What was complete when it started.
        floor: Row,
        /// The value that it found and considers too old.
        old: Option<Row>,
    },
}

impl Caller {
    /// An order that does not depend on how tokens are named.
    fn rank(&self) -> (usize, Row, Option<Row>, bool) {
        match *self {
            Self::Idle => (0, 0, None, false),
            Self::HasRead { floor, old, forced } => (1, floor, old.map(|(row, _)| row), forced),
            Self::Joined { flight, floor, old } => (2 + flight, floor, old, false),
        }
    }
}

/// A writer of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writer {
    /// Has nothing to do.
    Ready,
    /// Has changed the row to this.
    Wrote(Row),
    /// Has begun to delete the entry.
    Deleting(Row),
    /// The entry is deleted, and the call has not returned.
    Deleted(Row),
}

/// The other process's fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// None.
    Idle,
    /// Begun.
    Loading(Claim),
    /// The row is read.
    Loaded(Claim, Row),
}

/// What a flight ends in.
pub(super) enum Outcome {
    /// A value.
    Value(Row),
    /// A forced refresh's value, and the row as it was when that started.
    Refreshed(Row, Row),
    /// The loader failed, or another process is loading.
    Nothing,
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The server.
    pub store: Store,
    /// The database.
    pub row: Row,
    /// The newest row whose delete by this process has returned, or with which a forced refresh began that
    /// has returned.
    pub floor: Row,
    /// This process's calls.
    pub callers: Vec<Caller>,
    /// Its flights.
    pub flights: Vec<Option<Flight>>,
    /// Its writers.
    pub writers: Vec<Writer>,
    /// The other process.
    pub remote: Remote,
    /// A call has returned something too old.
    pub broken: bool,
}

impl State {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            store: Store { entry: Entry::Empty, refresh: None },
            row: 0,
            floor: 0,
            callers: vec![Caller::Idle; rules.callers],
            flights: vec![None; rules.flights],
            writers: vec![Writer::Ready; rules.writers],
            remote: Remote::Idle,
            broken: false,
        }
    }

    /// `None` if the step is not possible.
    pub(super) fn apply(&mut self, rules: &Rules, action: Action) -> Option<()> {
        match action {
            // Callers. A caller records the newest row that a completed write has deleted: it may get nothing older.
            Action::Call(c) => {
                let found = match self.store.entry {
                    Entry::Value { row, .. } => return self.returned(self.floor, row),
                    Entry::Empty | Entry::Placeholder(_) => None,
                };
                *self.callers.get_mut(c)? = Caller::HasRead { floor: self.floor, old: found, forced: false };
            }
            Action::CallForFresher(c) => {
                let Entry::Value { row, nonce, .. } = self.store.entry else { return None };
                let old = Some((row, nonce));
                *self.callers.get_mut(c)? = Caller::HasRead { floor: self.floor, old, forced: false };
            }
            Action::Force(c) => {
                *self.callers.get_mut(c)? = Caller::HasRead { floor: self.row, old: None, forced: true };
            }
            Action::Join(c) => self.join(rules, c)?,
            Action::TimesOut(c) => {
                let Caller::Joined { flight, floor, old } = *self.callers.get(c)? else { return None };
                let of_flight = self.flights.get(flight)?.and_then(|flight| flight.old);
                let row = if rules.old == Old::OfTheCaller { old } else { of_flight }?;
                self.returned(floor, row);
                *self.callers.get_mut(c)? = Caller::Idle;
            }
            Action::GoesAway(c) => *self.callers.get_mut(c)? = Caller::Idle,
            // Flights. A begin whose reply is lost goes on without a fence; a failed load abandons its own.
            Action::Fly(f) => {
                let flight = (*self.flights.get(f)?)?;
                match flight.step(self) {
                    Ok(flight) => *self.flights.get_mut(f)? = Some(flight),
                    Err(outcome) => self.finish(rules, f, &outcome),
                }
            }
            Action::BeginLost(f) => {
                let flight = (*self.flights.get(f)?)?;
                let after = flight.step(self).unwrap_or(flight);
                *self.flights.get_mut(f)? = Some(Flight { stage: Stage::Loading(None), ..after });
            }
            Action::Fail(f) => {
                let flight = (*self.flights.get(f)?)?;
                if let Stage::Loading(Some(claim)) | Stage::Loaded(Some(claim), _) = flight.stage {
                    self.store.abandon(claim.token());
                }
                self.finish(rules, f, &Outcome::Nothing);
            }
            // Writers: the row first, then the entry. The rules say when a write detaches flights.
            Action::WriteRow(w) => {
                self.row += 1;
                *self.writers.get_mut(w)? = Writer::Wrote(self.row);
            }
            Action::BeginDelete(w) => {
                let Writer::Wrote(row) = *self.writers.get(w)? else { return None };
                *self.writers.get_mut(w)? = Writer::Deleting(row);
                self.detach_if(rules.detach == Detach::WhenBegun);
            }
            Action::Delete(w) => {
                let Writer::Deleting(row) = *self.writers.get(w)? else { return None };
                *self.writers.get_mut(w)? = Writer::Deleted(row);
                self.store.delete();
            }
            Action::Return(w) => {
                let Writer::Deleted(row) = *self.writers.get(w)? else { return None };
                self.floor = self.floor.max(row);
                *self.writers.get_mut(w)? = Writer::Ready;
                self.detach_if(rules.detach == Detach::WhenDone);
            }
            Action::GiveUp(w) => {
                *self.writers.get_mut(w)? = Writer::Ready;
                self.detach_if(rules.detach == Detach::WhenDone);
            }
            // Another process, and what ends on the server.
            Action::Remote => self.fly_remote(),
            Action::EntryVanishes => self.store.entry = Entry::Empty,
            Action::ClaimVanishes => self.store.refresh = None,
        }
        Some(())
    }

    fn returned(&mut self, floor: Row, row: Row) -> Option<()> {
        self.broken |= row < floor;
        Some(())
    }

    fn detach_if(&mut self, now: bool) {
        self.flights.iter_mut().flatten().for_each(|flight| flight.attached &= !now);
    }

    fn join(&mut self, rules: &Rules, c: usize) -> Option<()> {
        let Caller::HasRead { floor, old, forced } = *self.callers.get(c)? else { return None };
        let attached = self.flights.iter().position(|flight| flight.is_some_and(|flight| flight.attached));
        let starts_own = forced && rules.join != Forced::Joins;
        let flight = match attached {
            Some(flight) if !starts_own => flight,
            _ => {
                let free = self.flights.iter().position(Option::is_none)?;
                let beside = starts_own && rules.join == Forced::FliesBeside;
                self.detach_if(!beside);
                *self.flights.get_mut(free)? = Some(Flight {
                    attached: !beside,
                    forced: forced.then_some(floor),
                    old: old.map(|(row, _)| row),
                    stage: Stage::Begin(old.map(|(_, nonce)| nonce)),
                });
                free
            }
        };
        *self.callers.get_mut(c)? = Caller::Joined { flight, floor, old: old.map(|(row, _)| row) };
        Some(())
    }

    /// Takes a flight out of the table, and gives all waiters its outcome.
    fn finish(&mut self, rules: &Rules, f: usize, outcome: &Outcome) {
        let landed = self.flights.get_mut(f).and_then(Option::take);
        for c in 0..self.callers.len() {
            let Some(Caller::Joined { flight, floor, old }) = self.callers.get(c).copied() else { continue };
            if flight != f {
                continue;
            }
            let of_flight = landed.and_then(|flight| flight.old);
            let row = match outcome {
                Outcome::Value(row) | Outcome::Refreshed(row, _) => Some(*row),
                Outcome::Nothing if rules.old == Old::OfTheCaller => old,
                Outcome::Nothing => of_flight,
            };
            if let Some(row) = row {
                self.returned(floor, row);
            }
            if let Some(caller) = self.callers.get_mut(c) {
                *caller = Caller::Idle;
            }
        }
        if let Outcome::Refreshed(_, begun) = outcome {
            self.floor = self.floor.max(*begun);
            self.detach_if(rules.join == Forced::FencesAsAWrite);
        }
    }

    fn fly_remote(&mut self) {
        self.remote = match self.remote {
            Remote::Idle => {
                let token = self.fresh();
                self.store.begin_fill(token).map_or(Remote::Idle, Remote::Loading)
            }
            Remote::Loading(claim) => Remote::Loaded(claim, self.row),
            Remote::Loaded(claim, row) => {
                self.commit(claim, row);
                Remote::Idle
            }
        };
    }

    pub(super) fn commit(&mut self, claim: Claim, row: Row) -> bool {
        let fresh = self.fresh();
        let checks = Checks { placeholder: Check::Made, nonce: Check::Made, refresh: Check::Made };
        self.store.commit(claim, row, fresh, checks)
    }

    /// Sorts the flights, and drops what no longer matters.
    fn forget(&mut self, rules: &Rules) {
        for f in 0..self.flights.len() {
            let awaited = self
                .callers
                .iter()
                .any(|caller| matches!(caller, Caller::Joined { flight, .. } if *flight == f));
            let Some(slot) = self.flights.get_mut(f) else { continue };
            if rules.old == Old::OfTheCaller {
                slot.iter_mut().for_each(|flight| flight.old = None);
            }
            let idle = |flight: &Flight| !flight.attached && !awaited && !flight.holds_a_fence();
            if slot.as_ref().is_some_and(idle) {
                *slot = None;
            }
        }
        let mut order: Vec<usize> = (0..self.flights.len()).collect();
        order.sort_by_key(|f| self.flights.get(*f).copied().flatten().map(|flight| flight.rank()));
        self.flights = order.iter().filter_map(|f| self.flights.get(*f).copied()).collect();
        for caller in &mut self.callers {
            if let Caller::Joined { flight, .. } = caller {
                *flight = order.iter().position(|f| f == flight).unwrap_or(*flight);
            }
        }
    }

    /// A token that differs from all that are remembered.
    pub(super) fn fresh(&self) -> Token {
        let mut fresh = Token(0);
        self.clone().tokens(&mut |token| fresh = fresh.max(Token(token.0 + 1)));
        fresh
    }

    pub(super) fn normalise(&mut self, rules: &Rules) {
        if rules.sorted {
            self.forget(rules);
            self.callers.sort_by_key(Caller::rank);
        }
        let mut renaming = Renaming::default();
        self.tokens(&mut |token| renaming.rename(token));
    }

    fn tokens(&mut self, visit: &mut impl FnMut(&mut Token)) {
        match &mut self.store.entry {
            Entry::Value { nonce: Nonce::Random(token), .. } | Entry::Placeholder(token) => visit(token),
            Entry::Value { .. } | Entry::Empty => {}
        }
        if let Some(refresh) = &mut self.store.refresh {
            visit(&mut refresh.token);
            if let Nonce::Random(nonce) = &mut refresh.nonce {
                visit(nonce);
            }
        }
        self.flights.iter_mut().flatten().flat_map(Flight::tokens).for_each(&mut *visit);
        for caller in &mut self.callers {
            if let Caller::HasRead { old: Some((_, Nonce::Random(token))), .. } = caller {
                visit(token);
            }
        }
        match &mut self.remote {
            Remote::Loading(Claim::Placeholder(token)) | Remote::Loaded(Claim::Placeholder(token), _) => {
                visit(token)
            }
            Remote::Idle | Remote::Loading(_) | Remote::Loaded(..) => {}
        }
    }
}
