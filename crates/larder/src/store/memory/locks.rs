//! Locks of the embedded store: holders, queues and fences.
//!
//! The specification of the scripts of locks. As on the server, an attempt has a wake-up key, which exists
//! for a while after the lock was handed to the attempt or the attempt was cancelled. Wake-ups are sent after
//! the table is unlocked.
//!
//! Locks are spread over several tables, so that work on one rarely waits for another. Each step costs the
//! logarithm of the queue's length; a handover also passes the dead waiters ahead of the first live one.

use std::collections::{BTreeMap, HashMap};
use std::sync::MutexGuard;
use std::time::Duration;

use super::MemoryStore;
use super::shards::Shards;
use crate::clock::Tick;
use crate::error::Result;
use crate::keyspace::ELECTION;
#[cfg(feature = "admin")]
use crate::store::admin::{HolderState, LockState, WaiterState};
use crate::store::group::is_group;
use crate::store::lock::{
    Attempted, HeldBy, LockRequest, LockStore, LockToken, QueueStatus, QueueTiming, Renewal, WhenHeld,
    process_suffix, wake_name,
};
use crate::store::permit::is_semaphore;

struct LockHolder {
    token: u64,
    deadline: Tick,
    /// None while it was handed over and is not confirmed.
    fence: Option<u64>,
    /// The holder's name, unless it is this process.
    by: Option<String>,
}

/// Returns what is stored of a holder's name.
fn stored(by: &str) -> Option<String> {
    (by != process_suffix()).then(|| by.to_owned())
}

struct LockWaiter {
    ticket: u64,
    last_heartbeat: Tick,
}

/// What the wake-up key of an attempt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WakeKind {
    /// The attempt was handed the lock.
    Woken,
    /// The attempt was cancelled.
    GivenUp,
}

/// The wake-up keys of attempts by token, and how long each exists.
#[derive(Default)]
struct WakeKeys(HashMap<u64, (WakeKind, Tick)>);

impl WakeKeys {
    fn get(&self, token: u64, now: Tick) -> Option<WakeKind> {
        self.0.get(&token).filter(|(_, until)| *until > now).map(|(kind, _)| *kind)
    }

    fn set(&mut self, token: u64, kind: WakeKind, until: Tick) {
        self.0.insert(token, (kind, until));
    }

    fn gave_up(&self, token: u64, now: Tick) -> bool {
        self.get(token, now) == Some(WakeKind::GivenUp)
    }
}

#[derive(Default)]
struct MemoryLock {
    held: Option<LockHolder>,
    /// By token.
    waiters: HashMap<u64, LockWaiter>,
    /// Their tokens by ticket.
    queue: BTreeMap<u64, u64>,
    last_ticket: u64,
}

impl MemoryLock {
    fn holder(&self, now: Tick) -> Option<u64> {
        self.held.as_ref().filter(|held| held.deadline > now).map(|held| held.token)
    }

    /// Returns the holder for others to see. A lock that was handed over and not confirmed yet has none.
    fn held_by(&self, now: Tick) -> Option<HeldBy> {
        let held = self.held.as_ref().filter(|held| held.deadline > now)?;
        Some(HeldBy {
            token: held.token,
            process: held.by.as_deref().unwrap_or_else(|| process_suffix()).trim_start().to_owned(),
            fence: held.fence?,
            remaining: held.deadline.since(now),
            waiting: u64::try_from(self.queue.len()).unwrap_or(u64::MAX),
        })
    }

    fn enqueue(&mut self, token: u64, now: Tick) {
        self.last_ticket = self.last_ticket.saturating_add(1);
        self.queue.insert(self.last_ticket, token);
        self.waiters.insert(token, LockWaiter { ticket: self.last_ticket, last_heartbeat: now });
    }

    fn leave_queue(&mut self, token: u64) {
        if let Some(waiter) = self.waiters.remove(&token) {
            self.queue.remove(&waiter.ticket);
        }
    }

    /// Hands the lock to the first live waiter that has no wake-up key: a waiter that was handed the lock before
    /// gets it again only after it has asked. Returns the waiter's token, or `None` if there is none.
    fn hand_over(&mut self, now: Tick, timing: QueueTiming, wake: &mut WakeKeys) -> Option<u64> {
        let mut from = 0;
        while let Some((ticket, token)) = self.queue.range(from..).next().map(|(at, token)| (*at, *token)) {
            from = ticket.saturating_add(1);
            match self.waiters.get(&token) {
                Some(waiter)
                    if now.since(waiter.last_heartbeat) <= timing.live && wake.get(token, now).is_none() =>
                {
                    wake.set(token, WakeKind::Woken, now.after(timing.live));
                    self.held =
                        Some(LockHolder { token, deadline: now.after(timing.claim), fence: None, by: None });
                    return Some(token);
                }
                Some(waiter) if now.since(waiter.last_heartbeat) <= timing.live * QueueTiming::KEPT => {}
                _ => self.leave_queue(token),
            }
        }
        None
    }

    /// Returns whether the lock has no holder and no waiter.
    fn is_idle(&self, now: Tick) -> bool {
        self.waiters.is_empty() && self.holder(now).is_none()
    }
}

#[derive(Default)]
struct LockShard {
    locks: HashMap<String, MemoryLock>,
    wake: WakeKeys,
    last_fence: u64,
    /// At this size, what has expired is removed: the tables have doubled since that was last done.
    sweep_at: usize,
}

impl LockShard {
    fn next_fence(&mut self, now_micros: u64) -> u64 {
        self.last_fence = now_micros.max(self.last_fence.saturating_add(1));
        self.last_fence
    }

    fn hold(&mut self, lock: &str, held: LockHolder) {
        if let Some(known) = self.locks.get_mut(lock) {
            known.held = Some(held);
        }
    }

    fn sweep(&mut self, now: Tick) {
        if self.locks.len().saturating_add(self.wake.0.len()) >= self.sweep_at {
            self.locks.retain(|_, known| !known.is_idle(now));
            self.wake.0.retain(|_, (_, until)| *until > now);
            let left = self.locks.len().saturating_add(self.wake.0.len());
            self.sweep_at = left.saturating_mul(2).max(64);
        }
    }
}

#[derive(Default)]
pub(super) struct MemoryLocks(Shards<LockShard>);

impl MemoryLocks {
    /// Locks the table of a lock.
    fn of(&self, lock: &str) -> MutexGuard<'_, LockShard> {
        self.0.of(lock)
    }

    /// How many locks and wake-up keys are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.all().map(|state| state.locks.len() + state.wake.0.len()).sum()
    }
}

impl MemoryStore {
    /// How long the lock is still held, if it is.
    #[cfg(test)]
    pub(in crate::store) fn time_left(&self, lock: &str) -> Option<Duration> {
        let now = self.clock.now();
        let state = self.locks.of(lock);
        let held = state.locks.get(lock)?.held.as_ref()?;
        (held.deadline > now).then(|| held.deadline.since(now))
    }

    /// Ends the current hold.
    #[cfg(test)]
    pub(in crate::store) fn end(&self, lock: &str) {
        if let Some(known) = self.locks.of(lock).locks.get_mut(lock) {
            known.held = None;
        }
    }

    /// Records a heartbeat. All tickets belong to one lock.
    fn heartbeat_lock(&self, lock: &str, tickets: &[LockToken]) -> Vec<QueueStatus> {
        let now = self.clock.now();
        let mut state = self.locks.of(lock);
        let LockShard { locks, wake, .. } = &mut *state;
        let Some(known) = locks.get_mut(lock) else { return vec![QueueStatus::Gone; tickets.len()] };
        let mut turns = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            turns.push(match known.waiters.get_mut(&ticket.token) {
                None => QueueStatus::Gone,
                Some(waiter) => {
                    waiter.last_heartbeat = now;
                    if wake.get(ticket.token, now).is_none() {
                        QueueStatus::Waits
                    } else {
                        wake.set(ticket.token, WakeKind::Woken, now.after(self.timing.live));
                        QueueStatus::YourTurn
                    }
                }
            });
        }
        let (mut holder, mut woken) = (known.holder(now), None);
        if holder.is_none() {
            woken = known.hand_over(now, self.timing, wake);
            holder = woken;
        }
        drop(state);
        for (turn, ticket) in turns.iter_mut().zip(tickets) {
            if *turn == QueueStatus::Waits && holder == Some(ticket.token) {
                *turn = QueueStatus::YourTurn;
            }
        }
        self.wake(lock, woken);
        turns
    }

    pub(super) fn was_given_up(&self, lock: &str, token: u64) -> bool {
        let now = self.clock.now();
        self.locks.of(lock).wake.gave_up(token, now)
    }

    pub(super) fn lock_is_held(&self, lock: &str) -> bool {
        let now = self.clock.now();
        self.locks.of(lock).locks.get(lock).is_some_and(|known| known.holder(now).is_some())
    }

    pub(super) fn take_lock(
        &self,
        lock: &str,
        token: u64,
        ttl: Duration,
        queue: WhenHeld,
        by: &str,
    ) -> Attempted {
        let now = self.clock.now();
        let mut state = self.locks.of(lock);
        if state.wake.gave_up(token, now) {
            return Attempted::Gone;
        }
        state.sweep(now);
        let LockShard { locks, wake, .. } = &mut *state;
        let known = locks.entry(lock.to_owned()).or_default();
        let mut handed = None;
        let free = known.holder(now).is_none();
        if free {
            handed = known.hand_over(now, self.timing, wake);
        }
        let answer = if free && handed.is_none() {
            let fence = state.next_fence(self.now_micros());
            state.hold(
                lock,
                LockHolder { token, deadline: now.after(ttl), fence: Some(fence), by: stored(by) },
            );
            Attempted::Granted { fence }
        } else if queue == WhenHeld::Return {
            Attempted::Held
        } else {
            known.enqueue(token, now);
            Attempted::Waiting { notified: true }
        };
        drop(state);
        self.wake(lock, handed);
        answer
    }

    pub(super) fn free_lock(&self, lock: &str, token: u64) -> bool {
        let now = self.clock.now();
        let mut state = self.locks.of(lock);
        let LockShard { locks, wake, .. } = &mut *state;
        let Some(known) = locks.get_mut(lock) else { return false };
        if known.holder(now) != Some(token) {
            return false;
        }
        known.held = None;
        let handed = known.hand_over(now, self.timing, wake);
        if known.is_idle(now) {
            locks.remove(lock);
        }
        drop(state);
        self.wake(lock, handed);
        true
    }

    fn wake(&self, lock: &str, token: Option<u64>) {
        // The lock of an election is observed.
        if lock.starts_with(ELECTION) {
            self.sink.changed(lock);
        }
        if let Some(token) = token {
            self.sink.changed(&wake_name(lock, token));
        }
    }
}

#[cfg(feature = "admin")]
impl MemoryStore {
    pub(super) fn names_of_locks(&self, now: Tick) -> Vec<String> {
        let in_use = |shard: MutexGuard<'_, LockShard>| {
            let locks = shard.locks.iter().filter(|(_, known)| !known.is_idle(now));
            locks.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        self.locks.0.all().flat_map(in_use).collect()
    }

    pub(super) fn lock_state(&self, lock: &str, most: usize) -> LockState {
        let now = self.clock.now();
        let state = self.locks.of(lock);
        let Some(known) = state.locks.get(lock) else { return LockState::default() };
        let held = known.held.as_ref().filter(|held| held.deadline > now);
        let holders: Vec<HolderState> = held
            .map(|held| HolderState {
                token: held.token,
                by: held.by.as_deref().unwrap_or_else(|| process_suffix()).trim_start().to_owned(),
                fence: held.fence.unwrap_or_default(),
                remaining: held.deadline.since(now),
                claims: held.fence.is_none(),
                locks: Vec::new(),
            })
            .into_iter()
            .collect();
        let waiters = known.queue.values().filter_map(|token| Some((*token, known.waiters.get(token)?)));
        let waiters = waiters.take(most).map(|(token, waiter)| WaiterState {
            token,
            heartbeat_ago: now.since(waiter.last_heartbeat),
            locks: Vec::new(),
        });
        LockState {
            holding: u64::from(!holders.is_empty()),
            holders,
            waiters: waiters.collect(),
            waiting: u64::try_from(known.queue.len()).unwrap_or(u64::MAX),
            ..LockState::default()
        }
    }
}

impl LockStore for MemoryStore {
    async fn acquire_as(
        &self,
        lock: &str,
        token: u64,
        LockRequest { ttl, by, .. }: LockRequest<'_>,
        queue: WhenHeld,
    ) -> Result<Attempted> {
        Ok(self.take_lock(lock, token, ttl, queue, by))
    }

    async fn confirm_as(&self, lock: &str, token: u64, request: LockRequest<'_>) -> Result<Attempted> {
        let LockRequest { ttl, by, .. } = request;
        let now = self.clock.now();
        let mut state = self.locks.of(lock);
        let LockShard { locks, wake, .. } = &mut *state;
        let Some(known) = locks.get_mut(lock) else { return Ok(Attempted::Gone) };
        let mut holder = known.holder(now);
        let mut handed = None;
        if holder != Some(token) {
            let Some(waiter) = known.waiters.get_mut(&token) else { return Ok(Attempted::Gone) };
            waiter.last_heartbeat = now;
            wake.0.remove(&token);
            if holder.is_none() {
                handed = known.hand_over(now, self.timing, wake);
                holder = handed;
            }
        }
        let answer = if holder == Some(token) {
            handed = None;
            // A repeated or late request does not shorten the time of the lock, which the holder may have
            // extended since, and does not change the fence, which the holder may know already.
            let confirmed = known.held.as_mut().and_then(|held| Some((held.fence?, &mut held.deadline)));
            if let Some((fence, deadline)) = confirmed {
                *deadline = now.after(ttl).max(*deadline);
                Attempted::Granted { fence }
            } else {
                known.leave_queue(token);
                let fence = state.next_fence(self.now_micros());
                let deadline = now.after(ttl);
                state.hold(lock, LockHolder { token, deadline, fence: Some(fence), by: stored(by) });
                Attempted::Granted { fence }
            }
        } else {
            Attempted::Waiting { notified: true }
        };
        drop(state);
        self.wake(lock, handed);
        Ok(answer)
    }

    async fn subscribe(&self, lock: &str, token: u64) -> Result<bool> {
        if is_semaphore(lock) {
            return Ok(self.semaphore_called(lock, token));
        }
        if is_group(lock) {
            return Ok(self.group_called(lock, token));
        }
        let now = self.clock.now();
        Ok(self.locks.of(lock).wake.get(token, now).is_some())
    }

    async fn heartbeat(&self, waiting: &[LockToken], _: Duration) -> Result<Vec<Option<QueueStatus>>> {
        let mut turns = Vec::with_capacity(waiting.len());
        for of_lock in waiting.chunk_by(|a, b| a.lock == b.lock) {
            let Some(LockToken { lock, .. }) = of_lock.first() else { continue };
            if is_semaphore(lock) {
                turns.extend(self.heartbeat_semaphore(lock, of_lock));
            } else if is_group(lock) {
                turns.extend(self.heartbeat_group(lock, of_lock));
            } else {
                turns.extend(self.heartbeat_lock(lock, of_lock));
            }
        }
        Ok(turns.into_iter().map(Some).collect())
    }

    async fn give_up(&self, lock: &str, token: u64, remembered: Duration) -> Result<bool> {
        let now = self.clock.now();
        let mut state = self.locks.of(lock);
        let LockShard { locks, wake, .. } = &mut *state;
        wake.set(token, WakeKind::GivenUp, now.after(remembered));
        let Some(known) = locks.get_mut(lock) else { return Ok(false) };
        known.leave_queue(token);
        let held = known.holder(now) == Some(token);
        let mut handed = None;
        if held {
            known.held = None;
            handed = known.hand_over(now, self.timing, wake);
        }
        if known.is_idle(now) {
            locks.remove(lock);
        }
        drop(state);
        self.wake(lock, handed);
        Ok(held)
    }

    async fn extend(&self, held: &[(LockToken, Duration)], _: Duration) -> Result<Vec<Option<Renewal>>> {
        let now = self.clock.now();
        let extend = |(LockToken { lock, token }, ttl): &(LockToken, Duration)| {
            let mut state = self.locks.of(lock);
            let Some(known) = state.locks.get_mut(lock) else { return Renewal::Lost(None) };
            match &mut known.held {
                Some(held) if held.token == *token && held.deadline > now => {
                    held.deadline = held.deadline.max(now.after(*ttl));
                    Renewal::Held
                }
                _ => Renewal::Lost(known.held_by(now)),
            }
        };
        Ok(held.iter().map(extend).map(Some).collect())
    }

    async fn holder(&self, lock: &str) -> Result<Option<HeldBy>> {
        let now = self.clock.now();
        let state = self.locks.of(lock);
        Ok(state.locks.get(lock).and_then(|known| known.held_by(now)))
    }

    async fn break_if(&self, lock: &str, fence: u64) -> Result<bool> {
        let held = |state: &LockShard, now| {
            let held = state.locks.get(lock)?.held.as_ref()?;
            (held.deadline > now && held.fence == Some(fence)).then_some(held.token)
        };
        let Some(token) = held(&self.locks.of(lock), self.clock.now()) else { return Ok(false) };
        // The holder may have released the lock in between, and then nothing is broken.
        self.release(lock, token).await
    }

    async fn acknowledged(&self, held: &[LockToken], _: u32, _: Duration) -> Result<Vec<Option<bool>>> {
        let now = self.clock.now();
        let holds = |LockToken { lock, token }: &LockToken| {
            if is_semaphore(lock) {
                return Some(self.semaphore_holds(lock, *token));
            }
            if is_group(lock) {
                return Some(self.group_holds(lock, *token));
            }
            let state = self.locks.of(lock);
            Some(state.locks.get(lock).is_some_and(|known| known.holder(now) == Some(*token)))
        };
        Ok(held.iter().map(holds).collect())
    }

    async fn release(&self, lock: &str, token: u64) -> Result<bool> {
        Ok(self.free_lock(lock, token))
    }

    async fn release_unwaited(&self, lock: &str, token: u64) -> Result<bool> {
        Ok(self.free_lock(lock, token))
    }
}

#[cfg(test)]
mod tests;
