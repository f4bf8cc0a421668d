//! Random strings, of which only finitely many matter.
//!
//! Tokens are only compared for equality. So two states are equal if their tokens differ only in their names,
//! and a token that no process remembers is as good as a new one. Numbering the tokens of a state in the
//! order in which they are found keeps an endless history within finitely many states.

/// A random string: the token of a placeholder or a claim, a value's nonce, a tag's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u8);

/// Numbers tokens in the order of their first appearance.
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
