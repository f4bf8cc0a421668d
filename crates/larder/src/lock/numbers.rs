//! The semaphores whose stored number of permits is not that of a handle. Each is logged once, whichever handles, keys
//! and calls find it: a handle is often made for one request.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::telemetry::target;

/// The most names that are remembered. Beyond that all are forgotten, and may be logged again.
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Differences(Mutex<HashSet<Box<str>>>);

impl Differences {
    /// Compares a stored number with a handle's. `semaphore` is its name without a key.
    pub(super) fn note(&self, semaphore: &str, stored: u64, own: u64) {
        if stored != own && self.is_new(semaphore) {
            tracing::warn!(
                target: target::LOCK,
                stored,
                own,
                "a semaphore has another number of permits than this handle: the stored number is used"
            );
        }
    }

    fn is_new(&self, semaphore: &str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.contains(semaphore) {
            return false;
        }
        if logged.len() >= MOST {
            logged.clear();
        }
        logged.insert(semaphore.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Differences, MOST};

    #[test]
    fn a_name_is_new_once_and_names_do_not_fill_the_memory() {
        let differences = Differences::default();
        assert!(differences.is_new("a") && !differences.is_new("a") && differences.is_new("b"));
        for number in 0..2 * MOST {
            differences.is_new(&format!("user:{number}"));
        }
        assert!(differences.0.lock().unwrap().len() <= MOST);
        assert!(differences.is_new("a"), "forgotten");
    }
}
