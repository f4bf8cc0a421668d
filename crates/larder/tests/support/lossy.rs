//! Failovers that lose writes which the old master has acknowledged.

use std::sync::Arc;
use std::time::Duration;

use larder::{ErrorKind, Larder};

use larder::lock::{Guard, Lock};
use larder_testkit::Sentinel;
use tokio::task::spawn_blocking;

/// What was observed of one lock over one lossy failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Two guards were valid at the same moment.
    pub overlap: bool,
    /// How many attempts at the new master were refused by quarantine.
    pub refused: u32,
}

/// A lock of a `Larder`, with quarantine for the length of its lease or without.
pub fn lock(larder: &Larder, name: &str, lease: Duration, quarantine: bool) -> Lock {
    let lock = larder.lock(name).ttl(lease);
    if quarantine { lock.quarantine(lease) } else { lock }
}

/// Takes the lock as soon as quarantine allows it.
pub async fn take(lock: &Lock) -> Guard {
    loop {
        match lock.acquire().await {
            Ok(guard) => return guard,
            // An earlier failover may still be under way.
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::LockLost => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Loses a grant in a failover: grants the lock at the master while the replica is cut off, promotes the replica, and
/// tries to take the lock there until it is granted or the first guard is lost. The lease must outlast the failover,
/// which takes one to some seconds. Leaves the old master down: [`Sentinel::heal`] brings it back.
///
/// `here` and `there` are connected to the sentinels, in one namespace.
pub async fn fail_over(
    sentinel: &Arc<Sentinel>,
    here: &Larder,
    there: &Larder,
    name: &str,
    lease: Duration,
    quarantine: bool,
) -> Observed {
    let (here, there) = (lock(here, name, lease, quarantine), lock(there, name, lease, quarantine));
    // From here on the marker names this master, also on the replica, and quarantine is over.
    take(&here).await.release().await.unwrap();
    let set = sentinel.clone();
    spawn_blocking(move || {
        set.wait_until_in_step();
        set.cut_replica();
    })
    .await
    .unwrap();
    let held = take(&here).await;
    let set = sentinel.clone();
    spawn_blocking(move || set.fail_over()).await.unwrap();
    let mut seen = Observed { overlap: false, refused: 0 };
    while held.is_valid() {
        match there.try_acquire().await {
            Ok(Some(guard)) => {
                seen.overlap = held.is_valid() && guard.is_valid();
                break;
            }
            Err(error) if matches!(error.kind(), ErrorKind::Quarantined { .. }) => seen.refused += 1,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}
