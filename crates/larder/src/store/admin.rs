//! The operations of a store for tools: what is stored, who holds what, and facts about the servers.
//!
//! None of them is on the path of a request. None sends `KEYS`, and each `SCAN` asks for at most [`SCAN_COUNT`] keys.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::admin::RawReply;
use crate::error::Result;
use crate::name::Name;
use crate::store::job::LastRun;

/// How many keys one page of a scan visits, about.
pub(crate) const SCAN_COUNT: u64 = 200;
/// How many keys one `SCAN` of a page visits on a server that is near. The server answers other clients between two of
/// them, so one with 200 keys would be noticed: it takes longer than most requests wait on an idle server.
#[cfg(feature = "redis")]
pub(crate) const SCAN_STEP: u64 = 40;
/// A server is far if a `SCAN` takes longer than this. Most of that time the server is idle, so one `SCAN` visits the
/// whole page, in one round trip.
#[cfg(feature = "redis")]
pub(crate) const FAR: Duration = Duration::from_millis(2);
/// How many keys of a sample are asked for in one write.
#[cfg(feature = "redis")]
pub(crate) const SAMPLE_BATCH: usize = 100;

/// Which names a scan returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamePattern {
    /// All names.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a scan of a server asks for it"))]
    All,
    /// Names that begin so. The text has none of the characters that are special in a pattern.
    Prefix(String),
    /// Names of larder's own keys in this namespace: `~<kind>:{<namespace>/`.
    Own(String),
}

impl NamePattern {
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Own(namespace) => {
                let own = name.strip_prefix('~').and_then(|rest| rest.split_once(":{"));
                own.is_some_and(|(_, rest)| {
                    rest.strip_prefix(namespace.as_str()).is_some_and(|rest| rest.starts_with('/'))
                })
            }
        }
    }

    /// Returns the pattern for `MATCH`; `None` if all names match.
    #[cfg(feature = "redis")]
    pub(crate) fn glob(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Prefix(prefix) => Some(format!("{prefix}*")),
            Self::Own(namespace) => Some(format!("~*:{{{namespace}/*")),
        }
    }
}

/// Where a scan goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ScanPlace {
    /// The nodes that are still to be visited, the current one last. `None` at the start.
    pub(crate) nodes: Option<Vec<String>>,
    pub(crate) cursor: u64,
    /// Whether the last answer took long because the server is far.
    pub(crate) far: bool,
}

/// One step of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanStep {
    pub(crate) names: Vec<String>,
    /// `None` at the end.
    pub(crate) next: Option<ScanPlace>,
}

/// How long a key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyExpiry {
    /// The store does not say.
    Unknown,
    /// There is no such key.
    Gone,
    Never,
    After(Duration),
}

/// What is known about a key without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    pub(crate) name: String,
    /// The first bytes of a string, as many as an envelope's header has. `None` for other types, or if the store does
    /// not show them.
    pub(crate) start: Option<Bytes>,
    pub(crate) expiry: KeyExpiry,
    /// The memory that it takes, or the length of its value, by the operation.
    pub(crate) bytes: Option<u64>,
}

/// The reply to [`AdminStore::sample_keys`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SampledKeys {
    /// How many keys the store has.
    pub(crate) total: u64,
    /// Whether `keys` are all of them.
    pub(crate) exact: bool,
    /// `bytes` is the memory that a key takes.
    pub(crate) keys: Vec<KeyFacts>,
}

/// The kind of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// [`Larder::lock`](crate::Larder::lock).
    Lock,
    /// [`Larder::rw_lock`](crate::Larder::rw_lock).
    RwLock,
    /// [`Larder::semaphore`](crate::Larder::semaphore).
    Semaphore,
    /// [`Larder::lock_group`](crate::Larder::lock_group).
    Group,
    /// [`Larder::election`](crate::Larder::election).
    Election,
    /// [`Larder::job`](crate::Larder::job).
    Job,
}

impl LockKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Lock, Self::RwLock, Self::Semaphore, Self::Group, Self::Election, Self::Job];

    /// Returns the name for people and scripts: `lock`, `rwlock`, `semaphore`, `group`, `election` or `job`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::RwLock => "rwlock",
            Self::Semaphore => "semaphore",
            Self::Group => "group",
            Self::Election => "election",
            Self::Job => "job",
        }
    }
}

/// A lock of any kind, by its full name on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnyLock {
    pub(crate) kind: LockKind,
    pub(crate) name: String,
}

/// A token that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HolderState {
    pub(crate) token: u64,
    /// What is stored after the fence: a process, or a leader's value.
    pub(crate) by: String,
    /// 0 if it has none.
    pub(crate) fence: u64,
    pub(crate) remaining: Duration,
    /// Whether it was handed the lock and has not confirmed.
    pub(crate) claims: bool,
    /// The locks of a group.
    pub(crate) locks: Vec<String>,
}

/// A token that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaiterState {
    pub(crate) token: u64,
    pub(crate) heartbeat_ago: Duration,
    pub(crate) locks: Vec<String>,
}

/// A lock with its holders and waiters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LockState {
    pub(crate) holders: Vec<HolderState>,
    pub(crate) holding: u64,
    pub(crate) waiters: Vec<WaiterState>,
    pub(crate) waiting: u64,
    pub(crate) permits: Option<u64>,
    pub(crate) last_run: Option<LastRun>,
}

/// What was seen of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSeen {
    pub(crate) version: String,
    pub(crate) cipher: String,
    /// The server's certificate, in DER.
    pub(crate) certificate: Vec<u8>,
}

store_operations! {
    /// The operations of every store for tools. `max_wait` bounds each request.
    pub(crate) trait AdminStore {
        /// Returns the number of all keys.
        async fn key_count(&self, max_wait: Duration) -> Result<u64>;

        /// Looks at `keys` random keys. If there are no more than `most`, looks at all keys instead.
        async fn sample_keys(&self, keys: usize, most: usize, max_wait: Duration) -> Result<SampledKeys>;

        /// Visits the next keys.
        async fn scan_names(
            &self,
            pattern: &NamePattern,
            place: &ScanPlace,
            max_wait: Duration,
        ) -> Result<ScanStep>;

        /// Looks at keys; `bytes` is the length of a string. The results are in the order of `names`.
        async fn key_facts(&self, names: &[Name], max_wait: Duration) -> Result<Vec<KeyFacts>>;

        /// Reads locks, each with at most `most` holders and waiters. The results are in the order of `locks`; `None`
        /// for a name that holds another type of data.
        async fn lock_states(
            &self,
            locks: &[AnyLock],
            most: usize,
            max_wait: Duration,
        ) -> Result<Vec<Option<LockState>>>;

        /// Returns the addresses of the nodes that serve keys.
        async fn node_addresses(&self) -> Result<Vec<String>>;

        /// Sends a command to a node.
        async fn command_at(&self, node: &str, command: &[Vec<u8>], max_wait: Duration) -> Result<RawReply>;

        /// Sends a command on the tracked connection of a node; `None` if it is down.
        async fn command_tracked(
            &self,
            node: &str,
            command: &[Vec<u8>],
            max_wait: Duration,
        ) -> Result<Option<RawReply>>;

        /// Reads the text of `INFO` of a node.
        async fn info_of(&self, node: &str, max_wait: Duration) -> Result<String>;

        /// Returns what was seen of the last TLS connection to a node.
        fn tls_of(&self, node: &str) -> Option<TlsSeen>;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_names_of_its_namespace_alone() {
        let own = |namespace: &str| NamePattern::Own(namespace.into());
        assert!(own("shop").matches("~lock.2:{shop/a}") && own("").matches("~lock.2:{/shop/a}"));
        for other in ["~lock.2:{shop2/a}", "~lock.2:{/shop/a}", "shop/user:1", "~lease.2:{shop-x/user:1}"] {
            assert!(!own("shop").matches(other), "{other}");
        }
        let users = NamePattern::Prefix("shop/user:".into());
        assert!(users.matches("shop/user:1") && !users.matches("shop/user@2:1"));
    }
}
