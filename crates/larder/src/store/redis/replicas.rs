//! Waits until replicas have acknowledged a lock.
//!
//! `WAIT` blocks everything behind it on its connection, and it waits for what that same connection has written. So
//! concurrent calls use connections of their own, and each sends a write before its `WAIT`. When replicas acknowledge
//! that write, they have also received everything that any connection had written before it. The write also checks
//! that the server still knows the lock, because the server that acknowledges may not be the one that granted it.
//!
//! Connections are opened on demand, at most [`MOST`] of them. A call that finds all of them in use waits for one;
//! the wait counts against the call's own time. A connection is closed after [`IDLE`] without use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::lock::{array, known};
use super::login::Login;
use super::network::Network;
use super::wire::{Reply, Request};
use super::{RedisStore, flag, millis, number, script, version_text};
use crate::endpoint::Endpoints;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::group::is_group;
use crate::store::lock::LockToken;
use crate::store::permit::is_semaphore;

/// How long after the timeout of `WAIT` its reply may arrive.
const LATE: Duration = Duration::from_millis(500);
/// The most calls that wait at the same time.
const MOST: usize = 8;
/// How long an unused connection is kept open.
const IDLE: Duration = Duration::from_secs(30);

/// The connections for `WAIT`, and how to open more.
pub(super) struct Replicas {
    deployment: Endpoints,
    login: Login,
    sentinel_login: Login,
    /// Permits for further calls. Closed with the store.
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
    /// [`IDLE`], except in tests.
    idle_for: Duration,
}

/// Unused connections. The last one in the list was used last.
#[derive(Default)]
struct Idle {
    unused: Vec<(WaitConnection, Instant)>,
    /// The task that closes connections after a time without use. It runs while there are any.
    sweeper: Option<AbortHandle>,
    closed: bool,
}

/// One connection, or one to each master of a cluster.
struct WaitConnection(Network);

impl Drop for WaitConnection {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection in use by one call. Unless it is given back it is closed, because an unanswered `WAIT` may still
/// block it.
struct Borrowed {
    connection: WaitConnection,
    _place: OwnedSemaphorePermit,
}

impl Replicas {
    pub(super) fn new(deployment: Endpoints, login: Login, sentinel_login: Login) -> Self {
        let free = Arc::new(Semaphore::new(MOST));
        Self { deployment, login, sentinel_login, free, idle: Arc::default(), idle_for: IDLE }
    }

    /// Takes an unused connection, or opens one. Waits while [`MOST`] calls are under way.
    async fn borrow(&self) -> Result<Borrowed> {
        let place = self.free.clone().acquire_owned().await.map_err(|_| Error::closed())?;
        let unused = lock(&self.idle).unused.pop();
        let connection = match unused {
            Some((connection, _)) => connection,
            None => {
                let (login, sentinel_login) = (self.login.clone(), self.sentinel_login.clone());
                let deployment = self.deployment.clone();
                WaitConnection(Network::start(deployment, login, sentinel_login, 1, None))
            }
        };
        Ok(Borrowed { connection, _place: place })
    }

    /// Keeps a connection for the next call. All its replies must have arrived.
    fn give_back(&self, borrowed: Borrowed) {
        let mut idle = lock(&self.idle);
        if idle.closed {
            return;
        }
        idle.unused.push((borrowed.connection, Instant::now()));
        // The runtime of the last sweeper may have ended, while the connections are still open.
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

/// Closes connections that were unused for that long, until none is left. Does not keep the store alive.
async fn sweep(idle: Weak<Mutex<Idle>>, unused_for: Duration) {
    loop {
        tokio::time::sleep(unused_for / 2).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        idle.unused.retain(|(_, since)| since.elapsed() < unused_for);
        if idle.unused.is_empty() {
            // Under the lock: `give_back` either pushed its connection before this check, or starts another sweeper
            // after it.
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
    /// Returns for each lock whether it is held and acknowledged by `end`. The locks share a slot.
    async fn ask(&self, held: &[&LockToken], replicas: u32, end: Instant) -> Result<Vec<bool>> {
        let borrowed = self.borrow().await?;
        let max_wait = end.saturating_duration_since(Instant::now());
        let answer = acknowledged_at(&borrowed.connection.0, held, replicas, max_wait).await?;
        self.give_back(borrowed);
        Ok(answer)
    }
}

/// Does the same on one connection, within `max_wait`.
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
    // A timeout of 0 would mean to wait without limit.
    let wait =
        Request::new("WAIT").number(replicas.into()).arg(millis(max_wait.max(Duration::from_millis(1))));
    let (holds, count): (Reply, Reply) = network.run_both(&first.lock, write, wait).await?;
    let enough = number(&count)? >= u64::from(replicas);
    array(holds)?.iter().map(|holds| Ok(flag(holds)? && enough)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::equivalence::real_store;

    fn unused(store: &RedisStore) -> usize {
        lock(&store.replicas.idle).unused.len()
    }

    async fn all_closed(store: &RedisStore) {
        for _ in 0..1000 {
            if unused(store) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} are open", unused(store));
    }

    #[tokio::test]
    async fn unused_connections_are_closed_though_the_runtime_of_the_last_sweeper_has_ended() {
        let mut store = real_store().await;
        store.replicas.idle_for = Duration::from_millis(20);
        let borrowed = store.replicas.borrow().await.unwrap();
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        {
            let _other = other.enter();
            store.replicas.give_back(borrowed);
        }
        other.shutdown_background();
        let borrowed = store.replicas.borrow().await.unwrap();
        store.replicas.give_back(borrowed);
        all_closed(&store).await;
    }

    #[tokio::test]
    async fn calls_share_connections_one_after_the_other_and_unused_ones_are_closed() {
        let mut store = real_store().await;
        store.replicas.idle_for = Duration::from_millis(20);
        let ticket = LockToken { lock: "~lock.2:{/replicas}".to_owned(), token: 7 };
        let ask =
            async || store.acknowledged_by(std::slice::from_ref(&ticket), 0, Duration::from_secs(5)).await;
        for _ in 0..3 {
            // No process holds the lock.
            assert_eq!(ask().await.unwrap(), [Some(false)]);
            assert!(unused(&store) <= 1);
        }
        let both = [store.replicas.borrow().await.unwrap(), store.replicas.borrow().await.unwrap()];
        both.into_iter().for_each(|one| store.replicas.give_back(one));
        all_closed(&store).await;
        // The next call opens a new connection.
        assert_eq!(ask().await.unwrap(), [Some(false)]);
        store.close();
        assert!(ask().await.is_err() && unused(&store) == 0);
    }
}
