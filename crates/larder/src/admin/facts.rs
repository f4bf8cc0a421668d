//! Asks the servers for facts, for checks and live views.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::certificate::not_after;
use super::{
    AclVerdict, Admin, Info, LatencyEvent, NodeRole, RawReply, ServerNode, SlowCommand, StoreOf, TlsFacts,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::admin::AdminStore;
use crate::store::{AnyStore, Expiry, Store};

/// Commands that would change the shared connection, or block what is sent after them.
const REFUSED: [&str; 31] = [
    "ASKING",
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "DISCARD",
    "EXEC",
    "FAILOVER",
    "HELLO",
    "MIGRATE",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PSYNC",
    "QUIT",
    "READONLY",
    "READWRITE",
    "RESET",
    "SELECT",
    "SHUTDOWN",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SYNC",
    "UNWATCH",
    "WAIT",
    "WATCH",
];
/// The same, by command and subcommand.
const REFUSED_PAIRS: [(&str, &str); 8] = [
    ("CLIENT", "CACHING"),
    ("CLIENT", "KILL"),
    ("CLIENT", "NO-EVICT"),
    ("CLIENT", "NO-TOUCH"),
    ("CLIENT", "PAUSE"),
    ("CLIENT", "REPLY"),
    ("CLIENT", "TRACKING"),
    ("DEBUG", "SLEEP"),
];

/// How long the keys of [`Admin::push_times`] are kept.
const PROBE_KEPT: Duration = Duration::from_secs(5);

impl Admin {
    /// Lists the servers that this `Larder` uses: one, the masters of a cluster, and that of locks and limits if it is
    /// another one. `memory:` is one node.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn nodes(&self) -> Result<Vec<ServerNode>> {
        let context = self.context();
        let mut nodes = self.nodes_of(StoreOf::Caches, self.store()?).await?;
        if context.has_own_coordination() {
            nodes.extend(self.nodes_of(StoreOf::Coordination, self.coordination()?).await?);
        }
        Ok(nodes)
    }

    async fn nodes_of(&self, store: StoreOf, of: &AnyStore) -> Result<Vec<ServerNode>> {
        let addresses = Box::pin(self.within(of.node_addresses())).await?;
        Ok(addresses.into_iter().map(|address| ServerNode { store, address }).collect())
    }

    fn store_of(&self, node: &ServerNode) -> Result<&AnyStore> {
        match node.store {
            StoreOf::Caches => self.store(),
            StoreOf::Coordination => self.coordination(),
        }
    }

    async fn ask(&self, node: &ServerNode, command: &[&[u8]]) -> Result<RawReply> {
        let command: Vec<Vec<u8>> = command.iter().map(|word| word.to_vec()).collect();
        Box::pin(self.store_of(node)?.command_at(&node.address, &command, self.max_wait())).await
    }

    /// Sends a command to a node, as it is, and returns the reply. For checks that nothing else here covers.
    ///
    /// Commands that would change the shared connection are refused here and not sent: `SUBSCRIBE`, `MONITOR`, `MULTI`,
    /// `HELLO`, `AUTH`, `SELECT`, `RESET`, `QUIT`, `CLIENT REPLY`, `CLIENT TRACKING`; so are commands that block, such
    /// as `BLPOP`, `WAIT`, `CLIENT PAUSE` and `DEBUG SLEEP`.
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
        let command: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
        let word = |place: usize| {
            command
                .get(place)
                .map(|word| String::from_utf8_lossy(word).to_ascii_uppercase())
                .unwrap_or_default()
        };
        let (verb, sub) = (word(0), word(1));
        if verb.is_empty() {
            return Err(Error::invalid("no command is given"));
        }
        if REFUSED.contains(&verb.as_str()) || REFUSED_PAIRS.contains(&(verb.as_str(), sub.as_str())) {
            return Err(Error::invalid(format!(
                "{verb} would change or block the connection that others share"
            )));
        }
        self.ask(node, &command).await
    }

    /// Reads `INFO`. `memory:` answers with what it knows: `maxmemory`,
    /// `used_memory`, `db0` and `uptime_in_seconds`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn info(&self, node: &ServerNode) -> Result<Info> {
        let text = Box::pin(self.store_of(node)?.info_of(&node.address, self.max_wait())).await?;
        Ok(Info::read(&text))
    }

    /// Reads settings by `CONFIG GET`, with the server's patterns. Managed services often refuse it
    /// ([`Permission`](crate::ErrorKind::Permission), or [`Server`](crate::ErrorKind::Server) for an unknown command).
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn config(&self, node: &ServerNode, pattern: &str) -> Result<BTreeMap<String, String>> {
        let reply = self.ask(node, &[b"CONFIG", b"GET", pattern.as_bytes()]).await?;
        let pairs = reply.pairs().into_iter();
        Ok(pairs.filter_map(|(name, value)| Some((name.text()?, value.text()?))).collect())
    }

    /// Returns the user that this `Larder` is logged in as: `ACL WHOAMI`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn whoami(&self, node: &ServerNode) -> Result<String> {
        self.ask(node, &[b"ACL", b"WHOAMI"]).await?.text().ok_or_else(odd)
    }

    /// Asks whether a user may run a command: `ACL DRYRUN`, from Redis 7.0 and Valkey 7.2 on.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn acl_dry_run(
        &self,
        node: &ServerNode,
        user: &str,
        args: &[impl AsRef<[u8]> + Sync],
    ) -> Result<AclVerdict> {
        let start: [&[u8]; 3] = [b"ACL", b"DRYRUN", user.as_bytes()];
        let command: Vec<&[u8]> = start.into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        match self.ask(node, &command).await?.text() {
            Some(said) if said == "OK" => Ok(AclVerdict::Allowed),
            Some(reason) => Ok(AclVerdict::Refused(reason)),
            None => Err(odd()),
        }
    }

    /// Reads the latest latency events: `LATENCY LATEST`. Empty unless the server's `latency-monitor-threshold` is set.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn latency_events(&self, node: &ServerNode) -> Result<Vec<LatencyEvent>> {
        let reply = self.ask(node, &[b"LATENCY", b"LATEST"]).await?;
        let event = |event: &RawReply| {
            let parts = event.as_array()?;
            let number =
                |place: usize| parts.get(place)?.as_i64().and_then(|number| u64::try_from(number).ok());
            Some(LatencyEvent {
                event: parts.first()?.text()?,
                at: UNIX_EPOCH + Duration::from_secs(number(1)?),
                latest: Duration::from_millis(number(2)?),
                longest: Duration::from_millis(number(3)?),
            })
        };
        Ok(reply.as_array().ok_or_else(odd)?.iter().filter_map(event).collect())
    }

    /// Reads the newest entries of the slow log: `SLOWLOG GET`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn slow_log(&self, node: &ServerNode, most: u64) -> Result<Vec<SlowCommand>> {
        let reply = self.ask(node, &[b"SLOWLOG", b"GET", most.to_string().as_bytes()]).await?;
        Ok(reply.as_array().ok_or_else(odd)?.iter().filter_map(SlowCommand::read).collect())
    }

    /// Reads `CLUSTER INFO`. A server that is no cluster answers with an error.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn cluster_info(&self, node: &ServerNode) -> Result<Info> {
        let text = self.ask(node, &[b"CLUSTER", b"INFO"]).await?.text().ok_or_else(odd)?;
        Ok(Info::read(&text))
    }

    /// Reads `ROLE`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn role(&self, node: &ServerNode) -> Result<NodeRole> {
        let reply = self.ask(node, &[b"ROLE"]).await?;
        let parts = reply.as_array().ok_or_else(odd)?;
        let text = |place: usize| parts.get(place).and_then(RawReply::text);
        match text(0).as_deref() {
            Some("master") => {
                let replicas = parts.get(2).and_then(RawReply::as_array).map_or(0, <[RawReply]>::len);
                Ok(NodeRole::Master { replicas: u64::try_from(replicas).unwrap_or(u64::MAX) })
            }
            Some("slave") => {
                let port = parts.get(2).and_then(RawReply::as_i64).unwrap_or_default();
                let master = format!("{}:{port}", text(1).unwrap_or_default());
                Ok(NodeRole::Replica { master, state: text(3).unwrap_or_default() })
            }
            Some("sentinel") => Ok(NodeRole::Sentinel),
            _ => Err(odd()),
        }
    }

    /// Measures `rounds` round trips by `PING`, one after another.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn ping_times(&self, node: &ServerNode, rounds: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(rounds.min(10_000));
        for _ in 0..rounds {
            let began = Instant::now();
            match node.address.as_str() {
                "memory:" => self.store_of(node)?.ping().await?,
                _ => drop(self.ask(node, &[b"PING"]).await?),
            }
            times.push(began.elapsed());
        }
        Ok(times)
    }

    /// Returns how far the server's clock is ahead of this machine's in milliseconds, with the uncertainty, by `TIME`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn clock_difference(&self, node: &ServerNode) -> Result<(i64, Duration)> {
        if self.is_embedded() {
            return Ok((0, Duration::ZERO));
        }
        let (before, began) = (since_1970(SystemTime::now()), Instant::now());
        let reply = self.ask(node, &[b"TIME"]).await?;
        let took = began.elapsed();
        let [seconds, micros] = reply.as_array().ok_or_else(odd)? else { return Err(odd()) };
        let (seconds, micros) = (seconds.as_i64().ok_or_else(odd)?, micros.as_i64().ok_or_else(odd)?);
        let middle = before.saturating_add(i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX));
        let ahead = seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_sub(middle);
        Ok((ahead / 1000, took / 2))
    }

    /// Reads `CLIENT TRACKINGINFO` of the tracked connection, by which the server reports changes. `None` if that
    /// connection is down or the server refuses tracking.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/command_errors.md")]
    pub async fn tracking_info(&self, node: &ServerNode) -> Result<Option<RawReply>> {
        let command = [b"CLIENT".to_vec(), b"TRACKINGINFO".to_vec()];
        Box::pin(self.store_of(node)?.command_tracked(&node.address, &command, self.max_wait())).await
    }

    /// Measures how long the server takes to report a change: reads a name on the tracked connection, writes it on
    /// another, and waits for the invalidation, `rounds` times. `None` for a report that did not come within
    /// `response_timeout`.
    ///
    /// The names begin with `~process.1:{<namespace>/}:probe:`, and expire within 5 s. On a cluster they are all at one
    /// node.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn push_times(&self, rounds: usize) -> Result<Vec<Option<Duration>>> {
        let (context, store, max_wait) = (self.context(), self.store()?, self.max_wait());
        let mut times = Vec::with_capacity(rounds.min(10_000));
        for _ in 0..rounds {
            let mut name = context.keyspace.processes();
            name.push_str(&format!(":probe:{:016x}", context.random.nonce()));
            let mut watch = context.invalidations.watch(&name);
            let read = Box::pin(self.within(store.get_tracked(&name))).await?;
            // Nothing is reported on another connection.
            if read.stamp.is_none() {
                times.push(None);
                continue;
            }
            let began = Instant::now();
            let value = bytes::Bytes::from_static(b"1");
            Box::pin(self.within(store.set(&name, value, Expiry::After(PROBE_KEPT)))).await?;
            watch.changed(max_wait.saturating_sub(began.elapsed())).await;
            let took = began.elapsed();
            times.push((took < max_wait).then_some(took));
        }
        Ok(times)
    }

    /// Returns facts about the last TLS connection to a node; `None` without TLS, or before the first connection.
    /// Behind Sentinel it may be a connection to a sentinel.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed): the `Larder` was closed.
    pub async fn tls(&self, node: &ServerNode) -> Result<Option<TlsFacts>> {
        let seen = self.within(async { Ok(self.store_of(node)?.tls_of(&node.address)) }).await?;
        let Some(seen) = seen else { return Ok(None) };
        let not_after = not_after(&seen.certificate);
        let left = not_after.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        Ok(Some(TlsFacts {
            version: seen.version,
            cipher: seen.cipher,
            not_after,
            days_left: left.map(|left| left.as_secs() / 86_400),
        }))
    }
}

fn odd() -> Error {
    Error::new(ErrorKind::Server, "the server's reply is not one that larder expects")
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
