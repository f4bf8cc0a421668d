//! Cached bytes with an expiry, in a bounded cache.
//!
//! quick_cache evicts by weight and has no expiry. So each entry has its deadline, and an entry past its
//! deadline counts as absent wherever it is found. An operation that reads and then writes locks the stripe
//! of its name first; a read alone locks none. The sink is notified of a change while the stripe is locked,
//! so that two changes of one name are reported in the order in which they happened. The two bounds are
//! applied as one: an entry weighs at least `max_bytes / max_entries`, so neither bound can be exceeded.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::Bounds;
use crate::clock::Tick;
use crate::envelope::{HEADER, nonce};
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::store::{
    Claim, Expiry, Fencing, FillStart, Force, InvalidationSink, RefreshClaim, RefreshStart, read_version,
};
use crate::sync::{Mutex, MutexGuard};

const STRIPES: usize = 64;

/// What an entry costs in addition to its name and value, in bytes: the map's slot, and two pointers' worth
/// of bookkeeping each.
const OVERHEAD: u64 = 96;

/// The smallest shard, so that a value of ordinary size always fits into one.
const SMALLEST_SHARD: u64 = 16 * 1024 * 1024;

#[derive(Clone)]
struct StoredEntry {
    bytes: Bytes,
    deadline: Option<Tick>,
}

impl StoredEntry {
    fn lives(&self, now: Tick) -> bool {
        self.deadline.is_none_or(|deadline| deadline > now)
    }
}

#[derive(Clone)]
struct EntryWeight {
    least: u64,
}

impl EntryWeight {
    fn of(&self, name: &str, value: &Bytes) -> u64 {
        let bytes = u64::try_from(name.len().saturating_add(value.len())).unwrap_or(u64::MAX);
        bytes.saturating_add(OVERHEAD).max(self.least)
    }
}

impl Weighter<String, StoredEntry> for EntryWeight {
    fn weight(&self, name: &String, entry: &StoredEntry) -> u64 {
        self.of(name, &entry.bytes)
    }
}

pub(super) struct Entries {
    cache: Cache<String, StoredEntry, EntryWeight, DefaultHashBuilder, DefaultLifecycle<String, StoredEntry>>,
    weight: EntryWeight,
    largest: u64,
    hasher: std::hash::RandomState,
    stripes: Vec<Mutex<()>>,
    sink: Arc<dyn InvalidationSink>,
}

impl Entries {
    pub(super) fn new(bounds: Bounds, sink: Arc<dyn InvalidationSink>) -> Self {
        // With a bound of one entry, that entry must still fit.
        let least = bounds.max_bytes.div_ceil(bounds.max_entries.max(1)).min(hot(bounds.max_bytes));
        let weight = EntryWeight { least };
        let shards = (bounds.max_bytes / SMALLEST_SHARD).clamp(1, 16);
        // A power of two, rounded down: more shards would be smaller than wanted.
        let shards = 1usize << shards.ilog2();
        let estimate = usize::try_from(bounds.max_entries.min(100_000)).unwrap_or(100_000);
        let options = OptionsBuilder::new()
            .shards(shards)
            .weight_capacity(bounds.max_bytes)
            .estimated_items_capacity(estimate)
            .hot_allocation(HOT)
            .build();
        let cache = match options {
            Ok(options) => Cache::with_options(
                options,
                weight.clone(),
                DefaultHashBuilder::default(),
                Default::default(),
            ),
            // Reached only if one of the options above is removed.
            Err(_) => Cache::with_weighter(estimate, bounds.max_bytes, weight.clone()),
        };
        // quick_cache silently drops what is heavier than the hot part of a shard.
        let largest = hot(cache.shard_capacity());
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self { cache, weight, largest, hasher: std::hash::RandomState::new(), stripes, sink }
    }

    pub(super) fn get(&self, name: &str, now: Tick) -> Option<Bytes> {
        self.live(name, now).map(|entry| entry.bytes)
    }

    /// Returns the bytes of an entry, and how long it will be kept; `None` if it never expires.
    pub(super) fn get_with_left(&self, name: &str, now: Tick) -> Option<(Bytes, Option<Duration>)> {
        let entry = self.live(name, now)?;
        Some((entry.bytes, entry.deadline.map(|deadline| deadline.since(now))))
    }

    pub(super) fn set(&self, name: &str, bytes: Bytes, expiry: Expiry, now: Tick) -> Result<()> {
        let _stripe = self.stripe(name);
        self.put(name, bytes, expiry, now)
    }

    /// Stores a value unless a higher fence has stored one. The fence is an entry beside the value, covered
    /// by the same stripe.
    pub(super) fn set_fenced(
        &self,
        name: &str,
        bytes: Bytes,
        expiry: Expiry,
        fence: Fencing,
        now: Tick,
    ) -> Result<bool> {
        let _stripe = self.stripe(name);
        let kept = Keyspace::fence(name);
        let highest = self.live(&kept, now).and_then(|entry| str::from_utf8(&entry.bytes).ok()?.parse().ok());
        if highest.is_some_and(|highest: u64| highest > fence.number) {
            return Ok(false);
        }
        self.put(&kept, fence.number.to_string().into(), Expiry::After(fence.kept), now)?;
        self.put(name, bytes, expiry, now)?;
        Ok(true)
    }

    pub(super) fn delete(&self, name: &str, now: Tick) -> bool {
        let _stripe = self.stripe(name);
        self.take(name, now)
    }

    pub(super) fn touch(&self, name: &str, expiry: Expiry, now: Tick) -> Result<bool> {
        let _stripe = self.stripe(name);
        match self.live(name, now) {
            Some(entry) if !is_nothing(&entry.bytes) => {
                self.put(name, entry.bytes, expiry, now)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn remaining(&self, name: &str, now: Tick) -> Option<(Bytes, Expiry)> {
        let entry = self.live(name, now)?;
        let expiry = match entry.deadline {
            None => Expiry::Never,
            Some(deadline) => Expiry::After(deadline.since(now)),
        };
        Some((first_bytes(entry.bytes), expiry))
    }

    pub(super) fn begin_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        liveness: Duration,
        unreadable: Option<Bytes>,
        now: Tick,
    ) -> Result<FillStart> {
        self.set_if_absent(name, placeholder, Expiry::After(liveness), unreadable, now)
    }

    /// Stores a value in an entry that is empty, or that still holds exactly the bytes `in_place_of`.
    pub(super) fn set_if_absent(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        in_place_of: Option<Bytes>,
        now: Tick,
    ) -> Result<FillStart> {
        let _stripe = self.stripe(name);
        match self.live(name, now) {
            // An empty string counts as no entry.
            Some(entry) if !entry.bytes.is_empty() && Some(&entry.bytes) != in_place_of.as_ref() => {
                Ok(FillStart::Occupied(entry.bytes))
            }
            _ => {
                self.put(name, value, expiry, now)?;
                Ok(FillStart::Begun)
            }
        }
    }

    pub(super) fn commit_fill(
        &self,
        name: &str,
        placeholder: &Bytes,
        value: Bytes,
        expiry: Expiry,
        now: Tick,
    ) -> Result<bool> {
        let _stripe = self.stripe(name);
        let in_force = self.live(name, now).is_some_and(|entry| entry.bytes == *placeholder);
        if in_force {
            self.put(name, value, expiry, now)?;
        }
        Ok(in_force)
    }

    pub(super) fn abandon_fill(&self, name: &str, placeholder: &Bytes, now: Tick) {
        let _stripe = self.stripe(name);
        if self.holds(name, placeholder, now) {
            self.take(name, now);
        }
    }

    pub(super) fn begin_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        liveness: Duration,
        force: Force,
        now: Tick,
    ) -> Result<RefreshStart> {
        let key = Keyspace::refresh_claim(name);
        let _stripe = self.stripe(name);
        if !self.carries(name, claim.nonce, now) {
            return Ok(RefreshStart::Changed);
        }
        let holder = self.live(&key, now).and_then(|entry| RefreshClaim::read(&entry.bytes));
        // A claim that was left for another value does not count.
        if force == Force::No && holder.is_some_and(|holder| holder.nonce == claim.nonce) {
            return Ok(RefreshStart::Busy);
        }
        self.put(&key, claim.write(), Expiry::After(liveness), now)?;
        Ok(RefreshStart::Begun)
    }

    pub(super) fn commit_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        value: Option<Bytes>,
        expiry: Expiry,
        now: Tick,
    ) -> Result<bool> {
        let _stripe = self.stripe(name);
        let committed = self.end_claim(name, claim, now) && self.carries(name, claim.nonce, now);
        match value {
            Some(value) if committed => self.put(name, value, expiry, now)?,
            None if committed => {
                self.take(name, now);
            }
            _ => {}
        }
        Ok(committed)
    }

    pub(super) fn abandon_refresh(&self, name: &str, claim: RefreshClaim, now: Tick) {
        let _stripe = self.stripe(name);
        self.end_claim(name, claim, now);
    }

    /// Ends a claim, and returns whether it was in force. The stripe of `name` covers the claim's key too.
    fn end_claim(&self, name: &str, claim: RefreshClaim, now: Tick) -> bool {
        let key = Keyspace::refresh_claim(name);
        self.holds(&key, &claim.write(), now) && self.take(&key, now)
    }

    pub(super) fn renew_load(&self, name: &str, claim: Claim, liveness: Duration, now: Tick) -> Result<bool> {
        let _stripe = self.stripe(name);
        let (name, bytes) = match claim {
            Claim::Placeholder(bytes) => (name.into(), bytes),
            Claim::Refresh(claim) => (Keyspace::refresh_claim(name), claim.write()),
        };
        let in_force = self.holds(&name, &bytes, now);
        if in_force {
            self.put(&name, bytes, Expiry::After(liveness), now)?;
        }
        Ok(in_force)
    }

    pub(super) fn restamp(
        &self,
        name: &str,
        old: u64,
        value: Bytes,
        expiry: Option<Expiry>,
        now: Tick,
    ) -> Result<bool> {
        let _stripe = self.stripe(name);
        let Some(entry) = self.live(name, now).filter(|entry| nonce(&entry.bytes) == Some(old)) else {
            return Ok(false);
        };
        let kept = || entry.deadline.map_or(Expiry::Never, |deadline| Expiry::After(deadline.since(now)));
        self.put(name, value, expiry.unwrap_or_else(kept), now)?;
        Ok(true)
    }

    /// Returns the version, and how long it is kept.
    pub(super) fn version(
        &self,
        name: &str,
        candidate: u64,
        span: Duration,
        now: Tick,
    ) -> Result<(u64, Duration)> {
        let _stripe = self.stripe(name);
        let twice = span.saturating_mul(2);
        let Some(entry) = self.live(name, now) else {
            self.put(name, write_version(candidate), Expiry::After(twice), now)?;
            return Ok((candidate, twice));
        };
        let version = read_version(&entry.bytes).unwrap_or(candidate);
        let left = entry.deadline.map_or(Duration::MAX, |deadline| deadline.since(now));
        if left >= span {
            return Ok((version, left));
        }
        self.put(name, entry.bytes, Expiry::After(twice), now)?;
        Ok((version, twice))
    }

    pub(super) fn renew_version(&self, name: &str, version: u64, span: Duration, now: Tick) -> Result<()> {
        self.set(name, write_version(version), Expiry::After(span.saturating_mul(2)), now)
    }

    pub(super) fn holds(&self, name: &str, bytes: &Bytes, now: Tick) -> bool {
        self.live(name, now).is_some_and(|entry| entry.bytes == *bytes)
    }

    fn carries(&self, name: &str, old: u64, now: Tick) -> bool {
        self.live(name, now).is_some_and(|entry| nonce(&entry.bytes) == Some(old))
    }

    /// Removes an entry, and returns whether there was one.
    pub(super) fn take(&self, name: &str, now: Tick) -> bool {
        let taken = self.cache.remove(name).is_some_and(|(_, entry)| entry.lives(now));
        if taken {
            self.sink.changed(name);
        }
        taken
    }

    /// Returns all live entries, in no order.
    #[cfg(feature = "admin")]
    pub(super) fn all(&self, now: Tick) -> Vec<EntryFacts> {
        let live = self.cache.iter().filter(|(_, entry)| entry.lives(now));
        live.map(|(name, StoredEntry { bytes, deadline })| EntryFacts {
            weight: self.weight.of(&name, &bytes),
            left: deadline.map(|deadline| deadline.since(now)),
            name,
            bytes,
        })
        .collect()
    }

    #[cfg(feature = "admin")]
    pub(super) fn max_bytes(&self) -> u64 {
        self.cache.capacity()
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, u64) {
        (self.cache.len(), self.cache.weight())
    }

    fn live(&self, name: &str, now: Tick) -> Option<StoredEntry> {
        let entry = self.cache.get(name)?;
        if entry.lives(now) {
            return Some(entry);
        }
        self.cache.remove_if(name, |entry| !entry.lives(now));
        None
    }

    pub(super) fn put(&self, name: &str, bytes: Bytes, expiry: Expiry, now: Tick) -> Result<()> {
        let weight = self.weight.of(name, &bytes);
        if weight > self.largest {
            return Err(Error::new(
                ErrorKind::ValueTooLarge,
                format!(
                    "an entry of {weight} bytes is too large for the embedded store, which takes entries up to {} bytes",
                    self.largest
                ),
            ));
        }
        let deadline = expiry.as_millis().map(|millis| now.after(Duration::from_millis(millis)));
        self.cache.insert(name.to_owned(), StoredEntry { bytes, deadline });
        self.sink.changed(name);
        Ok(())
    }

    pub(super) fn stripe(&self, name: &str) -> Option<MutexGuard<'_, ()>> {
        let stripes = u64::try_from(self.stripes.len()).ok()?;
        let index = usize::try_from(self.hasher.hash_one(name).checked_rem(stripes)?).ok()?;
        Some(self.stripes.get(index)?.lock())
    }
}

/// The share of a shard for entries that are read often. The rest is where new entries prove themselves.
const HOT: f64 = 0.97;

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bound, not an account"
)]
fn hot(bytes: u64) -> u64 {
    (bytes as f64 * HOT) as u64
}

/// An entry as tools see it.
#[cfg(feature = "admin")]
pub(super) struct EntryFacts {
    pub(super) name: String,
    pub(super) bytes: Bytes,
    pub(super) left: Option<Duration>,
    pub(super) weight: u64,
}

pub(super) fn first_bytes(bytes: Bytes) -> Bytes {
    bytes.slice(..bytes.len().min(HEADER))
}

fn is_nothing(bytes: &[u8]) -> bool {
    crate::envelope::glance(bytes) == crate::envelope::Glance::Nothing
}

/// Writes sixteen hexadecimal digits, as on the server, where a person may read them.
pub(super) fn write_version(version: u64) -> Bytes {
    Bytes::from(format!("{version:016x}"))
}
