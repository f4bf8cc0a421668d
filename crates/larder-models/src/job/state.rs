//! The record at the server, the processes, and what is under way between them.

use std::collections::BTreeSet;

use super::model::Action;
use super::{ATTEMPTS, BACKOFF, ENDS_KEPT, EVERY, Job, Mistake, PERIODS, TTL};

/// A run: its process, and which of its runs.
pub type Token = (usize, u8);

/// Ticks for which a lease is still valid, and whether the clock has missed one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Zero: lost.
    pub ticks: u8,
    /// It misses at most one.
    pub missed: bool,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Idle,
    /// It waits for the answer to `begin`; the ticks would be left after the answer.
    Beginning(Left),
    /// Its body runs, for this period, while ticks are left.
    Running(Left, u8),
    /// Its body has ended, in success or failure, and it waits for the answer to `end`.
    Ending(Left, u8, bool),
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Which run is the next, or under way.
    pub run: u8,
    /// What it does.
    pub phase: Phase,
}

impl Process {
    /// Whether a run of it is under way, as far as it knows.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(left, _) if left.ticks > 0)
    }
}

/// What a process asks of the server, by the names of the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// `begin.lua`.
    Begin(Token),
    /// `end.lua`: the period, and whether it is completed.
    End(Token, u8, bool),
    /// `give_up.lua` of the run's lock.
    GiveUp(Token),
    /// `release.lua` of the run's lock.
    Release(Token),
}

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// The run has begun, for this period.
    Started(u8),
    /// It has not.
    NotDue,
    /// Its end is recorded.
    Recorded,
    /// It had lost its lock.
    Lost,
}

/// An answer on its way.
pub type Reply = (Token, Answer);

/// The record of the schedule: the hash that both scripts work on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// The period of the last try, and how many tries it had.
    pub tried: Option<(u8, u8)>,
    /// When the last try began or ended.
    pub last: u8,
    /// The tokens of the last ends, newest first.
    pub ends: Vec<Token>,
    /// The last completed period.
    pub done: Option<u8>,
    /// The last period whose start counts as completion.
    pub burned: Option<u8>,
}

/// What really happened in a period, as opposed to the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Period {
    /// How many runs began.
    pub begun: u8,
    /// Runs that succeeded and whose end was recorded, or answered as recorded.
    pub completed: Runs,
    /// Whether a body succeeded.
    pub ended_well: bool,
}

/// Runs, as bits: two processes of up to four runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Runs(u8);

impl Runs {
    fn insert(&mut self, (process, run): Token) {
        self.0 |= 1 << (4 * process + usize::from(run));
    }

    fn contains(self, (process, run): Token) -> bool {
        self.0 & (1 << (4 * process + usize::from(run))) != 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The server's clock.
    pub now: u8,
    /// Whether it was set back.
    pub stepped_back: bool,
    /// The lock: its holder, and ticks until it is free.
    pub lock: Option<(Token, u8)>,
    /// The record.
    pub record: Record,
    /// Starts whose cancellation is remembered.
    pub ended: BTreeSet<Token>,
    /// The processes.
    pub processes: Vec<Process>,
    /// Under way to the server, in no order.
    pub requests: Vec<Request>,
    /// Under way from it, in no order.
    pub replies: Vec<Reply>,
    /// What happened, by period.
    pub periods: [Period; PERIODS as usize],
    /// A run began while it should have waited.
    pub too_early: bool,
    /// A run completed another period than that of its start.
    pub foreign: bool,
    /// A run that is recorded was answered that it lost its lock.
    pub misheard: bool,
}

impl State {
    pub(super) fn new(job: &Job) -> Self {
        Self {
            now: 0,
            stepped_back: false,
            lock: None,
            record: Record::default(),
            ended: BTreeSet::new(),
            processes: vec![Process { run: 0, phase: Phase::Idle }; job.processes],
            requests: Vec::new(),
            replies: Vec::new(),
            periods: [Period::default(); PERIODS as usize],
            too_early: false,
            foreign: false,
            misheard: false,
        }
    }

    /// How many runs are under way, as far as their processes know.
    #[must_use]
    pub fn running(&self) -> usize {
        self.processes.iter().filter(|process| process.is_running()).count()
    }

    pub(super) fn normalise(&mut self) {
        self.requests.sort_unstable();
        self.requests.dedup();
        self.replies.sort_unstable();
        self.replies.dedup();
        let (requests, lock) = (&self.requests, self.lock);
        self.ended.retain(|token| {
            requests.contains(&Request::Begin(*token)) || lock.is_some_and(|(held, _)| held == *token)
        });
    }

    fn period(&mut self, period: u8) -> Option<&mut Period> {
        self.periods.get_mut(usize::from(period))
    }

    /// `None` if the step is not possible.
    pub(super) fn apply(&mut self, job: &Job, action: Action) -> Option<()> {
        let full = Left { ticks: TTL - 1, missed: false };
        match action {
            // Time, which may step back.
            Action::Tick(misses) => self.tick(misses)?,
            Action::StepBack => {
                self.now = self.now.checked_sub(EVERY)?;
                self.stepped_back = true;
            }
            // A process begins a run, ends it, repeats the end whose answer is missing, or leaves.
            Action::Begin(p) => {
                self.requests.push(Request::Begin(self.token(p)?));
                self.processes.get_mut(p)?.phase = Phase::Beginning(full);
            }
            Action::Finish(p, well) => {
                let Phase::Running(left, period) = self.processes.get(p)?.phase else { return None };
                self.requests.push(Request::End(self.token(p)?, period, well));
                self.processes.get_mut(p)?.phase = Phase::Ending(left, period, well);
                self.period(period)?.ended_well |= well;
            }
            Action::Again(p) => {
                let Phase::Ending(left, period, well) = self.processes.get(p)?.phase else { return None };
                if left.ticks == 0 {
                    return None;
                }
                self.requests.push(Request::End(self.token(p)?, period, well));
            }
            Action::GoAway(p) => {
                let token = self.token(p)?;
                let begins = matches!(self.processes.get(p)?.phase, Phase::Beginning(_));
                self.requests.push(if begins { Request::GiveUp(token) } else { Request::Release(token) });
                self.leave(p)?;
            }
            // The network: requests and answers arrive in any order, or are lost.
            Action::Serve(i) => {
                let request = self.requests.remove(i);
                self.serve(job, request);
            }
            Action::Lose(i) => drop(self.requests.remove(i)),
            Action::Deliver(i) => {
                let reply = self.replies.remove(i);
                self.deliver(job, full, reply);
            }
            Action::LoseAnswer(i) => drop(self.replies.remove(i)),
        }
        Some(())
    }

    fn token(&self, p: usize) -> Option<Token> {
        Some((p, self.processes.get(p)?.run))
    }

    fn leave(&mut self, p: usize) -> Option<()> {
        let process = self.processes.get_mut(p)?;
        *process = Process { run: process.run + 1, phase: Phase::Idle };
        Some(())
    }

    fn tick(&mut self, misses: Option<usize>) -> Option<()> {
        for (p, process) in self.processes.iter_mut().enumerate() {
            match &mut process.phase {
                Phase::Idle => {}
                Phase::Beginning(left) | Phase::Running(left, _) | Phase::Ending(left, ..) => {
                    if misses == Some(p) {
                        if left.missed || left.ticks == 0 {
                            return None;
                        }
                        left.missed = true;
                    } else {
                        left.ticks = left.ticks.saturating_sub(1);
                    }
                }
            }
        }
        self.now += 1;
        self.lock = self.lock.map(|(token, left)| (token, left - 1)).filter(|(_, left)| *left > 0);
        Some(())
    }

    /// `begin.lua`.
    fn begin(&mut self, job: &Job, token: Token) -> Option<u8> {
        let is = |mistake| job.mistake == Some(mistake);
        if self.ended.contains(&token) && !is(Mistake::NoTombstone) {
            return None;
        }
        let (period, record) = (self.now / EVERY, self.record.clone());
        let done = |done: u8| if is(Mistake::LastPeriodOnly) { done == period } else { done >= period };
        if record.done.is_some_and(done) || (self.lock.is_some() && !is(Mistake::BeginsBeside)) {
            return None;
        }
        if record.burned.is_some_and(|burned| burned >= period) {
            return None;
        }
        let mut tries = 0;
        if let Some((_, tried)) = record.tried.filter(|(tried, _)| *tried == period) {
            let waits = record.last + BACKOFF > self.now && !is(Mistake::NoBackoff);
            // The code tries a job with at most once a single time. The mark alone must suffice, for a handle
            // without it.
            if tried >= ATTEMPTS || waits {
                return None;
            }
            tries = tried;
            self.too_early |= record.last + BACKOFF > self.now && !self.stepped_back;
        }
        let counted = if is(Mistake::DeadRunsNotCounted) { tries } else { tries + 1 };
        (self.record.tried, self.record.last) = (Some((period, counted)), self.now);
        if job.at_most_once && !is(Mistake::BurnedAtEnd) {
            self.record.burned = Some(period);
        }
        self.lock = Some((token, TTL));
        self.period(period)?.begun += 1;
        Some(period)
    }

    /// `end.lua`.
    fn end(&mut self, job: &Job, token: Token, period: u8, well: bool) -> bool {
        let is = |mistake| job.mistake == Some(mistake);
        let holds = self.lock.is_some_and(|(held, _)| held == token);
        let known = self.record.ends.contains(&token);
        if !holds && (known || !is(Mistake::EndWithoutToken)) {
            return known && !is(Mistake::EndNotRecognised);
        }
        self.lock = self.lock.filter(|_| !holds);
        self.record.last = self.now;
        self.record.ends.insert(0, token);
        self.record.ends.truncate(if is(Mistake::OneEndRecognised) { 1 } else { ENDS_KEPT });
        let completes = if is(Mistake::PeriodOfEnd) { self.now / EVERY } else { period };
        if (well || is(Mistake::FailureCompletes)) && self.record.done.is_none_or(|done| done < completes) {
            self.record.done = Some(completes);
            self.foreign |= completes != period;
        }
        if job.at_most_once {
            self.record.burned = self.record.burned.max(Some(period));
        }
        if let Some(period) = self.period(period).filter(|_| well) {
            period.completed.insert(token);
        }
        true
    }

    fn serve(&mut self, job: &Job, request: Request) {
        let (token, answer) = match request {
            Request::Begin(token) => (token, self.begin(job, token).map_or(Answer::NotDue, Answer::Started)),
            Request::End(token, period, well) => {
                let recorded = self.end(job, token, period, well);
                (token, if recorded { Answer::Recorded } else { Answer::Lost })
            }
            Request::GiveUp(token) | Request::Release(token) => {
                self.lock = self.lock.filter(|(held, _)| *held != token);
                if matches!(request, Request::GiveUp(_)) {
                    self.ended.insert(token);
                }
                return;
            }
        };
        // An answer that no process waits for does not matter.
        if self.processes.get(token.0).is_some_and(|process| process.run == token.1) {
            self.replies.push((token, answer));
        }
    }

    fn deliver(&mut self, job: &Job, full: Left, (token, answer): Reply) {
        let (p, run) = token;
        let Some(process) = self.processes.get_mut(p).filter(|process| process.run == run) else { return };
        match (process.phase, answer) {
            (Phase::Beginning(left), Answer::Started(period)) => {
                let late = job.mistake == Some(Mistake::DeadlineFromAnswer);
                process.phase = Phase::Running(if late { full } else { left }, period);
            }
            (Phase::Beginning(_), _) => drop(self.leave(p)),
            (Phase::Ending(_, period, _), Answer::Lost) => {
                let completed = self.period(period).map(|period| period.completed).unwrap_or_default();
                self.misheard |= completed.contains(token);
                let _ = self.leave(p);
            }
            (Phase::Ending(..), Answer::Recorded) => drop(self.leave(p)),
            _ => {}
        }
    }
}
