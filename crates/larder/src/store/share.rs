//! Counting in this process alone, by the rules of every store: what is left to a program while its store is away.

use super::limit::{Charge, ChargeStamp, Charged, QuotaSpec};
use super::memory::MemoryLimits;
use crate::clock::Tick;

/// The records of one limiter, in the time of this process.
#[derive(Default)]
pub(crate) struct Share(MemoryLimits);

impl Share {
    /// As [`LimitStore::charge`](super::limit::LimitStore::charge).
    pub(crate) fn charge(&self, name: &str, charge: Charge<'_>, now: Tick) -> Charged {
        self.0.charge(name, charge, now.as_micros())
    }

    /// As [`LimitStore::refund`](super::limit::LimitStore::refund).
    pub(crate) fn refund(
        &self,
        name: &str,
        terms: &[QuotaSpec],
        permits: u64,
        stamp: ChargeStamp,
        now: Tick,
    ) -> u64 {
        self.0.refund(name, terms, permits, stamp, now.as_micros())
    }

    /// How many records there are, and room for how many.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        self.0.size()
    }
}
