//! What a `Larder` and everything made from it share: the store, the names, and the means to work with them.
//!
//! It stands below the rooms of the cache, the locks and the limits, and knows of caches only what it must do with all
//! of them, whatever they hold.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::random::Random;
use crate::stats::{CacheStats, Stats};
use crate::store::limit::{LimitStore, Term};
use crate::store::{AnyStore, Store};
use crate::tasks::Tasks;
use crate::telemetry::{self, Instrument, LockMeter};

pub(crate) struct Context {
    store: AnyStore,
    closed: AtomicBool,
    pub(crate) keyspace: Keyspace,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Loads under way.
    pub(crate) loads: Tasks,
    /// What waits for the end of a lease or renews a permit.
    pub(crate) timers: Tasks,
    /// Locks, permits and refunds on their way back.
    releases: Tasks,
    pub(crate) ping_meter: Instrument,
    pub(crate) tag_meter: Instrument,
    pub(crate) lock_meter: LockMeter,
    caches: Mutex<HashMap<String, Arc<dyn AnyCache>>>,
    limiters: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
}

/// What any one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) response_timeout: Duration,
    pub(crate) max_value_bytes: usize,
    pub(crate) max_key_bytes: usize,
}

impl Limits {
    /// Refuses a name that is longer than names may be.
    pub(crate) fn check_key(&self, name: &str) -> Result<()> {
        let (taken, most) = (name.len(), self.max_key_bytes);
        if taken > most {
            let message = format!("the key takes {taken} bytes, more than max_key_bytes ({most})");
            return Err(Error::new(ErrorKind::KeyTooLong, message));
        }
        Ok(())
    }
}

/// What the handles of one cache name share, as far as the type of its values does not matter.
pub(crate) trait AnyCache: Any + Send + Sync {
    fn stats(&self) -> CacheStats;

    /// Whoever loads from now on starts anew, where the load under way would carry the tag.
    fn detach_tagged(&self, tag: &str);
}

impl Context {
    pub(crate) fn new(
        store: AnyStore,
        keyspace: Keyspace,
        limits: Limits,
        clock: Clock,
        random: Random,
    ) -> Self {
        telemetry::describe();
        Self {
            store,
            closed: AtomicBool::new(false),
            keyspace,
            limits,
            clock,
            random,
            loads: Tasks::default(),
            timers: Tasks::default(),
            releases: Tasks::default(),
            ping_meter: Instrument::new("larder", "", "ping"),
            tag_meter: Instrument::new("tag", "", "invalidate"),
            lock_meter: LockMeter::default(),
            caches: Mutex::default(),
            limiters: Mutex::default(),
        }
    }

    /// The store, unless the `Larder` was closed.
    pub(crate) fn store(&self) -> Result<&AnyStore> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(&self.store) }
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.loads.abort().await;
        self.timers.abort().await;
        self.releases.finish(self.limits.response_timeout).await;
        self.store.close();
    }

    /// Frees a lock without anybody waiting for it, and tries again until the lock's time is over anyway. What is handed
    /// over before `close` is still sent.
    pub(crate) fn release_in_background(self: &Arc<Self>, name: String, token: u64, ttl: Duration) {
        let context = self.clone();
        self.releases.spawn(async move {
            let end = context.clock.now().after(ttl);
            let mut pause = Duration::from_millis(20);
            loop {
                let release = context.store.release(&name, token);
                let Ok(Err(error)) = tokio::time::timeout(context.limits.response_timeout, release).await
                else {
                    return;
                };
                if !error.is_retryable() || context.clock.now().after(pause) >= end {
                    tracing::debug!(%error, "a lock could not be freed and ends with its time");
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        });
    }

    /// What all handles of this cache share; made on first use. An error if it was made for another type of value.
    pub(crate) fn cache<T: AnyCache>(&self, name: &str, make: impl FnOnce() -> T) -> Result<Arc<T>> {
        let shared = self.caches().entry(name.to_owned()).or_insert_with(|| Arc::new(make())).clone();
        let any: Arc<dyn Any + Send + Sync> = shared;
        any.downcast().map_err(|_| {
            Error::invalid(format!("the cache {name:?} was built on this Larder with another type of value"))
        })
    }

    /// Gives unused permits of a rate limit back without anybody waiting for it; once, as they come back by themselves.
    pub(crate) fn refund_in_background(
        self: &Arc<Self>,
        name: String,
        terms: Vec<Term>,
        permits: u64,
        stamp: u64,
    ) {
        let context = self.clone();
        self.releases.spawn(async move {
            let refund = context.store.refund(&name, &terms, permits, stamp);
            if let Ok(Err(error)) = tokio::time::timeout(context.limits.response_timeout, refund).await {
                tracing::debug!(%error, "unused permits could not be given back and count until their window has passed");
            }
        });
    }

    /// Frees a permit of a concurrency limit without anybody waiting for it, unless its time is over before.
    pub(crate) fn leave_in_background(self: &Arc<Self>, name: String, token: u64, ttl: Duration) {
        let context = self.clone();
        self.releases.spawn(async move {
            let end = context.clock.now().after(ttl);
            let mut pause = Duration::from_millis(20);
            loop {
                let leave = context.store.leave(&name, token);
                match tokio::time::timeout(context.limits.response_timeout, leave).await {
                    Ok(Err(error)) if error.is_retryable() => {}
                    Ok(_) => return,
                    Err(_) => {}
                }
                if context.clock.now().after(pause) >= end {
                    tracing::debug!("a permit could not be freed and ends with its time");
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        });
    }

    /// What all handles of this limiter share; made on first use.
    pub(crate) fn shared_of_limiter<T: Any + Send + Sync>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> Result<Arc<T>> {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = limiters.entry(name.to_owned()).or_insert_with(|| Arc::new(make())).clone();
        shared
            .downcast()
            .map_err(|_| Error::invalid(format!("the name {name:?} is used by another kind of limiter")))
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for (name, cache) in self.caches().iter() {
            stats.caches.insert(name.clone(), cache.stats());
        }
        stats
    }

    /// A tag was invalidated: what the loads that would carry it have read is void.
    pub(crate) fn detach_tagged(&self, tag: &str) {
        for cache in self.caches().values() {
            cache.detach_tagged(tag);
        }
    }

    fn caches(&self) -> MutexGuard<'_, HashMap<String, Arc<dyn AnyCache>>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
