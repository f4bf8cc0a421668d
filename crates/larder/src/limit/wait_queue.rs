//! The callers of one key in this process that wait for permits, and the task that books their turns.
//!
//! The task asks the store for the first caller and all that fit behind it, in one request. The store grants as
//! much as is free now, or else as much as is free at the earliest time at which the first caller's cost fits.
//! Callers that join meanwhile share the next request. A record cannot book further ahead than its shortest window; for
//! a later turn the task sleeps and asks again when the turn is that near. The task wakes up when permits are given
//! back, the key is reset, the quotas change, the first caller leaves, or a caller joins that cannot wait so long.
//!
//! A caller that cannot wait for the first caller's turn, and has another cost or other quotas, gets a turn of its own
//! or a refusal: the task asks for all these callers at the same time, in one request for each cost.
//!
//! A turn that comes after a caller's deadline, because the answer took long, is given back.
//!
//! The task runs while callers wait. If its runtime ends, a caller on another runtime starts it again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot, watch};

use super::Plan;
use super::RateLimiter;
use super::decision::{DecidedBy, Decision};
use super::turn::BookedTurn;
use crate::clock::{Tick, drift};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, Charged};

/// A caller in the queue.
pub(super) struct QueuedCaller {
    /// The caller's place. A caller that has to ask again keeps it.
    pub(super) ticket: u64,
    pub(super) cost: u64,
    pub(super) deadline: Tick,
    /// Whether the caller does not wait at all: its request's answer may come after the deadline.
    pub(super) at_once: bool,
    /// When to ask again for a caller that was refused and can wait: its turn is near enough to be booked then.
    pub(super) refused_until: Option<Tick>,
    pub(super) limiter: RateLimiter,
    pub(super) answer: oneshot::Sender<Result<WaitOutcome>>,
}

impl QueuedCaller {
    fn plan(&self, name: &Name) -> Arc<Plan> {
        self.limiter.plan_for(name).unwrap_or_else(|_| self.limiter.plan())
    }

    /// The time after which the caller takes no turn.
    fn latest(&self) -> Option<Tick> {
        (!self.at_once).then_some(self.deadline)
    }

    /// Whether the caller cannot wait until `end`, when the first caller's refusal ends, and is to be asked for now.
    fn asks_before(&self, end: Tick, now: Tick) -> bool {
        self.deadline < end && self.refused_until.is_none_or(|until| until <= now)
    }
}

/// The result that a caller waits for.
pub(super) enum WaitOutcome {
    Turn(BookedTurn),
    /// A refusal, or the decision of the outage policy.
    Decided(Decision),
}

pub(super) struct WaitQueue {
    state: Mutex<QueueState>,
    /// Wakes the sleeping task.
    wake: Notify,
    /// Wakes the callers when the task has ended early.
    ended: Notify,
    /// How often all turns were cancelled because the key was reset or the quotas changed.
    restarts: watch::Sender<u64>,
}

#[derive(Default)]
struct QueueState {
    /// By ticket.
    waiting: VecDeque<QueuedCaller>,
    next_ticket: u64,
    /// Whether the task runs.
    booking: bool,
    /// Whether permits were given back since the task last asked.
    changed: bool,
}

impl Default for WaitQueue {
    fn default() -> Self {
        let (state, wake, ended) = Default::default();
        Self { state, wake, ended, restarts: watch::Sender::new(0) }
    }
}

impl WaitQueue {
    pub(super) fn ticket(&self) -> u64 {
        let mut state = self.state();
        state.next_ticket += 1;
        state.next_ticket
    }

    pub(super) fn join(&self, one: QueuedCaller) {
        self.state().insert(one);
        self.wake();
    }

    /// Lets the task check its queue again.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Notes that permits were given back: the first caller's turn may be earlier now.
    pub(super) fn given_back(&self) {
        self.state().changed = true;
        self.wake();
    }

    /// Cancels all turns: every caller asks again.
    pub(super) fn restart(&self) {
        self.restarts.send_modify(|restarts| *restarts += 1);
        self.given_back();
    }

    /// Completes when the queue was restarted since `restarts` was read.
    pub(super) async fn restarted(&self, restarts: u64) {
        let mut seen = self.restarts.subscribe();
        if seen.wait_for(|now| *now != restarts).await.is_err() {
            // Unreachable while the queue lives, because it owns the sender.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the answer and keeps the task running. Returns `None` if the task was dropped together with the
    /// request: the caller asks again.
    pub(super) async fn answer(
        self: &Arc<Self>,
        name: &Name,
        mut answered: oneshot::Receiver<Result<WaitOutcome>>,
        context: &Arc<Context>,
    ) -> Result<Option<WaitOutcome>> {
        loop {
            let ended = self.ended.notified();
            self.run(name, context)?;
            tokio::select! {
                answer = &mut answered => return match answer {
                    Ok(answer) => answer.map(Some),
                    Err(_) => context.coordination().map(|_| None),
                },
                () = ended => {}
            }
        }
    }

    fn run(self: &Arc<Self>, name: &Name, context: &Context) -> Result<()> {
        let mut state = self.state();
        if !state.booking && !state.waiting.is_empty() {
            state.booking = true;
            drop(state);
            // Dropped if it cannot be started: then the next caller tries.
            let task = Booking { queue: self.clone(), name: name.clone(), finished: false };
            if !context.background.spawn_until_close(async move { task.run().await }) {
                return Err(Error::closed());
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn insert(&mut self, one: QueuedCaller) {
        let place = self.waiting.partition_point(|other| other.ticket < one.ticket);
        self.waiting.insert(place, one);
    }

    /// Takes the first caller and those behind it that have the same quotas and fit into the limit together with
    /// it.
    fn batch(&mut self, name: &Name) -> Option<(Arc<Plan>, Vec<QueuedCaller>)> {
        self.waiting.retain(|one| !one.answer.is_closed());
        let first = self.waiting.pop_front()?;
        let (plan, mut cost) = (first.plan(name), first.cost);
        let mut batch = vec![first];
        while let Some(next) = self.waiting.front() {
            cost = cost.saturating_add(next.cost);
            if cost > plan.most || next.plan(name).id != plan.id {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        Some((plan, batch))
    }

    /// Takes the callers that cannot wait until `end` and are to be asked for now. Returns those that have the same
    /// cost and the same quotas together.
    fn impatient(&mut self, name: &Name, end: Tick, now: Tick) -> Vec<(Arc<Plan>, Vec<QueuedCaller>)> {
        let mut groups: Vec<(Arc<Plan>, Vec<QueuedCaller>)> = Vec::new();
        let (asking, waiting) =
            self.waiting.drain(..).partition::<VecDeque<_>, _>(|one| one.asks_before(end, now));
        self.waiting = waiting;
        for one in asking {
            let plan = one.plan(name);
            let cost = one.cost;
            let same = |(other, group): &&mut (Arc<Plan>, Vec<QueuedCaller>)| {
                other.id == plan.id && group.first().is_some_and(|first| first.cost == cost)
            };
            match groups.iter_mut().find(same) {
                Some((_, group)) => group.push(one),
                None => groups.push((plan, vec![one])),
            }
        }
        groups
    }
}

/// A refusal of a cost.
struct Refused {
    plan: Arc<Plan>,
    cost: u64,
    charged: Charged,
    answered: Tick,
}

/// The booking task. Dropped at its end or with its runtime.
struct Booking {
    queue: Arc<WaitQueue>,
    name: Name,
    /// Set once the task has found the queue empty: another task may run by now.
    finished: bool,
}

impl Drop for Booking {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Clear the flag before waking the callers. Each of them checks the flag after it has woken up, so one
        // starts a new task.
        self.queue.state().booking = false;
        self.queue.ended.notify_waiters();
    }
}

impl Booking {
    async fn run(mut self) {
        loop {
            let (plan, batch) = {
                let mut state = self.queue.state();
                if std::mem::take(&mut state.changed) {
                    state.waiting.iter_mut().for_each(|one| one.refused_until = None);
                }
                let Some(taken) = state.batch(&self.name) else {
                    // Clear the flag while holding the lock. A caller that joins afterwards finds it cleared and
                    // starts a new task.
                    state.booking = false;
                    self.finished = true;
                    return;
                };
                taken
            };
            let Some(limiter) = batch.first().map(|first| first.limiter.clone()) else { continue };
            let Some(refused) = self.ask(plan, batch).await else { continue };
            // The first caller is refused for longer than can be booked. Those that cannot wait so long get turns or
            // refusals of their own.
            let end = refused.end();
            self.refuse(&refused);
            let groups = self.queue.state().impatient(&self.name, end, limiter.now());
            let asks = groups.into_iter().map(|(plan, group)| self.ask(plan, group));
            for refused in join_all(asks).await.into_iter().flatten() {
                self.refuse(&refused);
            }
            self.sleep(end, &limiter).await;
        }
    }

    /// Asks for the first caller and all of a batch behind it. If the first one is refused, returns the refusal, and
    /// all of them are in the queue again.
    async fn ask(&self, plan: Arc<Plan>, batch: Vec<QueuedCaller>) -> Option<Refused> {
        let first = batch.first()?;
        let (limiter, least, deadline) = (first.limiter.clone(), first.cost, first.deadline);
        let (sent, restarts) = (limiter.now(), *self.queue.restarts.borrow());
        let asked = (sent, limiter.changes(&self.name));
        let cost = batch.iter().map(|one| one.cost).fold(0, u64::saturating_add);
        let (mode, max_wait) = (ChargeMode::Turns { least }, micros(deadline.since(sent)));
        let charge = Charge { specs: &plan.specs, mode, cost, charge_at: 0, max_wait, penalty: None };
        let answer = limiter.send_in_time(&self.name, charge).await;
        let answered = limiter.now();
        match answer {
            Err(error) => batch.into_iter().for_each(|one| {
                let decided =
                    one.limiter.without_store(&self.name, &plan, ChargeMode::All, one.cost, error.clone());
                let _ = one.answer.send(decided.map(WaitOutcome::Decided));
            }),
            Ok(charged) if charged.granted > 0 => {
                self.hand_out(&limiter, &plan, charged, (sent, answered, restarts), batch).await;
            }
            Ok(charged) => {
                if let Err(error) = plan.check_answer(least, &charged) {
                    let same = |one: &QueuedCaller| one.cost == least;
                    let (refused, others) = batch.into_iter().partition::<Vec<_>, _>(same);
                    for one in refused {
                        let _ = one.answer.send(Err(error.clone()));
                    }
                    self.put_back(others);
                    return None;
                }
                // Remember the refusal locally, as a plain check does.
                let _ = limiter.decided(&self.name, &plan, ChargeMode::All, least, charged, asked);
                self.put_back(batch);
                return Some(Refused { plan, cost: least, charged, answered });
            }
        }
        None
    }

    /// Gives turns to the callers in order. Those that do not get one ask again, except for those whose time is over.
    async fn hand_out(
        &self,
        limiter: &RateLimiter,
        plan: &Arc<Plan>,
        charged: Charged,
        (sent, answered, restarts): (Tick, Tick, u64),
        batch: Vec<QueuedCaller>,
    ) {
        let (mut left, mut full) = (charged.granted, false);
        let (mut again, mut late) = (Vec::new(), Vec::new());
        let due = BookedTurn::due(answered, charged.wait);
        for (place, one) in batch.into_iter().enumerate() {
            let in_time = one.latest().is_none_or(|latest| due <= latest);
            let turn_for_it = place == 0 || charged.wait == 0;
            full |= one.cost > left;
            if full || (!in_time && !turn_for_it) || (one.at_once && charged.wait > 0) {
                again.push(one);
                continue;
            }
            if !in_time {
                late.push(one);
                continue;
            }
            left -= one.cost;
            let charged = Charged { granted: one.cost, ..charged };
            let (deadline, limiter) = (one.latest(), one.limiter);
            let (name, plan) = (self.name.clone(), plan.clone());
            let turn =
                BookedTurn { limiter, name, plan, charged, sent, answered, deadline, restarts, taken: false };
            // If the caller has left, the turn is dropped, which gives it back.
            let _ = one.answer.send(Ok(WaitOutcome::Turn(turn)));
        }
        self.put_back(again);
        if left == 0 {
            return;
        }
        if late.is_empty() {
            return limiter.give_back_later(&self.name, charged.stamp, left);
        }
        // Before the answers: a caller that tries again does not find its own permits charged.
        limiter.give_back_in_time(&self.name, charged.stamp, left).await;
        let waited = micros(limiter.now().since(answered));
        for one in late {
            let (wait, remaining) = (charged.wait.saturating_sub(waited), charged.remaining + left);
            let charged = Charged { granted: 0, wait, remaining, ..charged };
            let decision = Decision::of(&self.name, charged, plan, DecidedBy::Store);
            let _ = one.answer.send(Ok(WaitOutcome::Decided(decision)));
        }
    }

    /// Answers the callers whose deadline is before the end of a refusal of their cost. The others wait until their
    /// turn can be booked.
    fn refuse(&self, refused: &Refused) {
        let end = refused.end();
        let asks_again = refused.asks_again();
        let mut state = self.queue.state();
        let mut waiting = VecDeque::with_capacity(state.waiting.len());
        for mut one in state.waiting.drain(..) {
            if one.cost == refused.cost && one.plan(&self.name).id == refused.plan.id {
                if one.deadline < end {
                    let decision = Decision::of(&self.name, refused.charged, &refused.plan, DecidedBy::Store);
                    let _ = one.answer.send(Ok(WaitOutcome::Decided(decision)));
                    continue;
                }
                one.refused_until = Some(asks_again);
            }
            waiting.push_back(one);
        }
        state.waiting = waiting;
    }

    /// Sleeps until the first caller's turn can be booked, or an earlier one for which a caller waits, unless the queue
    /// changes so that asking earlier makes sense. Returns at once if the first caller was not refused. `first_end` is
    /// when the first caller's refusal ends.
    async fn sleep(&self, first_end: Tick, limiter: &RateLimiter) {
        let now = limiter.now();
        let (first, end) = {
            let state = self.queue.state();
            let refused = |one: &&QueuedCaller| one.refused_until.is_some_and(|until| until > now);
            let Some(first) = state.waiting.front().filter(refused).map(|one| one.ticket) else { return };
            // A time that has passed belongs to a caller that waits for the first one, or that asks at once, below.
            let ends = state.waiting.iter().filter_map(|one| one.refused_until).filter(|until| *until > now);
            (first, ends.fold(first_end, Ord::min))
        };
        let sleep = tokio::time::sleep(end.since(now));
        tokio::pin!(sleep);
        loop {
            {
                // Also before the first sleep: a refusal may have ended while the callers of other costs were asked.
                let (state, now) = (self.queue.state(), limiter.now());
                let asks = |one: &QueuedCaller| one.asks_before(first_end, now) && !one.answer.is_closed();
                let here =
                    state.waiting.front().is_some_and(|one| one.ticket == first && !one.answer.is_closed());
                if state.changed || !here || state.waiting.iter().any(asks) {
                    return;
                }
            }
            tokio::select! {
                () = &mut sleep => return,
                () = self.queue.wake.notified() => {}
            }
        }
    }

    fn put_back(&self, batch: Vec<QueuedCaller>) {
        let mut state = self.queue.state();
        batch.into_iter().rev().for_each(|one| state.insert(one));
    }
}

impl Refused {
    fn end(&self) -> Tick {
        self.answered.after(Duration::from_micros(self.charged.wait))
    }

    /// Returns when the turn is near enough to be booked. If it is so already, the store has refused it for another
    /// reason: returns the end of the refusal.
    fn asks_again(&self) -> Tick {
        let wait = Duration::from_micros(self.charged.wait);
        let reach = self.plan.reach(self.charged.label);
        let ahead = wait.saturating_sub(reach);
        if ahead.is_zero() {
            return self.end();
        }
        // The local clock may be fast: then the turn would not be near enough yet. The delay must not use up the reach:
        // with a fast clock and a long wait, one more request finds the rest of the wait.
        self.answered.after(ahead + drift(ahead).min(reach / 2))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX).min(1 << 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_that_ended_while_others_were_asked_does_not_wait_for_the_first_callers_end() {
        let larder = crate::Larder::connect("memory:").await.unwrap();
        let limiter = larder.rate_limiter("api", crate::Quota::per_hour(3)).unwrap();
        let (name, now) = (limiter.record("a").unwrap(), limiter.now());
        let after = |secs| now.after(Duration::from_secs(secs));
        let queue = Arc::<WaitQueue>::default();
        let join = |cost, deadline, refused_until| {
            let (answer, answered) = oneshot::channel();
            let (ticket, limiter) = (queue.ticket(), limiter.clone());
            queue.join(QueuedCaller {
                ticket,
                cost,
                deadline,
                at_once: false,
                refused_until,
                limiter,
                answer,
            });
            answered
        };
        let end = after(7200);
        let _first = join(3, after(9000), Some(end));
        let _patient = join(1, after(8000), Some(now));
        let task = Booking { queue: queue.clone(), name, finished: false };
        let wakes = async || {
            let slept = tokio::time::timeout(Duration::from_millis(20), task.sleep(end, &limiter)).await;
            slept.is_ok()
        };
        assert!(!wakes().await, "a caller that can wait until the first one's end does");
        let _ended = join(2, after(5000), Some(now));
        assert!(wakes().await, "one that cannot is asked for");
    }
}
