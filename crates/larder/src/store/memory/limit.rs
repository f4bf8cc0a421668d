//! Limits on the embedded store.

use std::time::Duration;

use super::MemoryStore;
use crate::clock::Tick;
use crate::error::Result;
use crate::store::limit::{Charge, ChargeStamp, Charged, Label, LimitStore, Override};

impl LimitStore for MemoryStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        Ok(self.limits.charge(name, charge, self.now_micros()))
    }

    async fn charge_together(&self, charges: &[(&str, Charge<'_>)]) -> Result<Vec<Charged>> {
        Ok(self.limits.charge_together(charges, self.now_micros()))
    }

    async fn refund(&self, name: &str, permits: u64, stamp: ChargeStamp) -> Result<u64> {
        Ok(self.limits.refund(name, permits, stamp, self.now_micros()))
    }

    async fn set_override(&self, name: &str, specs: &Override) -> Result<()> {
        self.limits.set_override(name, specs, self.now_micros());
        Ok(())
    }

    async fn override_of(&self, name: &str) -> Result<Option<(Vec<Label>, Duration)>> {
        Ok(self.limits.override_of(name, self.now_micros()))
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.limits.forget(name, self.now_micros()))
    }

    fn local_time(&self, _: &str, _: u64) -> Option<Tick> {
        None
    }

    fn domain(&self, _: &str) -> usize {
        0
    }
}
