//! The embedded store's answers to tools. It has no nodes and no commands; everything is counted exactly.

use std::fmt::Write as _;
use std::time::Duration;

use super::MemoryStore;
use super::entries::first_bytes;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::admin::{
    AdminStore, AnyLock, KeyExpiry, KeyFacts, LockKind, LockState, NamePattern, SampledKeys, ScanPlace,
    ScanStep, TlsSeen,
};
use crate::store::job::{JobStore, lock_of_job};
use crate::store::raw_reply::RawReply;

/// The address of the only node.
pub(crate) const ADDRESS: &str = "memory:";

impl MemoryStore {
    /// Returns the names that are not entries: of locks, jobs and limits.
    fn names_of_tables(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut names = self.names_of_locks(now);
        names.extend(self.names_of_semaphores(now));
        names.extend(self.names_of_groups(now));
        names.extend(self.names_of_jobs(now));
        names.extend(self.limits.names());
        names
    }

    fn facts(&self) -> Vec<KeyFacts> {
        let entries = self.entries.all(self.clock.now()).into_iter().map(|entry| KeyFacts {
            start: Some(first_bytes(entry.bytes)),
            expiry: entry.left.map_or(KeyExpiry::Never, KeyExpiry::After),
            bytes: Some(entry.weight),
            name: entry.name,
        });
        let tables = self.names_of_tables().into_iter().map(|name| KeyFacts {
            name,
            start: None,
            expiry: KeyExpiry::Unknown,
            bytes: None,
        });
        entries.chain(tables).collect()
    }
}

impl AdminStore for MemoryStore {
    async fn key_count(&self, _: Duration) -> Result<u64> {
        let tables = self.names_of_tables().len();
        Ok(u64::try_from(self.entries.all(self.clock.now()).len() + tables).unwrap_or(u64::MAX))
    }

    async fn sample_keys(&self, _: usize, _: usize, _: Duration) -> Result<SampledKeys> {
        let keys = self.facts();
        Ok(SampledKeys { total: u64::try_from(keys.len()).unwrap_or(u64::MAX), exact: true, keys })
    }

    async fn scan_names(&self, pattern: &NamePattern, _: &ScanPlace, _: Duration) -> Result<ScanStep> {
        let mut names: Vec<String> =
            self.entries.all(self.clock.now()).into_iter().map(|entry| entry.name).collect();
        names.extend(self.names_of_tables());
        names.retain(|name| pattern.matches(name));
        names.sort_unstable();
        names.dedup();
        Ok(ScanStep { names, next: None })
    }

    async fn key_facts(&self, names: &[Name], _: Duration) -> Result<Vec<KeyFacts>> {
        let now = self.clock.now();
        let facts = |name: &Name| match self.entries.get_with_left(name, now) {
            None => {
                KeyFacts { name: name.as_str().to_owned(), start: None, expiry: KeyExpiry::Gone, bytes: None }
            }
            Some((bytes, left)) => KeyFacts {
                name: name.as_str().to_owned(),
                bytes: u64::try_from(bytes.len()).ok(),
                start: Some(first_bytes(bytes)),
                expiry: left.map_or(KeyExpiry::Never, KeyExpiry::After),
            },
        };
        Ok(names.iter().map(facts).collect())
    }

    async fn lock_states(
        &self,
        locks: &[AnyLock],
        most: usize,
        _: Duration,
    ) -> Result<Vec<Option<LockState>>> {
        let mut states = Vec::with_capacity(locks.len());
        for AnyLock { kind, name } in locks {
            states.push(Some(match kind {
                LockKind::Lock | LockKind::Election => self.lock_state(name, most),
                LockKind::Semaphore | LockKind::RwLock => self.semaphore_state(name, most),
                LockKind::Group => self.group_state(name, most),
                LockKind::Job => {
                    let last_run = self.last_run(name).await?;
                    LockState { last_run, ..self.lock_state(&lock_of_job(name), most) }
                }
            }));
        }
        Ok(states)
    }

    async fn node_addresses(&self) -> Result<Vec<String>> {
        Ok(vec![ADDRESS.to_owned()])
    }

    async fn command_at(&self, _: &str, _: &[Vec<u8>], _: Duration) -> Result<RawReply> {
        Err(Error::invalid("memory: is no server and takes no commands"))
    }

    async fn command_tracked(&self, _: &str, _: &[Vec<u8>], _: Duration) -> Result<Option<RawReply>> {
        Ok(None)
    }

    async fn info_of(&self, _: &str, _: Duration) -> Result<String> {
        let entries = self.entries.all(self.clock.now());
        let expiring = entries.iter().filter(|entry| entry.left.is_some()).count();
        let used: u64 = entries.iter().map(|entry| entry.weight).sum();
        let uptime = self.clock.now().since(self.started).as_secs();
        let mut info = String::new();
        // Writing to a `String` cannot fail.
        let _ = write!(
            info,
            "uptime_in_seconds:{uptime}\r\nused_memory:{used}\r\nmaxmemory:{}\r\ndb0:keys={},expires={expiring}\r\n",
            self.entries.max_bytes(),
            entries.len()
        );
        Ok(info)
    }

    fn tls_of(&self, _: &str) -> Option<TlsSeen> {
        None
    }
}
