//! Locks of the embedded store: who holds what until when, and the next fence.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::store::Acquired;

struct Held {
    token: u64,
    deadline: Tick,
}

#[derive(Default)]
struct State {
    held: HashMap<String, Held>,
    last_fence: u64,
    /// Locks that expired unreleased are swept when the map has doubled since the last sweep.
    sweep_at: usize,
}

#[derive(Default)]
pub(super) struct Locks(Mutex<State>);

impl Locks {
    pub(super) fn acquire(
        &self,
        name: &str,
        token: u64,
        ttl: Duration,
        now: Tick,
        now_micros: u64,
    ) -> Acquired {
        let mut state = self.state();
        if let Some(held) = state.held.get(name).filter(|held| held.deadline > now) {
            return Acquired::Held { remaining: held.deadline.since(now) };
        }
        if state.held.len() >= state.sweep_at {
            state.held.retain(|_, held| held.deadline > now);
            state.sweep_at = state.held.len().saturating_mul(2).max(64);
        }
        let fence = now_micros.max(state.last_fence.saturating_add(1));
        state.last_fence = fence;
        state.held.insert(name.to_owned(), Held { token, deadline: now.after(ttl) });
        Acquired::Granted { fence }
    }

    pub(super) fn extend(&self, name: &str, token: u64, ttl: Duration, now: Tick) -> bool {
        let mut state = self.state();
        match state.held.get_mut(name) {
            Some(held) if held.token == token && held.deadline > now => {
                held.deadline = held.deadline.max(now.after(ttl));
                true
            }
            _ => false,
        }
    }

    pub(super) fn release(&self, name: &str, token: u64, now: Tick) -> bool {
        let mut state = self.state();
        if state.held.get(name).is_some_and(|held| held.token == token && held.deadline > now) {
            state.held.remove(name);
            return true;
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
