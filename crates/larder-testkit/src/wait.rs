//! Waiting for another process, which no channel can tell us about.

use std::thread;
use std::time::{Duration, Instant};

/// Calls `check` every few milliseconds until it gives a value, and returns that.
///
/// # Panics
///
/// With `what` when `limit` has passed without one.
pub fn eventually<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
