//! Limits on the embedded store.

use super::MemoryStore;
use crate::error::Result;
use crate::store::limit::{Charge, Charged, LimitStore, Stamp, Term};

impl LimitStore for MemoryStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        Ok(self.limits.charge(name, charge, self.now_micros()))
    }

    async fn charge_together(&self, charges: &[(&str, Charge<'_>)]) -> Result<Vec<Charged>> {
        Ok(self.limits.charge_together(charges, self.now_micros()))
    }

    async fn refund(&self, name: &str, terms: &[Term], permits: u64, stamp: Stamp) -> Result<u64> {
        Ok(self.limits.refund(name, terms, permits, stamp, self.now_micros()))
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.limits.forget(name, self.now_micros()))
    }

    fn domain(&self, _: &str) -> usize {
        0
    }
}
