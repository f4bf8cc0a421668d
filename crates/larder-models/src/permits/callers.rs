//! The callers, and what is under way between them and the server.

use super::model::Action;
use super::server::{Answer, Heartbeat, Server, Token};
use super::{Mistake, Pool, TTL};

/// Ticks for which a permit is still valid, and whether the clock has missed one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Left {
    /// Zero: lost.
    pub ticks: u8,
    /// It misses at most one.
    pub missed: bool,
}

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Idle,
    /// It waits for the answer to `take`; the ticks would be left after the answer.
    Asking(Left),
    /// It waits in the queue.
    Waiting,
    /// It waits for the answer to `confirm`.
    Confirming(Left),
    /// Its permit is valid while ticks are left.
    Holding(Left),
    /// The same, with a renewal under way.
    Renewing {
        /// The ticks that are left.
        held: Left,
        /// The ticks that would be left after the answer.
        asked: Left,
    },
    /// A writer that waits for the answer to `exchange`. It no longer counts as a writer.
    Exchanging(Left),
}

/// A caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// What it holds or asks for.
    pub token: Token,
    /// What it does.
    pub phase: Phase,
    /// Whether this attempt waited in the queue.
    pub waited: bool,
    /// Whether it is a writer that has become a reader.
    pub downgraded: bool,
}

impl Caller {
    /// Whether its permit is valid, as far as it knows.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self.phase {
            Phase::Holding(left) | Phase::Renewing { held: left, .. } => left.ticks > 0,
            _ => false,
        }
    }
}

/// What a caller asks of the server, by the names of the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// `take.lua`.
    Take(Token),
    /// `confirm.lua`.
    Confirm(Token),
    /// `renew.lua`.
    Renew(Token),
    /// `give.lua`, and whether it leaves a tombstone.
    Give(Token, bool),
    /// `exchange.lua`.
    Exchange(Token, Token),
}

/// An answer on its way, to the caller that holds or asks for this token.
pub type Reply = (Token, Answer);

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What is stored.
    pub server: Server,
    /// The callers.
    pub callers: Vec<Caller>,
    /// Under way to the server, in no order.
    pub requests: Vec<Request>,
    /// Under way from it, in no order.
    pub replies: Vec<Reply>,
    /// The most permits that may be valid: their number, or what was used when it was lowered and is still
    /// used.
    pub most: u8,
    /// Whether the number was set.
    pub was_set: bool,
}

impl State {
    pub(super) fn new(pool: &Pool) -> Self {
        let caller = |(caller, weight): (usize, &u8)| Caller {
            token: Token { caller, weight: *weight, attempt: 0 },
            phase: Phase::Idle,
            waited: false,
            downgraded: false,
        };
        Self {
            server: Server::new(pool.permits),
            callers: pool.weights.iter().enumerate().map(caller).collect(),
            requests: Vec::new(),
            replies: Vec::new(),
            most: pool.permits,
            was_set: false,
        }
    }

    /// How many permits are valid.
    #[must_use]
    pub fn valid(&self) -> u8 {
        self.callers.iter().filter(|caller| caller.is_valid()).map(|caller| caller.token.weight).sum()
    }

    pub(super) fn normalise(&mut self) {
        self.most = self.server.permits.max(self.most.min(self.server.used()));
        self.requests.sort_unstable();
        self.replies.sort_unstable();
        self.server.normalise();
        // Of what has ended, only what a late request can ask for matters, and a cancelled attempt that got
        // something.
        let server = &mut self.server;
        let is_there = |token: &Token| {
            let waits = server.queue.iter().map(|waiter| waiter.token);
            server.held.iter().map(|held| held.token).chain(waits).any(|there| there == *token)
        };
        let asks = |token: &Token| {
            self.requests.iter().any(|request| match request {
                Request::Take(asked) | Request::Confirm(asked) | Request::Exchange(_, asked) => {
                    asked == token
                }
                Request::Renew(_) | Request::Give(..) => false,
            })
        };
        let asked_to_end =
            server.asked_to_end.iter().copied().filter(|token| asks(token) || is_there(token)).collect();
        server.ended = server.ended.iter().copied().filter(asks).collect();
        server.asked_to_end = asked_to_end;
    }

    /// `None` if the step is not possible.
    pub(super) fn apply(&mut self, pool: &Pool, action: Action) -> Option<()> {
        let mistake = pool.mistake;
        let full = Left { ticks: TTL - u8::from(mistake != Some(Mistake::NoMargin)), missed: false };
        match action {
            Action::Tick(misses) => self.tick(misses)?,
            // A caller takes a permit, confirms and renews it, exchanges it, or ends.
            Action::Take(c) => self.send(c, Phase::Asking(full), Request::Take)?,
            Action::Confirm(c) => self.send(c, Phase::Confirming(full), Request::Confirm)?,
            Action::Renew(c) => {
                let Phase::Holding(held) = self.callers.get(c)?.phase else { return None };
                self.send(c, Phase::Renewing { held, asked: full }, Request::Renew)?;
            }
            Action::Downgrade(c) => {
                let writer = self.callers.get(c)?.token;
                let caller = self.callers.get_mut(c)?;
                caller.token.weight = 1;
                (caller.phase, caller.downgraded) = (Phase::Exchanging(full), true);
                self.requests.push(Request::Exchange(writer, caller.token));
            }
            Action::End(c) => self.end(pool, c)?,
            // Heartbeats of waiters, and those that stop.
            Action::FallSilent(c) => {
                let token = self.callers.get(c)?.token;
                self.server.heartbeat(token, mistake);
            }
            Action::Silence(c) => {
                let waiter = self.server.queue.iter_mut().find(|waiter| waiter.token.caller == c)?;
                if waiter.seen != Heartbeat::Live {
                    return None;
                }
                waiter.seen = Heartbeat::Silent;
            }
            // The stored number changes, and the server's clock steps back.
            Action::Set(permits) => {
                self.most = self.most.max(self.server.used());
                self.server.set_permits(permits, mistake);
                self.was_set = true;
            }
            Action::StepBack => self.server.clock = 0,
            // The network: requests and answers arrive in any order, or are lost.
            Action::Serve(i) => {
                let request = self.requests.remove(i);
                self.serve(pool, request);
            }
            Action::Lose(i) => drop(self.requests.remove(i)),
            Action::Deliver(i) => {
                let reply = self.replies.remove(i);
                self.deliver(pool, full, reply);
            }
            Action::LoseAnswer(i) => drop(self.replies.remove(i)),
        }
        Some(())
    }

    fn send(&mut self, c: usize, phase: Phase, request: impl Fn(Token) -> Request) -> Option<()> {
        let caller = self.callers.get_mut(c)?;
        caller.phase = phase;
        self.requests.push(request(caller.token));
        Some(())
    }

    /// The attempt or guard is dropped or released. The end of an attempt is remembered while its first
    /// request may be under way, and so is that of an exchange, for the token that would hold: see `Attempt`
    /// and `Exchange` in `lock/`.
    fn end(&mut self, pool: &Pool, c: usize) -> Option<()> {
        let Caller { token, phase, .. } = *self.callers.get(c)?;
        match phase {
            Phase::Exchanging(_) => {
                let remembered = pool.mistake != Some(Mistake::ExchangeNotRemembered);
                self.requests.push(Request::Give(token, remembered));
                self.requests.push(Request::Give(Token { weight: pool.permits, ..token }, false));
            }
            Phase::Asking(_) => self.requests.push(Request::Give(token, true)),
            _ => self.requests.push(Request::Give(token, false)),
        }
        self.leave(pool, c)
    }

    fn leave(&mut self, pool: &Pool, c: usize) -> Option<()> {
        let weight = *pool.weights.get(c)?;
        let caller = self.callers.get_mut(c)?;
        caller.token = Token { attempt: caller.token.attempt + 1, weight, ..caller.token };
        (caller.phase, caller.waited, caller.downgraded) = (Phase::Idle, false, false);
        Some(())
    }

    fn tick(&mut self, misses: Option<usize>) -> Option<()> {
        for (c, caller) in self.callers.iter_mut().enumerate() {
            let pass = |left: &mut Left| {
                if misses != Some(c) {
                    left.ticks = left.ticks.saturating_sub(1);
                    return Some(());
                }
                let once = !left.missed && left.ticks > 0;
                left.missed = true;
                once.then_some(())
            };
            match &mut caller.phase {
                Phase::Idle | Phase::Waiting => {}
                Phase::Asking(left)
                | Phase::Confirming(left)
                | Phase::Holding(left)
                | Phase::Exchanging(left) => pass(left)?,
                Phase::Renewing { held, asked } => {
                    pass(held)?;
                    pass(asked)?;
                }
            }
        }
        self.server.tick();
        Some(())
    }

    fn serve(&mut self, pool: &Pool, request: Request) {
        let mistake = pool.mistake;
        let fenced = |token: Token| pool.rw && token.weight == pool.permits;
        let reply = match request {
            Request::Take(token) => (token, self.server.take(token, fenced(token), mistake)),
            Request::Confirm(token) => (token, self.server.confirm(token, fenced(token), mistake)),
            Request::Renew(token) => (token, self.server.renew(token)),
            Request::Exchange(token, other) => (other, self.server.exchange(token, other, mistake)),
            Request::Give(token, remembered) => return self.server.give(token, remembered, mistake),
        };
        // An answer that no process waits for does not matter.
        let asked = |caller: &Caller| caller.token == reply.0;
        if self.callers.iter().any(asked) {
            self.replies.push(reply);
        }
    }

    fn deliver(&mut self, pool: &Pool, full: Left, (token, answer): Reply) {
        let Some(caller) = self.callers.iter_mut().find(|caller| caller.token == token) else { return };
        let late = pool.mistake == Some(Mistake::DeadlineFromAnswer);
        let c = token.caller;
        caller.phase = match (caller.phase, answer) {
            (Phase::Asking(left) | Phase::Confirming(left) | Phase::Exchanging(left), Answer::Granted) => {
                Phase::Holding(if late { full } else { left })
            }
            (Phase::Asking(_) | Phase::Confirming(_), Answer::Waits) => {
                caller.waited = true;
                Phase::Waiting
            }
            (Phase::Asking(_) | Phase::Confirming(_) | Phase::Exchanging(_), _) => {
                let _ = self.leave(pool, c);
                return;
            }
            (Phase::Renewing { held, asked }, Answer::Granted) if held.ticks > 0 => {
                Phase::Holding(asked.max(held))
            }
            (Phase::Renewing { .. }, _) => Phase::Holding(Left { ticks: 0, missed: true }),
            (phase, _) => phase,
        };
    }
}
