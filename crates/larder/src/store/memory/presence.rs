//! Records of processes of the embedded store. Its processes are the `Larder`s of one process, so the records are
//! found by their names and there is no list of them.

use std::time::Duration;

use bytes::Bytes;

use super::MemoryStore;
use crate::error::Result;
use crate::name::Name;
use crate::store::Expiry;
use crate::store::presence::PresenceStore;

impl PresenceStore for MemoryStore {
    async fn announce(&self, _: &str, _: u32, names: &[Name], record: Bytes, kept: Duration) -> Result<()> {
        let now = self.clock.now();
        names.iter().try_for_each(|name| self.entries.set(name, record.clone(), Expiry::After(kept), now))
    }

    async fn withdraw(&self, _: &str, _: u32, names: &[Name]) -> Result<()> {
        let now = self.clock.now();
        for name in names {
            self.entries.delete(name, now);
        }
        Ok(())
    }

    #[cfg(feature = "admin")]
    async fn announced(&self, index: &str) -> Result<Vec<Bytes>> {
        let records = self.entries.all(self.clock.now()).into_iter();
        let of_process = |name: &str| name.strip_prefix(index).is_some_and(|id| id.starts_with(':'));
        let mut records: Vec<Bytes> =
            records.filter(|entry| of_process(&entry.name)).map(|entry| entry.bytes).collect();
        records.sort_unstable();
        records.dedup();
        Ok(records)
    }
}
