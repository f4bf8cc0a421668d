//! Counts in this process alone, by the same rules as every store: what is left to a program while its store
//! is unavailable.

use super::limit::{Charge, ChargeStamp, Charged};
use super::memory::MemoryLimits;
use crate::clock::Tick;

/// The records of one limiter, in this process's time.
#[derive(Default)]
pub(crate) struct Share(MemoryLimits);

impl Share {
    /// Charges quotas, as [`LimitStore::charge`](super::limit::LimitStore::charge) does.
    pub(crate) fn charge(&self, name: &str, charge: Charge<'_>, now: Tick) -> Charged {
        self.0.charge(name, charge, now.as_micros())
    }

    /// Gives permits back, as [`LimitStore::refund`](super::limit::LimitStore::refund) does.
    pub(crate) fn refund(&self, name: &str, permits: u64, stamp: ChargeStamp, now: Tick) -> u64 {
        self.0.refund(name, permits, stamp, now.as_micros())
    }

    /// How many records there are, and how many fit without allocation.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        self.0.size()
    }
}
