//! The callers of one key in this process that wait for permits, and the task that books their turns.
//!
//! The task asks the store for the first caller and all that fit behind it, in one request. The store grants as
//! much as is free now, or else as much as is free at the earliest time at which the first caller's cost fits.
//! Callers that join meanwhile share the next request. A record cannot book further ahead than a window; for a
//! later turn the task sleeps and asks again when the turn is nearer. The task wakes up when permits are given
//! back, the key is reset, the quotas change, the first caller leaves, or a caller joins that cannot wait so long.
//!
//! The task runs while callers wait. If its runtime ends, a caller on another runtime starts it again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use super::Plan;
use super::RateLimiter;
use super::decision::{DecidedBy, Decision};
use super::turn::BookedTurn;
use crate::clock::Tick;
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
    pub(super) limiter: RateLimiter,
    pub(super) answer: oneshot::Sender<Result<WaitOutcome>>,
}

impl QueuedCaller {
    fn plan(&self, name: &Name) -> Arc<Plan> {
        self.limiter.plan_for(name).unwrap_or_else(|_| self.limiter.plan())
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
            let (plan, mut batch) = {
                let mut state = self.queue.state();
                state.changed = false;
                let Some(taken) = state.batch(&self.name) else {
                    // Clear the flag while holding the lock. A caller that joins afterwards finds it cleared and
                    // starts a new task.
                    state.booking = false;
                    self.finished = true;
                    return;
                };
                taken
            };
            let first = batch.remove(0);
            self.ask(&plan, first, batch).await;
        }
    }

    /// Asks for the first caller and all of a batch behind it.
    async fn ask(&self, plan: &Arc<Plan>, first: QueuedCaller, mut batch: Vec<QueuedCaller>) {
        let limiter = first.limiter.clone();
        let (sent, restarts) = (limiter.now(), *self.queue.restarts.borrow());
        let asked = (sent, limiter.changes());
        let cost = first.cost + batch.iter().map(|one| one.cost).sum::<u64>();
        let (take, max_wait) = (ChargeMode::Turns { least: first.cost }, micros(first.deadline.since(sent)));
        let charge = Charge { terms: &plan.terms, take, cost, charge_at: 0, max_wait, penalty: None };
        let answer = limiter.send_in_time(&self.name, charge).await;
        let answered = limiter.now();
        batch.insert(0, first);
        match answer {
            Err(error) => batch.into_iter().for_each(|one| {
                let decided =
                    one.limiter.without_store(&self.name, plan, ChargeMode::All, one.cost, error.clone());
                let _ = one.answer.send(decided.map(WaitOutcome::Decided));
            }),
            Ok(charged) if charged.granted > 0 => {
                self.put_back(self.hand_out(&limiter, plan, charged, (sent, answered, restarts), batch));
            }
            Ok(charged) => {
                // Remember the refusal locally, as a plain check does.
                let least = batch.first().map_or(1, |one| one.cost);
                if let Err(error) = plan.check_answer(least, &charged) {
                    let _ = batch.remove(0).answer.send(Err(error));
                    return self.put_back(batch);
                }
                let _ = limiter.decided(&self.name, plan, ChargeMode::All, least, charged, asked);
                self.put_back(batch);
                self.refuse(plan, charged, least, answered).await;
            }
        }
    }

    /// Gives turns to the callers in order, and returns those that have to ask again.
    fn hand_out(
        &self,
        limiter: &RateLimiter,
        plan: &Arc<Plan>,
        charged: Charged,
        (sent, answered, restarts): (Tick, Tick, u64),
        batch: Vec<QueuedCaller>,
    ) -> Vec<QueuedCaller> {
        let (mut left, mut full) = (charged.granted, false);
        let mut again = Vec::new();
        for (place, one) in batch.into_iter().enumerate() {
            let patient = place == 0 || micros(one.deadline.since(answered)) >= charged.wait;
            full |= one.cost > left;
            if full || !patient {
                again.push(one);
                continue;
            }
            left -= one.cost;
            let charged = Charged { granted: one.cost, ..charged };
            let (limiter, name, plan) = (one.limiter, self.name.clone(), plan.clone());
            let turn = BookedTurn { limiter, name, plan, charged, sent, answered, restarts, taken: false };
            // If the caller has left, the turn is dropped, which gives it back.
            let _ = one.answer.send(Ok(WaitOutcome::Turn(turn)));
        }
        if left > 0 {
            limiter.give_back_later(&self.name, plan, charged.stamp, left);
        }
        again
    }

    /// Handles a refusal of `cost` that lasts longer than its caller waits, or than can be booked. Answers the
    /// callers that cannot wait that long, and sleeps if another one can.
    async fn refuse(&self, plan: &Arc<Plan>, charged: Charged, cost: u64, answered: Tick) {
        let end = answered.after(Duration::from_micros(charged.wait));
        // Split off the callers whose deadline is before the refusal's end, by whether the refusal applies to them.
        let (refused, others) = {
            let mut state = self.queue.state();
            let (hasty, patient) = state.waiting.drain(..).partition(|one: &QueuedCaller| one.deadline < end);
            state.waiting = patient;
            let same = |one: &QueuedCaller| one.cost == cost && one.plan(&self.name).id == plan.id;
            hasty.into_iter().partition::<Vec<_>, _>(same)
        };
        for one in refused {
            let decision = Decision::of(&self.name, charged, plan, DecidedBy::Store);
            let _ = one.answer.send(Ok(WaitOutcome::Decided(decision)));
        }
        // The refusal says nothing about other costs or quotas: ask once for each of these callers.
        for one in others {
            let plan = one.plan(&self.name);
            let decided = one.limiter.ask_in_time(&self.name, &plan, one.cost).await;
            let _ = one.answer.send(decided.map(WaitOutcome::Decided));
        }
        // Sleep until the refusal ends, unless the queue changes so that asking earlier makes sense.
        let first = self.queue.state().waiting.front().map(|one| one.ticket);
        let Some(first) = first else { return };
        let sleep = tokio::time::sleep(end.since(answered));
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return,
                () = self.queue.wake.notified() => {
                    let state = self.queue.state();
                    let here = state.waiting.front().is_some_and(|one| one.ticket == first && !one.answer.is_closed());
                    let hasty = state.waiting.iter().any(|one| one.deadline < end && !one.answer.is_closed());
                    if state.changed || !here || hasty {
                        return;
                    }
                }
            }
        }
    }

    fn put_back(&self, batch: Vec<QueuedCaller>) {
        let mut state = self.queue.state();
        batch.into_iter().rev().for_each(|one| state.insert(one));
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX).min(1 << 50)
}
