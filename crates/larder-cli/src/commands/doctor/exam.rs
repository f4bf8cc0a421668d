//! One examination: the connections, and what was read from each server once for all checks.

use std::collections::HashMap;
use std::time::Instant;

use larder::admin::{Deployment, ServerAddress, ServerUrl};

use super::connection::{Connection, Failure, Login};
use super::names::Names;
use super::resp::Reply;

/// What the user asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) target: ServerUrl,
    pub(crate) login: Login,
    pub(crate) sentinel_login: Login,
    pub(crate) namespace: Option<String>,
    pub(crate) read_only: bool,
    /// Whose rights are examined, if not those of the connection.
    pub(crate) as_user: Option<String>,
    /// Judge the server as one of locks and limits, even if none are there.
    pub(crate) locks: bool,
    /// Limits that replace those of the checks.
    pub(crate) limits: HashMap<u8, f64>,
}

impl Options {
    /// Returns the limit of a check: the user's or the default one.
    pub(crate) fn limit(&self, number: u8, default: f64) -> f64 {
        self.limits.get(&number).copied().unwrap_or(default)
    }

    /// Returns the name of an entry that only `doctor` uses.
    pub(crate) fn entry(&self, key: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/larder-doctor:{key}"),
            None => format!("larder-doctor:{key}"),
        }
    }
}

/// A server that can be asked.
pub(crate) struct Node {
    pub(crate) address: ServerAddress,
    pub(crate) connection: Connection,
    pub(crate) is_master: bool,
    info: HashMap<String, String>,
    config: HashMap<String, String>,
    /// When INFO was read, for rates.
    pub(crate) read_at: Instant,
}

/// What one sentinel says.
#[derive(Debug)]
pub(crate) struct SentinelView {
    pub(crate) address: ServerAddress,
    pub(crate) answer: Result<SentinelAnswer, String>,
}

/// What a sentinel knows about the service.
#[derive(Debug)]
pub(crate) struct SentinelAnswer {
    pub(crate) master: ServerAddress,
    pub(crate) fields: HashMap<String, String>,
}

/// An examination in progress.
pub(crate) struct Exam {
    pub(crate) options: Options,
    pub(crate) nodes: Vec<Node>,
    /// Nodes that are part of the deployment and cannot be reached.
    pub(crate) unreachable: Vec<(ServerAddress, Failure)>,
    pub(crate) sentinels: Vec<SentinelView>,
    /// A cluster's slots: first, last, master, number of replicas.
    pub(crate) slots: Vec<(i64, i64, ServerAddress, usize)>,
    pub(crate) names: Option<Names>,
}

/// The settings that checks read.
const SETTINGS: &[&str] = &[
    "appendfsync",
    "cluster-node-timeout",
    "latency-monitor-threshold",
    "maxclients",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "tracking-table-max-keys",
];

impl Node {
    /// Connects, and reads INFO and the settings. A user without the rights gets a node without them.
    pub(crate) async fn open(address: ServerAddress, login: &Login) -> Result<Self, Failure> {
        let connection = Connection::open(&address, login).await?;
        let mut node = Self {
            address,
            connection,
            is_master: true,
            info: HashMap::new(),
            config: HashMap::new(),
            read_at: Instant::now(),
        };
        node.read().await?;
        node.is_master = node.info("role") != Some("slave");
        Ok(node)
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let mut commands = vec![vec!["INFO"], vec!["INFO", "commandstats"]];
        commands.extend(SETTINGS.iter().map(|name| vec!["CONFIG", "GET", name]));
        self.read_at = Instant::now();
        let replies = self.connection.pipeline(&commands).await?;
        for reply in &replies {
            match reply {
                Reply::Text(_) => {
                    let text = reply.text().unwrap_or_default();
                    let fields = text.lines().filter_map(|line| line.split_once(':'));
                    self.info
                        .extend(fields.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())));
                }
                reply => {
                    if let (Some(name), Some(value)) =
                        (reply.at(0).and_then(Reply::text), reply.at(1).and_then(Reply::text))
                    {
                        self.config.insert(name, value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns a field of INFO.
    pub(crate) fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    /// Returns a field of INFO that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.info(name)?.parse().ok()
    }

    /// Returns a setting.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    /// Returns how often a command ran since the server's start.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.info(&format!("cmdstat_{command}"));
        stats.and_then(|stats| stats.strip_prefix("calls=")?.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Whether INFO could be read.
    pub(crate) fn has_info(&self) -> bool {
        !self.info.is_empty()
    }

    /// Whether the server evicts, and its policy.
    pub(crate) fn evicts(&self) -> Option<(bool, &str)> {
        let policy = self.info("maxmemory_policy")?;
        Some((policy != "noeviction" && self.number("maxmemory")? > 0.0, policy))
    }

    /// Returns the replicas that this master knows, as the fields of their lines in INFO.
    pub(crate) fn replicas(&self) -> Vec<HashMap<&str, &str>> {
        let line = |index: usize| self.info(&format!("slave{index}"));
        (0..)
            .map_while(line)
            .map(|line| line.split(',').filter_map(|field| field.split_once('=')).collect())
            .collect()
    }

    /// Product and version: `("Valkey", 8, 1)`.
    pub(crate) fn version(&self) -> Option<(&'static str, u32, u32)> {
        let (product, text) = match self.info("valkey_version") {
            Some(version) => ("Valkey", version),
            None => ("Redis", self.info("redis_version")?),
        };
        let mut parts = text.split('.').map(str::parse);
        Some((product, parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

impl Exam {
    /// Connects to every server of the deployment. An error means that not one was reached.
    pub(crate) async fn open(options: Options) -> Result<Self, Failure> {
        let mut exam = Self {
            options,
            nodes: Vec::new(),
            unreachable: Vec::new(),
            sentinels: Vec::new(),
            slots: Vec::new(),
            names: None,
        };
        match exam.options.target.deployment.clone() {
            Deployment::Single => exam.open_all(exam.options.target.addresses.clone()).await,
            Deployment::Cluster => exam.open_cluster().await?,
            Deployment::Sentinel { service } => exam.open_sentinel(&service).await?,
        }
        if exam.nodes.is_empty() {
            let failure = exam.unreachable.pop().map(|(_, failure)| failure);
            return Err(failure.unwrap_or_else(|| Failure::Unreachable("no server is known".to_owned())));
        }
        Ok(exam)
    }

    async fn open_all(&mut self, addresses: Vec<ServerAddress>) {
        for address in addresses {
            match Node::open(address.clone(), &self.options.login).await {
                Ok(node) => self.nodes.push(node),
                Err(failure) => self.unreachable.push((address, failure)),
            }
        }
    }

    async fn open_cluster(&mut self) -> Result<(), Failure> {
        let mut last = Failure::Unreachable("no node of the cluster is known".to_owned());
        for seed in self.options.target.addresses.clone() {
            let mut connection = match Connection::open(&seed, &self.options.login).await {
                Ok(connection) => connection,
                Err(failure) => {
                    last = failure;
                    continue;
                }
            };
            let reply = connection.call(&["CLUSTER", "SLOTS"]).await?;
            if let Some(error) = reply.error() {
                last = Failure::Unreachable(format!("CLUSTER SLOTS: {error}"));
                continue;
            }
            let mut addresses: Vec<ServerAddress> = Vec::new();
            for range in reply.items() {
                let nodes: Vec<ServerAddress> =
                    range.items().iter().skip(2).filter_map(|node| node_address(node, &seed)).collect();
                let (Some(first), Some(end), Some(master)) =
                    (range.at(0).and_then(Reply::int), range.at(1).and_then(Reply::int), nodes.first())
                else {
                    continue;
                };
                self.slots.push((first, end, master.clone(), nodes.len() - 1));
                for address in nodes {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            self.open_all(addresses).await;
            // Masters first: most checks look at them alone.
            self.nodes.sort_by_key(|node| !node.is_master);
            return Ok(());
        }
        Err(last)
    }

    async fn open_sentinel(&mut self, service: &str) -> Result<(), Failure> {
        let mut last = Failure::Unreachable("no sentinel is known".to_owned());
        let mut replicas = Vec::new();
        for address in self.options.target.addresses.clone() {
            let answer = match ask_sentinel(&address, &self.options.sentinel_login, service).await {
                Ok((answer, known)) => {
                    replicas.extend(known);
                    Ok(answer)
                }
                Err(failure) => {
                    let why = failure.to_string();
                    last = failure;
                    Err(why)
                }
            };
            self.sentinels.push(SentinelView { address, answer });
        }
        // The master that most sentinels name.
        let masters: Vec<&ServerAddress> =
            self.sentinels.iter().filter_map(|view| Some(&view.answer.as_ref().ok()?.master)).collect();
        let votes = |address: &ServerAddress| masters.iter().filter(|&&named| named == address).count();
        let master = masters.iter().max_by_key(|address| votes(address)).map(|&address| address.clone());
        let Some(master) = master else { return Err(last) };
        let mut addresses = vec![master];
        for replica in replicas {
            if !addresses.contains(&replica) {
                addresses.push(replica);
            }
        }
        self.open_all(addresses).await;
        Ok(())
    }

    /// The masters.
    pub(crate) fn masters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_master)
    }

    /// The server that a check of one server looks at.
    pub(crate) fn first(&self) -> Option<&Node> {
        self.nodes.first()
    }

    /// The same, to send it commands.
    pub(crate) fn first_mut(&mut self) -> Result<&mut Node, Failure> {
        self.nodes.first_mut().ok_or_else(|| Failure::Unreachable("no server is known".to_owned()))
    }

    /// The number of locks and limits that live here: `None` if names cannot be listed.
    pub(crate) fn coordination(&self) -> Option<u64> {
        self.names.as_ref().map(Names::coordination)
    }

    /// Whether the server is judged as one of locks and limits.
    pub(crate) fn has_locks(&self) -> bool {
        self.options.locks || self.coordination().is_some_and(|count| count > 0)
    }

    /// The suffix that says which of several nodes is meant.
    pub(crate) fn at(&self, node: &Node) -> String {
        if self.nodes.len() > 1 { format!(" at {}", node.address) } else { String::new() }
    }
}

async fn ask_sentinel(
    address: &ServerAddress,
    login: &Login,
    service: &str,
) -> Result<(SentinelAnswer, Vec<ServerAddress>), Failure> {
    let mut connection = Connection::open(address, login).await?;
    let replies = connection
        .pipeline(&[
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service],
            ["SENTINEL", "MASTER", service],
            ["SENTINEL", "SLAVES", service],
        ])
        .await?;
    let refused = |reply: Option<&Reply>| match reply.and_then(Reply::error) {
        Some(error) => Failure::Login(error.to_owned()),
        None => Failure::Unreachable(format!("the sentinel does not know the service {service}")),
    };
    let reply = replies.first();
    let named = reply.and_then(|reply| pair_address(reply.at(0)?, reply.at(1)?));
    let master = named.ok_or_else(|| refused(reply))?;
    let map = replies.get(1).map(Reply::items).unwrap_or_default();
    let fields =
        map.chunks_exact(2).filter_map(|pair| Some((pair.first()?.text()?, pair.get(1)?.text()?))).collect();
    let replicas = replies.get(2).map(Reply::items).unwrap_or_default();
    let replicas =
        replicas.iter().filter_map(|one| pair_address(one.field("ip")?, one.field("port")?)).collect();
    Ok((SentinelAnswer { master, fields }, replicas))
}

fn pair_address(host: &Reply, port: &Reply) -> Option<ServerAddress> {
    Some(ServerAddress::Tcp { host: host.text()?, port: u16::try_from(port.int()?).ok()? })
}

/// A node that does not know its own name sends an empty one, which means the host that was asked.
fn node_address(node: &Reply, asked: &ServerAddress) -> Option<ServerAddress> {
    let host = node.at(0).and_then(Reply::text).filter(|host| !matches!(host.as_str(), "" | "?"));
    let host = match (host, asked) {
        (Some(host), _) => host,
        (None, ServerAddress::Tcp { host, .. }) => host.clone(),
        (None, ServerAddress::Unix(_)) => return None,
    };
    Some(ServerAddress::Tcp { host, port: u16::try_from(node.at(1)?.int()?).ok()? })
}
