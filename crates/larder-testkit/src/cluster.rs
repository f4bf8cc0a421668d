//! A Cluster of three masters and three replicas.
//!
//! It is created with the commands that redis-cli would send. Two things make that fast. Every node meets every other
//! node, without waiting for gossip. And the node timeout is short until the cluster is up: at first every master is in
//! the minority, and such a master waits for that long before it serves.

mod moves;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::server::{fields, userinfo};
use crate::tls::Certificates;
use crate::{Server, ServerBuilder, eventually};

const MASTERS: usize = 3;
const NODES: usize = 6;
const SLOTS: u16 = 16_384;
/// The difference between a node's port and the port on which nodes talk to each other.
const BUS: u16 = 10_000;
const LIMIT: Duration = Duration::from_secs(60);
const NODE_TIMEOUT: &str = "2000";
const NODE_TIMEOUT_AT_FIRST: &str = "500";

/// A running Cluster on 127.0.0.1, killed on drop.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    password: Option<String>,
    tls: bool,
}

/// The settings of a [`Cluster`] to be started.
#[derive(Debug, Clone, Default)]
pub struct ClusterBuilder {
    node: ServerBuilder,
    password: Option<String>,
    tls: bool,
}

impl ClusterBuilder {
    /// Requires this password for the default user, on all nodes.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.node = self.node.password(password);
        self.password = Some(password.to_owned());
        self
    }

    /// Speaks TLS only, towards clients and from node to node, with certificates signed by [`Cluster::ca_pem`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Sets any setting of redis.conf, on all nodes.
    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.node = self.node.arg(name, value);
        self
    }

    /// Starts it, and returns once every node reports that the cluster is up and every replica follows its master.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    #[must_use]
    pub fn start(self) -> Cluster {
        let node = if self.tls {
            self.node.tls_among(Arc::new(Certificates::make())).arg("tls-cluster", "yes")
        } else {
            self.node.tcp()
        };
        let node = node.args(&[
            ("cluster-enabled", "yes"),
            ("cluster-config-file", "nodes.conf"),
            ("cluster-node-timeout", NODE_TIMEOUT_AT_FIRST),
            ("cluster-announce-ip", "127.0.0.1"),
            // Replicas stay with their masters, because tests rely on which node is where.
            ("cluster-migration-barrier", "10"),
        ]);
        let nodes: Vec<Server> = (0..NODES).map(|_| node.clone().launch()).collect();
        nodes.iter().for_each(Server::await_ready);
        let cluster = Cluster { nodes, password: self.password, tls: self.tls };
        cluster.assemble();
        cluster
    }
}

impl Cluster {
    /// Three masters and three replicas without a password.
    ///
    /// # Panics
    ///
    /// As [`ClusterBuilder::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A Cluster with a password or with settings.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// The URL for clients: `redis-cluster://127.0.0.1:p1,127.0.0.1:p2,127.0.0.1:p3`, with `:password@` before the
    /// first address if there is a password, and `rediss-cluster` with TLS. These are the nodes that were masters at
    /// first.
    #[must_use]
    pub fn url(&self) -> String {
        let seeds: Vec<String> = self.nodes.iter().take(MASTERS).map(address).collect();
        format!(
            "redis{}-cluster://{}{}",
            if self.tls { "s" } else { "" },
            self.password.as_deref().map(userinfo).unwrap_or_default(),
            seeds.join(",")
        )
    }

    /// The authority that signed the nodes' certificates, as PEM.
    ///
    /// # Panics
    ///
    /// On a Cluster without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.nodes.first().expect("a node").ca_pem()
    }

    /// All nodes: the three first masters, and then the replica of each in the same order.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The running nodes that are masters now, by the first slot that each serves.
    #[must_use]
    pub fn masters(&self) -> Vec<&Server> {
        let first = |node: &Server| own_slots(node)?.first().map(|range| *range.start());
        let mut masters: Vec<(u16, &Server)> =
            self.running().filter_map(|node| Some((first(node)?, node))).collect();
        masters.sort_by_key(|(slot, _)| *slot);
        masters.into_iter().map(|(_, node)| node).collect()
    }

    /// The master that serves this key now.
    ///
    /// # Panics
    ///
    /// If no running node says that it serves the key.
    #[must_use]
    pub fn master_of(&self, key: &str) -> &Server {
        let masters = self.masters();
        self.master_of_slot(masters.first().expect("a master").query(&["CLUSTER", "KEYSLOT", key]))
    }

    /// The master that serves this slot now.
    ///
    /// # Panics
    ///
    /// As [`Cluster::master_of`].
    #[must_use]
    pub fn master_of_slot(&self, slot: u16) -> &Server {
        let serves = |node: &Server| {
            own_slots(node).is_some_and(|slots| slots.iter().any(|range| range.contains(&slot)))
        };
        self.masters().into_iter().find(|node| serves(node)).expect("a master for every slot")
    }

    /// A running replica of this node, if it has any.
    #[must_use]
    pub fn replica_of(&self, master: &Server) -> Option<&Server> {
        let port = master.port().to_string();
        self.running().find(|node| {
            let info = node.info("replication");
            info.get("role").is_some_and(|role| role == "slave") && info.get("master_port") == Some(&port)
        })
    }

    /// Waits until all running nodes report that every slot is served, agree on which node serves it, and all running
    /// replicas follow their masters: after a node was killed, or came back.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn wait_until_ok(&self) {
        eventually("all nodes of the cluster are well", LIMIT, || self.is_ok().then_some(()));
    }

    /// [`Server::calls`], summed over the masters. Replicas are left out, because they count replicated commands.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        self.masters().into_iter().map(|node| node.calls(command)).sum()
    }

    /// [`Server::reset_stats`] on all nodes that run.
    pub fn reset_stats(&self) {
        self.running().for_each(Server::reset_stats);
    }

    fn running(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    fn assemble(&self) {
        let (masters, replicas) = self.nodes.split_at(MASTERS);
        for (epoch, node) in (1..).zip(&self.nodes) {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &i64::to_string(&epoch)]);
        }
        for (part, master) in (0..).zip(masters) {
            add_slots(master, part);
        }
        for (i, node) in self.nodes.iter().enumerate() {
            for other in self.nodes.iter().skip(i + 1) {
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()]);
            }
        }
        for (replica, master) in replicas.iter().zip(masters) {
            let id: String = master.query(&["CLUSTER", "MYID"]);
            // Refused until the replica has met that master.
            eventually("the replica knows its master", LIMIT, || {
                replica.try_query::<()>(&["CLUSTER", "REPLICATE", &id]).ok()
            });
        }
        eventually("the cluster forms", LIMIT, || {
            let known = |node: &Server| members(node).is_some_and(|members| members.len() == NODES);
            (self.nodes.iter().all(known) && self.is_ok()).then_some(())
        });
        for node in &self.nodes {
            node.command(&["CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT]);
            // Used after restarts.
            node.command(&["CONFIG", "REWRITE"]);
        }
        // With the first, short timeout a busy machine may have made a node look down since.
        eventually("the cluster is up", LIMIT, || self.is_ok().then_some(()));
    }

    fn is_ok(&self) -> bool {
        let mut maps = self.running().map(|node| {
            let info = fields(&node.try_query::<String>(&["CLUSTER", "INFO"]).ok()?);
            let slots = SLOTS.to_string();
            let ok = info.get("cluster_state")? == "ok"
                && *info.get("cluster_slots_ok")? == slots
                && (is_master(node) || node.info("replication").get("master_link_status")? == "up");
            ok.then(|| self.agreed(node)).flatten()
        });
        let Some(Some(first)) = maps.next() else { return false };
        maps.all(|map| map.as_ref() == Some(&first))
    }

    /// What the nodes must agree on: for every running node its master, or its slots.
    fn agreed(&self, node: &Server) -> Option<BTreeMap<String, (Option<String>, String)>> {
        let running: Vec<String> = self.running().map(address).collect();
        let members = members(node)?;
        let mut map = BTreeMap::new();
        for (id, member) in members.into_iter().filter(|(_, member)| running.contains(&member.address)) {
            if !member.healthy {
                return None;
            }
            map.insert(id, (member.replica_of, member.slots));
        }
        (map.len() == running.len()).then_some(map)
    }
}

/// A line of CLUSTER NODES.
struct Member {
    address: String,
    myself: bool,
    master: bool,
    healthy: bool,
    replica_of: Option<String>,
    slots: String,
}

/// What the node reports about all nodes, by their ids.
fn members(node: &Server) -> Option<BTreeMap<String, Member>> {
    let text: String = node.try_query(&["CLUSTER", "NODES"]).ok()?;
    // id ip:port@bus[,hostname] flags master ping-sent pong-received epoch link-state slot slot …
    let member = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.to_owned();
        // By the bus port, which is always 10,000 higher. The other port depends on whether the connection that asks
        // uses TLS.
        let (address, bus) = words.next()?.split_once('@')?;
        let (ip, _) = address.rsplit_once(':')?;
        let port = bus.split(',').next()?.parse::<u16>().ok()?.checked_sub(BUS)?;
        let address = format!("{ip}:{port}");
        let flags: Vec<&str> = words.next()?.split(',').collect();
        let replica_of = Some(words.next()?).filter(|id| *id != "-").map(str::to_owned);
        let link = words.nth(3)?;
        let slots = words.collect::<Vec<_>>().join(" ");
        let (myself, master) = (flags.contains(&"myself"), flags.contains(&"master"));
        let failed = ["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| flags.contains(flag));
        let healthy = !failed && (myself || link == "connected");
        Some((id, Member { address, myself, master, healthy, replica_of, slots }))
    };
    text.lines().map(member).collect()
}

/// The slots that the node says it serves itself; none for a replica.
fn own_slots(node: &Server) -> Option<Vec<RangeInclusive<u16>>> {
    let own = members(node)?.into_values().find(|member| member.myself && member.master)?;
    // 0-5461 or 7; [93->-id] and [93-<-id] are migrations under way.
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    Some(own.slots.split(' ').filter_map(range).collect())
}

fn is_master(node: &Server) -> bool {
    node.info("replication").get("role").is_some_and(|role| role == "master")
}

fn address(node: &Server) -> String {
    format!("127.0.0.1:{}", node.port())
}

/// One by one, because CLUSTER ADDSLOTSRANGE came with 7.0.
fn add_slots(master: &Server, part: u16) {
    let parts = u16::try_from(MASTERS).expect("a small number");
    let (begin, end) =
        (SLOTS / parts * part, if part + 1 == parts { SLOTS } else { SLOTS / parts * (part + 1) });
    let slots: Vec<String> = (begin..end).map(|slot| slot.to_string()).collect();
    let command: Vec<&str> =
        ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    master.command(&command);
}
