//! Strict buckets: a sliding window that admits at most its limit in any span of the window's length.
//!
//! Time is cut into buckets of a sixtieth of the window. A decision sums the current bucket and the sixty before it,
//! the oldest of which lies only partly in the window but is counted in full, and admits if the cost still fits.
//! Whatever span of the window's length one looks at, the last admission in it had counted all the others: so no span
//! holds more than the limit. The price is that capacity returns up to one bucket late.
//!
//! Bucketed windows are old practice (Figma's write-up of 2017 has sixty of them); counting the oldest in full is what
//! makes the bound strict. charge.lua is the same rule on the server.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{Charged, Window};

/// One more is kept, for the part of the oldest that the window still covers.
const BUCKETS: u64 = Window::BUCKETS;

#[derive(Clone, Default)]
struct Usage {
    bucket_micros: u64,
    /// Index of the bucket and what it admitted, oldest first.
    buckets: Vec<(u64, u64)>,
}

#[derive(Default)]
struct State {
    usage: HashMap<String, Usage>,
    sweep_at: usize,
}

#[derive(Default)]
pub(super) struct Limits(Mutex<State>);

impl Limits {
    pub(super) fn charge(&self, name: &str, window: Window, cost: u64, now: u64) -> Charged {
        let mut state = self.state();
        let (mut usage, current) = state.current(name, window, now);
        let charged = usage.decide(window, cost, now);
        if !charged.allowed || cost == 0 {
            return charged;
        }
        match usage.buckets.last_mut() {
            Some((index, count)) if *index == current => *count += cost,
            _ => usage.buckets.push((current, cost)),
        }
        let reset_after = usage.reset_after(now);
        if state.usage.len() >= state.sweep_at {
            state.usage.retain(|_, usage| usage.reset_after(now) > Duration::ZERO);
            state.sweep_at = state.usage.len().saturating_mul(2).max(64);
        }
        state.usage.insert(name.to_owned(), usage);
        Charged { remaining: charged.remaining.saturating_sub(cost), reset_after, ..charged }
    }

    pub(super) fn usage(&self, name: &str, window: Window, cost: u64, now: u64) -> Charged {
        let (usage, _) = self.state().current(name, window, now);
        usage.decide(window, cost, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What still counts, in buckets of the window's width, and the current bucket's index.
    fn current(&self, name: &str, window: Window, now: u64) -> (Usage, u64) {
        let width = window.bucket_micros.max(1);
        let mut usage = self.usage.get(name).cloned().unwrap_or_default();
        if usage.bucket_micros != width {
            // The window was changed: all that the old one still counts is as if taken just now.
            let old_width = usage.bucket_micros.max(1);
            usage.drop_before((now / old_width).saturating_sub(BUCKETS));
            let total = usage.total();
            usage = Usage { bucket_micros: width, buckets: Vec::new() };
            if total > 0 {
                usage.buckets.push((now / width, total));
            }
        }
        // A clock that stepped back must not open buckets before the newest.
        let newest = usage.buckets.last().map_or(0, |(index, _)| *index);
        let current = (now / width).max(newest);
        usage.drop_before(current.saturating_sub(BUCKETS));
        (usage, current)
    }
}

impl Usage {
    fn drop_before(&mut self, oldest: u64) {
        self.buckets.retain(|(index, _)| *index >= oldest);
    }

    fn total(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    fn decide(&self, window: Window, cost: u64, now: u64) -> Charged {
        let used = self.total();
        let allowed = used.saturating_add(cost) <= window.limit;
        let mut retry_after = Duration::ZERO;
        if !allowed {
            let mut left = used;
            for (index, count) in &self.buckets {
                left -= count;
                retry_after = self.leaves_after(*index, now);
                if left.saturating_add(cost) <= window.limit {
                    break;
                }
            }
        }
        Charged {
            allowed,
            remaining: window.limit.saturating_sub(used),
            retry_after,
            reset_after: self.reset_after(now),
        }
    }

    fn reset_after(&self, now: u64) -> Duration {
        self.buckets.last().map_or(Duration::ZERO, |(index, _)| self.leaves_after(*index, now))
    }

    /// When a bucket is no longer counted.
    fn leaves_after(&self, index: u64, now: u64) -> Duration {
        let leaves_at = index.saturating_add(BUCKETS + 1).saturating_mul(self.bucket_micros);
        Duration::from_micros(leaves_at.saturating_sub(now))
    }
}
