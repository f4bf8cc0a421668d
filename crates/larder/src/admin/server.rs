//! Facts about the servers, as they are returned.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::RawReply;

/// What a server stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoreOf {
    /// Caches, and locks and limits unless they have a server of their own.
    Caches,
    /// Locks and limits: [`LarderBuilder::coordination`](crate::LarderBuilder::coordination).
    Coordination,
}

/// A server that this `Larder` uses: the only one, or a master of a cluster. Made by
/// [`Admin::nodes`](super::Admin::nodes).
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

impl Info {
    /// Reads lines of `field:value`.
    pub(super) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let fields = lines.filter_map(|line| line.split_once(':'));
        Self { fields: fields.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect() }
    }
}

impl SlowCommand {
    pub(super) fn read(entry: &RawReply) -> Option<Self> {
        let parts = entry.as_array()?;
        let number = |place: usize| parts.get(place)?.as_i64().and_then(|number| u64::try_from(number).ok());
        let words = parts.get(3)?.as_array()?;
        let word =
            |place: usize| words.get(place).and_then(RawReply::text).map(|word| word.to_ascii_uppercase());
        let verb = word(0)?;
        let command = match word(1) {
            // The second word of these is a subcommand, and not a key.
            Some(sub) if HAVE_SUBCOMMANDS.contains(&verb.as_str()) => format!("{verb} {sub}"),
            _ => verb,
        };
        let client = [4, 5].into_iter().filter_map(|place| parts.get(place)?.text());
        let client: Vec<String> = client.filter(|text| !text.is_empty()).collect();
        Some(Self {
            id: number(0)?,
            at: UNIX_EPOCH + Duration::from_secs(number(1)?),
            took: Duration::from_micros(number(2)?),
            command,
            client: client.join(" "),
        })
    }
}

/// Commands whose second word is a subcommand.
const HAVE_SUBCOMMANDS: [&str; 14] = [
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "FUNCTION", "LATENCY", "MEMORY", "MODULE",
    "OBJECT", "PUBSUB", "SCRIPT", "SLOWLOG",
];
