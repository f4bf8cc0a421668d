//! Waits for the acknowledgement of replicas.
//!
//! `WAIT` blocks everything that is sent after it, and waits for what its own connection has written. So it
//! has its own connection, which is opened when it is first needed, and is sent after a write on that
//! connection. When that write is acknowledged, everything that any client wrote before it is acknowledged
//! too. The write's script also checks whether the server that acknowledges has the lock: it may be another
//! server than the one that granted it.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Value, cmd};
use tokio::time::timeout;

use super::dial::Login;
use super::lock::{array, known};
use super::network::Network;
use super::{RedisStore, flag, millis, number, script, version_text};
use crate::endpoint::Deployment;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::group::is_group;
use crate::store::lock::LockToken;
use crate::store::permit::is_semaphore;

/// How much later than `max_wait` an answer may arrive.
const LATE: Duration = Duration::from_millis(500);

/// What is needed to open the connection.
pub(super) struct Replicas {
    deployment: Deployment,
    login: Login,
    sentinel_login: Login,
    network: OnceLock<Network>,
}

impl Replicas {
    pub(super) fn new(deployment: Deployment, login: Login, sentinel_login: Login) -> Self {
        Self { deployment, login, sentinel_login, network: OnceLock::new() }
    }

    fn network(&self) -> &Network {
        self.network.get_or_init(|| {
            let (login, sentinel_login) = (self.login.clone(), self.sentinel_login.clone());
            Network::start(self.deployment.clone(), login, sentinel_login, 1, None)
        })
    }

    pub(super) fn close(&self) {
        if let Some(network) = self.network.get() {
            network.close();
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
        let network = self.replicas.network();
        let names: Vec<&str> = held.iter().map(|ticket| ticket.lock.as_str()).collect();
        let groups = network.groups(&names);
        let parts: Vec<&[usize]> = groups.iter().map(|group| group.places.as_slice()).collect();
        let answers = join_all(parts.iter().map(async |places| {
            let part: Vec<&LockToken> = places.iter().filter_map(|place| held.get(*place)).collect();
            let within = max_wait + LATE;
            let asked = acknowledged_at(network, &part, replicas, max_wait);
            timeout(within, asked).await.unwrap_or_else(|_| Err(Error::timed_out(within)))
        }))
        .await;
        known(held.len(), &parts, answers)
    }
}

/// Asks one node. The tickets share a slot.
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
    let wait = cmd("WAIT").arg(replicas).arg(millis(max_wait)).take();
    let (holds, count): (Value, Value) = network.run_both(&first.lock, write, wait).await?;
    let enough = number(&count)? >= u64::from(replicas);
    array(holds)?.iter().map(|holds| Ok(flag(holds)? && enough)).collect()
}
