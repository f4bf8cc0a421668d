//! The processes that announced themselves.

use std::time::{Duration, SystemTime};

use super::{Admin, time};
use crate::error::{ErrorKind, Result};
use crate::name::Name;
pub use crate::presence::ProcessCounters;
use crate::presence::Record;
use crate::store::Store;
use crate::store::presence::PresenceStore;
use crate::tokens::id_of;

/// A process that announced itself: [`LarderBuilder::presence`](crate::LarderBuilder::presence).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The name that it gave itself.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its process id on that host.
    pub pid: u32,
    /// larder's version in it.
    pub version: String,
    /// The random ids of its tokens, newest first: the upper 32 bits of each.
    pub ids: Vec<u32>,
    /// When it connected, in the server's time.
    pub started: SystemTime,
    /// How long it has been connected, as of its last record.
    pub uptime: Duration,
    /// How long ago it wrote its record: 10 s at most if it is well. After 35 s the record is gone.
    pub seen_ago: Duration,
    /// Its counters.
    pub counters: ProcessCounters,
}

impl Admin {
    /// Lists the processes that announced themselves, by name.
    ///
    /// Costs two round trips.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn processes(&self) -> Result<Vec<Process>> {
        let (store, index) = (self.store()?, self.context().keyspace.processes());
        let records = Box::pin(self.within(store.announced(&index))).await?;
        let now = store.now();
        let mut processes: Vec<Process> = records
            .iter()
            .filter_map(|bytes| Record::read(bytes))
            .map(|record| Process::of(record, now))
            .collect();
        processes.sort_by(|a, b| (&a.name, &a.host, a.pid, &a.ids).cmp(&(&b.name, &b.host, b.pid, &b.ids)));
        Ok(processes)
    }

    /// Returns the processes of tokens, in their order; `None` for those that did not announce themselves. One round
    /// trip.
    pub(super) async fn processes_of(&self, tokens: &[u64]) -> Result<Vec<Option<Process>>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<Name> =
            tokens.iter().map(|token| self.context().keyspace.process(id_of(*token))).collect();
        let mut asked = names.clone();
        asked.sort_unstable();
        asked.dedup();
        let store = self.store()?;
        let records = match Box::pin(self.within(store.get_many(&asked))).await {
            Ok(records) => records,
            // The names of processes are an addition; a user that may not read them sees the rest.
            Err(error) if error.kind() == ErrorKind::Permission => vec![None; asked.len()],
            Err(error) => return Err(error),
        };
        let now = store.now();
        let known = |name: &Name| {
            let place = asked.binary_search(name).ok()?;
            let record = Record::read(records.get(place)?.as_deref()?)?;
            Some(Process::of(record, now))
        };
        Ok(names.iter().map(known).collect())
    }
}

impl Process {
    /// Makes a process of its record. `now` is the server's time.
    fn of(record: Record, now: u64) -> Self {
        let Record { name, host, pid, version, ids, at, uptime, counters } = record;
        Self {
            name,
            host,
            pid,
            version,
            ids: ids.iter().filter_map(|id| u32::from_str_radix(id, 16).ok()).collect(),
            started: time(at.saturating_sub(uptime)),
            uptime: Duration::from_millis(uptime),
            seen_ago: Duration::from_millis(now.saturating_sub(at)),
            counters,
        }
    }
}
