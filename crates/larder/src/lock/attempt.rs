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
use crate::store::lock::{Attempted, LockStore, Pace, Queue, wake_name};

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
    name: String,
    token: u64,
    ttl: Duration,
    stage: Stage,
    heard: Tick,
    /// Left only when its end was handed over.
    place: Option<Place>,
}

/// What came of an attempt.
pub(super) enum Outcome {
    Granted(Holding),
    Held,
}

impl Attempt {
    fn new(locks: &Arc<Locks>, name: &str, ttl: Duration) -> Self {
        Self {
            locks: locks.clone(),
            name: name.to_owned(),
            token: locks.context.random.nonce(),
            ttl,
            stage: Stage::Settled,
            heard: locks.context.clock.now(),
            place: None,
        }
    }

    /// Takes the lock if it is free at this moment.
    pub(super) async fn once(locks: &Arc<Locks>, name: &str, ttl: Duration) -> Result<Outcome> {
        let mut attempt = Self::new(locks, name, ttl);
        match attempt.begin(Queue::GoAway).await? {
            Attempted::Granted { fence } => attempt.guard(fence),
            _ => Ok(Outcome::Held),
        }
    }

    /// Takes the lock, waiting in line until it is this attempt's turn, or `end`.
    pub(super) async fn within(
        locks: &Arc<Locks>,
        name: &str,
        ttl: Duration,
        end: Option<Tick>,
    ) -> Result<Outcome> {
        let began = locks.context.clock.now();
        let mut waited = false;
        let mut heard = began;
        // A request that failed, and when it was sent.
        let mut failed: Option<(Tick, Error)>;
        loop {
            let mut attempt = Self::new(locks, name, ttl);
            attempt.heard = heard;
            let mut watch = locks.changes().watch(&wake_name(name, attempt.token));
            let told = match attempt.begin(Queue::StandInLine).await {
                Ok(Attempted::Granted { fence }) => {
                    attempt.note_wait(waited, began);
                    return attempt.guard(fence);
                }
                Ok(Attempted::Waiting { told }) => told,
                // A token that was never given up is not known as such; ask with another.
                Ok(Attempted::Gone | Attempted::Held) => continue,
                // Whoever stood in line outlives a short outage. Whoever comes to one is told.
                Err(error) if waited && attempt.may_go_on(&error) => {
                    if end.is_some_and(|end| end <= locks.context.clock.now()) {
                        return Err(error);
                    }
                    heard = attempt.heard;
                    drop(attempt);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            waited = true;
            failed = None;
            tracing::trace!("in line for a lock");
            let place = Waiting::join(locks, name, attempt.token);
            let called = place.told.clone();
            attempt.place = Some(place);
            let mut come = !told && attempt.listen().await;
            loop {
                let patience = end.map_or(LONGEST_SILENCE, |end| end.since(locks.context.clock.now()));
                if patience.is_zero() {
                    return attempt.in_vain(failed);
                }
                if !come {
                    let patience = patience.min(LONGEST_SILENCE);
                    tokio::select! {
                        () = watch.changed(patience) => {}
                        () = called.notified() => {}
                    }
                    if end.is_some_and(|end| end <= locks.context.clock.now()) {
                        return attempt.in_vain(failed);
                    }
                }
                let woken = locks.context.clock.now();
                locks.meter.woken();
                match attempt.confirm().await {
                    Ok(Attempted::Granted { fence }) => {
                        locks.meter.handed_over(locks.context.clock.now().since(woken));
                        attempt.note_wait(waited, began);
                        return attempt.guard(fence);
                    }
                    Ok(Attempted::Waiting { .. }) => {
                        failed = None;
                        come = attempt.listen().await;
                    }
                    // The server has lost its data, or took this process for dead: to the end of the line.
                    Ok(_) => break,
                    Err(error) if attempt.may_go_on(&error) => {
                        failed = Some((woken, error));
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            heard = attempt.heard;
        }
    }

    async fn begin(&mut self, queue: Queue) -> Result<Attempted> {
        let store = self.locks.store()?;
        let sent = self.locks.context.clock.now();
        self.stage = Stage::Unanswered;
        let answered =
            timeout(self.locks.timeout(), store.acquire(&self.name, self.token, self.ttl, queue)).await;
        let answer = answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())));
        match &answer {
            Ok(attempted) => {
                self.heard = sent;
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

    async fn confirm(&mut self) -> Result<Attempted> {
        let store = self.locks.store()?;
        let sent = self.locks.context.clock.now();
        let answered = timeout(self.locks.timeout(), store.confirm(&self.name, self.token, self.ttl)).await;
        let answer = answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())))?;
        self.heard = sent;
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
        let name = std::mem::take(&mut self.name);
        // Tried for as long as what may still arrive could take the lock.
        let tried = self.ttl.max(Pace::REMEMBERED);
        self.locks.end_in_background(name, self.token, tried, Ending::GiveUp(remembered));
    }
}
