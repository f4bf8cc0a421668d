//! Semaphores of the embedded store: the specification of the scripts in `lua/semaphore/`.
//!
//! Every step costs the logarithm of the queue's length; a grant also passes the dead waiters ahead of the
//! first live one. Wake-ups are sent after the table is unlocked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
#[cfg(feature = "admin")]
use std::sync::MutexGuard;
use std::time::Duration;

use super::MemoryStore;
use super::shards::Shards;
use crate::clock::Tick;
use crate::error::Result;
#[cfg(feature = "admin")]
use crate::store::admin::{HolderState, LockState, WaiterState};
use crate::store::lock::{LockToken, QueueStatus, QueueTiming, wake_name};
#[cfg(feature = "admin")]
use crate::store::permit::HEAVIEST;
use crate::store::permit::{MOST_GRANTS, NUMBER_KEPT, PermitRequest, PermitStore, Taken, WhenTaken, weight};

#[derive(Debug, Clone, Copy)]
enum State {
    Queued {
        last_heartbeat: Tick,
    },
    /// A claim of it ended, and it has sent nothing since.
    Lapsed {
        last_heartbeat: Tick,
    },
    /// It has a claim, and is not in the queue.
    Claimed,
}

struct Waiter {
    ticket: u64,
    state: State,
}

#[derive(Debug, Clone, Copy)]
struct Number {
    permits: u64,
    version: Option<u64>,
    used_at: Tick,
}

#[derive(Default)]
struct MemorySemaphore {
    number: Option<Number>,
    /// How many permits are held or claimed: the sum of the weights in `held`.
    used: u64,
    held: HashMap<u64, Tick>,
    /// The same by expiry.
    ends: BTreeSet<(Tick, u64)>,
    /// Tokens by ticket.
    queue: BTreeMap<u64, u64>,
    /// The waiters in the queue, and those that have a claim.
    waiters: HashMap<u64, Waiter>,
    last_ticket: u64,
    last_fence: u64,
}

impl MemorySemaphore {
    /// Adds a fence to a grant, if one was asked for and it has none.
    fn fenced(&mut self, taken: Taken, request: PermitRequest, now_micros: u64) -> Taken {
        match taken {
            Taken::Granted { permits, fence: 0 } if request.fenced => {
                self.last_fence = now_micros.max(self.last_fence.saturating_add(1));
                Taken::Granted { permits, fence: self.last_fence }
            }
            other => other,
        }
    }

    fn hold(&mut self, token: u64, end: Tick) {
        if let Some(old) = self.held.insert(token, end) {
            self.ends.remove(&(old, token));
        } else {
            self.used = self.used.saturating_add(weight(token));
        }
        self.ends.insert((end, token));
    }

    /// Frees what a token holds. Returns when that would have expired.
    fn drop_held(&mut self, token: u64) -> Option<Tick> {
        let end = self.held.remove(&token)?;
        self.ends.remove(&(end, token));
        self.used = self.used.saturating_sub(weight(token));
        Some(end)
    }

    /// Removes what has expired. A waiter whose claim ended returns to its place in the queue.
    fn expire(&mut self, now: Tick) {
        while let Some((_, token)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.drop_held(token);
            if let Some(waiter) = self.waiters.get_mut(&token) {
                waiter.state = State::Lapsed { last_heartbeat: now };
                self.queue.insert(waiter.ticket, token);
            }
        }
    }

    fn permits(&mut self, now: Tick) -> Option<u64> {
        self.number = self.number.filter(|number| now.since(number.used_at) < NUMBER_KEPT);
        self.number.map(|number| number.permits)
    }

    fn note_use(&mut self, now: Tick) {
        if let Some(number) = &mut self.number {
            number.used_at = now;
        }
    }

    fn forget(&mut self, token: u64) -> bool {
        let Some(waiter) = self.waiters.remove(&token) else { return false };
        self.queue.remove(&waiter.ticket);
        true
    }

    /// Grants what is free to the first live waiters, and adds them to `woken`. Returns whether no live
    /// waiter is left.
    fn grant(&mut self, now: Tick, timing: QueueTiming, woken: &mut Vec<u64>) -> bool {
        let Some(permits) = self.permits(now) else { return false };
        if self.used >= permits {
            return false;
        }
        let (mut grants, mut from) = (0, 0);
        while let Some((ticket, token)) = self.queue.range(from..).next().map(|(at, token)| (*at, *token)) {
            from = ticket.saturating_add(1);
            let state = self.waiters.get(&token).map(|waiter| waiter.state);
            match state {
                Some(State::Queued { last_heartbeat }) if now.since(last_heartbeat) <= timing.live => {
                    if weight(token) > permits {
                        // The waiter is woken, and its next request learns that it can never be granted.
                        self.forget(token);
                        woken.push(token);
                        continue;
                    }
                    if self.used.saturating_add(weight(token)) > permits || grants == MOST_GRANTS {
                        return false;
                    }
                    self.queue.remove(&ticket);
                    self.waiters.insert(token, Waiter { ticket, state: State::Claimed });
                    self.hold(token, now.after(timing.claim));
                    woken.push(token);
                    grants += 1;
                }
                Some(State::Queued { last_heartbeat } | State::Lapsed { last_heartbeat })
                    if now.since(last_heartbeat) <= timing.live * QueueTiming::KEPT => {}
                _ => {
                    self.queue.remove(&ticket);
                    self.waiters.remove(&token);
                }
            }
        }
        true
    }

    fn take(
        &mut self,
        now: Tick,
        token: u64,
        request: PermitRequest,
        timing: QueueTiming,
        woken: &mut Vec<u64>,
    ) -> Taken {
        self.expire(now);
        let permits = self.permits(now).unwrap_or(request.permits);
        let version = self.number.and_then(|number| number.version);
        self.number = Some(Number { permits, version, used_at: now });
        if weight(token) > permits {
            return Taken::TooHeavy { permits };
        }
        let free = self.queue.is_empty() || self.grant(now, timing, woken);
        if free && self.used.saturating_add(weight(token)) <= permits {
            self.hold(token, now.after(request.ttl));
            return Taken::Granted { permits, fence: 0 };
        }
        match request.wait {
            WhenTaken::No => Taken::Full { permits },
            WhenTaken::Queue { most } if u64::try_from(self.queue.len()).unwrap_or(u64::MAX) >= most => {
                Taken::QueueFull { permits }
            }
            WhenTaken::Queue { .. } => {
                self.last_ticket = self.last_ticket.saturating_add(1);
                let (ticket, state) = (self.last_ticket, State::Queued { last_heartbeat: now });
                self.queue.insert(ticket, token);
                self.waiters.insert(token, Waiter { ticket, state });
                Taken::Waiting { permits, notified: true }
            }
        }
    }

    fn confirm(
        &mut self,
        now: Tick,
        token: u64,
        PermitRequest { ttl, fenced, .. }: PermitRequest,
        timing: QueueTiming,
        woken: &mut Vec<u64>,
    ) -> Taken {
        self.expire(now);
        let permits = self.permits(now);
        // Not a waiter: the request repeats a confirmation, or arrives after the attempt has ended.
        let Some(waiter) = self.waiters.get_mut(&token) else {
            return match (self.held.get(&token).copied(), permits) {
                // A repeated request: the holder may have renewed since, and its time is not shortened; it may
                // know its fence, and that is not changed.
                (Some(end), _) => {
                    self.hold(token, end.max(now.after(ttl)));
                    let fence = if fenced { self.last_fence } else { 0 };
                    Taken::Granted { permits: permits.unwrap_or_default(), fence }
                }
                (None, Some(permits)) if weight(token) > permits => Taken::TooHeavy { permits },
                (None, _) => Taken::Gone,
            };
        };
        // The number of permits was lost. The attempt starts again and sends it.
        let Some(permits) = permits else {
            self.forget(token);
            self.drop_held(token);
            return Taken::Gone;
        };
        // Without a claim: grant what is free, in the order of the queue, and see whether that gave this
        // attempt one.
        if !matches!(waiter.state, State::Claimed) {
            if weight(token) > permits {
                self.forget(token);
                return Taken::TooHeavy { permits };
            }
            waiter.state = State::Queued { last_heartbeat: now };
            self.grant(now, timing, woken);
            woken.retain(|other| *other != token);
            match self.waiters.get(&token).map(|waiter| waiter.state) {
                Some(State::Claimed) => {}
                Some(_) if self.take_over(now, token, timing) => {}
                _ => return Taken::Waiting { permits, notified: true },
            }
        }
        // The claim becomes a hold.
        self.waiters.remove(&token);
        self.hold(token, now.after(ttl));
        self.note_use(now);
        Taken::Granted { permits, fence: 0 }
    }

    /// Takes over an unconfirmed claim of the same weight from a later waiter: from the last of them in the
    /// queue, which returns to its place.
    fn take_over(&mut self, now: Tick, token: u64, timing: QueueTiming) -> bool {
        let Some(ticket) = self.waiters.get(&token).map(|waiter| waiter.ticket) else { return false };
        let soon = self.ends.iter().take_while(|(end, _)| *end <= now.after(timing.claim)).take(MOST_GRANTS);
        let later = soon.filter_map(|(_, other)| {
            let waiter = self.waiters.get(other).filter(|waiter| matches!(waiter.state, State::Claimed))?;
            (waiter.ticket > ticket && weight(*other) == weight(token)).then_some((waiter.ticket, *other))
        });
        let Some((later, other)) = later.max() else { return false };
        self.drop_held(other);
        self.waiters.insert(other, Waiter { ticket: later, state: State::Lapsed { last_heartbeat: now } });
        self.queue.insert(later, other);
        self.queue.remove(&ticket);
        true
    }

    fn heartbeat(
        &mut self,
        now: Tick,
        tokens: &[LockToken],
        timing: QueueTiming,
        woken: &mut Vec<u64>,
    ) -> Vec<QueueStatus> {
        self.expire(now);
        for LockToken { token, .. } in tokens {
            if let Some(Waiter {
                state: State::Queued { last_heartbeat } | State::Lapsed { last_heartbeat },
                ..
            }) = self.waiters.get_mut(token)
            {
                *last_heartbeat = now;
            }
        }
        self.grant(now, timing, woken);
        let turn = |ticket: &LockToken| match self.waiters.get(&ticket.token).map(|waiter| waiter.state) {
            None => QueueStatus::Gone,
            Some(State::Queued { .. }) => QueueStatus::Waits,
            Some(State::Claimed | State::Lapsed { .. }) => QueueStatus::YourTurn,
        };
        tokens.iter().map(turn).collect()
    }

    fn set_permits(
        &mut self,
        now: Tick,
        permits: u64,
        version: u64,
        timing: QueueTiming,
        woken: &mut Vec<u64>,
    ) -> bool {
        self.permits(now);
        if let Some(Number { permits: stored, version: Some(old), .. }) = self.number
            && old >= version
        {
            return old == version && stored == permits;
        }
        self.number = Some(Number { permits, version: Some(version), used_at: now });
        self.expire(now);
        let too_heavy: Vec<u64> =
            self.queue.values().copied().filter(|token| weight(*token) > permits).collect();
        for token in too_heavy {
            self.forget(token);
            woken.push(token);
        }
        self.grant(now, timing, woken);
        true
    }

    /// Returns whether there is nothing to remember.
    fn is_idle(&self, now: Tick) -> bool {
        let ended = self.ends.last().is_none_or(|(end, _)| *end <= now);
        let forgotten = self.number.is_none_or(|number| now.since(number.used_at) >= NUMBER_KEPT);
        ended && forgotten && self.waiters.is_empty()
    }
}

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
            self.listener.changed(&wake_name(name, token));
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
            semaphore.waiters.get(token).is_some_and(|waiter| matches!(waiter.state, State::Claimed))
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
                State::Queued { last_heartbeat } | State::Lapsed { last_heartbeat } => last_heartbeat,
                State::Claimed => return None,
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

    async fn renew_permits(&self, held: &[(LockToken, Duration)], _: Duration) -> Result<Vec<Option<bool>>> {
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
            Some(renewed)
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::Bounds;
    use super::*;
    use crate::clock::Clock;
    use crate::near::Invalidations;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn semaphores_that_are_only_asked_about_or_are_no_longer_used_leave_nothing() {
        let micros = Arc::new(AtomicU64::new(0));
        let clock = Clock::Manual(micros.clone());
        let store = MemoryStore::new(Bounds::default(), clock, Arc::new(Invalidations::default()));
        let wait = WhenTaken::No;
        let request = PermitRequest { permits: 1, ttl: SECOND, wait, fenced: false, quarantine: None };
        for number in 0..20_000u64 {
            let name = format!("{}{{s{number}}}", crate::keyspace::SEMAPHORE);
            let token = crate::store::permit::token_of(number << 16, 1);
            assert_eq!(store.permits_in_use(&name).await.unwrap(), 0);
            assert_eq!(store.confirm_permit(&name, token, request).await.unwrap(), Taken::Gone);
            assert!(!store.exchange_permits(&name, token, token + 1, SECOND).await.unwrap());
            let waiting = [LockToken { lock: name.clone(), token }];
            assert_eq!(store.heartbeat_semaphore(&name, &waiting), [QueueStatus::Gone]);
            assert!(!store.give_permit(&name, token, None).await.unwrap());
        }
        assert_eq!(store.semaphores_kept(), 0);
        // A number is kept for 30 days, and is then removed, whatever makes the table grow.
        for number in 0..20_000u64 {
            let name = format!("{}{{s{number}}}", crate::keyspace::SEMAPHORE);
            assert!(store.set_permits(&name, 2, 1).await.unwrap());
            micros.fetch_add(u64::try_from(NUMBER_KEPT.as_micros()).unwrap() / 1000, Ordering::AcqRel);
        }
        assert!(store.semaphores_kept() <= 32 * 256, "{} are kept", store.semaphores_kept());
    }
}
