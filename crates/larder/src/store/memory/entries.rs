//! Cached bytes with an expiry, in a bounded cache.
//!
//! quick_cache evicts by weight and knows no expiry, so each entry carries its deadline and one that is past it counts
//! as absent wherever it is met. What reads and then writes takes the stripe of its name first: reads alone need no
//! stripe. Both bounds are one: an entry weighs at least `max_bytes / max_entries`, so that neither can be passed.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::Bounds;
use crate::clock::Tick;
use crate::envelope::HEADER;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Expiry, FillStart};

const STRIPES: usize = 64;

/// What an entry takes beside its name and value: the map's slot, two pointers' worth of bookkeeping each.
const OVERHEAD: u64 = 96;

/// A shard holds at least this much, so that a value of ordinary size always fits one.
const SMALLEST_SHARD: u64 = 16 * 1024 * 1024;

#[derive(Clone)]
struct Entry {
    bytes: Bytes,
    deadline: Option<Tick>,
}

impl Entry {
    fn lives(&self, now: Tick) -> bool {
        self.deadline.is_none_or(|deadline| deadline > now)
    }
}

#[derive(Clone)]
struct Weight {
    least: u64,
}

impl Weight {
    fn of(&self, name: &str, value: &Bytes) -> u64 {
        let bytes = u64::try_from(name.len().saturating_add(value.len())).unwrap_or(u64::MAX);
        bytes.saturating_add(OVERHEAD).max(self.least)
    }
}

impl Weighter<String, Entry> for Weight {
    fn weight(&self, name: &String, entry: &Entry) -> u64 {
        self.of(name, &entry.bytes)
    }
}

pub(super) struct Entries {
    cache: Cache<String, Entry, Weight, DefaultHashBuilder, DefaultLifecycle<String, Entry>>,
    weight: Weight,
    largest: u64,
    hasher: std::hash::RandomState,
    stripes: Vec<Mutex<()>>,
}

impl Entries {
    pub(super) fn new(bounds: Bounds) -> Self {
        // A bound of one entry must still leave room for that one.
        let least = bounds.max_bytes.div_ceil(bounds.max_entries.max(1)).min(hot(bounds.max_bytes));
        let weight = Weight { least };
        let shards = (bounds.max_bytes / SMALLEST_SHARD).clamp(1, 16);
        // Power of two, rounded down: more shards would be smaller than wanted.
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
            // Only reached if an option above were left out.
            Err(_) => Cache::with_weighter(estimate, bounds.max_bytes, weight.clone()),
        };
        // quick_cache drops what is heavier than the hot part of a shard without a word.
        let largest = hot(cache.shard_capacity());
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self { cache, weight, largest, hasher: std::hash::RandomState::new(), stripes }
    }

    pub(super) fn get(&self, name: &str, now: Tick) -> Option<Bytes> {
        self.live(name, now).map(|entry| entry.bytes)
    }

    pub(super) fn set(&self, name: &str, bytes: Bytes, expiry: Expiry, now: Tick) -> Result<()> {
        let _stripe = self.stripe(name);
        self.put(name, bytes, expiry, now)
    }

    pub(super) fn delete(&self, name: &str, now: Tick) -> bool {
        let _stripe = self.stripe(name);
        self.cache.remove(name).is_some_and(|(_, entry)| entry.lives(now))
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
        let _stripe = self.stripe(name);
        match self.live(name, now) {
            Some(entry) if Some(&entry.bytes) != unreadable.as_ref() => Ok(FillStart::Occupied(entry.bytes)),
            _ => {
                self.put(name, placeholder, Expiry::After(liveness), now)?;
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
        let stands = self.live(name, now).is_some_and(|entry| entry.bytes == *placeholder);
        if stands {
            self.put(name, value, expiry, now)?;
        }
        Ok(stands)
    }

    pub(super) fn abandon_fill(&self, name: &str, placeholder: &Bytes, now: Tick) {
        let _stripe = self.stripe(name);
        self.cache.remove_if(name, |entry| entry.bytes == *placeholder || !entry.lives(now));
    }

    pub(super) fn version(&self, name: &str, candidate: u64, span: Duration, now: Tick) -> Result<u64> {
        let _stripe = self.stripe(name);
        match self.live(name, now) {
            Some(entry) => {
                let version = read_version(&entry.bytes);
                let kept = entry.deadline.map(|deadline| deadline.since(now));
                if kept.is_some_and(|kept| kept < span) {
                    self.put(name, entry.bytes, Expiry::After(span.saturating_mul(2)), now)?;
                }
                Ok(version.unwrap_or(candidate))
            }
            None => {
                self.put(name, write_version(candidate), Expiry::After(span.saturating_mul(2)), now)?;
                Ok(candidate)
            }
        }
    }

    pub(super) fn known_version(&self, name: &str, now: Tick) -> Option<u64> {
        read_version(&self.get(name, now)?)
    }

    pub(super) fn renew_version(&self, name: &str, version: u64, span: Duration, now: Tick) -> Result<()> {
        self.set(name, write_version(version), Expiry::After(span.saturating_mul(2)), now)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, u64) {
        (self.cache.len(), self.cache.weight())
    }

    fn live(&self, name: &str, now: Tick) -> Option<Entry> {
        let entry = self.cache.get(name)?;
        if entry.lives(now) {
            return Some(entry);
        }
        self.cache.remove_if(name, |entry| !entry.lives(now));
        None
    }

    fn put(&self, name: &str, bytes: Bytes, expiry: Expiry, now: Tick) -> Result<()> {
        let weight = self.weight.of(name, &bytes);
        if weight > self.largest {
            return Err(Error::new(
                ErrorKind::ValueTooLarge,
                format!(
                    "an entry of {weight} bytes does not fit the embedded store, whose parts hold {}",
                    self.largest
                ),
            ));
        }
        let deadline = expiry.as_millis().map(|millis| now.after(Duration::from_millis(millis)));
        self.cache.insert(name.to_owned(), Entry { bytes, deadline });
        Ok(())
    }

    fn stripe(&self, name: &str) -> Option<MutexGuard<'_, ()>> {
        let stripes = u64::try_from(self.stripes.len()).ok()?;
        let index = usize::try_from(self.hasher.hash_one(name).checked_rem(stripes)?).ok()?;
        Some(self.stripes.get(index)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The share of a shard that its often-read entries may take; what is left is where new ones prove themselves.
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

pub(super) fn first_bytes(bytes: Bytes) -> Bytes {
    bytes.slice(..bytes.len().min(HEADER))
}

fn is_nothing(bytes: &[u8]) -> bool {
    crate::envelope::glance(bytes) == crate::envelope::Glance::Nothing
}

/// Sixteen hexadecimal digits, as on the server, where a person may read them.
fn write_version(version: u64) -> Bytes {
    Bytes::from(format!("{version:016x}"))
}

fn read_version(bytes: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(bytes).ok()?, 16).ok()
}
