//! Semaphores of the embedded store: the specification of the scripts in `lua/semaphore/`.
//!
//! Every step costs the logarithm of the queue's length; a grant also passes the dead waiters ahead of the
//! first live one. Wake-ups are sent after the table is unlocked.

mod semaphore;

use std::collections::HashMap;
#[cfg(feature = "admin")]
use std::sync::MutexGuard;
use std::time::Duration;

use semaphore::MemorySemaphore;
#[cfg(feature = "admin")]
use semaphore::WaiterStage;

use super::MemoryStore;
use super::shards::Shards;
use crate::clock::Tick;
use crate::error::Result;
#[cfg(feature = "admin")]
use crate::store::admin::{HolderState, LockState, WaiterState};
use crate::store::lock::{LockToken, QueueStatus, QueueTiming, Renewal, wake_name};
#[cfg(feature = "admin")]
use crate::store::permit::{HEAVIEST, NUMBER_KEPT};
use crate::store::permit::{PermitRequest, PermitStore, Taken, weight};

#[derive(Default)]
struct Shard {
    semaphores: HashMap<String, MemorySemaphore>,
    /// The wake-up keys that exist, and how long: of claims, and of attempts that were cancelled.
    wake: HashMap<u64, Tick>,
    sweep_at: usize,
}

impl Shard {
    /// Returns the semaphore, made if there is none. Only for what stores a number: an entry without one would be
    /// kept for nothing.
    fn made(&mut self, name: &str) -> &mut MemorySemaphore {
        self.semaphores.entry(name.to_owned()).or_default()
    }

    fn known(&mut self, name: &str) -> Option<&mut MemorySemaphore> {
        self.semaphores.get_mut(name)
    }

    fn sweep(&mut self, now: Tick) {
        if self.semaphores.len().saturating_add(self.wake.len()) >= self.sweep_at {
            self.semaphores.retain(|_, semaphore| !semaphore.is_idle(now));
            self.wake.retain(|_, until| *until > now);
            let left = self.semaphores.len().saturating_add(self.wake.len());
            self.sweep_at = left.saturating_mul(2).max(64);
        }
    }
}

#[derive(Default)]
pub(super) struct Semaphores(Shards<Shard>);

impl MemoryStore {
    /// Works on the table of a semaphore, and then wakes the waiters to which the work granted something.
    fn on_shard<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut Shard, Tick, QueueTiming, &mut Vec<u64>) -> T,
    ) -> T {
        let (now, timing, mut woken) = (self.clock.now(), self.timing, Vec::new());
        let mut shard = self.semaphores.0.of(name);
        shard.sweep(now);
        let answer = work(&mut shard, now, timing, &mut woken);
        shard.wake.extend(woken.iter().map(|token| (*token, now.after(timing.claim))));
        drop(shard);
        for token in woken {
            self.sink.changed(&wake_name(name, token));
        }
        answer
    }

    pub(super) fn semaphore_called(&self, semaphore: &str, token: u64) -> bool {
        let now = self.clock.now();
        self.semaphores.0.of(semaphore).wake.get(&token).is_some_and(|until| *until > now)
    }

    pub(super) fn semaphore_holds(&self, semaphore: &str, token: u64) -> bool {
        let now = self.clock.now();
        let state = self.semaphores.0.of(semaphore);
        let known = state.semaphores.get(semaphore);
        known.and_then(|known| known.held.get(&token)).is_some_and(|end| *end > now)
    }

    /// Records a heartbeat. All tickets belong to one semaphore.
    pub(super) fn heartbeat_semaphore(&self, semaphore: &str, tickets: &[LockToken]) -> Vec<QueueStatus> {
        self.on_shard(semaphore, |shard, now, timing, woken| match shard.known(semaphore) {
            Some(semaphore) => semaphore.heartbeat(now, tickets, timing, woken),
            None => vec![QueueStatus::Gone; tickets.len()],
        })
    }

    /// Loses the number of permits.
    #[cfg(test)]
    pub(in crate::store) fn lose_number(&self, name: &str) {
        self.on_shard(name, |shard, _, _, _| {
            if let Some(semaphore) = shard.known(name) {
                semaphore.number = None;
            }
        });
    }

    /// Ends everything that is held.
    #[cfg(test)]
    pub(in crate::store) fn end_permits(&self, name: &str) {
        let started = self.started;
        self.on_shard(name, |shard, _, _, _| {
            let Some(semaphore) = shard.known(name) else { return };
            for token in semaphore.held.keys().copied().collect::<Vec<_>>() {
                semaphore.hold(token, started);
            }
        });
    }

    /// How many semaphores and wake-up keys are kept.
    #[cfg(test)]
    fn semaphores_kept(&self) -> usize {
        self.semaphores.0.all().map(|shard| shard.semaphores.len() + shard.wake.len()).sum()
    }
}

#[cfg(feature = "admin")]
impl MemoryStore {
    pub(super) fn names_of_semaphores(&self, now: Tick) -> Vec<String> {
        let held = |semaphore: &MemorySemaphore| semaphore.ends.last().is_some_and(|(end, _)| *end > now);
        let in_use = |shard: MutexGuard<'_, Shard>| {
            let semaphores = shard.semaphores.iter().filter(|(_, semaphore)| held(semaphore));
            semaphores.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        self.semaphores.0.all().flat_map(in_use).collect()
    }

    pub(super) fn semaphore_state(&self, name: &str, most: usize) -> LockState {
        let now = self.clock.now();
        let shard = self.semaphores.0.of(name);
        let Some(semaphore) = shard.semaphores.get(name) else { return LockState::default() };
        let claims = |token: &u64| {
            semaphore.waiters.get(token).is_some_and(|waiter| matches!(waiter.state, WaiterStage::Claimed))
        };
        let held: Vec<&(Tick, u64)> = semaphore.ends.iter().filter(|(end, _)| *end > now).collect();
        let holders = held.iter().take(most).map(|(end, token)| HolderState {
            token: *token,
            by: String::new(),
            fence: if weight(*token) == HEAVIEST { semaphore.last_fence } else { 0 },
            remaining: end.since(now),
            claims: claims(token),
            locks: Vec::new(),
        });
        let waiters = semaphore.queue.values().take(most).filter_map(|token| {
            let last_heartbeat = match semaphore.waiters.get(token)?.state {
                WaiterStage::Queued { last_heartbeat } | WaiterStage::Lapsed { last_heartbeat } => {
                    last_heartbeat
                }
                WaiterStage::Claimed => return None,
            };
            let heartbeat_ago = now.since(last_heartbeat);
            Some(WaiterState { token: *token, heartbeat_ago, locks: Vec::new() })
        });
        let number = semaphore.number.filter(|number| now.since(number.used_at) < NUMBER_KEPT);
        LockState {
            holders: holders.collect(),
            holding: u64::try_from(held.len()).unwrap_or(u64::MAX),
            waiters: waiters.collect(),
            waiting: u64::try_from(semaphore.queue.len()).unwrap_or(u64::MAX),
            permits: number.map(|number| number.permits),
            last_run: None,
        }
    }
}

impl PermitStore for MemoryStore {
    async fn take_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        let micros = self.now_micros();
        Ok(self.on_shard(semaphore, |shard, now, timing, woken| {
            if shard.wake.get(&token).is_some_and(|until| *until > now) {
                shard.wake.insert(token, now.after(QueueTiming::REMEMBERED));
                return Taken::Gone;
            }
            let semaphore = shard.made(semaphore);
            let taken = semaphore.take(now, token, request, timing, woken);
            semaphore.fenced(taken, request, micros)
        }))
    }

    async fn confirm_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        let micros = self.now_micros();
        Ok(self.on_shard(semaphore, |shard, now, timing, woken| {
            let Some(semaphore) = shard.known(semaphore) else { return Taken::Gone };
            let taken = semaphore.confirm(now, token, request, timing, woken);
            let taken = semaphore.fenced(taken, request, micros);
            if matches!(taken, Taken::Granted { .. }) {
                shard.wake.remove(&token);
            }
            taken
        }))
    }

    async fn renew_permits(
        &self,
        held: &[(LockToken, Duration)],
        _: Duration,
    ) -> Result<Vec<Option<Renewal>>> {
        let now = self.clock.now();
        let renew = |(LockToken { lock, token }, ttl): &(LockToken, Duration)| {
            let mut shard = self.semaphores.0.of(lock);
            let semaphore = shard.semaphores.get_mut(lock);
            let renewed = semaphore.is_some_and(|semaphore| match semaphore.held.get(token).copied() {
                Some(end) if end > now => {
                    semaphore.hold(*token, end.max(now.after(*ttl)));
                    semaphore.note_use(now);
                    true
                }
                _ => false,
            });
            Some(Renewal::of(renewed))
        };
        Ok(held.iter().map(renew).collect())
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        Ok(self.on_shard(semaphore, |shard, now, timing, woken| {
            if let Some(remembered) = remembered {
                shard.wake.insert(token, now.after(remembered));
            }
            let Some(semaphore) = shard.known(semaphore) else { return false };
            let end = semaphore.drop_held(token);
            semaphore.forget(token);
            if !semaphore.queue.is_empty() {
                semaphore.expire(now);
                semaphore.grant(now, timing, woken);
            }
            end.is_some_and(|end| end > now)
        }))
    }

    async fn exchange_permits(&self, semaphore: &str, token: u64, other: u64, ttl: Duration) -> Result<bool> {
        Ok(self.on_shard(semaphore, |shard, now, timing, woken| {
            if shard.wake.get(&other).is_some_and(|until| *until > now) {
                shard.wake.insert(other, now.after(QueueTiming::REMEMBERED));
                return false;
            }
            let Some(semaphore) = shard.known(semaphore) else { return false };
            let claimed = semaphore.waiters.contains_key(&token);
            let end = semaphore.held.get(&token).copied().filter(|end| *end > now && !claimed);
            let Some(end) = end else {
                return semaphore.held.get(&other).is_some_and(|end| *end > now);
            };
            semaphore.drop_held(token);
            semaphore.hold(other, end.max(now.after(ttl)));
            semaphore.expire(now);
            semaphore.grant(now, timing, woken);
            true
        }))
    }

    async fn set_permits(&self, semaphore: &str, permits: u64, version: u64) -> Result<bool> {
        Ok(self.on_shard(semaphore, |shard, now, timing, woken| {
            shard.made(semaphore).set_permits(now, permits, version, timing, woken)
        }))
    }

    async fn permits_in_use(&self, semaphore: &str) -> Result<u64> {
        Ok(self.on_shard(semaphore, |shard, now, _, _| {
            let Some(semaphore) = shard.known(semaphore) else { return 0 };
            let ended = semaphore.ends.iter().take_while(|(end, _)| *end <= now);
            let ended = ended.fold(0u64, |sum, (_, token)| sum.saturating_add(weight(*token)));
            semaphore.used.saturating_sub(ended)
        }))
    }
}

#[cfg(test)]
mod tests;
