//! Random strings, of which there are finitely many that matter.
//!
//! Tokens are only ever compared for equality. So a state is the same state when its tokens are renamed, and a token
//! that nobody remembers is as good as a new one: numbering those that a state holds, in the order they are found in,
//! keeps an endless history within finitely many states.

/// A random string: a placeholder's or a lease's token, a value's nonce, a tag's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u8);

/// Gives tokens their numbers, by the order of their first appearance.
#[derive(Default)]
pub(crate) struct Renaming(Vec<Token>);

impl Renaming {
    pub(crate) fn rename(&mut self, token: &mut Token) {
        let place = self.0.iter().position(|known| known == token).unwrap_or_else(|| {
            self.0.push(*token);
            self.0.len() - 1
        });
        *token = Token(u8::try_from(place).unwrap_or(u8::MAX));
    }
}
