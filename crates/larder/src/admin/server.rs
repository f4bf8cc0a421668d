//! Facts about the servers, for checks and live views.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Admin, RawReply};
use crate::error::Result;

/// What a server stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoreOf {
    /// Caches, and locks and limits unless they have a server of their own.
    Caches,
    /// Locks and limits: [`LarderBuilder::coordination`](crate::LarderBuilder::coordination).
    Coordination,
}

/// A server that this `Larder` uses: the only one, or a master of a cluster. Made by [`Admin::nodes`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ServerNode {
    /// What it stores.
    pub store: StoreOf,
    /// `host:port`, a socket's path, or `memory:`. Behind Sentinel: what the sentinels are asked for.
    pub address: String,
}

/// The fields of `INFO`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The fields by name, of all sections.
    pub fields: BTreeMap<String, String>,
}

impl Info {
    /// Returns a field's text.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// Returns a field as a number.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<u64> {
        self.get(field)?.parse().ok()
    }

    /// Returns the fields of a line such as `db0:keys=1,expires=0` or `slave0:ip=…,lag=0`.
    #[must_use]
    pub fn parts(&self, field: &str) -> BTreeMap<&str, &str> {
        let line = self.get(field).unwrap_or_default();
        line.split(',').filter_map(|part| part.split_once('=')).collect()
    }
}

/// The reply to `ROLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeRole {
    /// A master, with how many replicas are connected.
    Master {
        /// The number of connected replicas.
        replicas: u64,
    },
    /// A replica.
    Replica {
        /// Its master, `host:port`.
        master: String,
        /// `connected`, or another state of the link to the master.
        state: String,
    },
    /// A sentinel.
    Sentinel,
}

/// The answer to `ACL DRYRUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AclVerdict {
    /// The user may run the command.
    Allowed,
    /// The user may not, with the server's reason.
    Refused(String),
}

/// An event of `LATENCY LATEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyEvent {
    /// For example `fork` or `command`.
    pub event: String,
    /// When it happened last.
    pub at: SystemTime,
    /// How long it took then.
    pub latest: Duration,
    /// How long it took at most.
    pub longest: Duration,
}

/// An entry of `SLOWLOG GET`. The arguments are left out, because they are keys and values: only the command and its
/// subcommand are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowCommand {
    /// The entry's number.
    pub id: u64,
    /// When it ran.
    pub at: SystemTime,
    /// How long it ran.
    pub took: Duration,
    /// The command in capitals, for example `KEYS`, or `CONFIG GET`.
    pub command: String,
    /// The client's address and name, as far as the server says them.
    pub client: String,
}

/// Facts about the TLS connection to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub version: String,
    /// For example `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// When the server's own certificate ends; `None` if it cannot be parsed.
    pub not_after: Option<SystemTime>,
    /// How many days that is from now, rounded down; 0 on the last day.
    pub days_left: Option<u64>,
}

impl Admin {
    /// Lists the servers that this `Larder` uses: one, the masters of a cluster, and that of locks and limits if it is
    /// another one. `memory:` is one node.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn nodes(&self) -> Result<Vec<ServerNode>> {
        super::unfinished()
    }

    /// Sends a command to a node, as it is, and returns the reply. For checks that nothing else here covers.
    ///
    /// Commands that would change the shared connection are refused here and not sent: `SUBSCRIBE`, `MONITOR`, `MULTI`,
    /// `HELLO`, `AUTH`, `SELECT`, `RESET`, `QUIT`, `CLIENT REPLY`, `CLIENT TRACKING`, and commands that block, such as
    /// `BLPOP`, `WAIT`, `CLIENT PAUSE` and `DEBUG SLEEP`.
    ///
    /// The command is not sent a second time if the connection breaks.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`Server`](crate::ErrorKind::Server), and other kinds: the server's own error, with its text.
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): there is no such node, the node is `memory:`, no command
    ///   is given, or it is one of the above.
    pub async fn command(&self, node: &ServerNode, args: &[impl AsRef<[u8]> + Sync]) -> Result<RawReply> {
        let _ = (node, args.len());
        super::unfinished()
    }

    /// Reads `INFO`, with `all` sections that are there by default. `memory:` answers with what it knows: `maxmemory`,
    /// `used_memory`, `db0` and `uptime_in_seconds`.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn info(&self, node: &ServerNode) -> Result<Info> {
        let _ = node;
        super::unfinished()
    }

    /// Reads settings by `CONFIG GET`, with the server's patterns. Managed services often refuse it
    /// ([`Permission`](crate::ErrorKind::Permission), or [`Server`](crate::ErrorKind::Server) for an unknown command).
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn config(&self, node: &ServerNode, pattern: &str) -> Result<BTreeMap<String, String>> {
        let _ = (node, pattern);
        super::unfinished()
    }

    /// Returns the user that this `Larder` is logged in as: `ACL WHOAMI`.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn whoami(&self, node: &ServerNode) -> Result<String> {
        let _ = node;
        super::unfinished()
    }

    /// Asks whether a user may run a command: `ACL DRYRUN`, from Redis 7.0 and Valkey 7.2 on.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn acl_dry_run(
        &self,
        node: &ServerNode,
        user: &str,
        args: &[impl AsRef<[u8]> + Sync],
    ) -> Result<AclVerdict> {
        let _ = (node, user, args.len());
        super::unfinished()
    }

    /// Reads the latest latency events: `LATENCY LATEST`. Empty unless the server's `latency-monitor-threshold` is set.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn latency_events(&self, node: &ServerNode) -> Result<Vec<LatencyEvent>> {
        let _ = node;
        super::unfinished()
    }

    /// Reads the newest entries of the slow log: `SLOWLOG GET`.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn slow_log(&self, node: &ServerNode, most: u64) -> Result<Vec<SlowCommand>> {
        let _ = (node, most);
        super::unfinished()
    }

    /// Reads `CLUSTER INFO`. A server that is no cluster answers with an error.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn cluster_info(&self, node: &ServerNode) -> Result<Info> {
        let _ = node;
        super::unfinished()
    }

    /// Reads `ROLE`.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn role(&self, node: &ServerNode) -> Result<NodeRole> {
        let _ = node;
        super::unfinished()
    }

    /// Measures `rounds` round trips by `PING`, one after another.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn ping_times(&self, node: &ServerNode, rounds: usize) -> Result<Vec<Duration>> {
        let _ = (node, rounds);
        super::unfinished()
    }

    /// Returns how far the server's clock is ahead of this machine's in milliseconds, with the uncertainty, by `TIME`.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn clock_difference(&self, node: &ServerNode) -> Result<(i64, Duration)> {
        let _ = node;
        super::unfinished()
    }

    /// Reads `CLIENT TRACKINGINFO` of the tracked connection, by which the server reports changes. `None` if that
    /// connection is down or the server refuses tracking.
    ///
    /// # Errors
    ///
    /// The same as [`command`](Self::command).
    pub async fn tracking_info(&self, node: &ServerNode) -> Result<Option<RawReply>> {
        let _ = node;
        super::unfinished()
    }

    /// Measures how long the server takes to report a change: reads a name on the tracked connection, writes it on
    /// another, and waits for the invalidation, `rounds` times. `None` for a report that did not come within
    /// `response_timeout`.
    ///
    /// The names begin with `~lock.1:{<namespace>/larder-doctor}:wake:` and expire within 5 s.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn push_times(&self, rounds: usize) -> Result<Vec<Option<Duration>>> {
        let _ = rounds;
        super::unfinished()
    }

    /// Returns facts about the TLS connection to a node; `None` without TLS, or while the connection is down.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): there is no such node.
    pub async fn tls(&self, node: &ServerNode) -> Result<Option<TlsFacts>> {
        let _ = node;
        super::unfinished()
    }
}
