//! One attempt at a lock: it ends in a guard, or it leaves nothing behind.
//!
//! The problem: an attempt may be dropped at any moment, and its request may be carried out all the same, now or later. The
//! mechanism: a token names the attempt. Whatever becomes of it, its end is told to the store, which takes it out of the line
//! and hands on what it was given. While an answer is outstanding the store also remembers that the token was given up, so that
//! a request which arrives after that takes nothing.
//!
//! Invariants: at most one `acquire` is ever sent for a token. A deadline is counted from before the request that was answered
//! with the grant: never from a wake-up, which is a hint to ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::holding::Holding;
use super::locks::{Ending, Locks};
use super::waiting::{Place, Waiting};
use super::{Fence, holding};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::near::Listening;
use crate::store::lock::{Attempted, LockStore, Pace, Queue};

/// How long a waiter that is told nothing waits at the most before it looks for itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);
/// After a request that failed, while the outage is short.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is known to have left nothing, or to be somebody's guard.
    Settled,
    InLine,
    /// A request to take the lock is on its way.
    Unanswered,
}

pub(super) struct Attempt {
    locks: Arc<Locks>,
    name: Arc<str>,
    token: u64,
    ttl: Duration,
    stage: Stage,
    heard: Tick,
    /// From before it stands in line.
    listening: Option<Listening>,
    /// Left only when its end was handed over.
    place: Option<Place>,
}

/// What came of an attempt.
pub(super) enum Outcome {
    Granted(Holding),
    Held,
}

impl Attempt {
    fn new(locks: &Arc<Locks>, name: &Arc<str>, ttl: Duration, heard: Tick) -> Self {
        Self {
            locks: locks.clone(),
            name: name.clone(),
            token: locks.context.random.nonce(),
            ttl,
            stage: Stage::Settled,
            heard,
            listening: None,
            place: None,
        }
    }

    /// Takes the lock if it is free at this moment.
    pub(super) async fn once(locks: &Arc<Locks>, name: &Arc<str>, ttl: Duration) -> Result<Outcome> {
        let now = locks.context.clock.now();
        let mut attempt = Self::new(locks, name, ttl, now);
        match attempt.begin(now, Queue::GoAway).await? {
            Attempted::Granted { fence } => attempt.guard(fence),
            _ => Ok(Outcome::Held),
        }
    }

    /// Takes the lock, waiting in line until it is this attempt's turn, or `end`.
    pub(super) async fn within(
        locks: &Arc<Locks>,
        name: &Arc<str>,
        ttl: Duration,
        end: Option<Tick>,
    ) -> Result<Outcome> {
        let now = locks.context.clock.now();
        let mut attempt = Self::new(locks, name, ttl, now);
        match attempt.begin(now, Queue::StandInLine).await? {
            Attempted::Granted { fence } => attempt.guard(fence),
            // Boxed: a future that may wait is large, and nearly all need not.
            other => Box::pin(attempt.in_line(other, now, end)).await,
        }
    }

    /// What follows where the lock was not granted at once; as another attempt, where this one's place is lost.
    async fn in_line(mut self, mut answer: Attempted, began: Tick, end: Option<Tick>) -> Result<Outcome> {
        let mut waited = false;
        loop {
            match answer {
                Attempted::Granted { fence } => {
                    self.note_wait(waited, began);
                    return self.guard(fence);
                }
                Attempted::Waiting { told } => {
                    waited = true;
                    if let Some(outcome) = self.wait(told, began, end).await? {
                        return Ok(outcome);
                    }
                }
                // A token that was never given up is not known as such; ask with another.
                Attempted::Gone | Attempted::Held => {}
            }
            answer = loop {
                // The old attempt ends here.
                self = Self::new(&self.locks, &self.name, self.ttl, self.heard);
                match self.begin(self.locks.context.clock.now(), Queue::StandInLine).await {
                    Ok(answer) => break answer,
                    // Whoever stood in line outlives a short outage. Whoever comes to one is told.
                    Err(error) if waited && self.may_go_on(&error) => {
                        if end.is_some_and(|end| end <= self.locks.context.clock.now()) {
                            return Err(error);
                        }
                        self = Self::new(&self.locks, &self.name, self.ttl, self.heard);
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            };
        }
    }

    /// Waits until it is this attempt's turn; `None` where its place is lost.
    async fn wait(&mut self, told: bool, began: Tick, end: Option<Tick>) -> Result<Option<Outcome>> {
        let locks = self.locks.clone();
        // A request that failed, and when it was sent.
        let mut failed: Option<(Tick, Error)> = None;
        tracing::trace!("in line for a lock");
        let place = Waiting::join(&locks, &self.name, self.token);
        let hinted = place.told.clone();
        self.place = Some(place);
        let mut come = !told && self.listen().await;
        loop {
            let patience = end.map_or(LONGEST_SILENCE, |end| end.since(locks.context.clock.now()));
            if patience.is_zero() {
                return self.in_vain(failed).map(Some);
            }
            if !come {
                tokio::select! {
                    () = self.called(patience.min(LONGEST_SILENCE)) => {}
                    () = hinted.notified() => {}
                }
                if end.is_some_and(|end| end <= locks.context.clock.now()) {
                    return self.in_vain(failed).map(Some);
                }
            }
            let woken = locks.context.clock.now();
            locks.meter.woken();
            match self.confirm(woken).await {
                Ok(Attempted::Granted { fence }) => {
                    locks.meter.handed_over(locks.context.clock.now().since(woken));
                    self.note_wait(true, began);
                    return self.guard(fence).map(Some);
                }
                Ok(Attempted::Waiting { .. }) => {
                    failed = None;
                    come = self.listen().await;
                }
                // The server has lost its data, or took this process for dead: to the end of the line.
                Ok(_) => return Ok(None),
                Err(error) if self.may_go_on(&error) => {
                    failed = Some((woken, error));
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the store's call, `patience` at most.
    async fn called(&self, patience: Duration) {
        match &self.listening {
            Some(listening) => listening.called(patience).await,
            None => tokio::time::sleep(patience).await,
        }
    }

    /// Asks for the lock, at `now`.
    async fn begin(&mut self, now: Tick, queue: Queue) -> Result<Attempted> {
        let store = self.locks.store()?;
        if queue == Queue::StandInLine {
            self.listening = Some(self.locks.changes().listen(self.token));
        }
        self.stage = Stage::Unanswered;
        let answered =
            timeout(self.locks.timeout(), store.acquire(&self.name, self.token, self.ttl, queue)).await;
        let answer = answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())));
        match &answer {
            Ok(attempted) => {
                self.heard = now;
                self.stage = match attempted {
                    Attempted::Held | Attempted::Gone => Stage::Settled,
                    _ => Stage::InLine,
                };
            }
            Err(error) if never_sent(error) => self.stage = Stage::Settled,
            Err(_) => {}
        }
        answer
    }

    /// Comes for the lock, at `now`.
    async fn confirm(&mut self, now: Tick) -> Result<Attempted> {
        let store = self.locks.store()?;
        let answered = timeout(self.locks.timeout(), store.confirm(&self.name, self.token, self.ttl)).await;
        let answer = answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())))?;
        self.heard = now;
        if answer == Attempted::Gone {
            self.stage = Stage::Settled;
        }
        Ok(answer)
    }

    /// Whether the lock was handed over. What cannot be asked, the heartbeat tells.
    async fn listen(&self) -> bool {
        let Ok(store) = self.locks.store() else { return true };
        let asked = timeout(self.locks.timeout(), store.listen(&self.name, self.token)).await;
        matches!(asked, Ok(Ok(true)))
    }

    /// Whether an outage is still so short that who stands in line waits on.
    fn may_go_on(&self, error: &Error) -> bool {
        let answered = self.locks.waiting.answered(&self.name, self.token);
        let heard = answered.map_or(self.heard, |answered| answered.max(self.heard));
        let silence = self.locks.context.clock.now().since(heard);
        error.is_retryable() && silence <= self.locks.timeout()
    }

    /// What to say when there is no time left: that others hold it, if the server was heard of since a request failed.
    fn in_vain(&self, failed: Option<(Tick, Error)>) -> Result<Outcome> {
        let Some((sent, error)) = failed else { return Ok(Outcome::Held) };
        let heard = self.locks.waiting.answered(&self.name, self.token);
        if heard.is_some_and(|heard| heard >= sent) { Ok(Outcome::Held) } else { Err(error) }
    }

    fn note_wait(&self, waited: bool, began: Tick) {
        if waited {
            self.locks.meter.waited(self.locks.context.clock.now().since(began));
        }
    }

    fn guard(&mut self, fence: u64) -> Result<Outcome> {
        let (sent, ttl) = (self.heard, self.ttl);
        let holding =
            Holding::new(self.locks.clone(), self.name.clone(), self.token, Fence::new(fence), sent, ttl);
        if !holding.is_valid() {
            // Dropping this attempt frees it.
            return Err(holding::lost());
        }
        self.stage = Stage::Settled;
        Ok(Outcome::Granted(holding))
    }
}

/// Whether a request that failed so cannot have changed anything: a script that is refused a command midway may have.
fn never_sent(error: &Error) -> bool {
    use ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::Refused | Kind::Closed | Kind::Authentication | Kind::Loading | Kind::ReadOnly
    )
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let remembered = match self.stage {
            Stage::Settled => return,
            // All that may still arrive takes nothing for a token that is not in line.
            Stage::InLine => Duration::from_millis(1),
            Stage::Unanswered => Pace::REMEMBERED,
        };
        let name = self.name.clone();
        // Tried for as long as what may still arrive could take the lock.
        let tried = self.ttl.max(Pace::REMEMBERED);
        self.locks.end_in_background(name, self.token, tried, Ending::GiveUp(remembered));
    }
}
