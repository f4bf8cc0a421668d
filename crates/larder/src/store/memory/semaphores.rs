//! Semaphores of the embedded store.
//!
//! Their table is the inner one: who needs both takes that of the locks first.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::MemoryStore;
use crate::clock::Tick;
use crate::error::Result;
use crate::store::lock::Ticket;
use crate::store::permit::{PermitStore, Taken, bell_name, door_name};

#[derive(Default)]
struct State {
    /// By semaphore: when each token's permit ends.
    taken: HashMap<String, HashMap<u64, Tick>>,
    given_up: HashMap<u64, Tick>,
}

#[derive(Default)]
pub(super) struct Semaphores(Mutex<State>);

impl Semaphores {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PermitStore for MemoryStore {
    async fn take_permit(
        &self,
        semaphore: &str,
        token: u64,
        permits: u64,
        ttl: Duration,
        door: Option<u64>,
    ) -> Result<Taken> {
        let now = self.clock.now();
        // Looking at the door and taking are one step: nobody comes to the door in between.
        let taken = self.at_the_door(&door_name(semaphore), door, now, |waits| {
            let mut state = self.semaphores.state();
            state.given_up.retain(|_, until| *until > now);
            if state.given_up.contains_key(&token) {
                return Taken::Gone;
            }
            if waits {
                return Taken::Full { first_ends: Duration::ZERO };
            }
            let taken = state.taken.entry(semaphore.to_owned()).or_default();
            taken.retain(|_, end| *end > now);
            if u64::try_from(taken.len()).unwrap_or(u64::MAX) >= permits {
                let first_ends = taken.values().min().map_or(Duration::ZERO, |end| end.since(now));
                return Taken::Full { first_ends };
            }
            taken.insert(token, now.after(ttl));
            Taken::Permit
        });
        Ok(taken)
    }

    async fn renew_permits(&self, held: &[(Ticket, Duration)], _: Duration) -> Result<Vec<Option<bool>>> {
        let now = self.clock.now();
        let mut state = self.semaphores.state();
        let renew = |(Ticket { lock, token }, ttl): &(Ticket, Duration)| {
            let end = state.taken.get_mut(lock).and_then(|taken| taken.get_mut(token));
            Some(end.filter(|end| **end > now).map(|end| *end = (*end).max(now.after(*ttl))).is_some())
        };
        Ok(held.iter().map(renew).collect())
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        let now = self.clock.now();
        let mut state = self.semaphores.state();
        if let Some(remembered) = remembered {
            state.given_up.insert(token, now.after(remembered));
        }
        let Some(taken) = state.taken.get_mut(semaphore) else { return Ok(false) };
        let end = taken.remove(&token);
        if taken.is_empty() {
            state.taken.remove(semaphore);
        }
        drop(state);
        if end.is_some() {
            self.listener.changed(&bell_name(semaphore));
        }
        Ok(end.is_some_and(|end| end > now))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::super::Bounds;
    use super::*;
    use crate::clock::Clock;
    use crate::near::Changes;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nobody_comes_to_the_door_while_a_permit_is_being_taken() {
        let changes = Arc::new(Changes::default());
        let store = MemoryStore::new(Bounds::default(), Clock::default(), changes);
        thread::scope(|scope| {
            let inner = store.semaphores.state();
            let taking = scope.spawn(|| store.take_permit("pool", 1, 1, SECOND, None).now_or_never());
            // It has looked at the door, and cannot take its permit yet.
            let limit = Instant::now() + 10 * SECOND;
            let mut seen = 0;
            while seen < 100 {
                assert!(Instant::now() < limit, "others may come to the door in between");
                seen = if store.locks.is_busy() { seen + 1 } else { 0 };
                thread::yield_now();
            }
            drop(inner);
            assert!(matches!(taking.join().unwrap(), Some(Ok(Taken::Permit))));
        });
    }
}
