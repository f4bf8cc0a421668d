//! One process and its loader, step by step.

use super::rules::{ForcedBegin, Rules};
use super::state::{Begun, Read, Request, State};
use super::{Action, Reply};
use crate::store::{By, Claim, Entry, Nonce, Row};
use crate::token::Token;

/// The progress of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    /// It has no request.
    Idle,
    /// There is nothing, as far as it knows; or it does not matter, because the load is forced.
    Missed {
        /// It loads, whatever there is.
        forced: bool,
    },
    /// It has got a value, and wants a newer one.
    Holding {
        /// The value's nonce.
        nonce: Nonce,
        /// It takes the claim from any holder.
        forced: bool,
    },
    /// Another process's placeholder is there.
    Waiting {
        /// That placeholder.
        placeholder: Token,
    },
    /// The loader has started, and has not read the row.
    Loading {
        /// What the commit will depend on.
        claim: Claim,
        /// The row when a forced refresh began; `None` for a load that is not forced.
        forced: Option<Row>,
    },
    /// The loader has read the row.
    Loaded {
        /// What the commit will depend on.
        claim: Claim,
        /// What it has read.
        read: Read,
    },
    /// Nothing is to be stored, and something of its own may be there.
    Leaving {
        /// The token that it would carry.
        token: Token,
    },
    /// It has got a value, and will mark it stale.
    Marking {
        /// The value's nonce.
        nonce: Nonce,
        /// The value.
        row: Row,
        /// Who stored it.
        by: By,
    },
}

impl Process {
    pub(super) fn actions(self, p: usize, rules: &Rules, state: &State, actions: &mut Vec<Action>) {
        let may_be_late = rules.late && state.late.is_none();
        let replies = [Reply::Arrived, Reply::Lost].into_iter().chain(may_be_late.then_some(Reply::Late));
        match self {
            Self::Idle => {
                actions.push(Action::ReadEntry(p));
                if rules.forced {
                    actions.push(Action::Force(p));
                }
                if rules.soft_expire {
                    actions.push(Action::ReadToExpire(p));
                }
                return;
            }
            Self::Missed { .. } | Self::Holding { .. } => {
                actions.extend(replies.map(|reply| Action::Begin(p, reply)));
            }
            Self::Waiting { placeholder } => {
                if state.store.entry != Entry::Placeholder(placeholder) {
                    actions.push(Action::Wake(p));
                }
            }
            Self::Loading { .. } => {
                actions.extend([Action::ReadRow(p), Action::Fail(p)]);
                if rules.gone {
                    actions.push(Action::Gone(p));
                }
            }
            Self::Loaded { .. } => {
                actions.extend(replies.map(|reply| Action::Commit(p, reply)));
                actions.push(Action::Fail(p));
            }
            // A lost reply to this is the same as one that arrived.
            Self::Leaving { .. } => actions.push(Action::Leave(p, Reply::Arrived)),
            Self::Marking { .. } => actions.push(Action::MarkStale(p)),
        }
        actions.push(Action::Die(p));
    }

    /// What happens to the process; `state` is changed by what it sends.
    pub(super) fn step(self, rules: &Rules, state: &mut State, action: Action) -> Self {
        match (self, action) {
            // Look, or skip the look by force.
            (Self::Idle, Action::Force(_)) if rules.forced_begin == ForcedBegin::Atomic => {
                Self::Missed { forced: true }
            }
            (Self::Idle, Action::Force(_)) => Self::after_read(state.store.entry, true),
            (Self::Idle | Self::Waiting { .. }, Action::ReadEntry(_) | Action::Wake(_)) => {
                Self::after_read(state.store.entry, false)
            }
            (Self::Idle, Action::ReadToExpire(_)) => match state.store.entry {
                Entry::Value { row, nonce, by } => Self::Marking { nonce, row, by },
                Entry::Empty | Entry::Placeholder(_) => Self::Idle,
            },
            (Self::Marking { nonce, row, by }, Action::MarkStale(_)) => {
                state.mark_stale(rules, nonce, row, by);
                Self::Idle
            }
            // Begin a fill or a refresh. The request may be carried out though its reply is lost.
            (Self::Missed { forced }, Action::Begin(_, reply)) => {
                let token = state.fresh(rules);
                let request = if forced { Request::BeginForced(token) } else { Request::BeginFill(token) };
                match state.send(rules, request, reply) {
                    Some(Begun::Claimed(claim)) => {
                        Self::Loading { claim, forced: forced.then_some(state.row) }
                    }
                    Some(Begun::Found(there)) => Self::found(there),
                    Some(Begun::Busy) => Self::Idle,
                    None => State::after_lost_begin(rules, token, Claim::Placeholder(token)),
                }
            }
            (Self::Holding { nonce, forced: true }, Action::Begin(..)) => {
                let token = state.fresh(rules);
                Self::Loading { claim: state.take_over_refresh(token, nonce), forced: Some(state.row) }
            }
            (Self::Holding { nonce, forced: false }, Action::Begin(_, reply)) => {
                let token = state.fresh(rules);
                match state.send(rules, Request::BeginRefresh(token, nonce), reply) {
                    Some(Begun::Claimed(claim)) => Self::Loading { claim, forced: None },
                    Some(Begun::Found(_) | Begun::Busy) => Self::Idle,
                    None => State::after_lost_begin(rules, token, Claim::Refresh { token, nonce }),
                }
            }
            // Read the row, then commit or abandon. What invalidates the read happens in between.
            (Self::Loading { claim, forced }, Action::ReadRow(_)) => Self::Loaded {
                claim,
                read: Read { row: state.row, invalidated: false, outrun: false, forced },
            },
            (Self::Loading { claim, .. } | Self::Loaded { claim, .. }, Action::Fail(_)) => {
                Self::Leaving { token: claim.token() }
            }
            (Self::Loading { claim, .. }, Action::Gone(_)) => {
                state.store.commit_gone(claim);
                Self::Idle
            }
            (Self::Loaded { claim, read }, Action::Commit(_, reply)) => {
                match state.send(rules, Request::Commit(claim, read), reply) {
                    Some(_) => {
                        state.refreshed = state.refreshed.max(read.forced.unwrap_or(0));
                        Self::Idle
                    }
                    None => Self::Leaving { token: claim.token() },
                }
            }
            (Self::Leaving { token }, Action::Leave(_, reply)) => {
                state.send(rules, Request::Abandon(token), reply);
                Self::Idle
            }
            (_, Action::Die(_)) => Self::Idle,
            (other, _) => other,
        }
    }

    /// The result of a GET.
    fn after_read(entry: Entry, forced: bool) -> Self {
        match entry {
            Entry::Empty => Self::Missed { forced },
            Entry::Placeholder(_) if forced => Self::Missed { forced },
            Entry::Placeholder(placeholder) => Self::Waiting { placeholder },
            Entry::Value { nonce: nonce @ Nonce::Random(_), .. } => Self::Holding { nonce, forced },
            // Bare JSON has no freshness that could have ended.
            Entry::Value { .. } if !forced => Self::Idle,
            Entry::Value { .. } => Self::Missed { forced },
        }
    }

    /// The result of a fill that was late.
    fn found(entry: Entry) -> Self {
        match entry {
            Entry::Placeholder(placeholder) => Self::Waiting { placeholder },
            Entry::Empty | Entry::Value { .. } => Self::Idle,
        }
    }

    /// An order of processes that does not depend on the names of tokens.
    pub(super) fn rank(&self) -> (u8, Row, bool, bool, Option<Row>) {
        match *self {
            Self::Idle => (0, 0, false, false, None),
            Self::Missed { forced } => (1, 0, forced, false, None),
            Self::Holding { forced, .. } => (2, 0, forced, false, None),
            Self::Waiting { .. } => (3, 0, false, false, None),
            Self::Loading { claim, forced } => (4 + is_refresh(claim), 0, false, false, forced),
            Self::Loaded { claim, read } => {
                (6 + is_refresh(claim), read.row, read.invalidated, read.outrun, read.forced)
            }
            Self::Leaving { .. } => (8, 0, false, false, None),
            Self::Marking { row, by, .. } => (9, row, by == By::Writer, by == By::Fill, None),
        }
    }
}

fn is_refresh(claim: Claim) -> u8 {
    u8::from(matches!(claim, Claim::Refresh { .. }))
}
