//! The operations of a store on the records of processes.
//!
//! A record is stored under each id of its process's tokens. An index lists one id of each process.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::name::Name;

store_operations! {
    /// The operations of every store on the records of processes. Each may be sent again.
    pub(crate) trait PresenceStore {
        /// Stores a record under each of `names`, and lists the process as `member`. Both are kept for `kept`.
        async fn announce(
            &self,
            index: &str,
            member: u32,
            names: &[Name],
            record: Bytes,
            kept: Duration,
        ) -> Result<()>;

        /// Removes a record.
        async fn withdraw(&self, index: &str, member: u32, names: &[Name]) -> Result<()>;

        /// Reads the records of all processes that are listed.
        #[cfg(feature = "admin")]
        async fn announced(&self, index: &str) -> Result<Vec<Bytes>>;
    }
}
