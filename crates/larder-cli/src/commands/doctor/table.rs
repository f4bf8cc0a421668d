//! The checks, and what they found.
//!
//! A number is permanent: scripts name it in `--only` and `--skip`. A check that is given up leaves its number unused.

/// What a check belongs to. `--only` and `--skip` take these names, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Link,
    Coordination,
    Server,
    Rights,
    Cache,
    Tracking,
    Cluster,
}

impl Group {
    pub(crate) const ALL: [Self; 7] = [
        Self::Link,
        Self::Coordination,
        Self::Server,
        Self::Rights,
        Self::Cache,
        Self::Tracking,
        Self::Cluster,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Coordination => "coordination",
            Self::Server => "server",
            Self::Rights => "rights",
            Self::Cache => "cache",
            Self::Tracking => "tracking",
            Self::Cluster => "cluster",
        }
    }
}

/// A check: its number, and what does not depend on the server.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) number: u8,
    pub(crate) group: Group,
    /// What is checked, in a few words.
    pub(crate) title: &'static str,
    /// Why it matters.
    pub(crate) why: &'static str,
    /// The section of the documentation.
    pub(crate) link: &'static str,
}

impl Check {
    /// Returns the number as people write it: `L07`.
    pub(crate) fn id(&self) -> String {
        format!("L{:02}", self.number)
    }
}

/// Finds a check by its number.
pub(crate) fn check(number: u8) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.number == number)
}

const fn new(number: u8, group: Group, title: &'static str, why: &'static str, link: &'static str) -> Check {
    Check { number, group, title, why, link }
}

use Group::{Cache, Cluster, Coordination, Link, Rights, Server, Tracking};

const ACL: &str = "docs/security.md#the-acl";
const PAGE: &str = "docs/cli.md#doctor";

/// All checks, in the order of their numbers.
pub(crate) static CHECKS: &[Check] = &[
    new(
        1,
        Link,
        "the server can be reached",
        "nothing works without it",
        "docs/operations.md#while-the-server-is-away",
    ),
    new(
        2,
        Link,
        "the connection is encrypted",
        "without TLS the password and all data cross the network in the clear",
        "docs/security.md#tls",
    ),
    new(
        3,
        Link,
        "the certificate is valid for weeks",
        "after its last day no program connects",
        "docs/security.md#tls",
    ),
    new(
        4,
        Link,
        "a login is required",
        "any stranger who reaches the server can read and write everything",
        "docs/security.md#data",
    ),
    new(
        5,
        Link,
        "the server speaks RESP3",
        "near reads and wake-ups arrive as pushes, which RESP2 does not have",
        ACL,
    ),
    new(
        6,
        Link,
        "round trips are short",
        "a waiter has 250 ms to confirm a lock; on a slower link it is passed over",
        "docs/locks.md#costs",
    ),
    new(
        7,
        Link,
        "the clocks agree and do not step",
        "a server clock that steps makes values stale early and ends locks and limits early",
        "docs/guarantees.md#what-no-promise-here-covers",
    ),
    new(
        8,
        Link,
        "one server answers behind the name",
        "connections to different masters never agree: nothing is kept near, and locks do not exclude",
        "docs/operations.md#failovers",
    ),
    new(
        11,
        Coordination,
        "a server with locks does not evict",
        "an evicted lock is free, and an evicted limit starts at zero",
        "docs/locks.md#choosing-a-server",
    ),
    new(
        12,
        Coordination,
        "locks outlive a restart",
        "a restart that loses locks grants them again while their holders work",
        "docs/operations.md#choosing-a-server",
    ),
    new(
        13,
        Coordination,
        "the last saves succeeded",
        "a server that cannot save refuses writes, or loses everything in a restart",
        "docs/guarantees.md#failovers",
    ),
    new(
        14,
        Coordination,
        "replicas keep up",
        "a failover loses what the replica lacks: the new master grants those locks again",
        "docs/locks.md#failovers",
    ),
    new(
        15,
        Coordination,
        "a master that is cut off stops",
        "until it stops, two masters grant the same locks, and quarantine does not protect them",
        "docs/guarantees.md#failovers",
    ),
    new(
        21,
        Server,
        "the version is supported",
        "a version past its end of life gets no security fixes",
        PAGE,
    ),
    new(
        22,
        Server,
        "the server is a master",
        "on a replica writes, locks and limits fail, and nothing is kept near",
        "docs/operations.md#reading-from-a-replica",
    ),
    new(
        23,
        Server,
        "connections are left",
        "at maxclients the server refuses new connections: programs that reconnect stay outside",
        "docs/operations.md#while-the-server-is-away",
    ),
    new(24, Server, "forks are short", "the server answers nothing while it forks to save", PAGE),
    new(
        25,
        Server,
        "no slow events",
        "one slow event delays every client, and waiters of locks lose their turn",
        PAGE,
    ),
    new(
        26,
        Server,
        "no command that walks all keys",
        "KEYS and the like stop the server for everybody while they run",
        PAGE,
    ),
    new(
        27,
        Server,
        "no silent or total change of data",
        "clients are not notified of SWAPDB and serve old values; a flush frees locks and resets limits",
        "docs/operations.md#swapped-databases-and-other-silent-changes",
    ),
    new(
        30,
        Rights,
        "the user may not do more than larder needs",
        "with the ACL of the documentation a stolen password cannot list, flush or configure",
        ACL,
    ),
    new(31, Rights, "rights for a cache", "nothing works without them", ACL),
    new(
        32,
        Rights,
        "rights for tracking",
        "without it no near reads, and one more round trip with each read",
        ACL,
    ),
    new(33, Rights, "rights for locks and limits", "without them no locks and no limits", ACL),
    new(
        34,
        Rights,
        "right to read INFO",
        "without it no warning about eviction, no quarantine, and no locks with .strict()",
        ACL,
    ),
    new(35, Rights, "right to WAIT", "locks with .replicated(n) fail without it", ACL),
    new(36, Rights, "rights for a cluster", "without them no connection to a cluster", ACL),
    new(
        37,
        Rights,
        "right to read the role",
        "before Redis 6.2 a master cannot be told from a replica without it",
        ACL,
    ),
    new(38, Rights, "right to another database", "no connection to it without SELECT", ACL),
    new(39, Rights, "right to name connections", "a line in ACL LOG for each connection without it", ACL),
    new(40, Rights, "rights to announce itself", "without them `larder ps` does not show the program", ACL),
    new(
        41,
        Cache,
        "memory is limited, and some is left",
        "without a limit the system kills the server; a full server that does not evict refuses writes",
        "docs/operations.md#choosing-a-server",
    ),
    new(
        42,
        Cache,
        "a full cache evicts what is used least",
        "other policies refuse writes, or evict what is in use",
        "docs/operations.md#choosing-a-server",
    ),
    new(43, Cache, "memory is not fragmented", "the process takes more memory than maxmemory allows", PAGE),
    new(
        44,
        Cache,
        "evictions are rare",
        "a cache that evicts all the time holds too little of what is used",
        "docs/near-cache.md#on-a-server-that-evicts",
    ),
    new(
        45,
        Cache,
        "keys expire",
        "keys without expiry stay until they are evicted, or for ever",
        "docs/cache.md#time-to-live",
    ),
    new(
        46,
        Cache,
        "values are small",
        "a large value delays all others, and above max_value_bytes it is refused",
        "docs/operations.md#settings",
    ),
    new(
        47,
        Cache,
        "values can be read",
        "bytes of another program under larder's names are misses, each time",
        "docs/guarantees.md#what-no-promise-here-covers",
    ),
    new(
        48,
        Cache,
        "no newer layouts",
        "a newer larder writes here: this one reads its entries as misses and shares no lock with it",
        "docs/wire-format.md#how-layouts-change",
    ),
    new(
        51,
        Tracking,
        "invalidations arrive",
        "near reads and waiting callers depend on them",
        "docs/near-cache.md#how-stale-a-near-read-can-be",
    ),
    new(
        52,
        Tracking,
        "the tracking table has room",
        "a full table invalidates near copies that are still valid",
        "docs/near-cache.md#how-it-works",
    ),
    new(
        61,
        Cluster,
        "all slots are served",
        "keys of the other slots cannot be read or written",
        "docs/guarantees.md#the-cache",
    ),
    new(
        62,
        Cluster,
        "every node can be reached, and can be replaced",
        "each node has its own address, certificate and ACL; a master without a replica loses its slots",
        ACL,
    ),
    new(
        63,
        Cluster,
        "a master that is cut off stops before leases end",
        "until then it grants and renews locks that the new master grants, too",
        "docs/guarantees.md#failovers",
    ),
    new(
        64,
        Cluster,
        "the sentinels agree",
        "larder follows the majority; too few sentinels cannot replace a master",
        "docs/operations.md#failovers",
    ),
    new(
        65,
        Cluster,
        "the old master stops before a new one begins",
        "quarantine needs min-replicas-max-lag not above down-after-milliseconds",
        "docs/guarantees.md#failovers",
    ),
];
