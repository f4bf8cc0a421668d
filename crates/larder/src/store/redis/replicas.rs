//! Waits for the acknowledgement of replicas.
//!
//! `WAIT` blocks all that is sent behind it on its connection, and waits for what that connection has written. So calls
//! that wait at the same time have connections of their own, and a write goes before each `WAIT`: when it is acknowledged,
//! so is whatever any connection has written before it. The write also checks that the server still knows the lock: the
//! server that acknowledges may not be the one that granted it.
//!
//! The connections are opened when they are needed, at most [`MOST`] of them. A call that finds all of them in use waits for
//! one, and then asks what is acknowledged by the end of its own time. They are closed after [`IDLE`] without use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::dial::Login;
use super::lock::{array, known};
use super::network::Network;
use super::wire::{Reply, Request};
use super::{RedisStore, flag, millis, number, script, version_text};
use crate::endpoint::Deployment;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::group::is_group;
use crate::store::lock::LockToken;
use crate::store::permit::is_semaphore;

/// How long after the end of `WAIT`'s own time its answer may arrive.
const LATE: Duration = Duration::from_millis(500);
/// How many calls wait at the same time.
const MOST: usize = 8;
/// How long a connection is kept that no call uses.
const IDLE: Duration = Duration::from_secs(30);

/// The connections, and where they go.
pub(super) struct Replicas {
    deployment: Deployment,
    login: Login,
    sentinel_login: Login,
    /// How many more calls may wait. Closed with the store.
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
    /// [`IDLE`], but in tests.
    idle_for: Duration,
}

/// Connections that no call uses, the latest used last.
#[derive(Default)]
struct Idle {
    unused: Vec<(Connection, Instant)>,
    /// The task that closes those that are unused for long. It runs while there are some.
    sweeper: Option<AbortHandle>,
    closed: bool,
}

/// One connection; on a cluster one to each master.
struct Connection(Network);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection that one call uses. Closed unless it is given back: a `WAIT` whose answer did not come may still block it.
struct Borrowed {
    connection: Connection,
    _place: OwnedSemaphorePermit,
}

impl Replicas {
    pub(super) fn new(deployment: Deployment, login: Login, sentinel_login: Login) -> Self {
        let free = Arc::new(Semaphore::new(MOST));
        Self { deployment, login, sentinel_login, free, idle: Arc::default(), idle_for: IDLE }
    }

    /// Takes a connection that no other call uses. Waits while there are too many calls.
    async fn borrow(&self) -> Result<Borrowed> {
        let place = self.free.clone().acquire_owned().await.map_err(|_| Error::closed())?;
        let unused = lock(&self.idle).unused.pop();
        let connection = match unused {
            Some((connection, _)) => connection,
            None => {
                let (login, sentinel_login) = (self.login.clone(), self.sentinel_login.clone());
                let deployment = self.deployment.clone();
                Connection(Network::start(deployment, login, sentinel_login, 1, None))
            }
        };
        Ok(Borrowed { connection, _place: place })
    }

    /// Keeps a connection, all of whose answers have come, for the next call.
    fn give_back(&self, borrowed: Borrowed) {
        let mut idle = lock(&self.idle);
        if idle.closed {
            return;
        }
        idle.unused.push((borrowed.connection, Instant::now()));
        // Its runtime may have ended before the connections.
        if idle.sweeper.as_ref().is_none_or(AbortHandle::is_finished) {
            let sweep = sweep(Arc::downgrade(&self.idle), self.idle_for);
            idle.sweeper = Some(tokio::spawn(sweep).abort_handle());
        }
    }

    pub(super) fn close(&self) {
        self.free.close();
        let mut idle = lock(&self.idle);
        idle.closed = true;
        idle.unused.clear();
        if let Some(sweeper) = idle.sweeper.take() {
            sweeper.abort();
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes connections that were not used for so long, until none is left. It keeps nothing alive.
async fn sweep(idle: Weak<Mutex<Idle>>, unused_for: Duration) {
    loop {
        tokio::time::sleep(unused_for / 2).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        idle.unused.retain(|(_, since)| since.elapsed() < unused_for);
        if idle.unused.is_empty() {
            // Within the lock: a connection that is given back after this starts another task.
            idle.sweeper = None;
            return;
        }
    }
}

impl RedisStore {
    pub(super) async fn acknowledged_by(
        &self,
        held: &[LockToken],
        replicas: u32,
        max_wait: Duration,
    ) -> Result<Vec<Option<bool>>> {
        let names: Vec<&str> = held.iter().map(|ticket| ticket.lock.as_str()).collect();
        let groups = self.network.groups(&names);
        let parts: Vec<&[usize]> = groups.iter().map(|group| group.places.as_slice()).collect();
        let end = Instant::now() + max_wait;
        let answers = join_all(parts.iter().map(async |places| {
            let part: Vec<&LockToken> = places.iter().filter_map(|place| held.get(*place)).collect();
            let asked = self.replicas.ask(&part, replicas, end);
            let within = max_wait + LATE;
            timeout(within, asked).await.unwrap_or_else(|_| Err(Error::timed_out(within)))
        }))
        .await;
        known(held.len(), &parts, answers)
    }
}

impl Replicas {
    /// Whether tickets, which share a slot, are held and acknowledged at `end`.
    async fn ask(&self, held: &[&LockToken], replicas: u32, end: Instant) -> Result<Vec<bool>> {
        let borrowed = self.borrow().await?;
        let max_wait = end.saturating_duration_since(Instant::now());
        let answer = acknowledged_at(&borrowed.connection.0, held, replicas, max_wait).await?;
        self.give_back(borrowed);
        Ok(answer)
    }
}

/// The tickets share a slot.
async fn acknowledged_at(
    network: &Network,
    held: &[&LockToken],
    replicas: u32,
    max_wait: Duration,
) -> Result<Vec<bool>> {
    let Some(first) = held.first() else { return Ok(Vec::new()) };
    let mut written = Name::from(first.lock.as_str());
    written.push_str(":ack");
    let keys: Vec<&str> = held.iter().map(|ticket| ticket.lock.as_str()).chain([&*written]).collect();
    let kind =
        |ticket: &LockToken| if is_semaphore(&ticket.lock) || is_group(&ticket.lock) { "z" } else { "s" };
    let arguments: Vec<String> =
        held.iter().map(|ticket| format!("{}{}", kind(ticket), version_text(ticket.token))).collect();
    let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
    let write = script::ACKNOWLEDGE.by_source(&keys, &arguments);
    // 0 would mean to wait without end.
    let wait = Request::new("WAIT").number(replicas.into()).arg(millis(max_wait.max(Duration::from_millis(1))));
    let (holds, count): (Reply, Reply) = network.run_both(&first.lock, write, wait).await?;
    let enough = number(&count)? >= u64::from(replicas);
    array(holds)?.iter().map(|holds| Ok(flag(holds)? && enough)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::equivalence::real_store;

    #[tokio::test]
    async fn calls_share_connections_one_after_the_other_and_unused_ones_are_closed() {
        let mut store = real_store().await;
        store.replicas.idle_for = Duration::from_millis(20);
        let ticket = LockToken { lock: "~lock.1:{/replicas}".to_owned(), token: 7 };
        let unused = |store: &RedisStore| lock(&store.replicas.idle).unused.len();
        let ask =
            async || store.acknowledged_by(std::slice::from_ref(&ticket), 0, Duration::from_secs(5)).await;
        for _ in 0..3 {
            // No process holds it.
            assert_eq!(ask().await.unwrap(), [Some(false)]);
            assert!(unused(&store) <= 1);
        }
        let both = [store.replicas.borrow().await.unwrap(), store.replicas.borrow().await.unwrap()];
        both.into_iter().for_each(|one| store.replicas.give_back(one));
        for _ in 0..1000 {
            if unused(&store) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(unused(&store), 0);
        // And the next call opens another.
        assert_eq!(ask().await.unwrap(), [Some(false)]);
        store.close();
        assert!(ask().await.is_err() && unused(&store) == 0);
    }
}
