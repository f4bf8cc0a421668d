//! What the server keeps for one key, and the scripts that change it: each is one atomic step.
//!
//! An entry is nothing, a value or a placeholder. Beside it there may be a claim, which elects the process
//! that refreshes a value and which names that value: a claim for another value does not count. Each script
//! names the check that makes it safe, and [`Checks`] can omit that check, to show what it is for.

use crate::token::Token;

/// The version of the database row from which a value was made.
pub type Row = u8;

/// What distinguishes one stored value from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nonce {
    /// The envelope's random nonce.
    Random(Token),
    /// Bare JSON of another program has no nonce: only its bytes, and an old row's bytes may return. Here
    /// every other row has the same bytes.
    Bytes(u8),
}

/// Who stored a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A `set`, or another program. Two that race may leave the older row: it is up to them to avoid that.
    Writer,
    /// A cold fill.
    Fill,
    /// A refresh.
    Refresh,
}

/// What is under the entry's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Nothing.
    Empty,
    /// A value that readers are served.
    Value {
        /// The row from which it was made.
        row: Row,
        /// Which stored value it is.
        nonce: Nonce,
        /// Who stored it.
        by: By,
    },
    /// The mark of a fill under way. Readers find nothing.
    Placeholder(Token),
}

/// What a load holds, and what its commit depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A cold fill's placeholder.
    Placeholder(Token),
    /// A refresh's claim, and the nonce of the value to replace.
    Refresh {
        /// The refresh's own token.
        token: Token,
        /// The nonce of the value that was there when it began.
        nonce: Nonce,
    },
}

impl Claim {
    /// The random string that its loader made.
    pub fn token(self) -> Token {
        match self {
            Claim::Placeholder(token) | Claim::Refresh { token, .. } => token,
        }
    }
}

/// Which checks the scripts make: all of them, except where a test shows what one is for.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// `commit_fill` compares the placeholder.
    pub placeholder: Check,
    /// `commit_refresh` compares the value's nonce.
    pub nonce: Check,
    /// `commit_refresh` compares the claim.
    pub refresh: Check,
}

/// Whether a script compares before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The correct choice.
    Made,
    /// The mistake.
    LeftOut,
}

impl Check {
    fn passes(self, holds: bool) -> bool {
        holds || self == Check::LeftOut
    }
}

/// Which process refreshes a value, and which value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefreshClaim {
    /// The refresh's own.
    pub token: Token,
    /// The nonce of the value to replace.
    pub nonce: Nonce,
}

/// One key on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Stored under the key itself.
    pub entry: Entry,
    /// Stored beside it.
    pub refresh: Option<RefreshClaim>,
}

impl Store {
    /// `begin_fill`: stores a placeholder if the entry is empty. Otherwise returns what is there.
    pub fn begin_fill(&mut self, token: Token) -> Result<Claim, Entry> {
        if self.entry != Entry::Empty {
            return Err(self.entry);
        }
        self.entry = Entry::Placeholder(token);
        Ok(Claim::Placeholder(token))
    }

    /// `begin_refresh`: claims the refresh if there is no other claim for this value. The script's first look
    /// at the entry only saves a load that could not be stored; the protocol is safe without it, because the
    /// commit compares.
    pub fn begin_refresh(&mut self, token: Token, nonce: Nonce) -> Option<Claim> {
        if self.refresh.is_some_and(|refresh| refresh.nonce == nonce) {
            return None;
        }
        self.refresh = Some(RefreshClaim { token, nonce });
        Some(Claim::Refresh { token, nonce })
    }

    /// Takes the claim from any holder.
    pub fn take_over_refresh(&mut self, token: Token, nonce: Nonce) -> Claim {
        self.refresh = Some(RefreshClaim { token, nonce });
        Claim::Refresh { token, nonce }
    }

    /// Replaces whatever the entry holds, which invalidates a fill under way.
    pub fn take_over_entry(&mut self, token: Token) -> Claim {
        self.entry = Entry::Placeholder(token);
        Claim::Placeholder(token)
    }

    /// `commit_fill` and `commit_refresh`: returns whether the value was stored. The load's own claim ends in
    /// any case.
    pub fn commit(&mut self, claim: Claim, row: Row, fresh: Token, checks: Checks) -> bool {
        let (holds, by) = match claim {
            Claim::Placeholder(token) => {
                (checks.placeholder.passes(self.entry == Entry::Placeholder(token)), By::Fill)
            }
            Claim::Refresh { token, nonce } => {
                let own = self.end_refresh(token, nonce);
                let in_force = matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce);
                (checks.nonce.passes(in_force) && checks.refresh.passes(own), By::Refresh)
            }
        };
        if holds {
            self.entry = Entry::Value { row, nonce: Nonce::Random(fresh), by };
        }
        holds
    }

    /// Removes what carries this token.
    pub fn abandon(&mut self, token: Token) {
        if self.entry == Entry::Placeholder(token) {
            self.entry = Entry::Empty;
        }
        if self.refresh.is_some_and(|refresh| refresh.token == token) {
            self.refresh = None;
        }
    }

    /// `commit_refresh` of a loader whose origin no longer has the value: deletes the value, with the checks
    /// of any other commit. Deletes a placeholder as well.
    pub fn commit_gone(&mut self, claim: Claim) {
        let holds = match claim {
            Claim::Placeholder(token) => self.entry == Entry::Placeholder(token),
            Claim::Refresh { token, nonce } => {
                self.end_refresh(token, nonce)
                    && matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce)
            }
        };
        if holds {
            self.entry = Entry::Empty;
        }
    }

    /// Returns whether the claim was there.
    fn end_refresh(&mut self, token: Token, nonce: Nonce) -> bool {
        let own = self.refresh == Some(RefreshClaim { token, nonce });
        if own {
            self.refresh = None;
        }
        own
    }

    /// `delete`: one UNLINK of the entry. A claim that is left names a value that never returns.
    pub fn delete(&mut self) {
        self.entry = Entry::Empty;
    }

    /// Returns whether a commit with this fence would store now.
    pub fn honours(&self, claim: Claim) -> bool {
        match claim {
            Claim::Placeholder(token) => self.entry == Entry::Placeholder(token),
            Claim::Refresh { token, nonce } => {
                self.refresh == Some(RefreshClaim { token, nonce })
                    && matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce)
            }
        }
    }
}
