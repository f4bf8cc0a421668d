//! One tag and the epoch, a sender, and a loader of another process.

use stateright::{Model, Property};

use super::{Mistake, OWN, STORED};

/// The size of the model, and its mistake.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    /// How often the row changes, and the tag is invalidated.
    pub rows: u8,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// A queued replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queued {
    /// Changes each time it is queued again.
    pub generation: u8,
    /// It is on its way.
    pub in_flight: bool,
}

/// A request of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    /// The generation that it carries.
    pub generation: u8,
    /// The last generation that was assigned when it was taken.
    pub taken_at: u8,
    /// It was carried out.
    pub done: bool,
}

/// A loader of another process, which names the tag itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loader {
    /// There is none.
    Idle,
    /// It knows the epoch.
    Epoch(u8),
    /// It knows the epoch and the row.
    Row(u8, u8),
    /// It knows the epoch, the row and the tag's version, which is the third value.
    Tag(u8, u8, u8),
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagsState {
    /// The database.
    pub row: u8,
    /// The newest row that was invalidated.
    pub floor: u8,
    /// The server's version of the tag. A number here; a random one would do.
    pub tag: u8,
    /// The server's epoch.
    pub epoch: u8,
    /// What the server has: a row, and the version of the tag that it carries.
    pub entry: Option<(u8, u8)>,
    /// The queue: the tag.
    pub queued_tag: Option<Queued>,
    /// The queue: the epoch.
    pub queued_epoch: Option<Queued>,
    /// The last generation that was assigned.
    pub generation: u8,
    /// Tags with a generation up to this one may be sent.
    pub epoch_replaced: u8,
    /// The request about the tag.
    pub sent_tag: Option<Sent>,
    /// The request about the epoch.
    pub sent_epoch: Option<Sent>,
    /// The loader.
    pub loader: Loader,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagsAction {
    /// The row changes, and the tag's invalidation is queued.
    Invalidate,
    /// The sender takes the epoch.
    TakeEpoch,
    /// The sender takes the tag.
    TakeTag,
    /// The request about the epoch is carried out.
    CarryEpoch,
    /// The request about the tag is carried out.
    CarryTag,
    /// The answer about the epoch arrives.
    AnswerEpoch,
    /// The answer about the tag arrives.
    AnswerTag,
    /// The request about the epoch, or its answer, is lost.
    FailEpoch,
    /// The request about the tag, or its answer, is lost.
    FailTag,
    /// The loader takes its next step.
    Load,
}

fn take(queued: &mut Option<Queued>, taken_at: u8) -> Option<Sent> {
    let item = queued.as_mut().filter(|item| !item.in_flight)?;
    item.in_flight = true;
    Some(Sent { generation: item.generation, taken_at, done: false })
}

fn answer(queued: &mut Option<Queued>, sent: &Sent) {
    match queued {
        Some(item) if item.generation == sent.generation => *queued = None,
        Some(item) => item.in_flight = false,
        None => {}
    }
}

fn queue(queued: &mut Option<Queued>, generation: u8) {
    let in_flight = queued.is_some_and(|item| item.in_flight);
    *queued = Some(Queued { generation, in_flight });
}

fn fail(queued: &mut Option<Queued>, sent: &mut Option<Sent>) -> Option<()> {
    sent.take()?;
    queued.as_mut()?.in_flight = false;
    Some(())
}

impl TagsState {
    /// `None` if the step is not possible.
    fn apply(&mut self, model: &Tags, action: TagsAction) -> Option<()> {
        match action {
            // A tag is invalidated while the server is away: the tag and an epoch replacement are queued.
            TagsAction::Invalidate => {
                if self.row == model.rows {
                    return None;
                }
                self.row += 1;
                self.floor = self.row;
                self.generation += 1;
                queue(&mut self.queued_tag, self.generation);
                self.generation += 1;
                queue(&mut self.queued_epoch, self.generation);
            }
            // Each is sent, carried out, answered, or fails. A tag waits for an epoch replacement that was sent after
            // the tag was queued.
            TagsAction::TakeEpoch => self.sent_epoch = Some(take(&mut self.queued_epoch, self.generation)?),
            TagsAction::TakeTag => {
                let early = self.queued_tag?.generation > self.epoch_replaced;
                if early && model.mistake != Some(Mistake::TagFirst) {
                    return None;
                }
                self.sent_tag = Some(take(&mut self.queued_tag, self.generation)?);
            }
            TagsAction::CarryEpoch => {
                self.sent_epoch.as_mut().filter(|sent| !sent.done)?.done = true;
                self.epoch += 1;
            }
            TagsAction::CarryTag => {
                self.sent_tag.as_mut().filter(|sent| !sent.done)?.done = true;
                self.tag += 1;
            }
            TagsAction::AnswerEpoch => {
                let sent = self.sent_epoch.take().filter(|sent| sent.done)?;
                let counts_for = match model.mistake {
                    Some(Mistake::EpochOfAnswer) => self.generation,
                    _ => sent.taken_at,
                };
                self.epoch_replaced = self.epoch_replaced.max(counts_for);
                answer(&mut self.queued_epoch, &sent);
            }
            TagsAction::AnswerTag => {
                let sent = self.sent_tag.take().filter(|sent| sent.done)?;
                answer(&mut self.queued_tag, &sent);
            }
            TagsAction::FailEpoch => fail(&mut self.queued_epoch, &mut self.sent_epoch)?,
            TagsAction::FailTag => fail(&mut self.queued_tag, &mut self.sent_tag)?,
            // A loader of another process: the epoch, the row, the tag; it stores only if the epoch is the same.
            TagsAction::Load => {
                self.loader = match self.loader {
                    Loader::Idle => Loader::Epoch(self.epoch),
                    Loader::Epoch(epoch) => Loader::Row(epoch, self.row),
                    Loader::Row(epoch, row) => Loader::Tag(epoch, row, self.tag),
                    Loader::Tag(epoch, row, tag) => {
                        if epoch == self.epoch {
                            self.entry = Some((row, tag));
                        }
                        Loader::Idle
                    }
                };
            }
        }
        Some(())
    }

    /// The row that a reader of this process gets.
    fn served(&self) -> Option<u8> {
        let (row, tag) = self.entry?;
        (tag == self.tag && self.queued_tag.is_none()).then_some(row)
    }
}

impl Model for Tags {
    type State = TagsState;
    type Action = TagsAction;

    fn init_states(&self) -> Vec<TagsState> {
        vec![TagsState {
            row: 0,
            floor: 0,
            tag: 0,
            epoch: 0,
            entry: Some((0, 0)),
            queued_tag: None,
            queued_epoch: None,
            generation: 0,
            epoch_replaced: 0,
            sent_tag: None,
            sent_epoch: None,
            loader: Loader::Idle,
        }]
    }

    fn actions(&self, _: &TagsState, actions: &mut Vec<TagsAction>) {
        actions.extend([
            TagsAction::Invalidate,
            TagsAction::TakeEpoch,
            TagsAction::TakeTag,
            TagsAction::CarryEpoch,
            TagsAction::CarryTag,
            TagsAction::AnswerEpoch,
            TagsAction::AnswerTag,
            TagsAction::FailEpoch,
            TagsAction::FailTag,
            TagsAction::Load,
        ]);
    }

    fn next_state(&self, state: &TagsState, action: TagsAction) -> Option<TagsState> {
        let mut next = state.clone();
        next.apply(self, action)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OWN, |_, state: &TagsState| state.served().is_none_or(|row| row >= state.floor)),
            Property::sometimes(STORED, |model: &Self, state: &TagsState| state.served() == Some(model.rows)),
        ]
    }

    /// Failures could replace versions without end.
    fn within_boundary(&self, state: &TagsState) -> bool {
        state.epoch <= 2 * self.rows + 1 && state.tag <= 2 * self.rows + 1
    }
}
