//! Versions that a process has in memory, and the pushes that drop them.

use super::Key;
use crate::token::Token;

/// How pushes reach a process, and what is known when a reply has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushes {
    /// Nothing is kept in memory.
    Unused,
    /// One connection: pushes and replies arrive in the order in which the server sent them.
    InOrder,
    /// The two keys are on two nodes, or are read through another connection than the one that receives the
    /// pushes.
    AnyOrder,
}

/// What a process has in memory: a key's value, where it has read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cached {
    tag: Option<Token>,
    epoch: Option<Token>,
    /// Pushes on their way, oldest first.
    pushes: Vec<Key>,
}

impl Cached {
    pub(super) fn get(&self, key: Key) -> Option<Token> {
        match key {
            Key::Tag => self.tag,
            Key::Epoch => self.epoch,
        }
    }

    /// A reply has arrived, and before it all pushes that the server had sent on the same connection.
    pub(super) fn fetched(&mut self, pushes: Pushes, key: Key, version: Token) {
        let before: Vec<Key> = match pushes {
            Pushes::Unused => return,
            Pushes::InOrder => self.pushes.clone(),
            Pushes::AnyOrder => self.pushes.iter().copied().filter(|other| *other == key).collect(),
        };
        before.into_iter().for_each(|key| self.push(key));
        *self.slot(key) = Some(version);
    }

    /// The server reports each change once, to the processes that have read the key since the last one.
    pub(super) fn changed(&mut self, key: Key) {
        if self.get(key).is_some() && !self.pushes.contains(&key) {
            self.pushes.push(key);
        }
    }

    pub(super) fn pending(&self, pushes: Pushes) -> impl Iterator<Item = Key> {
        let next = if pushes == Pushes::InOrder { 1 } else { self.pushes.len() };
        self.pushes.iter().copied().take(next)
    }

    pub(super) fn push(&mut self, key: Key) {
        self.pushes.retain(|other| *other != key);
        *self.slot(key) = None;
    }

    fn slot(&mut self, key: Key) -> &mut Option<Token> {
        match key {
            Key::Tag => &mut self.tag,
            Key::Epoch => &mut self.epoch,
        }
    }

    pub(super) fn tokens(&mut self) -> impl Iterator<Item = &mut Token> {
        self.tag.iter_mut().chain(&mut self.epoch)
    }
}
