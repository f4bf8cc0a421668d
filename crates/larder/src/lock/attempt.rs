//! One attempt at a lock, a group of locks or permits of a semaphore: it ends in a guard or leaves nothing behind.
//!
//! The problem: an attempt may be dropped at any moment, and the server may still execute its request, now or
//! later. The mechanism: every attempt has its own token. When an attempt ends without a guard, its token is
//! cancelled on the server: the server removes it from the queue and hands on whatever the token was granted. While
//! a reply is outstanding, the server also remembers that the token was cancelled, so that a request that arrives
//! later acquires nothing.
//!
//! Invariants: at most one `acquire` is sent for a token. A deadline counts from before the request whose reply was
//! the grant, never from a wake-up, which is only a hint to ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::coordinator::Coordinator;
use super::failover::Failover;
use super::lease::{Lease, LeaseKind};
use super::queue::QueuePlace;
use super::release::{Ending, end_in_background};
use super::{Fence, lease};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::near::Subscription;
use crate::store::group::GroupStore;
use crate::store::lock::{Attempted, LockRequest, LockStore, QueueTiming, WhenHeld, process_suffix};
use crate::store::permit::{PermitRequest, PermitStore, Taken, WhenTaken};
use crate::telemetry::target;
use crate::tokens::Tokens;

/// The longest time that a waiter waits for a wake-up before it asks by itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);
/// The pause after a failed request, while the outage is short.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Known to have left nothing on the server, or owned by a guard.
    Settled,
    Queued,
    /// A request to acquire is outstanding.
    Unanswered,
}

/// What an attempt asks for.
#[derive(Debug, Clone)]
pub(super) enum Want {
    Lock {
        ttl: Duration,
        /// The holder's name as others see it, after a space; `None` for this process's name.
        by: Option<Arc<str>>,
        failover: Failover,
    },
    Permits {
        /// The semaphore's name as the caller wrote it, without a key.
        label: Arc<str>,
        weight: u64,
        request: PermitRequest,
    },
    Group {
        /// Escaped, with line feeds between.
        names: Arc<str>,
        ttl: Duration,
        failover: Failover,
    },
}

impl Want {
    fn ttl(&self) -> Duration {
        match self {
            Self::Lock { ttl, .. } | Self::Group { ttl, .. } => *ttl,
            Self::Permits { request, .. } => request.ttl,
        }
    }

    fn token(&self, tokens: &Tokens) -> u64 {
        match self {
            Self::Lock { .. } | Self::Group { .. } => tokens.next(),
            Self::Permits { weight, .. } => tokens.of_weight(*weight),
        }
    }
}

/// The server's reply to an attempt at a lock, permits or a group. The fence is 0 if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AttemptReply {
    Granted { fence: u64 },
    Held,
    Waiting { notified: bool },
    Gone,
    QueueFull,
    TooHeavy(u64),
    Quarantined(u64),
}

impl From<Attempted> for AttemptReply {
    fn from(attempted: Attempted) -> Self {
        match attempted {
            Attempted::Granted { fence } => Self::Granted { fence },
            Attempted::Held => Self::Held,
            Attempted::Waiting { notified } => Self::Waiting { notified },
            Attempted::Gone => Self::Gone,
            Attempted::Quarantined { until } => Self::Quarantined(until),
        }
    }
}

impl From<Taken> for AttemptReply {
    fn from(taken: Taken) -> Self {
        match taken {
            Taken::Granted { fence, .. } => Self::Granted { fence },
            Taken::Full { .. } => Self::Held,
            Taken::Waiting { notified, .. } => Self::Waiting { notified },
            Taken::Gone => Self::Gone,
            Taken::QueueFull { .. } => Self::QueueFull,
            Taken::TooHeavy { permits } => Self::TooHeavy(permits),
            Taken::Quarantined { until } => Self::Quarantined(until),
        }
    }
}

pub(super) struct Attempt {
    locks: Arc<Coordinator>,
    name: Arc<str>,
    token: u64,
    want: Want,
    stage: Stage,
    last_answer: Tick,
    /// Made before the attempt joins the queue, so that no wake-up is missed.
    subscription: Option<Subscription>,
    /// Set once the attempt is queued. Its drop runs after `Drop for Attempt` has queued the cancel, so the
    /// heartbeat keeps the place until then.
    place: Option<QueuePlace>,
}

/// The result of an attempt.
pub(super) enum AttemptOutcome {
    Granted(Lease),
    Held,
    /// The queue is as long as it may be.
    QueueFull,
    /// The attempt wants more permits than the semaphore has: this many.
    TooHeavy(u64),
    /// No grant until then, in milliseconds of the server's clock.
    Quarantined(u64),
}

impl Attempt {
    fn new(locks: &Arc<Coordinator>, name: &Arc<str>, want: Want, last_answer: Tick) -> Self {
        Self {
            locks: locks.clone(),
            name: name.clone(),
            token: want.token(&locks.context.tokens),
            want,
            stage: Stage::Settled,
            last_answer,
            subscription: None,
            place: None,
        }
    }

    /// Acquires the lock if it is free now.
    pub(super) async fn once(
        locks: &Arc<Coordinator>,
        name: &Arc<str>,
        want: Want,
    ) -> Result<AttemptOutcome> {
        let now = locks.context.clock.now();
        let mut attempt = Self::new(locks, name, want, now);
        match attempt.begin(now, WhenHeld::Return).await? {
            AttemptReply::Granted { fence } => attempt.guard(fence),
            AttemptReply::TooHeavy(permits) => Ok(AttemptOutcome::TooHeavy(permits)),
            AttemptReply::Quarantined(until) => Ok(AttemptOutcome::Quarantined(until)),
            _ => Ok(AttemptOutcome::Held),
        }
    }

    /// Acquires the lock; waits in its queue until it is this attempt's turn, or `end`.
    pub(super) async fn within(
        locks: &Arc<Coordinator>,
        name: &Arc<str>,
        want: Want,
        end: Option<Tick>,
    ) -> Result<AttemptOutcome> {
        let now = locks.context.clock.now();
        let mut attempt = Self::new(locks, name, want, now);
        match attempt.begin(now, WhenHeld::Enqueue).await? {
            AttemptReply::Granted { fence } => attempt.guard(fence),
            // Boxed: the future of a wait is large, and most attempts do not wait.
            other => Box::pin(attempt.continue_queued(other, now, end)).await,
        }
    }

    /// Continues an attempt that was not granted at once. Starts a new attempt whenever the place in the queue is
    /// lost.
    async fn continue_queued(
        mut self,
        mut answer: AttemptReply,
        began: Tick,
        end: Option<Tick>,
    ) -> Result<AttemptOutcome> {
        let mut waited = false;
        loop {
            match answer {
                AttemptReply::Granted { fence } => {
                    self.note_wait(waited, began);
                    return self.guard(fence);
                }
                AttemptReply::QueueFull => return Ok(AttemptOutcome::QueueFull),
                AttemptReply::TooHeavy(permits) => return Ok(AttemptOutcome::TooHeavy(permits)),
                AttemptReply::Quarantined(until) => return Ok(AttemptOutcome::Quarantined(until)),
                AttemptReply::Waiting { notified } => {
                    waited = true;
                    if let Some(outcome) = self.wait(notified, began, end).await? {
                        return Ok(outcome);
                    }
                }
                // `Gone`: the server has lost this token or cancelled it. Retry with a new token.
                AttemptReply::Gone | AttemptReply::Held => {}
            }
            answer = loop {
                // Dropping the old attempt cancels its token.
                self = Self::new(&self.locks, &self.name, self.want.clone(), self.last_answer);
                match self.begin(self.locks.context.clock.now(), WhenHeld::Enqueue).await {
                    Ok(answer) => break answer,
                    // A caller that is already queued rides out a short outage; a new caller gets the error.
                    Err(error) if waited && self.may_go_on(&error) => {
                        if end.is_some_and(|end| end <= self.locks.context.clock.now()) {
                            return Err(error);
                        }
                        self = Self::new(&self.locks, &self.name, self.want.clone(), self.last_answer);
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            };
        }
    }

    /// Waits until it is this attempt's turn; `None` if its place in the queue is lost.
    async fn wait(
        &mut self,
        notified: bool,
        began: Tick,
        end: Option<Tick>,
    ) -> Result<Option<AttemptOutcome>> {
        let locks = self.locks.clone();
        // The last request that failed, and when it was sent.
        let mut failed: Option<(Tick, Error)> = None;
        tracing::trace!(target: target::LOCK, "queued for a lock");
        let place = locks.waiting.join(&self.name, self.token);
        let hinted = place.wakeup.clone();
        self.place = Some(place);
        let mut your_turn = !notified && self.subscribe().await;
        loop {
            let max_wait = end.map_or(LONGEST_SILENCE, |end| end.since(locks.context.clock.now()));
            if max_wait.is_zero() {
                return self.out_of_time(failed).map(Some);
            }
            if !your_turn {
                tokio::select! {
                    () = self.wait_for_wakeup(max_wait.min(LONGEST_SILENCE)) => {}
                    () = hinted.notified() => {}
                }
                if end.is_some_and(|end| end <= locks.context.clock.now()) {
                    return self.out_of_time(failed).map(Some);
                }
            }
            let woken = locks.context.clock.now();
            locks.meter.woken();
            match self.confirm(woken).await {
                Ok(AttemptReply::Granted { fence }) => {
                    locks.meter.handed_over(locks.context.clock.now().since(woken));
                    self.note_wait(true, began);
                    return self.guard(fence).map(Some);
                }
                Ok(AttemptReply::TooHeavy(permits)) => return Ok(Some(AttemptOutcome::TooHeavy(permits))),
                // Dropping this attempt gives up its place.
                Ok(AttemptReply::Quarantined(until)) => return Ok(Some(AttemptOutcome::Quarantined(until))),
                Ok(AttemptReply::Waiting { .. }) => {
                    failed = None;
                    your_turn = self.subscribe().await;
                }
                // The server has lost its data, or took this process for dead: join the end of the queue.
                Ok(_) => return Ok(None),
                Err(error) if self.may_go_on(&error) => {
                    failed = Some((woken, error));
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a wake-up from the server, for at most `max_wait`.
    async fn wait_for_wakeup(&self, max_wait: Duration) {
        match &self.subscription {
            Some(subscription) => subscription.notified(max_wait).await,
            None => tokio::time::sleep(max_wait).await,
        }
    }

    /// Sends the request to acquire, at `now`.
    async fn begin(&mut self, now: Tick, queue: WhenHeld) -> Result<AttemptReply> {
        let store = self.locks.context.coordination()?;
        // Subscribe before sending: the wake-up may arrive together with the reply.
        if queue == WhenHeld::Enqueue {
            self.subscription = Some(self.locks.wakeups.subscribe(self.token));
        }
        // Until a reply arrives, the server may have queued or granted the attempt: a drop now has to cancel it.
        self.stage = Stage::Unanswered;
        let asked = async {
            match &self.want {
                Want::Lock { ttl, by, failover } => {
                    let request = request(*ttl, by.as_deref(), *failover);
                    store.acquire_as(&self.name, self.token, request, queue).await.map(AttemptReply::from)
                }
                Want::Group { names, ttl, failover } => {
                    let request = request(*ttl, None, *failover);
                    store
                        .take_group(&self.name, self.token, names, request, queue)
                        .await
                        .map(AttemptReply::from)
                }
                Want::Permits { label, request, .. } => {
                    let mut request = *request;
                    if queue == WhenHeld::Return {
                        request.wait = WhenTaken::No;
                    }
                    let taken = store.take_permit(&self.name, self.token, request).await?;
                    Ok(self.of_semaphore(label, request, taken))
                }
            }
        };
        let answered = timeout(self.locks.context.limits.response_timeout, asked).await;
        let answer =
            answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.context.limits.response_timeout)));
        // A request that was never sent leaves nothing to cancel. After any other error the attempt stays unanswered.
        match &answer {
            Ok(attempted) => {
                self.last_answer = now;
                self.stage = match attempted {
                    AttemptReply::Granted { .. } | AttemptReply::Waiting { .. } => Stage::Queued,
                    _ => Stage::Settled,
                };
            }
            Err(error) if never_sent(error) => self.stage = Stage::Settled,
            Err(_) => {}
        }
        answer
    }

    /// The reply to an attempt at permits, with what it tells of the number of permits noted.
    fn of_semaphore(&self, label: &str, request: PermitRequest, taken: Taken) -> AttemptReply {
        if let Some(stored) = taken.number() {
            self.locks.differences.note(label, stored, request.permits);
        }
        AttemptReply::from(taken)
    }

    /// Asks at `now` whether it is this attempt's turn, and takes the lock if so.
    async fn confirm(&mut self, now: Tick) -> Result<AttemptReply> {
        let store = self.locks.context.coordination()?;
        let asked = async {
            match &self.want {
                Want::Lock { ttl, by, failover } => {
                    let request = request(*ttl, by.as_deref(), *failover);
                    store.confirm_as(&self.name, self.token, request).await.map(AttemptReply::from)
                }
                Want::Group { ttl, failover, .. } => {
                    let request = request(*ttl, None, *failover);
                    store.confirm_group(&self.name, self.token, request).await.map(AttemptReply::from)
                }
                Want::Permits { label, request, .. } => {
                    let taken = store.confirm_permit(&self.name, self.token, *request).await?;
                    Ok(self.of_semaphore(label, *request, taken))
                }
            }
        };
        let answered = timeout(self.locks.context.limits.response_timeout, asked).await;
        let answer =
            answered.unwrap_or_else(|_| Err(Error::timed_out(self.locks.context.limits.response_timeout)))?;
        self.last_answer = now;
        if matches!(answer, AttemptReply::Gone | AttemptReply::TooHeavy(_)) {
            self.stage = Stage::Settled;
        }
        Ok(answer)
    }

    /// Subscribes on the server. True if the lock was handed over already, or the `Larder` is closed. If the request
    /// fails, the heartbeat wakes the attempt.
    async fn subscribe(&self) -> bool {
        let Ok(store) = self.locks.context.coordination() else { return true };
        let asked =
            timeout(self.locks.context.limits.response_timeout, store.subscribe(&self.name, self.token))
                .await;
        matches!(asked, Ok(Ok(true)))
    }

    /// Whether a queued attempt keeps waiting after `error`: the outage is not longer than `response_timeout` so
    /// far.
    fn may_go_on(&self, error: &Error) -> bool {
        let answered = self.locks.waiting.answered(&self.name, self.token);
        let last_answer = answered.map_or(self.last_answer, |answered| answered.max(self.last_answer));
        let silence = self.locks.context.clock.now().since(last_answer);
        error.is_retryable() && silence <= self.locks.context.limits.response_timeout
    }

    /// The result when the time is over: `Held` if the server has answered since the last failed request, else its
    /// error.
    fn out_of_time(&self, failed: Option<(Tick, Error)>) -> Result<AttemptOutcome> {
        let Some((sent, error)) = failed else { return Ok(AttemptOutcome::Held) };
        let last_answer = self.locks.waiting.answered(&self.name, self.token);
        if last_answer.is_some_and(|last_answer| last_answer >= sent) {
            Ok(AttemptOutcome::Held)
        } else {
            Err(error)
        }
    }

    fn note_wait(&self, waited: bool, began: Tick) {
        if waited {
            self.locks.meter.waited(self.locks.context.clock.now().since(began));
        }
    }

    fn guard(&mut self, fence: u64) -> Result<AttemptOutcome> {
        let (clock, name) = (&self.locks.context.clock, self.name.clone());
        let (token, sent) = (self.token, self.last_answer);
        let lease = match self.want {
            Want::Lock { ttl, failover, .. } | Want::Group { ttl, failover, .. } => {
                let mut lease = Lease::new(clock, name, token, Fence::new(fence), sent, ttl);
                lease.failover = failover;
                lease.waited = self.place.is_some();
                if matches!(self.want, Want::Group { .. }) {
                    lease.kind = LeaseKind::Group;
                }
                lease
            }
            Want::Permits { request, .. } => {
                Lease::of_permit(clock, name, token, Fence::new(fence), sent, request.ttl)
            }
        };
        if !lease.is_valid() {
            // Dropping this attempt releases the lock.
            return Err(lease::lost(&self.name));
        }
        self.stage = Stage::Settled;
        Ok(AttemptOutcome::Granted(lease))
    }
}

fn request(ttl: Duration, by: Option<&str>, failover: Failover) -> LockRequest<'_> {
    LockRequest { ttl, by: by.unwrap_or_else(|| process_suffix()), quarantine: failover.quarantine }
}

/// Whether a request with this error cannot have changed anything. A script that failed midway may have. It relies on
/// the requests of an attempt being sent at most once.
///
/// If this said no of a request that was not sent, each attempt during an outage would leave a cancellation that is
/// sent for half a minute.
fn never_sent(error: &Error) -> bool {
    use ErrorKind as Kind;
    let refused = matches!(
        error.kind(),
        Kind::Refused
            | Kind::Closed
            | Kind::Authentication
            | Kind::Loading
            | Kind::ReadOnly
            | Kind::ClusterDown
    );
    refused || error.is_unsent()
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let remembered = match self.stage {
            Stage::Settled => return,
            // A late request cannot acquire for a token that is no longer queued, so a short tombstone is enough.
            Stage::Queued => Duration::from_millis(1),
            Stage::Unanswered => QueueTiming::REMEMBERED,
        };
        let name = self.name.clone();
        // Retried for as long as a late request could still acquire the lock.
        let tried = self.want.ttl().max(QueueTiming::REMEMBERED);
        let ending = match self.want {
            Want::Lock { .. } => Ending::GiveUp(remembered),
            Want::Permits { .. } => Ending::GivePermit(Some(remembered)),
            Want::Group { .. } => Ending::GiveGroup(Some(remembered)),
        };
        end_in_background(&self.locks.context, name, self.token, tried, ending);
    }
}
