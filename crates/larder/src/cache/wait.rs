//! Waiting for another process's load: the server notifies this process when the claim ends, so it does not poll.
//!
//! The name is read on the tracked connection, which makes the server report its next change: the value was stored,
//! the claim was renewed or removed, or it expired because its loader died. A timer covers the notifications that
//! never arrive: those lost with a broken connection, and those of a server that refuses to track.

use std::time::Duration;

use super::Cache;
use super::claim::LIVENESS;
use super::lookup::Lookup;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::store::{RefreshClaim, Store, Tracked};
use crate::value::Value;

/// How often the server is asked if it does not track.
const POLL: Duration = Duration::from_millis(100);

impl<V> Cache<V>
where
    V: Value,
{
    /// Waits until no other process's placeholder is stored under a name, and returns what is.
    pub(super) async fn wait_for_fill(&self, entry: &str) -> Result<Lookup<V>> {
        let mut watch = self.context.invalidations.watch(entry);
        loop {
            let covered = self.is_covered(entry);
            let read = self.bounded(self.context.store()?.get_tracked(entry)).await?;
            let max_wait = self.max_wait(&read);
            let found = match read.bytes {
                None => Lookup::Nothing,
                Some(bytes) if covered => Lookup::Unusable(bytes),
                Some(bytes) => self.bounded(self.classify(entry, bytes)).await?,
            };
            if !matches!(found, Lookup::Placeholder(_)) {
                return Ok(found);
            }
            watch.changed(max_wait).await;
        }
    }

    /// Waits until another process's refresh of the value that carries `nonce` has ended, and returns what is stored
    /// then.
    pub(super) async fn wait_for_refresh(&self, entry: &str, nonce: u64) -> Result<Lookup<V>> {
        let claim = Keyspace::refresh_claim(entry);
        let mut value_watch = self.context.invalidations.watch(entry);
        let mut claim_watch = self.context.invalidations.watch(&claim);
        loop {
            let (store, covered) = (self.context.store()?, self.is_covered(entry));
            let claimed = self.bounded(store.get_tracked(&claim)).await?;
            let read = self.bounded(store.get_tracked(entry)).await?;
            let max_wait = self.max_wait(&claimed);
            let found = match read.bytes {
                None => Lookup::Nothing,
                Some(bytes) if covered => Lookup::Unusable(bytes),
                Some(bytes) => self.bounded(self.classify(entry, bytes)).await?,
            };
            let same =
                matches!(&found, Lookup::Fresh(cached) | Lookup::Stale(cached) if cached.nonce == nonce);
            let holder = claimed.bytes.as_deref().and_then(RefreshClaim::read);
            if !same || holder.is_none_or(|holder| holder.nonce != nonce) {
                return Ok(found);
            }
            tokio::select! {
                () = value_watch.changed(max_wait) => {}
                () = claim_watch.changed(max_wait) => {}
            }
        }
    }

    /// Returns how long to wait for a notification before reading again.
    fn max_wait(&self, read: &Tracked) -> Duration {
        match (read.left, read.stamp) {
            (Some(left), _) => left.clamp(Duration::from_millis(1), LIVENESS),
            (None, Some(_)) => LIVENESS,
            (None, None) => POLL.mul_f64(0.5 + self.context.random.fraction()),
        }
    }
}

/// Returns the pause before another attempt after a conflict. It grows with each attempt and is random, so that
/// callers do not retry in step.
pub(super) fn pause(attempts: u32, fraction: f64) -> Duration {
    Duration::from_millis(1 << attempts.min(6)).mul_f64(0.5 + fraction)
}
