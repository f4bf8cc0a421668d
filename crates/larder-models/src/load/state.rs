//! The state of everything, and its transitions.

use super::process::Process;
use super::rules::{BareRefresh, BeginLost, ForcedInvalidated, ForcedOverFill, Rules, SoftExpire, Tokens};
use super::{Action, Reply};
use crate::store::{By, Claim, Entry, Nonce, Row, Store};
use crate::token::{Renaming, Token};

/// A writer of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Writer {
    /// Has nothing to do.
    Ready,
    /// Has changed the row to this, and must still change the cache.
    Wrote(Row),
}

/// What a loader has read. The two marks are known to the model only, not to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// The row's version.
    pub row: Row,
    /// The entry was written, deleted or evicted since.
    pub invalidated: bool,
    /// The row has changed since, and then a forced refresh has begun.
    pub outrun: bool,
    /// The row when a forced refresh began; `None` for a load that is not forced.
    pub forced: Option<Row>,
}

/// A request whose sender has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `begin_fill`.
    BeginFill(Token),
    /// `begin_fill` or `begin_refresh` by force.
    BeginForced(Token),
    /// `begin_refresh`.
    BeginRefresh(Token, Nonce),
    /// `commit_fill` or `commit_refresh`.
    Commit(Claim, Read),
    /// `abandon_fill`, `abandon_refresh`.
    Abandon(Token),
}

/// What must not happen, and has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A load was stored that was invalidated.
    Invalidated,
    /// A load was stored after a forced refresh that began later.
    Outrun,
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The server.
    pub store: Store,
    /// The database: the row's version.
    pub row: Row,
    /// The loaders.
    pub processes: Vec<Process>,
    /// The writers.
    pub writers: Vec<Writer>,
    /// At most one request that may still arrive.
    pub late: Option<Request>,
    /// The newest row whose write has reached the cache.
    pub floor: Row,
    /// The newest row that was there when a forced refresh began that has returned by now.
    pub refreshed: Row,
    /// The first broken promise.
    pub broken: Option<Broken>,
}

impl State {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            store: Store { entry: Entry::Empty, refresh: None },
            row: 0,
            processes: vec![Process::Idle; rules.processes],
            writers: vec![Writer::Ready; rules.writers],
            late: None,
            floor: 0,
            refreshed: 0,
            broken: None,
        }
    }

    pub(super) fn apply(&mut self, rules: &Rules, action: Action) {
        match action {
            // A step of one process.
            Action::ReadEntry(p)
            | Action::Gone(p)
            | Action::Force(p)
            | Action::ReadToExpire(p)
            | Action::Begin(p, _)
            | Action::ReadRow(p)
            | Action::Fail(p)
            | Action::Commit(p, _)
            | Action::Leave(p, _)
            | Action::Wake(p)
            | Action::MarkStale(p)
            | Action::Die(p) => {
                let Some(process) = self.processes.get(p).copied() else { return };
                let after = process.step(rules, self, action);
                if let Some(process) = self.processes.get_mut(p) {
                    *process = after;
                }
            }
            // A request whose process no longer waits for it.
            Action::LateArrives => {
                if let Some(request) = self.late.take() {
                    self.execute(rules, request);
                }
            }
            Action::LateIsLost => self.late = None,
            // Writers of the row, which then delete or set the entry.
            Action::WriteRow(w) => {
                self.row += 1;
                self.writer(w, Writer::Wrote(self.row));
            }
            Action::Delete(w) => {
                self.complete(w);
                self.store.delete();
                self.invalidate();
            }
            Action::Set(w) => {
                let nonce = Nonce::Random(self.fresh(rules));
                let row = self.complete(w);
                self.store.entry = Entry::Value { row, nonce, by: By::Writer };
                self.invalidate();
            }
            Action::WriterDies(w) => self.writer(w, Writer::Ready),
            // Programs without larder, and the server itself.
            Action::ForeignSet => {
                let nonce = Nonce::Bytes(self.row % 2);
                self.store.entry = Entry::Value { row: self.row, nonce, by: By::Writer };
                self.floor = self.row;
                self.invalidate();
            }
            Action::EntryVanishes => {
                self.store.entry = Entry::Empty;
                self.invalidate();
            }
            Action::ClaimVanishes => self.store.refresh = None,
        }
    }

    fn writer(&mut self, w: usize, is: Writer) {
        if let Some(writer) = self.writers.get_mut(w) {
            *writer = is;
        }
    }

    fn complete(&mut self, w: usize) -> Row {
        let row = match self.writers.get(w) {
            Some(Writer::Wrote(row)) => *row,
            _ => self.row,
        };
        self.writer(w, Writer::Ready);
        self.floor = self.floor.max(row);
        row
    }

    fn reads(&mut self) -> impl Iterator<Item = &mut Read> {
        let late = match &mut self.late {
            Some(Request::Commit(_, read)) => Some(read),
            _ => None,
        };
        let loaded = self.processes.iter_mut().filter_map(|process| match process {
            Process::Loaded { read, .. } => Some(read),
            _ => None,
        });
        loaded.chain(late)
    }

    fn invalidate(&mut self) {
        self.reads().for_each(|read| read.invalidated = true);
    }

    fn outrun(&mut self) {
        let row = self.row;
        self.reads().filter(|read| read.row < row).for_each(|read| read.outrun = true);
    }

    /// Sends a request. `None`: its sender does not learn the result.
    pub(super) fn send(&mut self, rules: &Rules, request: Request, reply: Reply) -> Option<Begun> {
        if reply == Reply::Late {
            self.late = Some(request);
            return None;
        }
        let begun = self.execute(rules, request);
        (reply == Reply::Arrived).then_some(begun)
    }

    fn execute(&mut self, rules: &Rules, request: Request) -> Begun {
        match request {
            Request::BeginFill(token) => match self.store.begin_fill(token) {
                Ok(claim) => Begun::Claimed(claim),
                Err(there) => Begun::Found(there),
            },
            Request::BeginRefresh(token, nonce) => {
                self.store.begin_refresh(token, nonce).map_or(Begun::Busy, Begun::Claimed)
            }
            Request::BeginForced(token) => self.begin_forced(rules, token),
            Request::Commit(claim, read) => {
                let fresh = self.fresh(rules);
                if self.store.commit(claim, read.row, fresh, rules.checks) {
                    let broken = match read {
                        Read { invalidated: true, .. } => Some(Broken::Invalidated),
                        Read { outrun: true, .. } => Some(Broken::Outrun),
                        Read { .. } => None,
                    };
                    self.broken = self.broken.or(broken);
                } else if read.forced.is_some() && rules.forced_invalidated == ForcedInvalidated::Deletes {
                    self.store.delete();
                    self.invalidate();
                }
                Begun::Busy
            }
            Request::Abandon(token) => {
                self.store.abandon(token);
                Begun::Busy
            }
        }
    }

    fn begin_forced(&mut self, rules: &Rules, token: Token) -> Begun {
        self.outrun();
        match self.store.entry {
            Entry::Value { nonce: nonce @ Nonce::Random(_), .. } => {
                Begun::Claimed(self.store.take_over_refresh(token, nonce))
            }
            Entry::Value { nonce, .. } if rules.bare_refresh == BareRefresh::ComparesBytes => {
                Begun::Claimed(self.store.take_over_refresh(token, nonce))
            }
            Entry::Placeholder(_) if rules.forced_over_fill == ForcedOverFill::LoadsBeside => Begun::Busy,
            Entry::Empty | Entry::Value { .. } | Entry::Placeholder(_) => {
                Begun::Claimed(self.store.take_over_entry(token))
            }
        }
    }

    /// A forced refresh that has got the value already, and takes the claim without reading again.
    pub(super) fn take_over_refresh(&mut self, token: Token, nonce: Nonce) -> Claim {
        self.outrun();
        self.store.take_over_refresh(token, nonce)
    }

    pub(super) fn mark_stale(&mut self, rules: &Rules, nonce: Nonce, row: Row, by: By) {
        let in_force = matches!(self.store.entry, Entry::Value { nonce: there, .. } if there == nonce);
        if in_force || rules.marking == SoftExpire::PlainSet {
            let fresh = self.fresh(rules);
            self.store.entry = Entry::Value { row, nonce: Nonce::Random(fresh), by };
        }
    }

    pub(super) fn after_lost_begin(rules: &Rules, token: Token, claim: Claim) -> Process {
        match rules.begin_lost {
            BeginLost::StoresNothing => Process::Leaving { token },
            BeginLost::GoesOn => Process::Loading { claim, forced: None },
        }
    }

    /// How many loads of live processes could still be stored.
    pub(super) fn standing_fences(&self) -> usize {
        let claims = self.processes.iter().filter_map(|process| match process {
            Process::Loading { claim, .. } | Process::Loaded { claim, .. } => Some(*claim),
            _ => None,
        });
        claims.filter(|claim| self.store.honours(*claim)).count()
    }

    /// A token that differs from all that are remembered.
    pub(super) fn fresh(&self, rules: &Rules) -> Token {
        if rules.tokens == Tokens::Counted {
            return match self.store.entry {
                Entry::Value { nonce: Nonce::Random(last), .. } | Entry::Placeholder(last) => {
                    Token((last.0 + 1).min(9))
                }
                Entry::Empty | Entry::Value { .. } => Token(0),
            };
        }
        let mut fresh = Token(0);
        self.clone().tokens(&mut |token| fresh = fresh.max(Token(token.0 + 1)));
        fresh
    }

    /// Brings equal states into one form: processes and writers are alike, a token is only its places, and
    /// what the model knows beyond the protocol is dropped once it no longer matters.
    pub(super) fn normalise(&mut self, rules: &Rules) {
        self.forget();
        if rules.sorted {
            self.writers.sort_unstable();
            self.processes.sort_by_key(Process::rank);
        }
        if rules.tokens == Tokens::Counted {
            return;
        }
        let mut renaming = Renaming::default();
        self.tokens(&mut |token| renaming.rename(token));
    }

    fn forget(&mut self) {
        if self.refreshed <= self.floor {
            self.refreshed = 0;
        }
        let bound = self.floor.max(self.refreshed);
        let settle =
            |forced: &mut Option<Row>| *forced = forced.map(|row| if row <= bound { 0 } else { row });
        for read in self.reads() {
            read.outrun &= !read.invalidated;
            settle(&mut read.forced);
        }
        for process in &mut self.processes {
            if let Process::Loading { forced, .. } = process {
                settle(forced);
            }
        }
    }

    fn tokens(&mut self, visit: &mut impl FnMut(&mut Token)) {
        match &mut self.store.entry {
            Entry::Value { nonce, .. } => nonce_token(nonce, visit),
            Entry::Placeholder(token) => visit(token),
            Entry::Empty => {}
        }
        if let Some(refresh) = &mut self.store.refresh {
            visit(&mut refresh.token);
            nonce_token(&mut refresh.nonce, visit);
        }
        for process in &mut self.processes {
            match process {
                Process::Idle | Process::Missed { .. } => {}
                Process::Holding { nonce, .. } | Process::Marking { nonce, .. } => nonce_token(nonce, visit),
                Process::Waiting { placeholder } => visit(placeholder),
                Process::Loading { claim, .. } | Process::Loaded { claim, .. } => claim_tokens(claim, visit),
                Process::Leaving { token } => visit(token),
            }
        }
        match &mut self.late {
            None => {}
            Some(Request::BeginFill(token) | Request::BeginForced(token) | Request::Abandon(token)) => {
                visit(token)
            }
            Some(Request::BeginRefresh(token, nonce)) => {
                visit(token);
                nonce_token(nonce, visit);
            }
            Some(Request::Commit(claim, _)) => claim_tokens(claim, visit),
        }
    }
}

fn nonce_token(nonce: &mut Nonce, visit: &mut impl FnMut(&mut Token)) {
    if let Nonce::Random(token) = nonce {
        visit(token);
    }
}

fn claim_tokens(claim: &mut Claim, visit: &mut impl FnMut(&mut Token)) {
    match claim {
        Claim::Placeholder(token) => visit(token),
        Claim::Refresh { token, nonce } => {
            visit(token);
            nonce_token(nonce, visit);
        }
    }
}

/// The answer to a begin.
pub(super) enum Begun {
    /// The load may store, if nothing happens.
    Claimed(Claim),
    /// This is there already.
    Found(Entry),
    /// Another process is loading; also the answer of requests whose answer is not needed.
    Busy,
}
