//! A load of an entry with a tag, step by step.

use super::{Absent, Entry, Guard, Key, SecondRead, State, Tags};
use crate::store::Row;
use crate::token::Token;

/// The progress of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loader {
    /// Nothing is being loaded.
    Idle,
    /// The tag's version has been read, the row not.
    Versioned(Token),
    /// The row has been read under this version. In a load that names its tag: the epoch is unchanged, only
    /// storing is left.
    Ready(Entry),
    /// The epoch has been read, the row not.
    Opened(Option<Token>),
    /// The row has been read, which names the tag.
    Named(Option<Token>, Row),
    /// The tag's version has been read after the row.
    Tagged(Option<Token>, Entry),
    /// The epoch is unchanged, and the tag's version has not been read yet: the wrong order.
    Checked(Row),
}

impl Loader {
    pub(super) fn step(self, tags: &Tags, state: &mut State, p: usize, naming: bool) -> Self {
        match self {
            Self::Idle if naming => Self::Opened(epoch(tags, state, p, SecondRead::InMemory)),
            Self::Idle => Self::Versioned(version(tags, state, p, Key::Tag)),
            Self::Versioned(version) => Self::Ready(Entry { row: state.row, version, named_late: false }),
            Self::Ready(entry) => {
                state.entry = Some(entry);
                Self::Idle
            }
            Self::Opened(epoch) => Self::Named(epoch, state.row),
            Self::Named(before, row) if tags.guard == Guard::EpochBeforeTag => {
                if epoch(tags, state, p, tags.second) == before { Self::Checked(row) } else { Self::Idle }
            }
            Self::Named(epoch, row) => {
                let version = version(tags, state, p, Key::Tag);
                Self::Tagged(epoch, Entry { row, version, named_late: true })
            }
            Self::Tagged(before, entry) => {
                let holds = tags.guard == Guard::Nothing || epoch(tags, state, p, tags.second) == before;
                if holds { Self::Ready(entry) } else { Self::Idle }
            }
            Self::Checked(row) => {
                let version = version(tags, state, p, Key::Tag);
                Self::Ready(Entry { row, version, named_late: true })
            }
        }
    }

    pub(super) fn tokens(&mut self) -> impl Iterator<Item = &mut Token> {
        let (first, second) = match self {
            Self::Idle | Self::Checked(_) => (None, None),
            Self::Versioned(version) => (Some(version), None),
            Self::Ready(entry) => (Some(&mut entry.version), None),
            Self::Opened(epoch) | Self::Named(epoch, _) => (epoch.as_mut(), None),
            Self::Tagged(epoch, entry) => (epoch.as_mut(), Some(&mut entry.version)),
        };
        first.into_iter().chain(second)
    }
}

/// A key's version: from memory, or from the server, which creates one if there is none.
fn version(tags: &Tags, state: &mut State, p: usize, key: Key) -> Token {
    match state.caches.get(p).and_then(|cached| cached.get(key)) {
        Some(version) => version,
        None => fetch(tags, state, p, key),
    }
}

fn fetch(tags: &Tags, state: &mut State, p: usize, key: Key) -> Token {
    let there = *state.key(key);
    let version = there.unwrap_or_else(|| state.next_version(tags, key));
    if there.is_none() {
        state.replace(key, Some(version));
    }
    if let Some(cached) = state.caches.get_mut(p) {
        cached.fetched(tags.pushes, key, version);
    }
    version
}

fn epoch(tags: &Tags, state: &mut State, p: usize, read: SecondRead) -> Option<Token> {
    if tags.absent == Absent::IsAValue {
        return state.epoch;
    }
    Some(match read {
        SecondRead::AtServer => fetch(tags, state, p, Key::Epoch),
        SecondRead::InMemory => version(tags, state, p, Key::Epoch),
    })
}
