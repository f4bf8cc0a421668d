//! One entry, one process that writes it, and a sender.

use stateright::{Model, Property};

use super::{KEPT, Mistake, OWN, SENT};

/// The size of the model, and its mistake.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// How often the row changes.
    pub rows: u8,
    /// How often the entry is set.
    pub sets: u8,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// The queued deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// Changes each time it is queued again.
    pub generation: u8,
    /// It is on its way.
    pub in_flight: bool,
}

/// A call that sets the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setter {
    /// There is none.
    Idle,
    /// It has begun, when this was the last generation, to set this row.
    Begun {
        /// The last generation.
        began: u8,
        /// The row.
        row: u8,
    },
    /// Its request is on its way.
    Sent {
        /// The last generation when it began.
        began: u8,
        /// The row.
        row: u8,
    },
    /// Its request was carried out.
    Done {
        /// The last generation when it began.
        began: u8,
    },
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamesState {
    /// The database.
    pub row: u8,
    /// The newest row that this process has invalidated or set.
    pub floor: u8,
    /// What the server has: a row, and the last generation when its `set` began, if a `set` stored it.
    pub entry: Option<(u8, Option<u8>)>,
    /// The queue.
    pub item: Option<Item>,
    /// The last generation that was assigned.
    pub generation: u8,
    /// The request of the sender: the generation that it carries, and whether it was carried out.
    pub work: Option<(u8, bool)>,
    /// The call that sets.
    pub setter: Setter,
    /// How many calls have set.
    pub sets: u8,
    /// A deletion from before a `set` followed it.
    pub overtaken: bool,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamesAction {
    /// The row changes, and its deletion is queued: the request was lost.
    Delete,
    /// The sender takes the item.
    Take,
    /// Its request is carried out.
    Carry,
    /// Its answer arrives.
    Answer,
    /// Request or answer is lost, and the sender knows that.
    Fail,
    /// A call begins to set the entry.
    BeginSet,
    /// The call sends its request.
    SendSet,
    /// The request is carried out.
    CarrySet,
    /// Its answer arrives.
    EndSet,
    /// Request or answer is lost: a deletion is queued.
    FailSet,
    /// Another process fills the entry.
    Fill,
}

impl NamesState {
    fn queue(&mut self) {
        self.generation += 1;
        let in_flight = self.item.is_some_and(|item| item.in_flight);
        self.item = Some(Item { generation: self.generation, in_flight });
    }

    /// `None` if the step is not possible.
    fn apply(&mut self, model: &Names, action: NamesAction) -> Option<()> {
        match action {
            // The sender's side: an invalidation is queued, taken, carried out, answered, or fails.
            NamesAction::Delete => {
                if self.row == model.rows {
                    return None;
                }
                self.row += 1;
                self.floor = self.row;
                self.queue();
            }
            NamesAction::Take => {
                let item = self.item.as_mut().filter(|item| !item.in_flight)?;
                if self.setter != Setter::Idle && model.mistake != Some(Mistake::SentBesideWriter) {
                    return None;
                }
                item.in_flight = true;
                self.work = Some((item.generation, false));
            }
            NamesAction::Carry => {
                let (generation, done) = self.work.as_mut().filter(|(_, done)| !done)?;
                *done = true;
                let set = self.entry.and_then(|(_, began)| began);
                self.overtaken |= set.is_some_and(|began| *generation <= began);
                self.entry = None;
            }
            NamesAction::Answer => {
                let (generation, _) = self.work.take().filter(|(_, done)| *done)?;
                let item = self.item.as_mut()?;
                item.in_flight = false;
                if item.generation == generation || model.mistake == Some(Mistake::NoGenerations) {
                    self.item = None;
                }
            }
            NamesAction::Fail => {
                self.work.take()?;
                self.item.as_mut()?.in_flight = false;
            }
            // A `set` of the same name. It is not sent beside an invalidation that is under way, and it removes the
            // item only if that is older.
            NamesAction::BeginSet => {
                if self.setter != Setter::Idle || self.sets == model.sets {
                    return None;
                }
                self.sets += 1;
                self.setter = Setter::Begun { began: self.generation, row: self.row };
            }
            NamesAction::SendSet => {
                let Setter::Begun { began, row } = self.setter else { return None };
                let in_flight = self.item.is_some_and(|item| item.in_flight);
                if in_flight && model.mistake != Some(Mistake::SetBesideSent) {
                    return None;
                }
                self.setter = Setter::Sent { began, row };
            }
            NamesAction::CarrySet => {
                let Setter::Sent { began, row } = self.setter else { return None };
                self.entry = Some((row, Some(began)));
                self.setter = Setter::Done { began };
            }
            NamesAction::EndSet => {
                let Setter::Done { began } = self.setter else { return None };
                self.setter = Setter::Idle;
                let older = |item: &Item| item.generation <= began && !item.in_flight;
                let newer_too = model.mistake == Some(Mistake::RemovesNewer);
                if self.item.as_ref().is_some_and(|item| older(item) || newer_too) {
                    self.item = None;
                    self.work = None;
                }
            }
            NamesAction::FailSet => {
                if !matches!(self.setter, Setter::Sent { .. } | Setter::Done { .. }) {
                    return None;
                }
                self.setter = Setter::Idle;
                self.queue();
            }
            // Another process loads the row.
            NamesAction::Fill => {
                if self.entry.is_some() {
                    return None;
                }
                self.entry = Some((self.row, None));
            }
        }
        Some(())
    }
}

impl Model for Names {
    type State = NamesState;
    type Action = NamesAction;

    fn init_states(&self) -> Vec<NamesState> {
        vec![NamesState {
            row: 0,
            floor: 0,
            entry: Some((0, None)),
            item: None,
            generation: 0,
            work: None,
            setter: Setter::Idle,
            sets: 0,
            overtaken: false,
        }]
    }

    fn actions(&self, _: &NamesState, actions: &mut Vec<NamesAction>) {
        actions.extend([
            NamesAction::Delete,
            NamesAction::Take,
            NamesAction::Carry,
            NamesAction::Answer,
            NamesAction::Fail,
            NamesAction::BeginSet,
            NamesAction::SendSet,
            NamesAction::CarrySet,
            NamesAction::EndSet,
            NamesAction::FailSet,
            NamesAction::Fill,
        ]);
    }

    fn next_state(&self, state: &NamesState, action: NamesAction) -> Option<NamesState> {
        let mut next = state.clone();
        next.apply(self, action)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OWN, |_, state: &NamesState| {
                state.item.is_some() || state.entry.is_none_or(|(row, _)| row >= state.floor)
            }),
            Property::always(KEPT, |_, state: &NamesState| !state.overtaken),
            Property::sometimes(SENT, |_, state: &NamesState| {
                state.floor > 0 && state.item.is_none() && state.entry.is_some_and(|(row, _)| row > 0)
            }),
        ]
    }
}
