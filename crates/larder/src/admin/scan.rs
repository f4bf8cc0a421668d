//! Pages through the entries of one cache.

use std::time::Duration;

use tokio::time::Instant;

use super::glimpse::glance;
use super::names::CacheName;
use super::{Admin, EntryKind, StoredFormat};
use crate::error::Result;
use crate::name::Name;
use crate::store::admin::{AdminStore, KeyExpiry, NamePattern, SCAN_COUNT, ScanPlace, ScanStep};
use crate::store::{AnyStore, Expiry};

/// A scan over all keys of a store, and how far it is.
#[derive(Debug)]
pub(super) struct Pages {
    pattern: NamePattern,
    /// `None` at the end.
    place: Option<ScanPlace>,
    /// How long the last page took; the next one waits as long.
    took: Duration,
    visited: u64,
    total: Option<u64>,
}

/// The keys of one page.
pub(super) struct Visited {
    pub(super) names: Vec<String>,
    pub(super) next: Option<ScanPlace>,
    pub(super) began: Instant,
}

impl Pages {
    pub(super) fn new(pattern: NamePattern) -> Self {
        Self { pattern, place: Some(ScanPlace::default()), took: Duration::ZERO, visited: 0, total: None }
    }

    /// Visits the next keys; `None` at the end. If this is dropped or fails, the next call visits the same keys.
    pub(super) async fn visit(&mut self, store: &AnyStore, max_wait: Duration) -> Result<Option<Visited>> {
        let Some(place) = self.place.clone() else { return Ok(None) };
        tokio::time::sleep(self.took).await;
        let began = Instant::now();
        if self.total.is_none() {
            self.total = Some(store.key_count(max_wait).await?);
        }
        let ScanStep { names, next } = Box::pin(store.scan_names(&self.pattern, &place, max_wait)).await?;
        Ok(Some(Visited { names, next, began }))
    }

    /// Goes on to the next page, once all of this one has been read.
    pub(super) fn go_on(&mut self, next: Option<ScanPlace>, began: Instant) {
        self.took = began.elapsed();
        self.visited = if next.is_none() { u64::MAX } else { self.visited.saturating_add(SCAN_COUNT) };
        self.place = next;
    }

    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        self.total.map(|total| (self.visited.min(total), total))
    }
}

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
    admin: Admin,
    prefix: String,
    details: bool,
    pages: Pages,
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
    /// Visits about 200 keys, by five `SCAN`s, or by one if the server is more than 2 ms away. From the second page on,
    /// first waits as long as the page before took.
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
        let (store, max_wait) = (self.admin.store()?, self.admin.max_wait());
        let Some(Visited { names, next, began }) = self.pages.visit(store, max_wait).await? else {
            return Ok(None);
        };
        let mut entries: Vec<ScannedEntry> =
            names.into_iter().filter_map(|name| named(&self.prefix, name)).collect();
        if self.details && !entries.is_empty() {
            let names: Vec<Name> = entries.iter().map(|entry| Name::from(entry.name.as_str())).collect();
            for (entry, facts) in entries.iter_mut().zip(store.key_facts(&names, max_wait).await?) {
                entry.expiry = match facts.expiry {
                    KeyExpiry::Never => Some(Expiry::Never),
                    KeyExpiry::After(left) => Some(Expiry::After(left)),
                    KeyExpiry::Gone | KeyExpiry::Unknown => continue,
                };
                entry.stored_bytes = facts.bytes;
                if let Some(start) = &facts.start {
                    let glimpse = glance(start);
                    (entry.kind, entry.format) = (Some(glimpse.kind), glimpse.format);
                }
            }
        }
        self.pages.go_on(next, began);
        Ok(Some(entries))
    }

    /// Returns how many keys of the store were visited, about, and how many there are: for a progress bar. `None`
    /// before the first page.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.pages.progress()
    }
}

/// Makes an entry of a name that begins with the prefix.
fn named(prefix: &str, name: String) -> Option<ScannedEntry> {
    let key = name.strip_prefix(prefix)?.to_owned();
    Some(ScannedEntry { key, name, expiry: None, stored_bytes: None, kind: None, format: None })
}

impl Admin {
    /// Pages through the entries of a cache, named as on the server: `user`, or `user@2` for schema 2.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    pub fn scan(&self, cache: &str) -> Result<EntryScan> {
        let prefix = CacheName::parse(cache)?.prefix(self.context())?;
        let pages = Pages::new(NamePattern::Prefix(prefix.clone()));
        Ok(EntryScan { admin: self.clone(), prefix, details: false, pages })
    }
}
