//! Announces this process to others, if the program asks for that, and finds the process of a token.
//!
//! The record is a small JSON text without keys. It is stored under each id of the process's tokens, so the holder of a
//! lock is found by one `GET`; an index lists the processes. Both expire by themselves when the process ends without
//! `close`. A failed request is tried again with the next record.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::background::Resident;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::stats::{LockStats, Stats};
use crate::store::lock::process_suffix;
use crate::store::presence::PresenceStore;
use crate::store::{AnyStore, Store};
use crate::telemetry::target;
use crate::tokens::id_of;

/// How often the record is written.
const PERIOD: Duration = Duration::from_secs(10);
/// How long it is kept: three records may fail.
const KEPT: Duration = Duration::from_secs(35);
/// The longest name.
const LONGEST_NAME: usize = 64;
/// How long a caller waits for the name of a process.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// The name of this process for others, if it is announced, and what is known about other processes' names.
pub(crate) struct Presence {
    context: Arc<Context>,
    name: Option<String>,
    began: Instant,
    /// The id under which the index lists this process.
    member: OnceLock<u32>,
    resident: Resident,
    /// Whether the server has refused to show records. Then it is not asked again.
    refused: AtomicBool,
}

/// The counters of a process since it connected, over all its caches, locks and limiters. They contain no keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[cfg_attr(not(feature = "admin"), expect(unreachable_pub, reason = "`admin` shows it"))]
pub struct ProcessCounters {
    /// Keys that were read and found, near hits included.
    pub hits: u64,
    /// Of those, how many were found in the process.
    pub near_hits: u64,
    /// Keys that were read and not found.
    pub misses: u64,
    /// Loaders that ran to their end.
    pub loads: u64,
    /// Of those, how many failed.
    pub load_failures: u64,
    /// Locks and permits that were granted.
    pub locks_granted: u64,
    /// Locks and permits that expired before they were released.
    pub locks_lost: u64,
    /// Invalidations that wait for the server.
    pub queued: u64,
    /// Calls of all caches that failed.
    pub errors: u64,
}

impl From<&Stats> for ProcessCounters {
    fn from(stats: &Stats) -> Self {
        let mut counters = Self {
            locks_granted: stats.locks.granted,
            locks_lost: stats.locks.lost,
            queued: stats.invalidations.waiting,
            ..Self::default()
        };
        for cache in stats.caches.values() {
            counters.hits += cache.hits;
            counters.near_hits += cache.near_hits;
            counters.misses += cache.misses;
            counters.loads += cache.loads;
            counters.load_failures += cache.load_failures;
            counters.errors += cache.operations.values().map(|operation| operation.errors).sum::<u64>();
        }
        counters
    }
}

/// The record as it is stored. docs/wire-format.md describes it for other readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// Eight hexadecimal digits each.
    pub(crate) ids: Vec<String>,
    /// When it was written, in milliseconds of the server's time.
    pub(crate) at: u64,
    /// Milliseconds since the process connected.
    pub(crate) uptime: u64,
    #[serde(default)]
    pub(crate) counters: ProcessCounters,
}

impl Record {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Refuses a name that would blur tables and logs.
pub(crate) fn check(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(format!(
            "a name for presence() has 1 to {LONGEST_NAME} characters of printable ASCII without spaces"
        )));
    }
    Ok(())
}

impl Presence {
    pub(crate) fn new(context: Arc<Context>, name: Option<String>) -> Self {
        Self {
            context,
            name,
            began: Instant::now(),
            member: OnceLock::new(),
            resident: Resident::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// Announces the process from now on, if it has a name. `locks` returns the counts of its locks. The loop ends
    /// with the `Larder`, when `locks` returns `None`.
    pub(crate) fn start(self: &Arc<Self>, locks: impl Fn() -> Option<LockStats> + Send + Sync + 'static) {
        if self.name.is_none() {
            return;
        }
        let (weak, locks) = (Arc::downgrade(self), Arc::new(locks));
        self.context.background.ensure(&self.resident, move || move || run(weak.clone(), locks.clone()));
    }

    async fn announce(&self, store: &AnyStore, stats: &Stats) -> Result<()> {
        let Some(name) = self.name.clone() else { return Ok(()) };
        let (member, ids) = self.ids();
        let (host, pid) = process_suffix().trim_start().rsplit_once(':').unwrap_or_default();
        let record = Record {
            name,
            host: host.to_owned(),
            pid: pid.parse().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ids: ids.iter().map(|id| format!("{id:08x}")).collect(),
            at: store.now(),
            uptime: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            counters: stats.into(),
        };
        let record = serde_json::to_vec(&record).map_err(|error| {
            Error::with_source(ErrorKind::Encode, "the record could not be written", error)
        })?;
        let (index, names) = (self.context.keyspace.processes(), self.names(&ids));
        store.announce(&index, member, &names, Bytes::from(record), KEPT).await
    }

    /// Removes the record. The loop has ended before, so it does not write it again.
    pub(crate) async fn withdraw(&self) {
        if self.name.is_none() {
            return;
        }
        let (member, ids) = self.ids();
        let (index, names) = (self.context.keyspace.processes(), self.names(&ids));
        let withdrawn = self.context.background_store_even_closed().withdraw(&index, member, &names);
        // If this fails, the record expires.
        let _ = timeout(self.context.limits.response_timeout, withdrawn).await;
    }

    /// Returns the id under which this process is listed, and all ids of its tokens, that one included.
    fn ids(&self) -> (u32, Vec<u32>) {
        let member = *self.member.get_or_init(|| id_of(self.context.tokens.next()));
        let mut ids = self.context.tokens.ids();
        if !ids.contains(&member) {
            ids.push(member);
        }
        (member, ids)
    }

    fn names(&self, ids: &[u32]) -> Vec<Name> {
        ids.iter().map(|id| self.context.keyspace.process(*id)).collect()
    }

    /// Returns the name that the process of a token has given itself, if it announced itself. One round trip, none
    /// for this process. An error counts as no name.
    pub(crate) async fn name_of(&self, token: u64) -> Option<String> {
        let (context, id) = (&self.context, id_of(token));
        if context.tokens.ids().contains(&id) {
            return self.name.clone();
        }
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let name = context.keyspace.process(id);
        match timeout(MAX_WAIT.min(context.limits.response_timeout / 2), context.store().ok()?.get(&name))
            .await
        {
            Ok(Ok(bytes)) => Record::read(&bytes?).map(|record| record.name),
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::Permission {
                    self.refused.store(true, Ordering::Relaxed);
                }
                None
            }
            Err(_) => None,
        }
    }
}

async fn run(presence: Weak<Presence>, locks: Arc<impl Fn() -> Option<LockStats>>) {
    loop {
        if let (Some(presence), Some(locks)) = (presence.upgrade(), locks()) {
            let context = &presence.context;
            let Ok(store) = context.background_store() else { return };
            let stats = Stats { locks, ..context.stats() };
            let announced = timeout(context.limits.response_timeout, presence.announce(store, &stats));
            // A panic, for example in a subscriber to events, must not end this loop.
            if let Ok(Ok(Err(error))) = AssertUnwindSafe(announced).catch_unwind().await {
                tracing::debug!(target: target::CONNECTION, %error, "the process could not announce itself: retrying");
            }
        } else {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}
