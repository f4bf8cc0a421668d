//! Records of processes on Redis: announcing is one script, because the index's scores are the server's time.

use std::time::Duration;

use bytes::Bytes;

use super::node::Replay;
use super::wire::Request;
use super::{RedisStore, millis, script};
use crate::error::Result;
use crate::name::Name;
use crate::store::presence::PresenceStore;

/// Writes an id as the index and the names have it.
fn digits(id: u32) -> String {
    format!("{id:08x}")
}

impl PresenceStore for RedisStore {
    async fn announce(
        &self,
        index: &str,
        member: u32,
        names: &[Name],
        record: Bytes,
        kept: Duration,
    ) -> Result<()> {
        let keys: Vec<&str> = std::iter::once(index).chain(names.iter().map(Name::as_str)).collect();
        let (member, kept) = (digits(member), millis(kept));
        let arguments = [member.as_bytes(), &*record, kept.as_bytes()];
        self.network.run_script(index, &script::ANNOUNCE, &keys, &arguments, Replay::Safe).await.map(drop)
    }

    async fn withdraw(&self, index: &str, member: u32, names: &[Name]) -> Result<()> {
        let unlisted = Request::new("ZREM").arg(index).arg(digits(member));
        let removed = names.iter().fold(Request::new("UNLINK"), |request, name| request.arg(name.as_str()));
        self.network.run_both(index, unlisted, removed).await.map(drop)
    }

    #[cfg(feature = "admin")]
    async fn announced(&self, index: &str) -> Result<Vec<Bytes>> {
        use super::bytes;
        use super::lock::array;
        use crate::store::Store;

        let listed = Request::new("ZRANGE").arg(index).number(0).arg("-1");
        let mut names = Vec::new();
        for member in array(self.network.run(index, &listed, Replay::Safe).await?)? {
            let member = bytes(member)?.unwrap_or_default();
            let mut name = Name::from(index);
            name.push_str(":");
            name.push_str(&String::from_utf8_lossy(&member));
            names.push(name);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.get_many(&names).await?.into_iter().flatten().collect())
    }
}
