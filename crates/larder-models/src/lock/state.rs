//! The server, the processes, and what is under way between them.

use std::collections::BTreeSet;

use super::{Action, CLAIM, Mistake, TTL};

/// An attempt: its process, and which of its attempts.
pub type Token = (usize, u8);

/// Ticks for which a process considers the lock held, and whether the clock has missed one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Zero: lost.
    pub ticks: u8,
    /// It misses at most one.
    pub missed: bool,
}

/// The lock at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its holder.
    pub token: Token,
    /// Ticks until it is free.
    pub left: u8,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Idle,
    /// It waits for the answer to its attempt; the ticks would be left after the answer.
    Asking(Left),
    /// It waits in the queue.
    Queued,
    /// It waits for the answer to its confirmation.
    Confirming(Left),
    /// It considers itself the holder while ticks are left.
    Holding(Left),
    /// The same, with a renewal under way.
    Extending {
        /// The ticks that are left.
        held: Left,
        /// The ticks that would be left after the answer.
        asked: Left,
    },
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Which attempt is the next, or under way.
    pub attempt: u8,
    /// What it does.
    pub phase: Phase,
    /// Whether this attempt's lock was lost.
    pub lost: bool,
}

impl Process {
    /// Whether it considers itself the holder.
    #[must_use]
    pub fn is_holder(&self) -> bool {
        match self.phase {
            Phase::Holding(left) | Phase::Extending { held: left, .. } => left.ticks > 0,
            _ => false,
        }
    }
}

/// What a process asks of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// Takes the lock, or waits in the queue.
    Acquire(Token),
    /// Takes what was handed over.
    Confirm(Token),
    /// Asks for more time.
    Extend(Token),
    /// Frees the lock.
    Release(Token),
    /// Ends the attempt.
    GiveUp(Token),
}

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// The lock is held.
    Granted,
    /// The attempt waits in the queue.
    Waits,
    /// Neither.
    Nothing,
}

/// An answer on its way.
pub type Reply = (Token, Answer);

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The lock at the server.
    pub holder: Option<Held>,
    /// The waiters, and whether each was handed the lock and has not confirmed.
    pub queue: Vec<(Token, bool)>,
    /// Attempts that the server was asked to end.
    pub ended: BTreeSet<Token>,
    /// The processes.
    pub processes: Vec<Process>,
    /// Under way to the server, in no order.
    pub requests: Vec<Request>,
    /// Under way from it, in no order.
    pub replies: Vec<Reply>,
    /// Whether the last grant was a claim.
    pub handed_over: bool,
}

impl State {
    pub(super) fn new(processes: usize) -> Self {
        Self {
            holder: None,
            queue: Vec::new(),
            ended: BTreeSet::new(),
            processes: vec![Process { attempt: 0, phase: Phase::Idle, lost: false }; processes],
            requests: Vec::new(),
            replies: Vec::new(),
            handed_over: false,
        }
    }

    /// How many processes consider themselves the holder.
    #[must_use]
    pub fn valid_holders(&self) -> usize {
        self.processes.iter().filter(|process| process.is_holder()).count()
    }

    pub(super) fn normalise(&mut self) {
        self.requests.sort_unstable();
        self.replies.sort_unstable();
    }

    pub(super) fn apply(&mut self, mistake: Option<Mistake>, action: Action) -> Option<()> {
        let full =
            Left { ticks: if mistake == Some(Mistake::NoMargin) { TTL } else { TTL - 1 }, missed: false };
        match action {
            Action::Tick(misses) => self.tick(misses)?,
            Action::Ask(p) => self.send(p, Phase::Asking(full), Request::Acquire)?,
            Action::Confirm(p) => self.send(p, Phase::Confirming(full), Request::Confirm)?,
            Action::Push(p) => {
                let token = self.token(p)?;
                if self.holder.is_some_and(|held| held.token == token) {
                    self.processes.get_mut(p)?.phase = Phase::Holding(full);
                    self.requests.push(Request::Confirm(token));
                } else {
                    return None;
                }
            }
            Action::Extend(p) => {
                let Phase::Holding(held) = self.processes.get(p)?.phase else { return None };
                if held.ticks == 0 {
                    return None;
                }
                self.send(p, Phase::Extending { held, asked: full }, Request::Extend)?;
            }
            Action::Release(p) => self.leave(p, Some(Request::Release))?,
            Action::GoAway(p) => self.leave(p, Some(Request::GiveUp))?,
            Action::Die(p) => self.leave(p, None)?,
            Action::Serve(i) => {
                let request = self.requests.remove(i);
                self.serve(mistake, request);
            }
            Action::Lose(i) => drop(self.requests.remove(i)),
            Action::Deliver(i) => {
                let reply = self.replies.remove(i);
                self.deliver(mistake, full, reply);
            }
            Action::LoseAnswer(i) => drop(self.replies.remove(i)),
        }
        Some(())
    }

    fn token(&self, p: usize) -> Option<Token> {
        Some((p, self.processes.get(p)?.attempt))
    }

    fn send(&mut self, p: usize, phase: Phase, request: impl Fn(Token) -> Request) -> Option<()> {
        let token = self.token(p)?;
        self.processes.get_mut(p)?.phase = phase;
        self.requests.push(request(token));
        Some(())
    }

    fn leave(&mut self, p: usize, request: Option<fn(Token) -> Request>) -> Option<()> {
        let token = self.token(p)?;
        self.requests.extend(request.map(|request| request(token)));
        let process = self.processes.get_mut(p)?;
        *process = Process { attempt: process.attempt + 1, phase: Phase::Idle, lost: false };
        Some(())
    }

    fn tick(&mut self, misses: Option<usize>) -> Option<()> {
        for (p, process) in self.processes.iter_mut().enumerate() {
            let pass = |left: &mut Left| {
                if misses != Some(p) {
                    left.ticks = left.ticks.saturating_sub(1);
                    return Some(());
                }
                let once = !left.missed && left.ticks > 0;
                left.missed = true;
                once.then_some(())
            };
            match &mut process.phase {
                Phase::Idle | Phase::Queued => {}
                Phase::Asking(left) | Phase::Confirming(left) | Phase::Holding(left) => pass(left)?,
                Phase::Extending { held, asked } => {
                    pass(held)?;
                    pass(asked)?;
                }
            }
        }
        for process in &mut self.processes {
            if let Phase::Holding(held) | Phase::Extending { held, .. } = process.phase {
                process.lost |= held.ticks == 0;
            }
        }
        self.holder = self.holder.and_then(|held| {
            let left = held.left - 1;
            (left > 0).then_some(Held { left, ..held })
        });
        Some(())
    }

    /// Hands a free lock to the first waiter that has not let a claim expire since its last request.
    fn hand_on(&mut self) {
        self.holder = None;
        if let Some((token, given)) = self.queue.iter_mut().find(|(_, given)| !given) {
            *given = true;
            self.holder = Some(Held { token: *token, left: CLAIM });
        }
    }

    fn grant(&mut self, token: Token) -> Answer {
        self.handed_over = self.queue.iter().any(|(waiter, _)| *waiter == token);
        self.queue.retain(|(waiter, _)| *waiter != token);
        self.holder = Some(Held { token, left: TTL });
        Answer::Granted
    }

    fn serve(&mut self, mistake: Option<Mistake>, request: Request) {
        let holds = |state: &Self, token| state.holder.is_some_and(|held| held.token == token);
        let (token, answer) = match request {
            // A given-up attempt is refused by its tombstone. Otherwise it is granted a free lock or enqueued.
            Request::Acquire(token) => {
                let given_up = self.ended.contains(&token) && mistake != Some(Mistake::NoTombstone);
                if self.holder.is_none() && !given_up {
                    self.hand_on();
                }
                (
                    token,
                    match self.holder {
                        _ if given_up => Answer::Nothing,
                        None => self.grant(token),
                        Some(_) => {
                            self.queue.push((token, false));
                            Answer::Waits
                        }
                    },
                )
            }
            // A waiter asks whether the lock was handed to it. A queued one becomes live again by asking.
            Request::Confirm(token) => {
                let mine = holds(self, token);
                if let Some((_, given)) = self.queue.iter_mut().find(|(waiter, _)| *waiter == token) {
                    *given = mine;
                    if self.holder.is_none() {
                        self.hand_on();
                    }
                    let answer = if holds(self, token) { self.grant(token) } else { Answer::Waits };
                    (token, answer)
                } else if holds(self, token) {
                    (token, self.grant(token))
                } else {
                    (token, Answer::Nothing)
                }
            }
            // Only the holder's token extends the lock.
            Request::Extend(token) if holds(self, token) => {
                self.holder = Some(Held { token, left: TTL });
                (token, Answer::Granted)
            }
            Request::Extend(token) => (token, Answer::Nothing),
            // The end of an attempt: a holder hands the lock on; a given-up attempt leaves a tombstone.
            Request::Release(token) | Request::GiveUp(token) => {
                self.queue.retain(|(waiter, _)| *waiter != token);
                if holds(self, token) || mistake == Some(Mistake::NoTokenCheck) {
                    self.hand_on();
                }
                if matches!(request, Request::GiveUp(_)) {
                    self.ended.insert(token);
                }
                return;
            }
        };
        self.replies.push((token, answer));
    }

    fn deliver(&mut self, mistake: Option<Mistake>, full: Left, (token, answer): Reply) {
        let Some(process) = self.processes.get_mut(token.0).filter(|process| process.attempt == token.1)
        else {
            return;
        };
        let late = mistake == Some(Mistake::DeadlineFromAnswer);
        process.phase = match (process.phase, answer) {
            (Phase::Asking(left) | Phase::Confirming(left), Answer::Granted) => {
                Phase::Holding(if late { full } else { left })
            }
            (Phase::Asking(_) | Phase::Confirming(_), Answer::Waits) => Phase::Queued,
            (Phase::Asking(_) | Phase::Confirming(_), Answer::Nothing) => {
                *process = Process { attempt: process.attempt + 1, phase: Phase::Idle, lost: false };
                return;
            }
            (Phase::Extending { held, asked }, Answer::Granted)
                if held.ticks > 0 || mistake == Some(Mistake::RevivingExtend) =>
            {
                Phase::Holding(if asked.ticks > held.ticks { asked } else { held })
            }
            (Phase::Extending { held, .. }, Answer::Granted) => Phase::Holding(held),
            (Phase::Extending { .. }, _) => Phase::Holding(Left { ticks: 0, missed: true }),
            (phase, _) => phase,
        };
    }
}
