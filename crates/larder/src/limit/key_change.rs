//! A reset or an override of a key, as long as its outcome is not known.
//!
//! This process may have a batch of the key's permits, charged before the change. After a reset they no longer count,
//! so spending them would admit more than the limit; after an override they would be spent by quotas that no longer
//! hold. So the batch is taken away before the request is sent. If the change certainly did not happen, and no other
//! change has begun meanwhile, the batch can be spent again. Otherwise its permits are given back. No batch is
//! requested meanwhile, and one that was requested before and arrives later is not spent: see `take_batch`.

use std::sync::Arc;

use super::RateLimiter;
use super::local::KeyState;
use super::local::LocalBatch;
use crate::error::Result;
use crate::name::Name;

/// How often a change is counted as a reset: when it begins and when it ends.
const COUNTED: u64 = 2;

/// Dropped without an outcome (a timeout, or a caller that has gone), the change may have happened.
pub(super) struct KeyChange<'a> {
    limiter: &'a RateLimiter,
    name: &'a Name,
    known: Option<Arc<KeyState>>,
    /// The batch that was taken away.
    batch: Option<LocalBatch>,
    may_have_happened: bool,
    /// The reset count before this change.
    resets: u64,
}

impl<'a> KeyChange<'a> {
    /// Call it before the request is sent.
    pub(super) fn begin(limiter: &'a RateLimiter, name: &'a Name) -> Self {
        let resets = limiter.inner.local.resets();
        // Before the count of `forget`: a caller that takes a batch reads the count first, and sees one of the two.
        limiter.inner.local.change_begins(name.as_bytes());
        let known = limiter.inner.local.known(name.as_bytes());
        let batch = limiter.inner.local.forget(name.as_bytes());
        Self { limiter, name, known, batch, may_have_happened: true, resets }
    }

    /// Gives the batch back and waits until that is done, for a change after which the store may no longer find its
    /// permits. If that certainly failed, the change must not be made.
    pub(super) async fn give_back(&mut self) -> Result<()> {
        let Some(batch) = self.batch.take().filter(|batch| batch.left > 0) else { return Ok(()) };
        match self.limiter.give_back_in_time(self.name, batch.stamp, batch.left).await {
            Some(error) if !error.is_indeterminate() => {
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
        // Finds no batch, because none is taken meanwhile. Ends what is known of refusals and restarts the queue.
        drop(self.limiter.inner.local.forget(self.name.as_bytes()));
        let mut batch = self.batch.take();
        if let Some(known) = self.known.as_ref().filter(|_| !self.may_have_happened) {
            let now = self.limiter.now();
            let mut facts = known.facts();
            // Compare while holding the lock. Another change that has counted may have wiped what the batch was charged
            // to. One that counts later takes this lock to forget, and then finds the batch here.
            let alone = self.limiter.inner.local.resets() == self.resets + COUNTED;
            if alone && facts.batch.is_none() {
                // The task that gives the rest back at the deadline finds the batch here.
                facts.batch = batch.take_if(|batch| now < batch.deadline);
            }
        }
        self.limiter.inner.local.change_ended(self.name.as_bytes());
        if let Some(batch) = batch.filter(|batch| batch.left > 0) {
            self.limiter.give_back_later(self.name, batch.stamp, batch.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::limit::PermitBatch;
    use crate::{Larder, Quota};

    async fn with_batch() -> (RateLimiter, Name) {
        let larder = Larder::connect("memory:").await.unwrap();
        let limiter = larder.rate_limiter("api", Quota::per_hour(20)).unwrap();
        let limiter = limiter.batched(PermitBatch::batch(10).span(Duration::from_secs(600))).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        let name = limiter.record("a").unwrap();
        (limiter, name)
    }

    fn left(limiter: &RateLimiter, name: &Name) -> Option<u64> {
        limiter.inner.local.known(name.as_bytes())?.facts().batch.as_ref().map(|batch| batch.left)
    }

    #[tokio::test]
    async fn a_failed_change_restores_no_batch_that_another_change_has_wiped_meanwhile() {
        for reset_meanwhile in [false, true] {
            let (limiter, name) = with_batch().await;
            let failing = KeyChange::begin(&limiter, &name);
            if reset_meanwhile {
                limiter.reset("a").await.unwrap();
            }
            failing.end::<()>(Err(Error::new(ErrorKind::WrongType, "a list"))).unwrap_err();
            assert_eq!(left(&limiter, &name), (!reset_meanwhile).then_some(9));
        }
    }

    #[tokio::test]
    async fn no_batch_is_taken_while_a_reset_is_under_way() {
        let (limiter, name) = with_batch().await;
        let pending = [KeyChange::begin(&limiter, &name), KeyChange::begin(&limiter, &name)];
        for change in pending {
            // The server may execute the reset after this charge and before its answer arrives.
            assert!(limiter.allow("a").await.unwrap());
            assert_eq!(left(&limiter, &name), None);
            assert!(limiter.allow("b").await.unwrap());
            assert!(left(&limiter, &limiter.record("b").unwrap()).is_some());
            drop(change);
        }
        assert!(limiter.allow("a").await.unwrap());
        assert!(left(&limiter, &name).is_some());
    }
}
