//! What a lock does about failovers: quarantine, and acknowledgement by replicas.
//!
//! The problem: replication is asynchronous, so a server that is promoted may lack locks that its predecessor
//! granted, and may grant them again while they are held. The mechanism: with quarantine, a server that may lack
//! locks grants nothing until the longest lease has expired. With acknowledgements, a lock counts as granted only
//! when enough replicas have it.
//!
//! Not guaranteed: that the replica that acknowledged is the one that is promoted. Only quarantine closes that gap,
//! provided that the old master stops: see docs/guarantees.md.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::shown;

/// The settings against failovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Failover {
    /// The longest lease that any program uses.
    pub(super) quarantine: Option<Duration>,
    /// The number of replicas that must acknowledge a grant or a renewal.
    pub(super) replicas: u32,
}

impl Failover {
    /// A lease must not be longer than the quarantine, which waits for its expiry. No lease is longer than `most`,
    /// and a longer quarantine would stay in the marker for as long as the lock is used.
    pub(super) fn check(self, ttl: Duration, most: Duration) -> Result<()> {
        match self.quarantine {
            Some(longest) if longest > most => Err(Error::invalid(format!(
                "a quarantine of {longest:?} is longer than any lease: at most {most:?}"
            ))),
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

/// The error of a lock that too few replicas have.
pub(super) fn not_replicated(name: &str, replicas: u32) -> Error {
    let message = format!("fewer than {replicas} replicas acknowledged the lock in time: it was released");
    let named = format!("{:?}: {message}", shown(name));
    Error::named(ErrorKind::NotReplicated, message, named)
}
