//! One semaphore: its number, what is held, its queue, and how free permits are granted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::Tick;
use crate::store::lock::{LockToken, QueueStatus, QueueTiming};
use crate::store::permit::{MOST_GRANTS, NUMBER_KEPT, PermitRequest, Taken, WhenTaken, weight};

#[derive(Debug, Clone, Copy)]
pub(super) enum WaiterStage {
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

pub(super) struct PermitWaiter {
    pub(super) ticket: u64,
    pub(super) state: WaiterStage,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub(super) permits: u64,
    pub(super) version: Option<u64>,
    pub(super) used_at: Tick,
}

#[derive(Default)]
pub(super) struct MemorySemaphore {
    pub(super) number: Option<Number>,
    /// How many permits are held or claimed: the sum of the weights in `held`.
    pub(super) used: u64,
    pub(super) held: HashMap<u64, Tick>,
    /// The same by expiry.
    pub(super) ends: BTreeSet<(Tick, u64)>,
    /// Tokens by ticket.
    pub(super) queue: BTreeMap<u64, u64>,
    /// The waiters in the queue, and those that have a claim.
    pub(super) waiters: HashMap<u64, PermitWaiter>,
    pub(super) last_ticket: u64,
    pub(super) last_fence: u64,
}

impl MemorySemaphore {
    /// Adds a fence to a grant, if one was asked for and it has none.
    pub(super) fn fenced(&mut self, taken: Taken, request: PermitRequest, now_micros: u64) -> Taken {
        match taken {
            Taken::Granted { permits, fence: 0 } if request.fenced => {
                self.last_fence = now_micros.max(self.last_fence.saturating_add(1));
                Taken::Granted { permits, fence: self.last_fence }
            }
            other => other,
        }
    }

    pub(super) fn hold(&mut self, token: u64, end: Tick) {
        if let Some(old) = self.held.insert(token, end) {
            self.ends.remove(&(old, token));
        } else {
            self.used = self.used.saturating_add(weight(token));
        }
        self.ends.insert((end, token));
    }

    /// Frees what a token holds. Returns when that would have expired.
    pub(super) fn drop_held(&mut self, token: u64) -> Option<Tick> {
        let end = self.held.remove(&token)?;
        self.ends.remove(&(end, token));
        self.used = self.used.saturating_sub(weight(token));
        Some(end)
    }

    /// Removes what has expired. A waiter whose claim ended returns to its place in the queue.
    pub(super) fn expire(&mut self, now: Tick) {
        while let Some((_, token)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.drop_held(token);
            if let Some(waiter) = self.waiters.get_mut(&token) {
                waiter.state = WaiterStage::Lapsed { last_heartbeat: now };
                self.queue.insert(waiter.ticket, token);
            }
        }
    }

    fn permits(&mut self, now: Tick) -> Option<u64> {
        self.number = self.number.filter(|number| now.since(number.used_at) < NUMBER_KEPT);
        self.number.map(|number| number.permits)
    }

    pub(super) fn note_use(&mut self, now: Tick) {
        if let Some(number) = &mut self.number {
            number.used_at = now;
        }
    }

    pub(super) fn forget(&mut self, token: u64) -> bool {
        let Some(waiter) = self.waiters.remove(&token) else { return false };
        self.queue.remove(&waiter.ticket);
        true
    }

    /// Grants what is free to the first live waiters, and adds them to `woken`. Returns whether no live
    /// waiter is left.
    pub(super) fn grant(&mut self, now: Tick, timing: QueueTiming, woken: &mut Vec<u64>) -> bool {
        let Some(permits) = self.permits(now) else { return false };
        if self.used >= permits {
            return false;
        }
        let (mut grants, mut from) = (0, 0);
        while let Some((ticket, token)) = self.queue.range(from..).next().map(|(at, token)| (*at, *token)) {
            from = ticket.saturating_add(1);
            let state = self.waiters.get(&token).map(|waiter| waiter.state);
            match state {
                Some(WaiterStage::Queued { last_heartbeat }) if now.since(last_heartbeat) <= timing.live => {
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
                    self.waiters.insert(token, PermitWaiter { ticket, state: WaiterStage::Claimed });
                    self.hold(token, now.after(timing.claim));
                    woken.push(token);
                    grants += 1;
                }
                Some(WaiterStage::Queued { last_heartbeat } | WaiterStage::Lapsed { last_heartbeat })
                    if now.since(last_heartbeat) <= timing.live * QueueTiming::KEPT => {}
                _ => {
                    self.queue.remove(&ticket);
                    self.waiters.remove(&token);
                }
            }
        }
        true
    }

    pub(super) fn take(
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
                let (ticket, state) = (self.last_ticket, WaiterStage::Queued { last_heartbeat: now });
                self.queue.insert(ticket, token);
                self.waiters.insert(token, PermitWaiter { ticket, state });
                Taken::Waiting { permits, notified: true }
            }
        }
    }

    pub(super) fn confirm(
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
        if !matches!(waiter.state, WaiterStage::Claimed) {
            if weight(token) > permits {
                self.forget(token);
                return Taken::TooHeavy { permits };
            }
            waiter.state = WaiterStage::Queued { last_heartbeat: now };
            self.grant(now, timing, woken);
            woken.retain(|other| *other != token);
            match self.waiters.get(&token).map(|waiter| waiter.state) {
                Some(WaiterStage::Claimed) => {}
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
            let waiter =
                self.waiters.get(other).filter(|waiter| matches!(waiter.state, WaiterStage::Claimed))?;
            (waiter.ticket > ticket && weight(*other) == weight(token)).then_some((waiter.ticket, *other))
        });
        let Some((later, other)) = later.max() else { return false };
        self.drop_held(other);
        self.waiters.insert(
            other,
            PermitWaiter { ticket: later, state: WaiterStage::Lapsed { last_heartbeat: now } },
        );
        self.queue.insert(later, other);
        self.queue.remove(&ticket);
        true
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Tick,
        tokens: &[LockToken],
        timing: QueueTiming,
        woken: &mut Vec<u64>,
    ) -> Vec<QueueStatus> {
        self.expire(now);
        for LockToken { token, .. } in tokens {
            if let Some(PermitWaiter {
                state: WaiterStage::Queued { last_heartbeat } | WaiterStage::Lapsed { last_heartbeat },
                ..
            }) = self.waiters.get_mut(token)
            {
                *last_heartbeat = now;
            }
        }
        self.grant(now, timing, woken);
        let turn = |ticket: &LockToken| match self.waiters.get(&ticket.token).map(|waiter| waiter.state) {
            None => QueueStatus::Gone,
            Some(WaiterStage::Queued { .. }) => QueueStatus::Waits,
            Some(WaiterStage::Claimed | WaiterStage::Lapsed { .. }) => QueueStatus::YourTurn,
        };
        tokens.iter().map(turn).collect()
    }

    pub(super) fn set_permits(
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
    pub(super) fn is_idle(&self, now: Tick) -> bool {
        let ended = self.ends.last().is_none_or(|(end, _)| *end <= now);
        let forgotten = self.number.is_none_or(|number| now.since(number.used_at) >= NUMBER_KEPT);
        ended && forgotten && self.waiters.is_empty()
    }
}
