//! Limits on the embedded store.

use std::time::Duration;

use super::MemoryStore;
use crate::error::Result;
use crate::store::limit::{Charge, Charged, Entered, LimitStore, Term};

impl LimitStore for MemoryStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        Ok(self.limits.charge(name, charge, self.now_micros()))
    }

    async fn refund(&self, name: &str, terms: &[Term], permits: u64, stamp: u64) -> Result<u64> {
        Ok(self.limits.refund(name, terms, permits, stamp, self.now_micros()))
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.limits.forget(name, self.now_micros()))
    }

    async fn enter(&self, name: &str, permits: u64, token: u64, ttl: Duration) -> Result<Entered> {
        Ok(self.permits.enter(name, permits, token, ttl, self.clock.now()))
    }

    async fn renew(&self, name: &str, token: u64, ttl: Duration) -> Result<bool> {
        Ok(self.permits.renew(name, token, ttl, self.clock.now()))
    }

    async fn leave(&self, name: &str, token: u64) -> Result<bool> {
        Ok(self.permits.leave(name, token, self.clock.now()))
    }

    async fn inside(&self, name: &str) -> Result<u64> {
        Ok(self.permits.inside(name, self.clock.now()))
    }

    fn domain(&self, _: &str) -> usize {
        0
    }
}
