//! A reset or an override of a key, as long as its outcome is not known.
//!
//! This process may have a batch of the key's permits, charged before the change. After a reset they no longer count,
//! so spending them would admit more than the limit; after an override they would be spent by quotas that no longer
//! hold. So the batch is taken away before the request is sent. If the change certainly did not happen, the batch can
//! be spent again. Otherwise its permits are given back, and with them a batch that another caller took meanwhile. A
//! batch that is requested meanwhile and arrives later is not spent: see `RateLimiter::keep`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::RateLimiter;
use super::batch::LocalBatch;
use super::local::KeyState;
use crate::error::Result;
use crate::name::Name;

/// Dropped without an outcome (a timeout, or a caller that has gone), the change may have happened.
pub(super) struct KeyChange<'a> {
    limiter: &'a RateLimiter,
    name: &'a Name,
    known: Option<Arc<KeyState>>,
    /// The batch that was taken away.
    batch: Option<LocalBatch>,
    may_have_happened: bool,
}

impl<'a> KeyChange<'a> {
    /// Call it before the request is sent.
    pub(super) fn begin(limiter: &'a RateLimiter, name: &'a Name) -> Self {
        let known = limiter.inner.local.known(name.as_bytes());
        let batch = limiter.inner.local.forget(name.as_bytes());
        Self { limiter, name, known, batch, may_have_happened: true }
    }

    /// Gives the batch back and waits until that is done, for a change after which the store may no longer find its
    /// permits. If that certainly failed, the change must not be made.
    pub(super) async fn give_back(&mut self) -> Result<()> {
        let Some(batch) = self.batch.take().filter(|batch| batch.left > 0) else { return Ok(()) };
        let (answer, given) = oneshot::channel();
        // In the background, so that it is done exactly once even if this future is dropped.
        self.limiter.give_back_in_background(self.name, batch.stamp, batch.left, move |given| {
            // The receiver may be gone.
            let _ = answer.send(given);
        });
        match given.await {
            Ok(Err(error)) if !error.is_indeterminate() => {
                (self.batch, self.may_have_happened) = (Some(batch), false);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Ends the change with the result of its request.
    pub(super) fn end<T>(mut self, result: Result<T>) -> Result<T> {
        match &result {
            // What was in the batch no longer counts.
            Ok(_) => self.batch = None,
            Err(error) => self.may_have_happened = error.is_indeterminate(),
        }
        result
    }
}

impl Drop for KeyChange<'_> {
    fn drop(&mut self) {
        let newer = self.limiter.inner.local.forget(self.name.as_bytes());
        let mut batch = self.batch.take();
        if let Some(known) = self.known.as_ref().filter(|_| !self.may_have_happened && newer.is_none()) {
            let now = self.limiter.now();
            let mut facts = known.facts();
            if facts.lease.is_none() {
                // The task that gives the rest back at the deadline finds the batch here.
                facts.lease = batch.take_if(|batch| now < batch.deadline);
            }
        }
        for batch in batch.into_iter().chain(newer).filter(|batch| batch.left > 0) {
            self.limiter.give_back_later(self.name, batch.stamp, batch.left);
        }
    }
}
