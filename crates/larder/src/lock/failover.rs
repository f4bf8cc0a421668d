//! What a lock does about failovers: quarantine, and acknowledgement by replicas.
//!
//! The problem: replication is asynchronous, so a server that is promoted may lack locks that its predecessor
//! granted, and may grant them again while they are held. The mechanism: with quarantine, a server that may lack
//! locks grants nothing until the longest lease has expired. With acknowledgements, a lock counts as granted only
//! when enough replicas have it.
//!
//! Not guaranteed: that the replica that acknowledged is the one that is promoted. Only quarantine closes that gap,
//! provided that the old master stops: see docs/guarantees.md.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::holder::shown;
use super::lease::Lease;
use crate::error::{Error, ErrorKind, Result};
use crate::store::lock::{LockStore, LockToken};

/// The settings against failovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Failover {
    /// The longest lease that any program uses.
    pub(super) quarantine: Option<Duration>,
    /// The number of replicas that must acknowledge a grant or a renewal.
    pub(super) replicas: u32,
}

impl Failover {
    /// A lease must not be longer than the quarantine, which waits for its expiry.
    pub(super) fn check(self, ttl: Duration) -> Result<()> {
        match self.quarantine {
            Some(longest) if ttl > longest => Err(Error::invalid(format!(
                "a lease of {ttl:?} is longer than the quarantine of {longest:?}: raise the quarantine's max_lease"
            ))),
            _ => Ok(()),
        }
    }
}

/// The error of a server that may have lost locks; `until` is in milliseconds of the server's clock.
pub(super) fn quarantined(name: &str, until: u64) -> Error {
    let until: SystemTime = UNIX_EPOCH + Duration::from_millis(until);
    let message = "the server may have lost locks that are held, and grants none until they have expired";
    let named = format!("{:?}: {message}", shown(name));
    Error::named(ErrorKind::Quarantined { until }, message, named)
}

/// Waits until enough replicas have what was just granted. One round trip, on a connection that no other call uses.
pub(super) async fn acknowledged(holding: &Arc<Lease>, ttl: Duration) -> Result<()> {
    let Lease { locks, name, token, failover, .. } = &**holding;
    let ticket = LockToken { lock: name.to_string(), token: *token };
    let max_wait = (ttl / 4).min(locks.timeout() / 2);
    let answer = locks.store()?.acknowledged(&[ticket], failover.replicas, max_wait).await?;
    match answer.first().copied().flatten() {
        Some(true) => Ok(()),
        Some(false) => Err(not_replicated(name, failover.replicas)),
        None => Err(Error::timed_out(max_wait)),
    }
}

fn not_replicated(name: &str, replicas: u32) -> Error {
    let message = format!("fewer than {replicas} replicas acknowledged the lock in time: it was released");
    let named = format!("{:?}: {message}", shown(name));
    Error::named(ErrorKind::NotReplicated, message, named)
}

/// Releases a lease that too few replicas have. Its guard is lost at once.
pub(super) fn release(holding: &Arc<Lease>) {
    let Lease { locks, name, token, kind, .. } = &**holding;
    let left = holding.may_last();
    locks.keeping.forget(*token);
    if holding.end() {
        locks.meter.lost();
        locks.end_in_background(name.clone(), *token, left, kind.ending());
    }
}
