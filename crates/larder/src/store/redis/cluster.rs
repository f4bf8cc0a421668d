//! Which node serves which slot, and following a cluster that changes.
//!
//! The map comes from CLUSTER SLOTS and is fetched anew when a node answers MOVED, when a node is down, and once in a
//! while. MOVED, ASK and TRYAGAIN mean that the request was not carried out, so those are followed whatever the
//! request; nothing else is ever sent twice. The driver has a cluster client of its own: it also sends again what
//! broke midway, which could charge a limit twice, and it keeps its map to itself, without which keys cannot be
//! grouped.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::dial::{Destination, Login};
use super::error::Failure;
use super::node::{Node, Replay};
use super::slots;
use super::tracking::{Lane, Tracking};
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

/// How often the map is looked at though nothing seems wrong.
const REVIEW: Duration = Duration::from_secs(30);
/// The shortest time between two looks: a cluster in trouble must not be asked by every request.
const PAUSE: Duration = Duration::from_millis(100);
/// A request is passed on at most this often before the cluster is said to be down.
const MOST_REDIRECTS: usize = 8;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);

pub(super) struct Cluster {
    shared: Arc<Shared>,
    refresher: AbortHandle,
}

struct Shared {
    seeds: Vec<Address>,
    login: Arc<Login>,
    connections: usize,
    tracking: Option<Tracking>,
    map: RwLock<Arc<Map>>,
    stale: Notify,
}

#[derive(Default)]
struct Map {
    nodes: HashMap<Address, Arc<Node>>,
    /// The master of each slot, by index.
    masters: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    pub(super) async fn connect(
        seeds: Vec<Address>,
        login: Arc<Login>,
        connections: usize,
        tracking: Option<Tracking>,
    ) -> Result<Self> {
        let (map, stale) = (RwLock::default(), Notify::new());
        let shared = Arc::new(Shared { seeds, login, connections, tracking, map, stale });
        shared.refresh().await?;
        shared.some_node_ready().await?;
        let refresher = tokio::spawn(Shared::keep_fresh(shared.clone())).abort_handle();
        Ok(Self { shared, refresher })
    }

    /// Sends a command to the master of a slot, and on to where it is passed.
    pub(super) async fn send(&self, slot: u16, command: &Cmd, replay: Replay) -> Result<Value, Failure> {
        let mut node = self.shared.master(slot)?;
        let (mut asking, mut apart) = (false, false);
        for _ in 0..MOST_REDIRECTS {
            let answer =
                if asking { ask(&node, slot, command).await } else { node.send(slot, command, replay).await };
            asking = false;
            match answer {
                Err(Failure::Moved(address)) => {
                    self.shared.stale.notify_one();
                    node = self.shared.node(&address);
                    asking = false;
                }
                Err(Failure::Ask(address)) => {
                    node = self.shared.node(&address);
                    asking = true;
                }
                Err(Failure::TryAgain) => {
                    apart = true;
                    sleep(TRY_AGAIN_AFTER).await;
                }
                Err(Failure::Error(error)) => {
                    self.shared.distrust(&error);
                    return Err(Failure::Error(error));
                }
                answer => return answer,
            }
        }
        if apart {
            return Err(Failure::TryAgain);
        }
        Err(Error::new(ErrorKind::ClusterDown, format!("slot {slot} is passed from node to node")).into())
    }

    /// Sends commands of one slot in one write. Those that a change of the cluster left over are sent one by one.
    pub(super) async fn send_all(
        &self,
        slot: u16,
        commands: &[Cmd],
        replay: Replay,
    ) -> Result<Vec<Result<Value, Failure>>> {
        let node = self.shared.master(slot)?;
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let answers =
            node.send_all(slot, &pipeline, replay).await.inspect_err(|error| self.shared.distrust(error))?;
        let mut settled = Vec::with_capacity(answers.len());
        for (answer, command) in answers.into_iter().zip(commands) {
            settled.push(match answer {
                Err(Failure::Moved(_) | Failure::Ask(_) | Failure::TryAgain) => {
                    self.send(slot, command, replay).await
                }
                answer => answer,
            });
        }
        Ok(settled)
    }

    /// The master of a slot, as far as it is known here.
    pub(super) fn master(&self, slot: u16) -> Option<Arc<Node>> {
        self.shared.master(slot).ok()
    }

    /// Some node that is up.
    pub(super) fn any(&self) -> Option<Arc<Node>> {
        let map = self.shared.map();
        map.nodes.values().find(|node| !node.is_down()).or_else(|| map.nodes.values().next()).cloned()
    }

    pub(super) fn close(&self) {
        self.refresher.abort();
        self.shared.map().nodes.values().for_each(|node| node.close());
    }

    /// The server's time as the node of slot 0 has it, or any that tells.
    pub(super) fn now(&self) -> Option<u64> {
        let map = self.shared.map();
        let first = map.masters.first().and_then(Option::as_ref);
        first.and_then(|node| node.now()).or_else(|| map.nodes.values().find_map(|node| node.now()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

async fn ask(node: &Node, slot: u16, command: &Cmd) -> Result<Value, Failure> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("ASKING");
    pipeline.add_command(command.clone());
    let mut answers = node.send_all(slot, &pipeline, Replay::Never).await?.into_iter();
    // Where ASKING itself is refused, the command is only passed back, again and again.
    answers.next().transpose()?;
    answers.next().unwrap_or_else(|| Err(Error::new(ErrorKind::Server, "no answer after ASKING").into()))
}

impl Shared {
    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn master(&self, slot: u16) -> Result<Arc<Node>> {
        let map = self.map();
        map.masters.get(usize::from(slot)).and_then(Option::as_ref).cloned().ok_or_else(|| {
            self.stale.notify_one();
            Error::new(ErrorKind::ClusterDown, format!("no node serves slot {slot}"))
        })
    }

    /// Waits for every master's first attempt. One that is down is waited for later; that all are is an error.
    async fn some_node_ready(&self) -> Result<()> {
        let map = self.map();
        let attempts = join_all(map.nodes.values().map(|node| node.ready())).await;
        if attempts.iter().any(Result::is_ok) { Ok(()) } else { attempts.into_iter().collect() }
    }

    /// The node at an address, known or new.
    fn node(&self, address: &Address) -> Arc<Node> {
        let mut guard = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = guard.nodes.get(address) {
            return node.clone();
        }
        let node = self.start(address);
        let mut map = Map { nodes: guard.nodes.clone(), masters: guard.masters.clone() };
        map.nodes.insert(address.clone(), node.clone());
        *guard = Arc::new(map);
        node
    }

    fn start(&self, address: &Address) -> Arc<Node> {
        let lane = self.tracking.clone().map(|tracking| Lane::take(tracking, true));
        Arc::new(Node::start(&Destination::Fixed(address.clone()), &self.login, self.connections, lane))
    }

    fn distrust(&self, error: &Error) {
        use ErrorKind::{ClusterDown, Disconnected, ReadOnly, Refused, TimedOut};
        if matches!(error.kind(), Refused | Disconnected | TimedOut | ReadOnly | ClusterDown) {
            self.stale.notify_one();
        }
    }

    async fn keep_fresh(self: Arc<Self>) {
        loop {
            let trouble = self.map().nodes.values().any(|node| node.is_down());
            let patience = if trouble { PAUSE * 3 } else { REVIEW };
            let _ = timeout(patience, self.stale.notified()).await;
            if let Err(error) = self.refresh().await {
                tracing::debug!(%error, "the cluster's map could not be fetched");
            }
            sleep(PAUSE).await;
        }
    }

    /// Fetches the map from the first node that has one: those known to be up first, then the seeds.
    async fn refresh(&self) -> Result<()> {
        let map = self.map();
        let up = map.nodes.iter().filter(|(_, node)| !node.is_down());
        let mut last = Error::new(ErrorKind::ClusterDown, "no node of the cluster was named");
        for (address, node) in up {
            match self.fetch(address, node).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        for address in self.seeds.iter().filter(|seed| !map.nodes.contains_key(*seed)) {
            let asked = Node::start(&Destination::Fixed(address.clone()), &self.login, 1, None);
            match self.fetch(address, &asked).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn fetch(&self, address: &Address, node: &Node) -> Result<()> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = timeout(self.login.connect_timeout, node.send(0, &command, Replay::Safe))
            .await
            .map_err(|_| Error::timed_out(self.login.connect_timeout))?
            .map_err(|failure| failure.into_error(node.name()))?;
        let addresses = slots::parse(&answer, address)?;
        let mut guard = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: HashMap<Address, Arc<Node>> = HashMap::new();
        let mut masters = Vec::with_capacity(addresses.len());
        for master in addresses {
            masters.push(master.map(|master| {
                let known = || guard.nodes.get(&master).cloned().unwrap_or_else(|| self.start(&master));
                nodes.entry(master.clone()).or_insert_with(known).clone()
            }));
        }
        let moved = guard.masters.iter().zip(&masters).any(|(before, now)| match (before, now) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() != now.is_some(),
        });
        *guard = Arc::new(Map { nodes, masters });
        drop(guard);
        if let Some(tracking) = self.tracking.as_ref().filter(|_| moved) {
            // Who served a slot before need not tell of changes at who serves it now.
            tracking.listener.all_changed();
        }
        Ok(())
    }
}
