//! Permits that are held for a time: a semaphore of leases, so that a holder that dies gives its permit back by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::store::limit::Entered;

/// By name: who holds a permit, and until when.
#[derive(Default)]
pub(super) struct Permits(Mutex<HashMap<String, Vec<(u64, Tick)>>>);

impl Permits {
    pub(super) fn enter(&self, name: &str, permits: u64, token: u64, ttl: Duration, now: Tick) -> Entered {
        let mut held = self.held();
        let holders = held.entry(name.to_owned()).or_default();
        holders.retain(|(_, until)| *until > now);
        let inside = u64::try_from(holders.len()).unwrap_or(u64::MAX);
        if inside < permits {
            holders.push((token, now.after(ttl)));
            return Entered::Granted { left: permits - inside - 1 };
        }
        let first_ends = holders.iter().map(|(_, until)| until.since(now)).min().unwrap_or_default();
        Entered::Full { first_ends }
    }

    pub(super) fn renew(&self, name: &str, token: u64, ttl: Duration, now: Tick) -> bool {
        let mut held = self.held();
        let holder =
            held.get_mut(name).and_then(|holders| holders.iter_mut().find(|(held, _)| *held == token));
        match holder {
            Some((_, until)) if *until > now => {
                *until = now.after(ttl);
                true
            }
            _ => false,
        }
    }

    pub(super) fn leave(&self, name: &str, token: u64, now: Tick) -> bool {
        let mut held = self.held();
        let Some(holders) = held.get_mut(name) else { return false };
        let place = holders.iter().position(|(held, _)| *held == token);
        let left = place.map(|place| holders.swap_remove(place)).is_some_and(|(_, until)| until > now);
        if holders.is_empty() {
            held.remove(name);
        }
        left
    }

    pub(super) fn inside(&self, name: &str, now: Tick) -> u64 {
        let held = self.held();
        let holders = held.get(name).map_or(&[][..], Vec::as_slice);
        u64::try_from(holders.iter().filter(|(_, until)| *until > now).count()).unwrap_or(u64::MAX)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<(u64, Tick)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
