//! Tags: an entry is valid while its tag's version is the one that it carries.
//!
//! The problem: to invalidate entries without visiting them, with versions that the server may forget. The
//! mechanism: a version is random. A load reads it before it reads the row, so that an invalidation during
//! the load invalidates the result; a lost version is replaced by a different one. A tag that only the loader
//! can name has no version before the load. It is guarded by an epoch: an invalidation replaces the epoch,
//! then the tag; a load reads the epoch, the row, the tag's version and the epoch again, and stores only if
//! the epoch has not changed.
//!
//! A process may have versions in memory: they are dropped by pushes, which take some time. Nothing fences
//! the storing itself, which shows that tags work alone, without a placeholder. `clear` is a tag that all
//! entries of a cache carry, read before the load.
//!
//! Invariant: an entry that is valid was read after every invalidation that has completed.
//!
//! Not modelled: readers that compare with a version in memory (they lag by a push; see
//! [`versions`](crate::versions) for their own invalidations), `set(..).tag(..)`, which reads the version
//! when the data was read already, and several tags of one entry, each of which works by itself.

mod cached;
mod loader;

pub use cached::{Cached, Pushes};
pub use loader::Loader;

use crate::store::Row;
use crate::token::{Renaming, Token};
use stateright::{Model, Property};

/// How tags work; each field but the first three has one correct choice, which [`Tags::sound`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    /// Processes, each with one loader.
    pub processes: usize,
    /// The row goes from 0 to this.
    pub rows: Row,
    /// Processes keep versions in memory.
    pub pushes: Pushes,
    /// How a version is made.
    pub versions: Versions,
    /// What guards a tag that only the loader can name.
    pub guard: Guard,
    /// What an invalidation replaces first.
    pub order: Order,
    /// What a load does if there is no epoch.
    pub absent: Absent,
    /// Where the epoch is read the second time.
    pub second: SecondRead,
}

impl Tags {
    /// The correct protocol.
    pub fn sound() -> Self {
        Self {
            processes: 2,
            rows: 2,
            pushes: Pushes::AnyOrder,
            versions: Versions::Random,
            guard: Guard::EpochAfterTag,
            order: Order::EpochFirst,
            absent: Absent::IsMade,
            second: SecondRead::AtServer,
        }
    }
}

/// How a version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Random: never the same again.
    Random,
    /// One more than the last, from zero if there is none.
    Counted,
}

/// What guards a tag that only the loader can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The epoch, read again after the tag.
    EpochAfterTag,
    /// The epoch, read again before the tag.
    EpochBeforeTag,
    /// Nothing.
    Nothing,
}

/// What an invalidation replaces first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The epoch, then the tag.
    EpochFirst,
    /// The tag, then the epoch.
    TagFirst,
}

/// What a load does if there is no epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It creates one.
    IsMade,
    /// It remembers that there was none, and considers "none again" unchanged.
    IsAValue,
}

/// Where the epoch is read the second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondRead {
    /// At the server.
    AtServer,
    /// In memory, if it is there.
    InMemory,
}

/// One of the two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The tag's version.
    Tag,
    /// The epoch of all tags that only loaders can name.
    Epoch,
}

/// A writer that changes the row, and then invalidates the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writer {
    /// Has nothing to do.
    Ready,
    /// Has changed the row to this.
    Wrote(Row),
    /// Has replaced the first of the two keys.
    Half(Row),
}

/// The entry: a value, and the version it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// The row from which it was made.
    pub row: Row,
    /// Its tag's version, read before the load or under the epoch's guard.
    pub version: Token,
    /// Whether the loader named the tag.
    pub named_late: bool,
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The server: the tag's version.
    pub tag: Option<Token>,
    /// The epoch.
    pub epoch: Option<Token>,
    /// The entry.
    pub entry: Option<Entry>,
    /// The database.
    pub row: Row,
    /// The newest row whose invalidation has completed.
    pub floor: Row,
    /// The writer.
    pub writer: Writer,
    /// The loaders.
    pub loaders: Vec<Loader>,
    /// What each process has in memory.
    pub caches: Vec<Cached>,
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A load with a tag that is known beforehand.
    Load(usize),
    /// A load whose tag is known when it has loaded.
    LoadNaming(usize),
    /// A load takes its next step.
    Step(usize),
    /// A load fails, or its process dies.
    Fail(usize),
    /// A push arrives.
    Push(usize, Key),
    /// The writer changes the row.
    WriteRow,
    /// The writer replaces the next of the two keys.
    Invalidate,
    /// The writer dies in between.
    WriterDies,
    /// The server loses a version.
    Vanishes(Key),
}

/// C3 for tags.
pub const STALE: &str = "an entry that is valid is no older than a completed invalidation";
/// Entries whose tag is known before the load can be served.
pub const SERVES: &str = "an entry with a tag is valid";
/// Entries whose tag the loader names can be served.
pub const SERVES_NAMED_LATE: &str = "an entry whose tag the loader named is valid";

impl State {
    fn key(&mut self, key: Key) -> &mut Option<Token> {
        match key {
            Key::Tag => &mut self.tag,
            Key::Epoch => &mut self.epoch,
        }
    }

    /// Changes a key. Each process that has it in memory is sent a push.
    fn replace(&mut self, key: Key, with: Option<Token>) {
        *self.key(key) = with;
        for cached in &mut self.caches {
            cached.changed(key);
        }
    }

    fn next_version(&self, tags: &Tags, key: Key) -> Token {
        if tags.versions == Versions::Counted {
            let last = match key {
                Key::Tag => self.tag,
                Key::Epoch => self.epoch,
            };
            return last.map_or(Token(0), |last| Token((last.0 + 1).min(9)));
        }
        let mut fresh = Token(0);
        self.clone().tokens(&mut |token| fresh = fresh.max(Token(token.0 + 1)));
        fresh
    }

    fn invalidate(&mut self, tags: &Tags) {
        let (first, second) = match tags.order {
            Order::EpochFirst => (Key::Epoch, Key::Tag),
            Order::TagFirst => (Key::Tag, Key::Epoch),
        };
        match self.writer {
            Writer::Ready => {}
            Writer::Wrote(row) => {
                let version = self.next_version(tags, first);
                self.replace(first, Some(version));
                self.writer = Writer::Half(row);
            }
            Writer::Half(row) => {
                let version = self.next_version(tags, second);
                self.replace(second, Some(version));
                self.floor = row;
                self.writer = Writer::Ready;
            }
        }
    }

    /// Brings equal states into one form: processes are alike, a version is only its places, and one that the
    /// server has forgotten never returns, nor does an entry that carries it.
    fn normalise(&mut self) {
        self.entry = self.counts();
        let mut processes: Vec<_> =
            std::mem::take(&mut self.loaders).into_iter().zip(std::mem::take(&mut self.caches)).collect();
        processes.sort_unstable();
        (self.loaders, self.caches) = processes.into_iter().unzip();
        let mut renaming = Renaming::default();
        self.tokens(&mut |token| renaming.rename(token));
    }

    fn counts(&self) -> Option<Entry> {
        self.entry.filter(|entry| self.tag == Some(entry.version))
    }

    fn tokens(&mut self, visit: &mut impl FnMut(&mut Token)) {
        let Self { tag, epoch, entry, loaders, caches, .. } = self;
        let keys = tag.iter_mut().chain(epoch).chain(entry.as_mut().map(|entry| &mut entry.version));
        keys.chain(loaders.iter_mut().flat_map(Loader::tokens))
            .chain(caches.iter_mut().flat_map(Cached::tokens))
            .for_each(visit);
    }
}

impl Model for Tags {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tag: None,
            epoch: None,
            entry: None,
            row: 0,
            floor: 0,
            writer: Writer::Ready,
            loaders: vec![Loader::Idle; self.processes],
            caches: vec![Cached::default(); self.processes],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (p, loader) in state.loaders.iter().enumerate() {
            match loader {
                Loader::Idle => actions.extend([Action::Load(p), Action::LoadNaming(p)]),
                _ => actions.extend([Action::Step(p), Action::Fail(p)]),
            }
        }
        for (p, cached) in state.caches.iter().enumerate() {
            actions.extend(cached.pending(self.pushes).map(|key| Action::Push(p, key)));
        }
        match state.writer {
            Writer::Ready if state.row < self.rows => actions.push(Action::WriteRow),
            Writer::Ready => {}
            Writer::Wrote(_) | Writer::Half(_) => actions.extend([Action::Invalidate, Action::WriterDies]),
        }
        actions.extend(state.tag.map(|_| Action::Vanishes(Key::Tag)));
        actions.extend(state.epoch.map(|_| Action::Vanishes(Key::Epoch)));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Load(p) | Action::LoadNaming(p) | Action::Step(p) => {
                let naming = action == Action::LoadNaming(p);
                let after = next.loaders.get(p)?.step(self, &mut next, p, naming);
                *next.loaders.get_mut(p)? = after;
            }
            Action::Fail(p) => *next.loaders.get_mut(p)? = Loader::Idle,
            Action::Push(p, key) => next.caches.get_mut(p)?.push(key),
            Action::WriteRow => {
                next.row += 1;
                next.writer = Writer::Wrote(next.row);
            }
            Action::Invalidate => next.invalidate(self),
            Action::WriterDies => next.writer = Writer::Ready,
            Action::Vanishes(key) => next.replace(key, None),
        }
        if self.versions == Versions::Random {
            next.normalise();
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn serves(state: &State, named_late: bool) -> bool {
            state.counts().is_some_and(|entry| entry.named_late == named_late)
        }
        vec![
            Property::always(STALE, |_, state: &State| {
                state.counts().is_none_or(|entry| entry.row >= state.floor)
            }),
            Property::sometimes(SERVES, |_, state: &State| serves(state, false)),
            Property::sometimes(SERVES_NAMED_LATE, |_, state: &State| serves(state, true)),
        ]
    }
}
