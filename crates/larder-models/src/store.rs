//! What the server keeps for one key, and the scripts that change it: each one atomic step.
//!
//! An entry is nothing, a value or a placeholder; beside it there may be a lease, which elects who refreshes a standing
//! value, and names that value: a lease for another value is free to take. Each script names the check that makes it
//! safe, and [`Checks`] can leave that check out, to show what it is
//! there for.

use crate::token::Token;

/// The version of the database's row that a value was made from.
pub type Row = u8;

/// What tells one writing of a value from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nonce {
    /// The envelope's random nonce.
    Random(Token),
    /// Bare JSON of another program has none: only its bytes, and an old row's bytes may come back. Here every other row
    /// has the same.
    Bytes(u8),
}

/// Who put a value there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A `set`, or another program. Two that race may leave the older row behind: that is theirs to order.
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
        /// What it was made from.
        row: Row,
        /// Which writing it is.
        nonce: Nonce,
        /// Who wrote it.
        by: By,
    },
    /// The mark of a fill under way; nothing to readers.
    Placeholder(Token),
}

/// What a load holds, and what its commit is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fence {
    /// A cold fill's placeholder.
    Placeholder(Token),
    /// A refresh's lease, and the nonce of the value that it is to replace.
    Lease {
        /// The refresh's own token.
        token: Token,
        /// Of the value that stood when it began.
        nonce: Nonce,
    },
}

impl Fence {
    /// The random string that its holder made.
    pub fn token(self) -> Token {
        match self {
            Fence::Placeholder(token) | Fence::Lease { token, .. } => token,
        }
    }
}

/// Which checks the scripts make. All of them, but where a test shows what one is good for.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// `commit_fill` compares the placeholder.
    pub placeholder: Check,
    /// `commit_refresh` compares the value's nonce.
    pub nonce: Check,
    /// `commit_refresh` compares the lease.
    pub lease: Check,
}

/// Whether a script compares before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// As it should.
    Made,
    /// The mistake.
    LeftOut,
}

impl Check {
    fn passes(self, holds: bool) -> bool {
        holds || self == Check::LeftOut
    }
}

/// Who refreshes a value, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The refresh's own.
    pub token: Token,
    /// Of the value that is to be replaced.
    pub nonce: Nonce,
}

/// One key on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Under the key itself.
    pub entry: Entry,
    /// Under its sibling.
    pub lease: Option<Lease>,
}

impl Store {
    /// `begin_fill`: a placeholder, where the name is empty. Else what is there.
    pub fn begin_fill(&mut self, token: Token) -> Result<Fence, Entry> {
        if self.entry != Entry::Empty {
            return Err(self.entry);
        }
        self.entry = Entry::Placeholder(token);
        Ok(Fence::Placeholder(token))
    }

    /// `begin_refresh`: the lease, where no other is held for this value. That the script looks at the entry first
    /// saves a load that could not be stored; safe it is without, as the commit looks.
    pub fn begin_refresh(&mut self, token: Token, nonce: Nonce) -> Option<Fence> {
        if self.lease.is_some_and(|lease| lease.nonce == nonce) {
            return None;
        }
        self.lease = Some(Lease { token, nonce });
        Some(Fence::Lease { token, nonce })
    }

    /// The lease, whoever has it.
    pub fn take_over_lease(&mut self, token: Token, nonce: Nonce) -> Fence {
        self.lease = Some(Lease { token, nonce });
        Fence::Lease { token, nonce }
    }

    /// The name, whatever is there: whoever fills it is voided.
    pub fn take_over_entry(&mut self, token: Token) -> Fence {
        self.entry = Entry::Placeholder(token);
        Fence::Placeholder(token)
    }

    /// `commit_fill` and `commit_refresh`: whether the value was stored. An own lease goes either way.
    pub fn commit(&mut self, fence: Fence, row: Row, fresh: Token, checks: Checks) -> bool {
        let (holds, by) = match fence {
            Fence::Placeholder(token) => {
                (checks.placeholder.passes(self.entry == Entry::Placeholder(token)), By::Fill)
            }
            Fence::Lease { token, nonce } => {
                let own = self.end_lease(token, nonce);
                let stands = matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce);
                (checks.nonce.passes(stands) && checks.lease.passes(own), By::Refresh)
            }
        };
        if holds {
            self.entry = Entry::Value { row, nonce: Nonce::Random(fresh), by };
        }
        holds
    }

    /// Gives up whatever carries this token.
    pub fn abandon(&mut self, token: Token) {
        if self.entry == Entry::Placeholder(token) {
            self.entry = Entry::Empty;
        }
        if self.lease.is_some_and(|lease| lease.token == token) {
            self.lease = None;
        }
    }

    /// `commit_refresh` of a loader that found the origin to have no such thing any more: the value goes, under the
    /// checks of any other commit. A placeholder goes as well.
    pub fn commit_gone(&mut self, fence: Fence) {
        let holds = match fence {
            Fence::Placeholder(token) => self.entry == Entry::Placeholder(token),
            Fence::Lease { token, nonce } => {
                self.end_lease(token, nonce)
                    && matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce)
            }
        };
        if holds {
            self.entry = Entry::Empty;
        }
    }

    /// Whether it was held.
    fn end_lease(&mut self, token: Token, nonce: Nonce) -> bool {
        let own = self.lease == Some(Lease { token, nonce });
        if own {
            self.lease = None;
        }
        own
    }

    /// `delete`: one UNLINK of the entry. A lease that is left behind names a value that is never there again.
    pub fn delete(&mut self) {
        self.entry = Entry::Empty;
    }

    /// Whether a commit with this fence would store now.
    pub fn honours(&self, fence: Fence) -> bool {
        match fence {
            Fence::Placeholder(token) => self.entry == Entry::Placeholder(token),
            Fence::Lease { token, nonce } => {
                self.lease == Some(Lease { token, nonce })
                    && matches!(self.entry, Entry::Value { nonce: there, .. } if there == nonce)
            }
        }
    }
}
