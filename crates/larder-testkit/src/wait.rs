//! Waiting for another process, for which there is no channel.

use std::thread;
use std::time::{Duration, Instant};

/// Calls `check` every few milliseconds until it returns a value, and returns that value.
///
/// # Panics
///
/// With `what`, if `limit` passes without a value.
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
