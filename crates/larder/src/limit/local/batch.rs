//! Permits of a batch, as they are spent.

use std::sync::Arc;
use std::time::Duration;

use super::super::Plan;
use super::super::decision::{DecidedBy, Decision, RecordId};
use super::super::quota::Quota;
use crate::clock::Tick;
use crate::store::limit::ChargeStamp;

/// Permits of one key that may be spent locally.
pub(in super::super) struct LocalBatch {
    pub(in super::super) left: u64,
    pub(in super::super) deadline: Tick,
    /// Where they were charged.
    pub(in super::super) stamp: ChargeStamp,
    pub(in super::super) record: RecordId,
    pub(in super::super) plan: Arc<Plan>,
    /// The store's figures when they were taken.
    pub(in super::super) binding: Quota,
    pub(in super::super) remaining: u64,
    pub(in super::super) reset_at: Tick,
}

impl LocalBatch {
    /// Takes `cost` permits if there are enough and they may still be spent.
    #[inline]
    pub(in super::super) fn spend(&mut self, cost: u64, plan: u64, now: Tick) -> Option<Decision> {
        if now >= self.deadline || self.left < cost || self.plan.id != plan {
            return None;
        }
        self.left -= cost;
        Some(Decision {
            granted: cost,
            binding: self.binding,
            remaining: self.remaining.saturating_add(self.left),
            retry_after: Duration::ZERO,
            reset_after: self.reset_at.since(now),
            decided_by: DecidedBy::Batch,
            stamp: self.stamp,
            record: self.record,
            counted_here: false,
        })
    }
}
