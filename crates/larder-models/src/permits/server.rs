//! The server's side: one function for each script of `lua/semaphore/`, under the script's name.

use std::collections::BTreeSet;

use super::{CLAIM, MOST_GRANTS, Mistake, TTL};

/// An attempt, or the reader that a writer becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The caller.
    pub caller: usize,
    /// How many permits it wants, as in the last digits of a token.
    pub weight: u8,
    /// Which of the caller's attempts.
    pub attempt: u8,
}

/// A token in the sorted set `held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    /// The caller.
    pub token: Token,
    /// Ticks until it ends. At zero it stays until a script removes it.
    pub left: u8,
    /// The ticket, while it is a claim.
    pub claim: Option<u8>,
}

/// What the hash `seen` has for a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Heartbeat {
    /// Its process has sent a heartbeat lately.
    Live,
    /// It has not.
    Silent,
    /// A claim of it ended, and it has sent nothing since.
    Lapsed,
}

/// A token in the sorted set `queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter {
    /// Its place.
    pub ticket: u8,
    /// Whose it is.
    pub token: Token,
    /// Whether it can be granted something.
    pub seen: Heartbeat,
}

/// What the server replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// It holds its permits.
    Granted,
    /// It waits.
    Waits,
    /// It does not hold or wait.
    Gone,
}

/// What no script may ever do. Set where a permit is granted, independently of the rule by which it was
/// granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// More was granted than there is.
    pub over: bool,
    /// A live waiter was passed over for a later one, or for a caller that does not wait.
    pub overtaken: bool,
    /// A script left permits free that suffice for the first live waiter.
    pub idle: bool,
    /// A waiter that did not confirm got a second claim before it asked.
    pub again: bool,
    /// A fence is not higher than all earlier ones.
    pub fence: bool,
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The number of permits.
    pub permits: u8,
    /// Tokens that hold permits.
    pub held: Vec<Held>,
    /// By ticket.
    pub queue: Vec<Waiter>,
    /// Attempts whose end is remembered.
    pub ended: BTreeSet<Token>,
    /// Attempts that the server was asked to end, remembered or not.
    pub asked_to_end: BTreeSet<Token>,
    /// The server's time, as far as fences are made from it.
    pub clock: u8,
    /// The last fence.
    pub fence: u8,
    /// The highest fence ever.
    pub highest: u8,
    /// The grants of the last script.
    pub batch: usize,
    /// What went wrong.
    pub faults: Faults,
}

impl Server {
    pub(super) fn new(permits: u8) -> Self {
        Self {
            permits,
            held: Vec::new(),
            queue: Vec::new(),
            ended: BTreeSet::new(),
            asked_to_end: BTreeSet::new(),
            clock: 1,
            fence: 0,
            highest: 0,
            batch: 0,
            faults: Faults::default(),
        }
    }

    /// `queue.lua`: how many permits are used.
    #[must_use]
    pub fn used(&self) -> u8 {
        self.held.iter().map(|held| held.token.weight).sum()
    }

    fn held(&mut self, token: Token) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.token == token)
    }

    fn waiter(&mut self, token: Token) -> Option<&mut Waiter> {
        self.queue.iter_mut().find(|waiter| waiter.token == token)
    }

    fn place(&mut self, waiter: Waiter) {
        self.queue.push(waiter);
        self.queue.sort_unstable();
    }

    /// For the waiter with this ticket, or for a caller that does not wait. Checks what the rules should have
    /// guaranteed.
    fn hold(&mut self, token: Token, left: u8, ticket: Option<u8>) {
        let before = |waiter: &Waiter| ticket.is_none_or(|ticket| waiter.ticket < ticket);
        let fits = |waiter: &Waiter| waiter.token.weight <= self.permits;
        self.faults.overtaken |=
            self.queue.iter().any(|waiter| waiter.seen == Heartbeat::Live && before(waiter) && fits(waiter));
        self.held.push(Held { token, left, claim: ticket });
        self.faults.over |= self.used() > self.permits;
    }

    /// `queue.lua`: removes what has ended. A waiter whose claim ended returns to its place.
    fn expire(&mut self) {
        let (ended, held): (Vec<Held>, Vec<Held>) = self.held.iter().partition(|held| held.left == 0);
        self.held = held;
        for Held { token, claim, .. } in ended {
            if let Some(ticket) = claim {
                self.place(Waiter { ticket, token, seen: Heartbeat::Lapsed });
            }
        }
    }

    /// `queue.lua`: grants what is free to the first live waiters; returns whether no live waiter is left.
    fn grant(&mut self, mistake: Option<Mistake>) -> bool {
        self.batch = 0;
        if self.used() >= self.permits {
            return false;
        }
        let mut at = 0;
        while let Some(Waiter { ticket, token, seen }) = self.queue.get(at).copied() {
            let again = seen == Heartbeat::Lapsed && mistake == Some(Mistake::LapsedIsLive);
            if seen != Heartbeat::Live && !again {
                at += 1;
            } else if token.weight > self.permits {
                self.queue.remove(at);
            } else if self.used() + self.least(token, mistake) > self.permits || self.batch == MOST_GRANTS {
                if mistake != Some(Mistake::SmallOvertakes) || self.batch == MOST_GRANTS {
                    return false;
                }
                at += 1;
            } else {
                self.faults.again |= again;
                self.queue.remove(at);
                let claim = if mistake == Some(Mistake::ClaimForTtl) { TTL } else { CLAIM };
                self.hold(token, claim, Some(ticket));
                self.batch += 1;
            }
        }
        true
    }

    fn least(&self, token: Token, mistake: Option<Mistake>) -> u8 {
        if mistake == Some(Mistake::GrantsPastNumber) { 1 } else { token.weight }
    }

    /// What holds after every script that grants: nothing is free that suffices for the first live waiter.
    fn leave(&mut self) {
        let first = self.queue.iter().find(|waiter| waiter.seen == Heartbeat::Live);
        let fits = first.is_some_and(|first| self.used() + first.token.weight <= self.permits);
        self.faults.idle |= fits && self.batch < MOST_GRANTS;
    }

    /// `queue.lua`, `fence_if`.
    fn next_fence(&mut self, fenced: bool, mistake: Option<Mistake>) {
        if !fenced {
            return;
        }
        let next = if mistake == Some(Mistake::FenceIsClock) { 0 } else { self.fence + 1 };
        self.fence = self.clock.max(next);
        self.faults.fence |= self.fence <= self.highest;
        self.highest = self.highest.max(self.fence);
    }

    /// `take.lua`.
    pub(super) fn take(&mut self, token: Token, fenced: bool, mistake: Option<Mistake>) -> Answer {
        if self.ended.contains(&token) && mistake != Some(Mistake::NoTombstone) {
            return Answer::Gone;
        }
        self.expire();
        if token.weight > self.permits {
            return Answer::Gone;
        }
        let mut free = self.queue.is_empty() || self.grant(mistake);
        free |= mistake == Some(Mistake::TakesPastQueue);
        if free && self.used() + self.least(token, mistake) <= self.permits {
            self.hold(token, TTL, None);
            self.next_fence(fenced, mistake);
            return Answer::Granted;
        }
        let last =
            self.queue.iter().map(|waiter| waiter.ticket).chain(self.held.iter().filter_map(|it| it.claim));
        let ticket = last.max().map_or(0, |last| last + 1);
        self.place(Waiter { ticket, token, seen: Heartbeat::Live });
        Answer::Waits
    }

    /// `confirm.lua`.
    pub(super) fn confirm(&mut self, token: Token, fenced: bool, mistake: Option<Mistake>) -> Answer {
        self.expire();
        if let Some(waiter) = self.waiter(token) {
            let lapsed = waiter.seen == Heartbeat::Lapsed;
            waiter.seen = Heartbeat::Live;
            if lapsed && mistake == Some(Mistake::ConfirmsEndedClaim) {
                let ticket = waiter.ticket;
                self.queue.retain(|waiter| waiter.token != token);
                self.hold(token, TTL, Some(ticket));
            } else {
                self.grant(mistake);
                self.leave();
            }
            if self.waiter(token).is_some() && !self.take_over(token) {
                return Answer::Waits;
            }
        }
        let Some(held) = self.held(token) else { return Answer::Gone };
        let repeated = held.claim.is_none();
        (held.left, held.claim) = (TTL, None);
        // A repeated request keeps the fence, which the holder may know.
        if !repeated {
            self.next_fence(fenced, mistake);
        }
        Answer::Granted
    }

    /// `confirm.lua`, `take_over`: takes over from the last of the later waiters that have a claim of the
    /// same weight.
    fn take_over(&mut self, token: Token) -> bool {
        let Some(ticket) = self.waiter(token).map(|waiter| waiter.ticket) else { return false };
        let alike =
            |held: &&Held| held.left > 0 && held.token.weight == token.weight && held.claim > Some(ticket);
        let Some(Held { token: other, claim: Some(later), .. }) =
            self.held.iter().filter(alike).max_by_key(|held| held.claim).copied()
        else {
            return false;
        };
        self.held.retain(|held| held.token != other);
        self.queue.retain(|waiter| waiter.token != token);
        self.place(Waiter { ticket: later, token: other, seen: Heartbeat::Lapsed });
        self.hold(token, CLAIM, Some(ticket));
        true
    }

    /// `heartbeat.lua`, of one waiter.
    pub(super) fn heartbeat(&mut self, token: Token, mistake: Option<Mistake>) {
        self.expire();
        if let Some(waiter) = self.waiter(token).filter(|waiter| waiter.seen == Heartbeat::Silent) {
            waiter.seen = Heartbeat::Live;
        }
        self.grant(mistake);
        self.leave();
    }

    /// `renew.lua`.
    pub(super) fn renew(&mut self, token: Token) -> Answer {
        match self.held(token).filter(|held| held.left > 0) {
            Some(held) => {
                held.left = TTL;
                Answer::Granted
            }
            None => Answer::Gone,
        }
    }

    /// `give.lua`.
    pub(super) fn give(&mut self, token: Token, remembered: bool, mistake: Option<Mistake>) {
        self.held.retain(|held| held.token != token);
        self.queue.retain(|waiter| waiter.token != token);
        self.asked_to_end.insert(token);
        if remembered {
            self.ended.insert(token);
        }
        if !self.queue.is_empty() {
            self.expire();
            if mistake != Some(Mistake::ReleaseGrantsNothing) {
                self.grant(mistake);
            }
            self.leave();
        }
    }

    /// `exchange.lua`.
    pub(super) fn exchange(&mut self, token: Token, other: Token, mistake: Option<Mistake>) -> Answer {
        if self.ended.contains(&other) && mistake != Some(Mistake::NoTombstone) {
            return Answer::Gone;
        }
        let held = self.held.iter().any(|held| held.token == token && held.left > 0 && held.claim.is_none());
        if !held && mistake != Some(Mistake::ExchangesWhatIsLost) {
            let other = self.held.iter().any(|held| held.token == other && held.left > 0);
            return if other { Answer::Granted } else { Answer::Gone };
        }
        self.held.retain(|held| held.token != token);
        if mistake == Some(Mistake::DowngradeFreesFirst) {
            self.expire();
            self.grant(mistake);
        }
        let before = self.used();
        self.held.push(Held { token: other, left: TTL, claim: None });
        self.faults.over |= !held && before + other.weight > self.permits;
        self.expire();
        self.grant(mistake);
        self.leave();
        Answer::Granted
    }

    /// `set_permits.lua`.
    pub(super) fn set_permits(&mut self, permits: u8, mistake: Option<Mistake>) {
        self.permits = permits;
        self.expire();
        self.queue.retain(|waiter| waiter.token.weight <= permits);
        while mistake == Some(Mistake::LoweringRevokes) && self.used() > permits {
            self.held.pop();
        }
        self.grant(mistake);
        self.leave();
    }

    pub(super) fn tick(&mut self) {
        for held in &mut self.held {
            held.left = held.left.saturating_sub(1);
        }
    }

    /// Whether the token of an attempt that was to end holds something, or waits.
    #[must_use]
    pub fn has_ghost(&self) -> bool {
        let waits = self.queue.iter().map(|waiter| waiter.token);
        self.held.iter().map(|held| held.token).chain(waits).any(|token| self.asked_to_end.contains(&token))
    }

    /// Tickets count from zero, and states that differ only in what no longer matters become equal.
    pub(super) fn normalise(&mut self) {
        let mut tickets: Vec<u8> = self.queue.iter().map(|waiter| waiter.ticket).collect();
        tickets.extend(self.held.iter().filter_map(|held| held.claim));
        tickets.sort_unstable();
        let place = |ticket: u8| {
            u8::try_from(tickets.iter().take_while(|other| **other < ticket).count()).unwrap_or(u8::MAX)
        };
        for waiter in &mut self.queue {
            waiter.ticket = place(waiter.ticket);
        }
        for held in &mut self.held {
            held.claim = held.claim.map(place);
        }
        self.held.sort_unstable();
        self.batch = 0;
        // From here on the server's time is never higher than the last fence.
        (self.fence, self.highest) = (self.fence.min(1), self.highest.min(1));
    }
}
