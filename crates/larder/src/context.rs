//! What a `Larder` and everything made from it share: the store, the names, and the means to work with them.
//!
//! It stands below the rooms of the cache, the locks and the limits, and knows of caches only what it must do with all
//! of them, whatever they hold.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::background::{Background, Claims, HEDGE, begun};
use crate::clock::Clock;
use crate::credentials::CredentialSource;
use crate::envelope::TagVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::invalidation::{self, Delivery, Invalidation, InvalidationQueue, Started};
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::near::{Asking, Invalidations};
use crate::random::Random;
use crate::stats::{CacheStats, Stats};
use crate::store::limit::{ChargeStamp, LimitStore, QuotaSpec};
use crate::store::trust::ReadStamp;
use crate::store::{AnyStore, Claim, Eviction, InvalidationSink, Store};
use crate::tasks::Tasks;
use crate::telemetry::{self, Instrument};

pub(crate) struct Context {
    store: AnyStore,
    /// Where locks and limits stand, if not there, and who hears what changes there.
    coordination: Option<(AnyStore, Arc<Invalidations>)>,
    /// The same two for background work, by connections of their own; none where the store is in this process.
    background_store: Option<AnyStore>,
    background_coordination: Option<AnyStore>,
    pub(crate) background: Background,
    /// Claims of loads under way.
    pub(crate) claims: Claims,
    /// Whether locks and limits are refused on a server that evicts.
    strict: bool,
    warned: AtomicBool,
    on_evicting: AtomicU64,
    closed: AtomicBool,
    pub(crate) keyspace: Keyspace,
    pub(crate) limits: CallLimits,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) changes: Arc<Invalidations>,
    /// Versions that readers ask for just now.
    pub(crate) asking: Asking,
    pub(crate) invalidations: Arc<InvalidationQueue>,
    /// Loads under way.
    pub(crate) loads: Tasks,
    /// What waits for the end of a lease or renews a permit.
    pub(crate) timers: Tasks,
    /// Where connections get user and password from, if not from the settings.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) credentials_meter: Instrument,
    pub(crate) together_meter: Instrument,
    pub(crate) ping_meter: Instrument,
    pub(crate) explain_meter: Instrument,
    pub(crate) tag_meter: Instrument,
    pub(crate) snapshot_meter: Instrument,
    caches: Mutex<HashMap<String, Arc<dyn AnyCache>>>,
    limiters: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
}

/// How long a replaced version is kept: longer than what carries the old one, which is a miss without it, too.
pub(crate) const RENEWAL_SPAN: Duration = Duration::from_secs(24 * 3600);

/// What any one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    pub(crate) response_timeout: Duration,
    pub(crate) max_value_bytes: usize,
    pub(crate) max_key_bytes: usize,
}

impl CallLimits {
    /// Refuses a name that is longer than names may be.
    #[inline]
    pub(crate) fn check_key(&self, name: &str) -> Result<()> {
        if name.len() > self.max_key_bytes { Err(self.key_too_long(name.len())) } else { Ok(()) }
    }

    #[cold]
    fn key_too_long(&self, taken: usize) -> Error {
        let most = self.max_key_bytes;
        let message = format!("the key takes {taken} bytes, more than max_key_bytes ({most})");
        Error::new(ErrorKind::KeyTooLong, message)
    }
}

/// What the handles of one cache name share, as far as the type of its values does not matter.
pub(crate) trait AnyCache: Any + Send + Sync {
    fn stats(&self) -> CacheStats;

    /// The name of the version that clears it.
    fn clear_version(&self) -> &str;

    /// The near copy of an entry, if there is one.
    fn near_copy(&self, entry: &str) -> Option<NearState>;

    /// Whoever loads from now on starts anew, where the load under way would carry the tag.
    fn detach_tagged(&self, tag: &str);
}

/// What there is to know of a near copy, whatever it holds.
#[derive(Debug, Clone)]
pub(crate) struct NearState {
    /// Nanoseconds of the clock that nobody can set.
    pub(crate) until: u64,
    pub(crate) seen: ReadStamp,
    pub(crate) clear_seen: ReadStamp,
    pub(crate) tags: Vec<TagVersion>,
}

impl Context {
    pub(crate) fn new(
        store: AnyStore,
        changes: Arc<Invalidations>,
        keyspace: Keyspace,
        limits: CallLimits,
        clock: Clock,
        random: Random,
    ) -> Self {
        telemetry::describe();
        Self {
            store,
            coordination: None,
            background_store: None,
            background_coordination: None,
            background: Background::on_callers(),
            claims: Claims::default(),
            strict: false,
            warned: AtomicBool::new(false),
            on_evicting: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            keyspace,
            limits,
            clock,
            random,
            changes,
            asking: Asking::default(),
            invalidations: Arc::default(),
            loads: Tasks::default(),
            timers: Tasks::default(),
            credentials: None,
            credentials_meter: Instrument::new("larder", "", "renew_credentials"),
            together_meter: Instrument::new("limiter", "", "check_together"),
            ping_meter: Instrument::new("larder", "", "ping"),
            explain_meter: Instrument::new("larder", "", "explain"),
            tag_meter: Instrument::new("tag", "", "invalidate"),
            snapshot_meter: Instrument::new("tag", "", "snapshot"),
            caches: Mutex::default(),
            limiters: Mutex::default(),
        }
    }

    /// The store, unless the `Larder` was closed.
    #[inline]
    pub(crate) fn store(&self) -> Result<&AnyStore> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(&self.store) }
    }

    /// With a provider of credentials.
    pub(crate) fn with_credentials(self, credentials: Option<Arc<CredentialSource>>) -> Self {
        Self { credentials, ..self }
    }

    /// With a second store, for locks and limits.
    pub(crate) fn with_coordination(
        self,
        coordination: Option<(AnyStore, Arc<Invalidations>)>,
        strict: bool,
    ) -> Self {
        Self { coordination, strict, ..self }
    }

    /// With a home for background work, and what it needs to reach the servers.
    pub(crate) fn with_background(
        self,
        background: Background,
        background_store: Option<AnyStore>,
        background_coordination: Option<AnyStore>,
    ) -> Self {
        Self { background, background_store, background_coordination, ..self }
    }

    /// Waits for the first attempt to connect to each server, and gives the first failure.
    pub(crate) async fn ready(&self) -> Result<()> {
        let coordination = self.coordination.as_ref().map(|(store, _)| store);
        let backgrounds = [self.background_store.as_ref(), self.background_coordination.as_ref()];
        let stores = [Some(&self.store), coordination].into_iter().chain(backgrounds).flatten();
        join_all(stores.map(AnyStore::ready)).await.into_iter().collect()
    }

    /// The store for background work, unless the `Larder` was closed: no caller's runtime can block its connections.
    #[allow(dead_code, reason = "a seam that rooms move to one by one")]
    pub(crate) fn background_store(&self) -> Result<&AnyStore> {
        self.store().map(|_| self.background_store_even_closed())
    }

    /// As [`background_store`](Self::background_store), for what must still be sent while the `Larder` closes.
    pub(crate) fn background_store_even_closed(&self) -> &AnyStore {
        self.background_store.as_ref().unwrap_or(&self.store)
    }

    /// The store of locks and limits for background work, unless the `Larder` was closed.
    pub(crate) fn background_coordination(&self) -> Result<&AnyStore> {
        self.store().map(|_| self.background_coordination_even_closed())
    }

    /// As [`background_coordination`](Self::background_coordination), for what must still be sent while the `Larder`
    /// closes.
    pub(crate) fn background_coordination_even_closed(&self) -> &AnyStore {
        match (&self.coordination, &self.background_coordination) {
            (_, Some(background)) => background,
            (Some((store, _)), None) => store,
            (None, None) => self.background_store_even_closed(),
        }
    }

    /// Changes whenever background work has got a connection to the locks' server back.
    pub(crate) fn background_reconnects(&self) -> Option<watch::Receiver<u64>> {
        self.background_coordination_even_closed().reconnects()
    }

    /// Where locks and limits stand, unless the `Larder` was closed.
    pub(crate) fn coordination(&self) -> Result<&AnyStore> {
        self.store()?;
        self.check_coordination()?;
        Ok(self.coordination_even_closed())
    }

    /// For what must still be given back.
    pub(crate) fn coordination_even_closed(&self) -> &AnyStore {
        self.coordination.as_ref().map_or(&self.store, |(store, _)| store)
    }

    /// Who hears what changes there.
    pub(crate) fn coordination_changes(&self) -> &Arc<Invalidations> {
        self.coordination.as_ref().map_or(&self.changes, |(_, changes)| changes)
    }

    /// No request begins after this.
    pub(crate) fn begin_closing(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Notes that something is made that an evicting server can lose.
    pub(crate) fn note_coordination(&self) {
        if let Eviction::Evicts(policy) = self.coordination_even_closed().eviction() {
            self.on_evicting.fetch_add(1, Ordering::AcqRel);
            telemetry::on_evicting_server();
            if !self.warned.swap(true, Ordering::AcqRel) {
                tracing::warn!(target: telemetry::target::LOCK, %policy, "locks or limits stand on a server that evicts, and can be lost: give them one of their own by coordination()");
            }
        }
    }

    /// Refuses such a server where the program asked for that, for a handle that is made before the server is reached, too.
    pub(crate) fn check_coordination_handle(&self) -> Result<()> {
        match self.check_coordination() {
            Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
            checked => checked,
        }
    }

    /// Refuses such a server, where the program asked for that.
    pub(crate) fn check_coordination(&self) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let why = match self.coordination_even_closed().eviction() {
            Eviction::Never => return Ok(()),
            Eviction::Evicts(policy) => format!("the server evicts ({policy})"),
            Eviction::Unknown => {
                "the server does not say whether it evicts (it needs the permission +info)".into()
            }
            Eviction::NotAsked => {
                let message = "strict: no server was reached yet, so whether it evicts is not known";
                return Err(Error::new(ErrorKind::Refused, message));
            }
        };
        Err(Error::invalid(format!(
            "strict: {why}: locks and limits need one with maxmemory-policy noeviction"
        )))
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let patience = self.limits.response_timeout;
        self.loads.abort(patience).await;
        self.timers.abort(patience).await;
        self.background.finish(patience).await;
        let stores =
            [Some(&self.store), self.background_store.as_ref(), self.background_coordination.as_ref()];
        stores.into_iter().flatten().for_each(AnyStore::close);
        if let Some((coordination, _)) = &self.coordination {
            coordination.close();
        }
        self.background.stop(patience).await;
    }

    /// Whether the store of the caches evicts, as far as it said so when it was connected.
    pub(crate) fn eviction(&self) -> Eviction {
        self.store.eviction()
    }

    /// Whether the store is in this process, and so never away.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.store, AnyStore::Memory(_))
    }

    /// Queues the deletion of entries. `clear` is the version of their cache.
    pub(crate) fn queue_deletes<'a>(
        self: &Arc<Self>,
        names: impl IntoIterator<Item = &'a str>,
        clear: Option<&str>,
    ) {
        self.send_queued(self.invalidations.delete(names, clear, || self.all_clears()));
    }

    /// Queues the replacement of the version that clears a cache.
    pub(crate) fn queue_clear(self: &Arc<Self>, version: &str) {
        self.send_queued(self.invalidations.clear(version));
    }

    /// Queues the invalidation of the tag whose version has this name.
    pub(crate) fn queue_tag(self: &Arc<Self>, version: &str) {
        let epoch = self.keyspace.epoch();
        self.send_queued(self.invalidations.tag(version, &epoch, || self.all_clears()));
    }

    /// The clear versions of all caches. Takes the table of caches while the queue is locked; nothing locks them in the
    /// other order.
    pub(crate) fn all_clears(&self) -> Vec<String> {
        self.caches().values().map(|cache| cache.clear_version().to_owned()).collect()
    }

    fn send_queued(self: &Arc<Self>, started: Started) {
        if started == Started::No {
            // What waits holds no reference to this: the last handle must end the connections and the thread.
            let sender = invalidation::send(Arc::downgrade(self), self.invalidations.clone());
            if !self.background.spawn_until_close(sender) {
                // Closed, or no runtime is left: the next to queue something tries again.
                self.invalidations.sender_ended();
            }
        }
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
        terms: Vec<QuotaSpec>,
        permits: u64,
        stamp: ChargeStamp,
        done: impl FnOnce() + Send + 'static,
    ) {
        let context = self.clone();
        self.background.spawn(async move {
            let refund = context.background_coordination_even_closed().refund(&name, &terms, permits, stamp);
            if let Ok(Err(error)) = tokio::time::timeout(context.limits.response_timeout, refund).await {
                tracing::debug!(target: telemetry::target::LIMIT, %error, "unused permits could not be given back and count until their window has passed");
            }
            done();
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
        let on_evicting_server = self.on_evicting.load(Ordering::Acquire);
        let invalidations = self.invalidations.counts();
        let mut stats = Stats { on_evicting_server, invalidations, ..Stats::default() };
        for (name, cache) in self.caches().iter() {
            stats.caches.insert(name.clone(), cache.stats());
        }
        stats
    }

    /// The near copy of an entry, of whatever cache.
    pub(crate) fn near_copy(&self, entry: &str) -> Option<NearState> {
        self.caches().values().find_map(|cache| cache.near_copy(entry))
    }

    /// Takes a load's claim away without waiting for it. What is handed over before `close` is still sent.
    ///
    /// The request is sent before this returns, on the connection of the request that made the claim. So it never
    /// overtakes that one, and a load that begins afterwards does not find the claim. Where that connection does not
    /// answer, and for a claim that is dropped outside a runtime, it is sent on the connection of the background.
    pub(crate) fn abandon_in_background(self: &Arc<Self>, entry: Name, claim: Claim) {
        if self.is_embedded() {
            // Done at once, also where a runtime ends with its loads and nothing would poll a task.
            let _ = abandon(&self.store, &entry, &claim).now_or_never();
            return;
        }
        let (context, in_order) = (self.clone(), Handle::try_current().is_ok());
        self.background.spawn_begun(async move {
            if in_order {
                let sent = begun(HEDGE, abandon(&context.store, &entry, &claim)).await;
                if matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
            // Where this fails too, the claim runs out by itself.
            let again = abandon(context.background_store_even_closed(), &entry, &claim);
            let _ = tokio::time::timeout(context.limits.response_timeout, again).await;
        });
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

async fn abandon(store: &AnyStore, entry: &Name, claim: &Claim) -> Result<()> {
    match claim {
        Claim::Placeholder(placeholder) => store.abandon_fill(entry, placeholder.clone()).await,
        Claim::Refresh(claim) => store.abandon_refresh(entry, *claim).await,
    }
}

impl Delivery for Context {
    fn node(&self, name: &str) -> usize {
        self.background_store_even_closed().node(name)
    }

    async fn deliver(&self, name: &str, kind: &Invalidation) -> Result<()> {
        let store = self.background_store()?;
        let deliver = async {
            match kind {
                Invalidation::Delete(_) => store.delete(name).await.map(drop),
                Invalidation::Clear | Invalidation::Epoch | Invalidation::Tag => {
                    store.renew_version(name, self.random.nonce(), RENEWAL_SPAN).await
                }
            }
        };
        let patience = self.limits.response_timeout;
        let answer = tokio::time::timeout(patience, deliver).await;
        answer.unwrap_or_else(|_| Err(Error::timed_out(patience)))?;
        // What was read meanwhile goes before near reads of the name resume: the store may tell later.
        self.changes.changed(name);
        Ok(())
    }
}
