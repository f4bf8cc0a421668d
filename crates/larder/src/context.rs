//! The state that a `Larder` and everything made from it share: the stores, the names, and the means to work with
//! them.
//!
//! It is below the cache, the locks and the limits, and knows none of them. Of [`Caches`] it knows only what it must do
//! with all of them, whatever the type of their values.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::background::{Background, Renewals};
use crate::caches::Caches;
use crate::clock::Clock;
use crate::credentials::CredentialSource;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{Health, Purpose};
use crate::invalidation::{self, Delivery, Invalidation, InvalidationQueue, Started};
use crate::keyspace::Keyspace;
use crate::name::Name;
use crate::near::{Asking, Invalidations};
use crate::random::Random;
use crate::stats::Stats;
use crate::store::limit::{ChargeStamp, LimitStore};
use crate::store::{AnyStore, Claim, Eviction, InvalidationSink, Store};
use crate::tasks::Tasks;
use crate::telemetry::{self, Instrument};
use crate::tokens::Tokens;

pub(crate) struct Context {
    store: AnyStore,
    /// A separate store for locks and limits, with the dispatcher of its invalidations; `None` if they share `store`.
    coordination: Option<(AnyStore, Arc<Invalidations>)>,
    /// The same two stores for background work, on connections of their own; `None` if the store is in this process.
    background_store: Option<AnyStore>,
    background_coordination: Option<AnyStore>,
    pub(crate) background: Background,
    /// The claims of loads under way, by entry.
    pub(crate) claims: Renewals<(Name, Claim)>,
    /// Whether locks and limits are refused on a server that evicts.
    strict: bool,
    warned: AtomicBool,
    on_evicting: AtomicU64,
    closed: AtomicBool,
    pub(crate) keyspace: Keyspace,
    pub(crate) limits: CallLimits,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// The tokens of attempts and loads.
    pub(crate) tokens: Tokens,
    pub(crate) invalidations: Arc<Invalidations>,
    /// The versions that readers are asking for.
    pub(crate) asking: Asking,
    pub(crate) invalidation_queue: Arc<InvalidationQueue>,
    /// The loads under way.
    pub(crate) loads: Tasks,
    /// The tasks that wait for the end of a lease or renew a permit.
    pub(crate) timers: Tasks,
    /// The provider of user and password, if they are not in the settings.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) credentials_meter: Instrument,
    pub(crate) together_meter: Instrument,
    pub(crate) ping_meter: Instrument,
    pub(crate) explain_meter: Instrument,
    pub(crate) tag_meter: Instrument,
    pub(crate) snapshot_meter: Instrument,
    pub(crate) caches: Caches,
    limiters: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
}

/// How long a version that replaces another is kept. If it expires, entries with the old version are still misses,
/// because a missing version differs from theirs.
pub(crate) const RENEWAL_SPAN: Duration = Duration::from_secs(24 * 3600);

/// The limits of any one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    pub(crate) response_timeout: Duration,
    pub(crate) max_value_bytes: usize,
    pub(crate) max_key_bytes: usize,
}

impl CallLimits {
    /// Refuses a name that is too long.
    #[inline]
    pub(crate) fn check_key(&self, name: &str) -> Result<()> {
        if name.len() > self.max_key_bytes { Err(self.key_too_long(name.len())) } else { Ok(()) }
    }

    #[cold]
    fn key_too_long(&self, taken: usize) -> Error {
        let most = self.max_key_bytes;
        let message = format!(
            "the key takes {taken} bytes, more than max_key_bytes ({most}): shorten it, or raise the limit"
        );
        Error::new(ErrorKind::KeyTooLong, message)
    }
}

impl Context {
    pub(crate) fn new(
        store: AnyStore,
        invalidations: Arc<Invalidations>,
        keyspace: Keyspace,
        limits: CallLimits,
        clock: Clock,
        random: Random,
    ) -> Self {
        telemetry::describe();
        Self {
            store,
            // The builder fills these in before the context is shared: a second server, the home of background work.
            coordination: None,
            background_store: None,
            background_coordination: None,
            background: Background::on_callers(),
            claims: Renewals::default(),
            strict: false,
            warned: AtomicBool::new(false),
            on_evicting: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            keyspace,
            limits,
            clock,
            // Tokens contain a random id of this process, which `presence` publishes if it is on.
            tokens: Tokens::new(random.clone()),
            random,
            invalidations,
            asking: Asking::default(),
            invalidation_queue: Arc::default(),
            loads: Tasks::default(),
            timers: Tasks::default(),
            credentials: None,
            // Meters of calls that belong to the `Larder`, not to a cache, a lock or a limiter.
            credentials_meter: Instrument::new("larder", "", "renew_credentials"),
            together_meter: Instrument::new("limiter", "", "check_together"),
            ping_meter: Instrument::new("larder", "", "ping"),
            explain_meter: Instrument::new("larder", "", "explain"),
            tag_meter: Instrument::new("tag", "", "invalidate"),
            snapshot_meter: Instrument::new("tag", "", "snapshot"),
            // Handles of one name share what is found here.
            caches: Caches::default(),
            limiters: Mutex::default(),
        }
    }

    /// Returns the store, unless the `Larder` was closed.
    #[inline]
    pub(crate) fn store(&self) -> Result<&AnyStore> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(&self.store) }
    }

    /// Like [`store`](Self::store), for requests that must still be sent while the `Larder` closes.
    pub(crate) fn store_even_closed(&self) -> &AnyStore {
        &self.store
    }

    /// Adds a provider of credentials.
    pub(crate) fn with_credentials(self, credentials: Option<Arc<CredentialSource>>) -> Self {
        Self { credentials, ..self }
    }

    /// Adds a second store, for locks and limits.
    pub(crate) fn with_coordination(
        self,
        coordination: Option<(AnyStore, Arc<Invalidations>)>,
        strict: bool,
    ) -> Self {
        Self { coordination, strict, ..self }
    }

    /// Adds a home for background work, and the stores that it uses.
    pub(crate) fn with_background(
        self,
        background: Background,
        background_store: Option<AnyStore>,
        background_coordination: Option<AnyStore>,
    ) -> Self {
        Self { background, background_store, background_coordination, ..self }
    }

    /// Waits for the first attempt to connect to each server, and returns the first failure.
    pub(crate) async fn ready(&self) -> Result<()> {
        let coordination = self.coordination.as_ref().map(|(store, _)| store);
        let backgrounds = [self.background_store.as_ref(), self.background_coordination.as_ref()];
        let stores = [Some(&self.store), coordination].into_iter().chain(backgrounds).flatten();
        join_all(stores.map(AnyStore::ready)).await.into_iter().collect()
    }

    /// Returns the store for background work, unless the `Larder` was closed. No caller's runtime can block its
    /// connections.
    pub(crate) fn background_store(&self) -> Result<&AnyStore> {
        self.store().map(|_| self.background_store_even_closed())
    }

    /// Like [`background_store`](Self::background_store), for requests that must still be sent while the `Larder`
    /// closes.
    pub(crate) fn background_store_even_closed(&self) -> &AnyStore {
        self.background_store.as_ref().unwrap_or(&self.store)
    }

    /// Returns the locks' and limits' store for background work, unless the `Larder` was closed.
    pub(crate) fn background_coordination(&self) -> Result<&AnyStore> {
        self.store().map(|_| self.background_coordination_even_closed())
    }

    /// Like [`background_coordination`](Self::background_coordination), for requests that must still be sent while
    /// the `Larder` closes.
    pub(crate) fn background_coordination_even_closed(&self) -> &AnyStore {
        match (&self.coordination, &self.background_coordination) {
            (_, Some(background)) => background,
            (Some((store, _)), None) => store,
            (None, None) => self.background_store_even_closed(),
        }
    }

    /// Returns a receiver that changes whenever background work has reconnected to the locks' server.
    pub(crate) fn background_reconnects(&self) -> Option<watch::Receiver<u64>> {
        self.background_coordination_even_closed().reconnects()
    }

    /// Returns the store of locks and limits, unless the `Larder` was closed.
    pub(crate) fn coordination(&self) -> Result<&AnyStore> {
        self.store()?;
        self.check_coordination()?;
        Ok(self.coordination_even_closed())
    }

    /// Like [`coordination`](Self::coordination), for releases and refunds that must still be sent.
    pub(crate) fn coordination_even_closed(&self) -> &AnyStore {
        self.coordination.as_ref().map_or(&self.store, |(store, _)| store)
    }

    /// Whether locks and limits have a store of their own.
    #[cfg(feature = "admin")]
    pub(crate) fn has_own_coordination(&self) -> bool {
        self.coordination.is_some()
    }

    /// Returns the dispatcher of that store's invalidations.
    pub(crate) fn coordination_invalidations(&self) -> &Arc<Invalidations> {
        self.coordination.as_ref().map_or(&self.invalidations, |(_, invalidations)| invalidations)
    }

    /// Closes the `Larder` for new requests.
    pub(crate) fn begin_closing(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Counts a lock or limit that is made on a server that evicts, and warns once.
    pub(crate) fn note_coordination(&self) {
        if let Eviction::Evicts(policy) = self.coordination_even_closed().eviction() {
            self.on_evicting.fetch_add(1, Ordering::AcqRel);
            telemetry::on_evicting_server();
            if !self.warned.swap(true, Ordering::AcqRel) {
                tracing::warn!(target: telemetry::target::LOCK, %policy, "locks or limits are on a server that evicts and can be lost: move them with coordination()");
            }
        }
    }

    /// Like [`check_coordination`](Self::check_coordination), for a handle that may be made before the server is
    /// reached; then it refuses nothing.
    pub(crate) fn check_coordination_handle(&self) -> Result<()> {
        match self.check_coordination() {
            Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
            checked => checked,
        }
    }

    /// Refuses locks and limits on a server that evicts, if the program asked for that.
    pub(crate) fn check_coordination(&self) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let why = match self.coordination_even_closed().eviction() {
            Eviction::Never => return Ok(()),
            Eviction::Evicts(policy) => format!("the server evicts ({policy})"),
            Eviction::Unknown => "the server does not say whether it evicts (allow the user +info)".into(),
            Eviction::NotAsked => {
                let message = "strict: the server was not reached yet, so larder does not know whether it evicts: retry later";
                return Err(Error::new(ErrorKind::Refused, message));
            }
        };
        Err(Error::invalid(format!(
            "strict: {why}; locks and limits need a server with maxmemory-policy noeviction"
        )))
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let max_wait = self.limits.response_timeout;
        self.loads.abort(max_wait).await;
        self.timers.abort(max_wait).await;
        self.background.finish(max_wait).await;
        let stores =
            [Some(&self.store), self.background_store.as_ref(), self.background_coordination.as_ref()];
        stores.into_iter().flatten().for_each(AnyStore::close);
        if let Some((coordination, _)) = &self.coordination {
            coordination.close();
        }
        self.background.stop(max_wait).await;
    }

    /// Returns whether the caches' store evicts, as far as it said so when it was connected.
    pub(crate) fn eviction(&self) -> Eviction {
        self.store.eviction()
    }

    /// Whether the store is in this process, and so is never away.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.store, AnyStore::Memory(_))
    }

    /// Queues the deletion of entries. `clear` is the clear version of their cache.
    pub(crate) fn queue_deletes<'a>(
        self: &Arc<Self>,
        names: impl IntoIterator<Item = &'a str>,
        clear: Option<&str>,
    ) {
        self.send_queued(self.invalidation_queue.delete(names, clear, || self.caches.clear_versions()));
    }

    /// Queues the replacement of a cache's clear version.
    pub(crate) fn queue_clear(self: &Arc<Self>, version: &str) {
        self.send_queued(self.invalidation_queue.clear(version));
    }

    /// Queues the invalidation of the tag whose version has this name.
    pub(crate) fn queue_tag(self: &Arc<Self>, version: &str) {
        let epoch = self.keyspace.epoch();
        self.send_queued(self.invalidation_queue.tag(version, &epoch, || self.caches.clear_versions()));
    }

    fn send_queued(self: &Arc<Self>, started: Started) {
        if started == Started::No {
            // The sender holds only a weak reference while it waits, so that the last handle can end the connections
            // and the thread.
            let sender = invalidation::send(Arc::downgrade(self), self.invalidation_queue.clone());
            if !self.background.spawn_until_close(sender) {
                // Closed, or no runtime is left: the next call that queues something tries again.
                self.invalidation_queue.sender_ended();
            }
        }
    }

    /// Returns unused permits of a rate limit in the background. Tries once, because they expire by themselves.
    pub(crate) fn refund_in_background(
        self: &Arc<Self>,
        name: String,
        permits: u64,
        stamp: ChargeStamp,
        done: impl FnOnce(Result<u64>) + Send + 'static,
    ) {
        let (context, timeout) = (self.clone(), self.limits.response_timeout);
        self.background.spawn(async move {
            let refund = context.background_coordination_even_closed().refund(&name, permits, stamp);
            let given = tokio::time::timeout(timeout, refund).await;
            let given = given.unwrap_or_else(|_| Err(Error::timed_out(timeout)));
            if let Err(error) = &given {
                tracing::debug!(target: telemetry::target::LIMIT, %error, "unused permits could not be given back and count until their window has passed");
            }
            done(given);
        });
    }

    /// Returns the state that all handles of this limiter share, and makes it on first use.
    pub(crate) fn shared_of_limiter<T: Any + Send + Sync>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> Result<Arc<T>> {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = limiters.entry(name.to_owned()).or_insert_with(|| Arc::new(make())).clone();
        shared.downcast().map_err(|_| {
            Error::invalid(format!(
                "the name {name:?} is used by another kind of limiter on this Larder: choose another"
            ))
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        let on_evicting_server = self.on_evicting.load(Ordering::Acquire);
        let invalidations = self.invalidation_queue.counts();
        Stats { on_evicting_server, invalidations, caches: self.caches.stats(), ..Stats::default() }
    }

    pub(crate) fn health(&self) -> Health {
        let coordination = self.coordination.as_ref().map(|(store, _)| store);
        let stores = [
            (Some(&self.store), Purpose::Caches),
            (self.background_store.as_ref(), Purpose::Caches),
            (coordination, Purpose::Coordination),
            (self.background_coordination.as_ref(), Purpose::Coordination),
        ];
        let stores = stores.into_iter().filter_map(|(store, purpose)| Some((store?, purpose)));
        Health {
            closed: self.closed.load(Ordering::Acquire),
            connections: stores.flat_map(|(store, purpose)| store.connections(purpose)).collect(),
            queued_invalidations: self.invalidation_queue.counts().waiting,
            tracking: self.store.is_tracking(),
        }
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
        let max_wait = self.limits.response_timeout;
        let answer = tokio::time::timeout(max_wait, deliver).await;
        answer.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))?;
        // Drop what was read in the meantime before near reads of the name resume. The server's own notification may
        // arrive only after that.
        self.invalidations.changed(name);
        Ok(())
    }
}
