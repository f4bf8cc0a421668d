//! The servers behind a `Larder`: one, or a cluster. The layers above know only names and commands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::cluster::Cluster;
use super::dial::Destination;
use super::error::Failure;
use super::link::Live;
use super::login::Login;
use super::node::{Node, Replay};
use super::script::{OrderedScript, Script};
use super::slots::slot;
use super::time::wall_clock;
use super::tracking::{SessionHandle, Tracking};
use super::wire::{Reply, Request, frame};
use crate::clock::Tick;
use crate::endpoint::Endpoints;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{ConnectionHealth, Purpose};
use crate::store::session::ReadStamp;

/// How long the tracking connection may take for an answer before another connection is asked. It may have fallen
/// silent, and its supervisor notices that only after some heartbeats.
const TRACKED_TIMEOUT: Duration = Duration::from_millis(250);

/// The pause before a request is sent again whose keys are at two nodes while a cluster moves their slot.
const MOVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) enum Network {
    Single(Node),
    Cluster(Cluster),
}

/// The server of a name.
enum ServingNode<'a> {
    Single(&'a Node),
    Of(Arc<Node>),
}

impl ServingNode<'_> {
    fn as_node(&self) -> &Node {
        match self {
            Self::Single(node) => node,
            Self::Of(node) => node,
        }
    }
}

/// Names that one command can hold, as indexes into the caller's list.
pub(super) struct CommandGroup {
    lane: u16,
    pub(super) places: Vec<usize>,
}

impl Network {
    pub(super) fn start(
        deployment: Endpoints,
        login: Login,
        sentinel_login: Login,
        connections: usize,
        tracking: Option<Tracking>,
    ) -> Self {
        let login = Arc::new(login);
        let destination = match deployment {
            Endpoints::Cluster(seeds) => {
                return Self::Cluster(Cluster::start(seeds, login, connections, tracking));
            }
            Endpoints::Single(address) => Destination::Fixed(address),
            Endpoints::Sentinel { sentinels, service } => {
                Destination::Sentinel { sentinels, service, sentinel_login: Arc::new(sentinel_login) }
            }
        };
        let session = tracking.map(|tracking| SessionHandle::take(tracking, false));
        Self::Single(Node::start(&destination, &login, connections, false, session))
    }

    /// Waits for the first attempt to connect, and returns its failure.
    pub(super) async fn ready(&self) -> Result<()> {
        match self {
            Self::Single(node) => node.ready().await,
            Self::Cluster(cluster) => cluster.ready().await,
        }
    }

    /// Sends one command about `name` in one round trip.
    pub(super) async fn run(&self, name: &str, command: &Request, replay: Replay) -> Result<Reply> {
        self.try_run(name, command, replay).await.map_err(|failure| self.explain(failure))
    }

    /// Runs a script whose keys share the slot of `name`: one round trip, or two if the server had forgotten the
    /// script.
    pub(super) async fn run_script(
        &self,
        name: &str,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
        replay: Replay,
    ) -> Result<Reply> {
        let answer = self.try_script(name, script, keys, arguments, replay).await;
        answer.map_err(|failure| self.explain(failure))
    }

    /// Does the same for a script that no later request on `name` from the same task may overtake: always one round
    /// trip.
    pub(super) async fn run_in_order(
        &self,
        name: &str,
        ordered: &OrderedScript,
        keys: &[&str],
        arguments: &[&[u8]],
        replay: Replay,
    ) -> Result<Reply> {
        let connected = ordered.connected();
        if ordered.was_run_since(connected) {
            return self.run_script(name, ordered.script, keys, arguments, replay).await;
        }
        let answer = self.run(name, &ordered.script.by_source(keys, arguments), replay).await;
        if answer.is_ok() {
            ordered.note_run(connected);
        }
        answer
    }

    /// Deletes a key if it has this value, in one command and at most once. Returns the reply; `None` if the server
    /// has no such command or refuses it, and then nothing was changed.
    pub(super) async fn delete_if(&self, name: &str, value: &str) -> Result<Option<Reply>> {
        let lane = self.lane(name);
        let answer = match self {
            Self::Single(node) => node.delete_if(lane, name, value).await,
            Self::Cluster(cluster) => Box::pin(cluster.delete_if(lane, name, value)).await,
        };
        answer.map_err(|failure| self.explain(failure))
    }

    /// Does the same as [`run_script`](Self::run_script), and retries while a cluster moves the slot and the keys are
    /// at two nodes. It retries until the caller drops the call.
    pub(super) async fn run_script_through_moves(
        &self,
        name: &str,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
        replay: Replay,
    ) -> Result<Reply> {
        loop {
            match self.try_script(name, script, keys, arguments, replay).await {
                // The server has not run the script.
                Err(Failure::TryAgain) => tokio::time::sleep(MOVE_PAUSE).await,
                answer => return answer.map_err(|failure| self.explain(failure)),
            }
        }
    }

    async fn try_script(
        &self,
        name: &str,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
        replay: Replay,
    ) -> Result<Reply, Failure> {
        match self.try_run(name, &script.by_hash(keys, arguments), replay).await {
            Err(Failure::NoScript) => self.try_run(name, &script.by_source(keys, arguments), replay).await,
            answer => answer,
        }
    }

    /// Sends a command that may be sent twice, on the tracking connection if it is up: one round trip. Returns the
    /// stamp of the read if the server will report changes of it.
    pub(super) async fn run_tracked(
        &self,
        name: &str,
        command: &Request,
    ) -> Result<(Reply, Option<ReadStamp>)> {
        if let Some((node, live, stamp)) = self.tracked(name)
            && let Ok(Ok(value)) = timeout(TRACKED_TIMEOUT, node.as_node().send_tracked(&live, command)).await
        {
            return Ok((value, Some(stamp)));
        }
        Ok((self.run(name, command, Replay::Safe).await?, None))
    }

    /// Does the same for a script whose keys share the slot of `name`.
    pub(super) async fn run_script_tracked(
        &self,
        name: &str,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<(Reply, Option<ReadStamp>)> {
        if let Some((node, live, stamp)) = self.tracked(name) {
            let node = node.as_node();
            let run = async {
                match node.send_tracked(&live, &script.by_hash(keys, arguments)).await {
                    Err(Failure::NoScript) => {
                        node.send_tracked(&live, &script.by_source(keys, arguments)).await
                    }
                    answer => answer,
                }
            };
            if let Ok(Ok(value)) = timeout(TRACKED_TIMEOUT, run).await {
                return Ok((value, Some(stamp)));
            }
        }
        Ok((self.run_script(name, script, keys, arguments, Replay::Safe).await?, None))
    }

    /// Runs a non-idempotent script at most once, on the tracking connection if it is up and tracks what the script
    /// reads: one round trip. The flag says whether that connection was used.
    pub(super) async fn run_script_once_tracked(
        &self,
        name: &str,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<(Reply, bool)> {
        if let Some((node, live, _)) = self.tracked(name).filter(|(_, live, _)| live.tracks_reads) {
            let node = node.as_node();
            let answer = match node.send_tracked(&live, &script.by_hash(keys, arguments)).await {
                Err(Failure::NoScript) => node.send_tracked(&live, &script.by_source(keys, arguments)).await,
                answer => answer,
            };
            match answer {
                // The server has not run the script, so send it on the usual way.
                Err(Failure::Moved(_) | Failure::Ask(_) | Failure::TryAgain | Failure::NotSent) => {}
                answer => return answer.map(|value| (value, true)).map_err(|failure| self.explain(failure)),
            }
        }
        Ok((self.run_script(name, script, keys, arguments, Replay::Never).await?, false))
    }

    /// Reads all names of a group in one round trip, on the tracking connection if it is up.
    pub(super) async fn read_group_tracked(
        &self,
        group: &CommandGroup,
        names: &[&str],
    ) -> Result<(Vec<Reply>, Option<ReadStamp>)> {
        if let Some((node, live, stamp)) = names.first().and_then(|name| self.tracked(name)) {
            let request = mget(names);
            let read = node.as_node().send_tracked(&live, &request);
            if let Ok(Ok(Reply::Array(values))) = timeout(TRACKED_TIMEOUT, read).await {
                return Ok((values, Some(stamp)));
            }
        }
        Ok((self.read_group(group, names).await?, None))
    }

    fn tracked(&self, name: &str) -> Option<(ServingNode<'_>, Arc<Live>, ReadStamp)> {
        let server = match self {
            Self::Single(node) => ServingNode::Single(node),
            Self::Cluster(cluster) => ServingNode::Of(cluster.master(slot(name))?),
        };
        let (live, stamp) = server.as_node().tracked()?;
        Some((server, live, stamp))
    }

    /// Splits a list of names into groups for one command each: all names, or those of one slot. No group is empty.
    pub(super) fn groups(&self, names: &[impl AsRef<str>]) -> Vec<CommandGroup> {
        match self {
            Self::Single(_) => group(names, |_| 0),
            Self::Cluster(_) => group(names, slot),
        }
    }

    /// Does the same for writes. They must keep their order with other writes to the same name, so each goes to the
    /// connection of its name.
    pub(super) fn write_groups(&self, names: &[impl AsRef<str>]) -> Vec<CommandGroup> {
        match self {
            Self::Single(node) => {
                group(names, |name| self.lane(name).checked_rem(node.connections()).unwrap_or_default())
            }
            Self::Cluster(_) => group(names, slot),
        }
    }

    /// Does the same as [`run_each`](Self::run_each), and fails if any of the answers is an error.
    pub(super) async fn run_all(
        &self,
        group: &CommandGroup,
        commands: Vec<Request>,
        replay: Replay,
    ) -> Result<Vec<Reply>> {
        self.run_each(group, commands, replay).await?.into_iter().collect()
    }

    /// Sends the commands of a group in one write and one round trip. Returns an answer for each.
    pub(super) async fn run_each(
        &self,
        group: &CommandGroup,
        commands: Vec<Request>,
        replay: Replay,
    ) -> Result<Vec<Result<Reply>>> {
        let answers = match self {
            Self::Single(node) => node.send_all(group.lane, &commands, replay).await?,
            Self::Cluster(cluster) => cluster.send_all(group.lane, &commands, replay).await?,
        };
        Ok(answers.into_iter().map(|answer| answer.map_err(|failure| self.explain(failure))).collect())
    }

    /// Sends two commands in one write to the server of `name`, in one round trip. The second depends on the first.
    pub(super) async fn run_both(
        &self,
        name: &str,
        first: Request,
        second: Request,
    ) -> Result<(Reply, Reply)> {
        let both = [first, second];
        let answers = match self {
            Self::Single(node) => node.send_all(self.lane(name), &both, Replay::Never).await?,
            Self::Cluster(cluster) => cluster.send_together(slot(name), &both).await?,
        };
        let mut answers = answers.into_iter().map(|answer| answer.map_err(|failure| self.explain(failure)));
        match (answers.next(), answers.next()) {
            (Some(first), Some(second)) => Ok((first?, second?)),
            _ => Err(Error::new(ErrorKind::Server, "the server sent fewer replies than requests")),
        }
    }

    /// Reads all names of a group in one round trip, and a second one while a cluster moves their slot.
    pub(super) async fn read_group(&self, group: &CommandGroup, names: &[&str]) -> Result<Vec<Reply>> {
        let command = mget(names);
        let answer = match self {
            Self::Single(node) => node.send(group.lane, &command, Replay::Safe).await,
            Self::Cluster(cluster) => Box::pin(cluster.send(group.lane, &command, Replay::Safe)).await,
        };
        match answer {
            Ok(Reply::Array(values)) => Ok(values),
            Ok(_) => Err(Error::new(ErrorKind::Server, "the server's reply to MGET is not an array")),
            Err(Failure::TryAgain) => {
                let commands = names.iter().map(|name| Request::new("GET").arg(name)).collect();
                self.run_all(group, commands, Replay::Safe).await
            }
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Sends a command that any server can answer.
    pub(super) async fn run_anywhere(&self, command: &Request) -> Result<Reply> {
        match self {
            Self::Single(node) => node.send(0, command, Replay::Safe).await,
            Self::Cluster(cluster) => match cluster.any().await {
                Ok(node) => node.send(0, command, Replay::Safe).await,
                Err(error) => Err(error.into()),
            },
        }
        .map_err(|failure| self.explain(failure))
    }

    /// Returns a number for the node that serves a name according to the current map.
    pub(super) fn node(&self, name: &str) -> usize {
        match self {
            Self::Single(_) => 0,
            // The address in memory identifies the node for as long as the map contains it.
            Self::Cluster(cluster) => cluster.master(slot(name)).map_or(0, |node| Arc::as_ptr(&node).addr()),
        }
    }

    /// Returns the state of all connections now.
    pub(super) fn connections(&self, purpose: Purpose) -> Vec<ConnectionHealth> {
        match self {
            Self::Single(node) => node.health(purpose).collect(),
            Self::Cluster(cluster) => {
                let nodes = cluster.nodes();
                if nodes.is_empty() {
                    return vec![ConnectionHealth::to_unknown_cluster(purpose)];
                }
                nodes.iter().flat_map(|node| node.health(purpose).collect::<Vec<_>>()).collect()
            }
        }
    }

    /// Returns whether every server reports the changes of what was read.
    pub(super) fn is_tracking(&self) -> bool {
        match self {
            Self::Single(node) => node.is_tracking(),
            Self::Cluster(cluster) => {
                let nodes = cluster.nodes();
                !nodes.is_empty() && nodes.iter().all(|node| node.is_tracking())
            }
        }
    }

    pub(super) fn close(&self) {
        match self {
            Self::Single(node) => node.close(),
            Self::Cluster(cluster) => cluster.close(),
        }
    }

    /// Returns the server's time in milliseconds since 1970, or the local time while the server's is unknown.
    pub(super) fn now(&self) -> u64 {
        let known = match self {
            Self::Single(node) => node.now(),
            Self::Cluster(cluster) => cluster.now(),
        };
        known.unwrap_or_else(wall_clock)
    }

    /// Returns the local time at which the clock of the name's server shows `time` (microseconds), at the latest.
    pub(super) fn local_time(&self, name: &str, time: u64) -> Option<Tick> {
        match self {
            Self::Single(node) => node.local_time(time),
            Self::Cluster(cluster) => cluster.master(slot(name))?.local_time(time),
        }
    }

    async fn try_run(&self, name: &str, command: &Request, replay: Replay) -> Result<Reply, Failure> {
        let lane = self.lane(name);
        match self {
            Self::Single(node) => node.send(lane, command, replay).await,
            // Boxed, because the future that follows a cluster's redirects would make every request to a single
            // server larger.
            Self::Cluster(cluster) => Box::pin(cluster.send(lane, command, replay)).await,
        }
    }

    /// Returns the lane of a name, which orders its requests: its slot. With one connection the slot need not be
    /// computed.
    fn lane(&self, name: &str) -> u16 {
        match self {
            Self::Single(node) if node.connections() == 1 => 0,
            _ => slot(name),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        match self {
            Self::Single(node) => failure.into_error(node.name()),
            // The request was sent again for a while. The move of the slot ends some time, so the error is retryable.
            Self::Cluster(_) if matches!(failure, Failure::TryAgain) => Error::new(
                ErrorKind::ClusterDown,
                "the keys of the request are at two nodes while their slot moves: retry",
            ),
            Self::Cluster(_) => failure.into_error("the cluster"),
        }
    }
}

fn mget(names: &[&str]) -> Request {
    let size = names.iter().map(|name| frame(name.len())).sum();
    let mut request = Request::with_capacity("MGET", size);
    names.iter().for_each(|name| request.push(name.as_bytes()));
    request
}

fn group(names: &[impl AsRef<str>], lane: impl Fn(&str) -> u16) -> Vec<CommandGroup> {
    let mut by_lane: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (place, name) in names.iter().enumerate() {
        by_lane.entry(lane(name.as_ref())).or_default().push(place);
    }
    by_lane.into_iter().map(|(lane, places)| CommandGroup { lane, places }).collect()
}
