//! Finds the node that serves a slot, and follows a cluster that changes.
//!
//! The map comes from CLUSTER SLOTS. It is fetched again when a node answers MOVED, when a node is down, and every
//! [`REVIEW`], from the first node that answers. A silent node does not delay this: after [`STAGGER`] the next one is
//! asked as well. MOVED, ASK and TRYAGAIN mean that the request was not carried out, so any request may follow them.
//! For no other reason does this module send a request again; a broken connection is handled in
//! [`node`](super::node).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::instrument::WithSubscriber;

use super::dial::Destination;
use super::error::Failure;
use super::login::Login;
use super::node::{Node, Replay};
use super::slots;
use super::tracking::{SessionHandle, Tracking};
use super::wire::{Reply, Request};
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::target;

/// How often the map is fetched although nothing seems wrong.
const REVIEW: Duration = Duration::from_secs(30);
/// The shortest pause between two fetches. A cluster in trouble must not be asked once per request.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two fetches while none succeeds.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a node may be silent before the next one is also asked for the map.
const STAGGER: Duration = Duration::from_millis(100);
/// The most redirects of one request before it fails with `ClusterDown`.
const MOST_REDIRECTS: usize = 8;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);

pub(super) struct Cluster {
    shared: Arc<ClusterShared>,
    refresher: AbortHandle,
}

struct ClusterShared {
    seeds: Vec<Address>,
    login: Arc<Login>,
    connections: usize,
    tracking: Option<Tracking>,
    map: RwLock<Arc<Map>>,
    stale: Notify,
    /// The result of the last fetch; `None` before the first has ended.
    refreshed: watch::Sender<Option<Result<()>>>,
}

#[derive(Default)]
struct Map {
    nodes: HashMap<Address, Arc<Node>>,
    /// The master of each slot, by index.
    masters: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    /// Starts to fetch the map. [`ready`](Self::ready) waits for it.
    pub(super) fn start(
        seeds: Vec<Address>,
        login: Arc<Login>,
        connections: usize,
        tracking: Option<Tracking>,
    ) -> Self {
        let (map, stale, refreshed) = (RwLock::default(), Notify::new(), watch::Sender::default());
        let shared = Arc::new(ClusterShared { seeds, login, connections, tracking, map, stale, refreshed });
        let refresher = ClusterShared::keep_fresh(shared.clone()).with_current_subscriber();
        let refresher = shared.login.hosts.home().spawn(refresher).abort_handle();
        Self { shared, refresher }
    }

    /// Waits for the first map, and for the first attempt to connect to each master. Fails only if all masters are
    /// down.
    pub(super) async fn ready(&self) -> Result<()> {
        self.shared.first_refresh().await?;
        self.shared.some_node_ready().await
    }

    /// Sends a command to the master of a slot, and follows redirects.
    pub(super) async fn send(&self, slot: u16, command: &Request, replay: Replay) -> Result<Reply, Failure> {
        let mut node = self.shared.await_master(slot).await?;
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
        Err(Error::new(
            ErrorKind::ClusterDown,
            format!("the cluster's nodes redirect slot {slot} to each other: retry"),
        )
        .into())
    }

    /// Deletes a key if it has this value: see [`Node::delete_if`]. `None` also if another node serves the slot.
    pub(super) async fn delete_if(
        &self,
        slot: u16,
        key: &str,
        value: &str,
    ) -> Result<Option<Reply>, Failure> {
        let Some(node) = self.master(slot) else { return Ok(None) };
        let answer = node.delete_if(slot, key, value).await;
        if let Err(Failure::Error(error)) = &answer {
            self.shared.distrust(error);
        }
        answer
    }

    /// Sends commands of one slot in one write. Those that were refused because the cluster changed are sent again
    /// one by one.
    pub(super) async fn send_all(
        &self,
        slot: u16,
        commands: &[Request],
        replay: Replay,
    ) -> Result<Vec<Result<Reply, Failure>>> {
        let node = self.shared.await_master(slot).await?;
        let answers =
            node.send_all(slot, commands, replay).await.inspect_err(|error| self.shared.distrust(error))?;
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

    /// Sends commands of one slot in one write, to one node. They fail if the cluster has changed.
    pub(super) async fn send_together(
        &self,
        slot: u16,
        commands: &[Request],
    ) -> Result<Vec<Result<Reply, Failure>>> {
        let node = self.shared.await_master(slot).await?;
        let answers = node.send_all(slot, commands, Replay::Never).await;
        let answers = answers.inspect_err(|error| self.shared.distrust(error))?;
        if answers.iter().any(|answer| matches!(answer, Err(Failure::Moved(_)))) {
            self.shared.stale.notify_one();
        }
        Ok(answers)
    }

    /// Returns the master of a slot according to the current map.
    pub(super) fn master(&self, slot: u16) -> Option<Arc<Node>> {
        self.shared.master(slot).ok()
    }

    /// Returns any node, if possible one that is up. Waits for the first map.
    pub(super) async fn any(&self) -> Result<Arc<Node>> {
        self.shared.first_refresh().await?;
        let map = self.shared.map();
        let node = map.nodes.values().find(|node| !node.is_down()).or_else(|| map.nodes.values().next());
        node.cloned().ok_or_else(Error::closed)
    }

    /// Returns the masters according to the current map, in the order of their names. Before the first map there are
    /// none.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        let mut nodes: Vec<Arc<Node>> = self.shared.map().nodes.values().cloned().collect();
        nodes.sort_by(|one, other| one.name().cmp(other.name()));
        nodes
    }

    /// Returns the masters, in no order. Waits for the first map.
    #[cfg(feature = "admin")]
    pub(super) async fn masters(&self) -> Result<Vec<Arc<Node>>> {
        self.shared.first_refresh().await?;
        let map = self.shared.map();
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for master in map.masters.iter().flatten() {
            // Neighbouring slots nearly always have the same master.
            if !masters.iter().rev().any(|known| Arc::ptr_eq(known, master)) {
                masters.push(master.clone());
            }
        }
        Ok(masters)
    }

    pub(super) fn close(&self) {
        self.refresher.abort();
        self.shared.map().nodes.values().for_each(|node| node.close());
    }

    /// Returns the server's time according to the node of slot 0, or else to any node that knows it.
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

async fn ask(node: &Node, slot: u16, command: &Request) -> Result<Reply, Failure> {
    let both = [Request::new("ASKING"), command.clone()];
    let mut answers = node.send_all(slot, &both, Replay::Never).await?.into_iter();
    // If ASKING is refused, fail with that error: the node would only redirect the command back, again and again.
    answers.next().transpose()?;
    answers
        .next()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Server, "the server sent no reply after ASKING").into()))
}

impl ClusterShared {
    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn master(&self, slot: u16) -> Result<Arc<Node>> {
        let map = self.map();
        map.masters.get(usize::from(slot)).and_then(Option::as_ref).cloned().ok_or_else(|| {
            self.stale.notify_one();
            Error::new(
                ErrorKind::ClusterDown,
                format!("no node of the cluster serves slot {slot}: retry after the failover or the move"),
            )
        })
    }

    /// Does the same as [`master`](Self::master), and waits for the first map.
    async fn await_master(&self, slot: u16) -> Result<Arc<Node>> {
        match self.master(slot) {
            Ok(node) => Ok(node),
            Err(error) => match self.first_refresh().await {
                Ok(()) => self.master(slot).map_err(|_| error),
                Err(why) => Err(why),
            },
        }
    }

    /// Waits until there is a map. Fails if the first fetch has failed.
    async fn first_refresh(&self) -> Result<()> {
        if !self.map().nodes.is_empty() {
            return Ok(());
        }
        let mut refreshed = self.refreshed.subscribe();
        match refreshed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(error))) if self.map().nodes.is_empty() => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::closed()),
        }
    }

    /// Waits for the first attempt to connect to each master. Fails only if all are down.
    async fn some_node_ready(&self) -> Result<()> {
        let map = self.map();
        let attempts = join_all(map.nodes.values().map(|node| node.ready())).await;
        if attempts.iter().any(Result::is_ok) { Ok(()) } else { attempts.into_iter().collect() }
    }

    /// Returns the node at an address, and starts one if the map has none.
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
        let session = self.tracking.clone().map(|tracking| SessionHandle::take(tracking, true));
        let destination = Destination::Fixed(address.clone());
        Arc::new(Node::start(&destination, &self.login, self.connections, true, session))
    }

    fn distrust(&self, error: &Error) {
        use ErrorKind::{ClusterDown, Disconnected, ReadOnly, Refused, TimedOut};
        if matches!(error.kind(), Refused | Disconnected | TimedOut | ReadOnly | ClusterDown) {
            self.stale.notify_one();
        }
    }

    async fn keep_fresh(self: Arc<Self>) {
        let mut pause = PAUSE;
        loop {
            let refreshed = self.refresh().await;
            pause = if refreshed.is_ok() { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            if let Err(error) = &refreshed {
                tracing::debug!(target: target::CONNECTION, %error, "the cluster's map of slots could not be read");
            }
            self.refreshed.send_replace(Some(refreshed));
            sleep(pause).await;
            let map = self.map();
            let trouble = map.nodes.is_empty() || map.nodes.values().any(|node| node.is_down());
            let max_wait = if trouble { PAUSE * 3 } else { REVIEW };
            let _ = timeout(max_wait, self.stale.notified()).await;
        }
    }

    /// Fetches the map from the first node that answers with it. Known nodes that are up are asked first, then the
    /// seeds. The next one is asked when one fails, and also while one is silent.
    async fn refresh(&self) -> Result<()> {
        let map = self.map();
        let mut candidates: Vec<(Address, Option<Arc<Node>>)> = Vec::new();
        for (address, node) in &map.nodes {
            if !node.is_down() {
                candidates.push((address.clone(), Some(node.clone())));
            }
        }
        for seed in &self.seeds {
            if !map.nodes.contains_key(seed) {
                candidates.push((seed.clone(), None));
            }
        }
        let mut rest = candidates.into_iter().peekable();
        let mut failed = Error::new(ErrorKind::ClusterDown, "the URL names no node of the cluster");
        let mut asked = FuturesUnordered::new();
        loop {
            if asked.is_empty() {
                let Some((address, node)) = rest.next() else { return Err(failed) };
                asked.push(self.ask_masters(address, node));
            }
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(masters) => {
                        self.adopt(masters);
                        return Ok(());
                    }
                    Err(error) => {
                        failed = error;
                        asked.extend(rest.next().map(|(address, node)| self.ask_masters(address, node)));
                    }
                },
                () = sleep(STAGGER), if rest.peek().is_some() => {
                    asked.extend(rest.next().map(|(address, node)| self.ask_masters(address, node)));
                }
            }
        }
    }

    /// Asks a node for the master of each slot. A seed that is not in the map gets a connection of its own for this.
    async fn ask_masters(&self, address: Address, node: Option<Arc<Node>>) -> Result<Vec<Option<Address>>> {
        let node = node.unwrap_or_else(|| {
            Arc::new(Node::start(&Destination::Fixed(address.clone()), &self.login, 1, true, None))
        });
        let command = Request::new("CLUSTER").arg("SLOTS");
        let answer = timeout(self.login.connect_timeout, node.send(0, &command, Replay::Safe))
            .await
            .map_err(|_| Error::timed_out(self.login.connect_timeout))?
            .map_err(|failure| failure.into_error(node.name()))?;
        slots::parse(&answer, &address)
    }

    fn adopt(&self, addresses: Vec<Option<Address>>) {
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
            // The old master of a slot does not report changes at the new one.
            tracking.sink.all_changed();
        }
    }
}
