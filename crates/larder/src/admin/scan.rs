//! Pages through the entries of one cache.

use super::{Admin, EntryKind, StoredFormat};
use crate::error::Result;
use crate::store::Expiry;

/// One entry of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScannedEntry {
    /// The key's stored text, as [`Admin::entry`] takes it.
    pub key: String,
    /// The full name on the server.
    pub name: String,
    /// How long it is kept. `None` without [`EntryScan::details`], or if the entry has gone since.
    pub expiry: Option<Expiry>,
    /// Its stored size in bytes, under the same conditions.
    pub stored_bytes: Option<u64>,
    /// What kind of entry it is, under the same conditions. The checksum is not checked.
    pub kind: Option<EntryKind>,
    /// The format of its value, under the same conditions. `None` for entries without a value.
    pub format: Option<StoredFormat>,
}

/// Pages through the entries of one cache. Made by [`Admin::scan`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let mut scan = larder.admin().scan("user")?;
/// while let Some(page) = scan.next_page().await? {
///     for entry in page {
///         println!("{}", entry.key);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// A key that exists during the whole scan is returned. A key that is written or deleted meanwhile may be. The server
/// may return a key twice.
#[derive(Debug)]
pub struct EntryScan {
    pub(super) admin: Admin,
    pub(super) cache: String,
    pub(super) details: bool,
    pub(super) visited: u64,
    pub(super) total: Option<u64>,
}

impl EntryScan {
    /// Reads the size, time to live and format of each entry too: three more commands for each entry, in one more
    /// round trip for each page.
    #[must_use]
    pub fn details(mut self) -> Self {
        self.details = true;
        self
    }

    /// Returns the next page, which may be empty; `None` at the end.
    ///
    /// Costs one `SCAN` with `COUNT 200`. From the second page on, first waits as long as the page before took.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// After an error the same page can be asked for again.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing: the next call asks for the same page.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ScannedEntry>>> {
        super::unfinished()
    }

    /// Returns how many keys of the store were visited, about, and how many there are: for a progress bar. `None`
    /// before the first page.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.total.map(|total| (self.visited.min(total), total))
    }
}

impl Admin {
    /// Pages through the entries of a cache, named as on the server: `user`, or `user@2` for schema 2.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    pub fn scan(&self, cache: &str) -> Result<EntryScan> {
        Ok(EntryScan {
            admin: self.clone(),
            cache: cache.to_owned(),
            details: false,
            visited: 0,
            total: None,
        })
    }
}
