//! One load: how it claims the right to store its value, and where the value goes.
//!
//! Before a loader runs, its fill puts a claim where any write to the entry breaks it. If no value is stored, the
//! claim is a placeholder under the entry's own name, and the loaded value is stored only over that placeholder. If a
//! value is stored, the claim is a refresh claim beside it, and the new value replaces the old one only if the old
//! one still carries the nonce that was read and the claim is still held. If anything else happens to the name in
//! between, whichever client did it, the loaded value is returned and not stored. So an old row that a loader read
//! before a write never replaces that write. Such claims are the leases of Nishtala et al., "Scaling Memcache at
//! Facebook", NSDI 2013, section 3.2.1.
//!
//! A claim shows that its loader lives: it is renewed while the loader runs, and expires soon after the loader's
//! process dies. If another process holds the claim, this one waits for the notification that it has ended.
//!
//! Invariant: a fill that ends without storing removes its claim, however it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio::sync::SemaphorePermit;

use super::claim::{ClaimGuard, liveness};
use super::flight::{FlightLeader, LoadFailure};
use super::load_context::{Choices, LoadContext};
use super::load_error::waited;
use super::loader::{BoxedLoader, message};
use super::lookup::{CachedValue, Lookup, Source};
use super::unfenced::UnfencedLoad;
use super::wait::pause;
use super::{Cache, WhenAbandoned, tag};
use crate::envelope::TagVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::{Claim, Expiry, FillStart, Force, RefreshClaim, RefreshStart, Store};
use crate::telemetry::target;
use crate::value::{Format, Value, WriteStamp, absence, placeholder};

/// How many times a load tries to claim before it loads without storing. Each failed attempt means that another write
/// changed the key.
const MOST_ATTEMPTS: u32 = 16;
/// How long a load that a loader asked for waits for another process's load. The two may be waiting for each other.
const NESTED_WAIT: Duration = Duration::from_secs(5);

/// Why a load was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No fresh value is stored.
    Missing,
    /// The stored value is near its end.
    Early,
    /// The caller wants a new value, whatever is stored.
    Forced,
}

/// The task of one fill.
pub(super) struct Fill<V> {
    pub(super) cache: Cache<V>,
    pub(super) entry: Name,
    pub(super) expiry: Option<Expiry>,
    pub(super) tags: Vec<String>,
    /// Whether the loader may name more tags.
    pub(super) open_tags: bool,
    /// Whether the callers accept that the value does not exist.
    pub(super) optional: bool,
    pub(super) reason: Reason,
    /// Whether a loader asked for this load.
    pub(super) nested: bool,
    /// Whether the store was away a moment ago. The fill does not ask it again then, because that could cost a second
    /// timeout.
    pub(super) away: bool,
}

/// How a loaded value may be stored.
pub(super) enum CommitMode<V> {
    Fenced(Box<FillFence<V>>),
    /// The store is away: the value is not stored.
    None,
    /// Bare JSON has no room for a placeholder: readers in other languages would not understand it.
    Plain(UnfencedLoad),
}

pub(super) struct FillFence<V> {
    claim: ClaimGuard,
    /// The value that the refresh replaces.
    old: Option<CachedValue<V>>,
    versions: (u64, Vec<TagVersion>),
    epoch: Option<u64>,
}

/// The outcome of claiming.
pub(super) enum Claimed<V> {
    Commit(CommitMode<V>),
    /// A value has been stored by now, or the origin is known to have none.
    Answered(Option<CachedValue<V>>),
    /// Another process loads, and this fill was not to wait.
    Elsewhere,
    /// Another process loads, and has taken too long.
    Failed(LoadFailure),
}

/// What to do while another process loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfBusy {
    Wait,
    Return,
}

impl<V> Fill<V>
where
    V: Value,
{
    pub(super) async fn run(self, leader: FlightLeader<V>, found: Option<Lookup<V>>, loader: BoxedLoader<V>) {
        let if_busy = if self.reason == Reason::Early { IfBusy::Return } else { IfBusy::Wait };
        let mode = match self.claim(found, if_busy).await {
            Claimed::Commit(CommitMode::None) | Claimed::Elsewhere if self.reason == Reason::Early => {
                return leader.finish(Err(LoadFailure::Again));
            }
            Claimed::Commit(mode) => mode,
            Claimed::Answered(answer) => return leader.finish(Ok(answer)),
            Claimed::Elsewhere => return leader.finish(Err(LoadFailure::Again)),
            Claimed::Failed(failure) => return leader.finish(Err(failure)),
        };
        let leaders = [&leader];
        let _place = match &mode {
            CommitMode::None if !self.nested => place(&self.cache, &leaders).await,
            _ => None,
        };
        let stale = match &mode {
            CommitMode::Fenced(fence) => fence.old.as_ref().map(|old| old.value.clone()),
            _ => None,
        };
        let started = tokio::time::Instant::now();
        let deadline = self.cache.policy.hard_timeout.and_then(|timeout| started.checked_add(timeout));
        let deadline = deadline.map(tokio::time::Instant::into_std);
        let key = self.entry.get(self.cache.policy.prefix.len()..).unwrap_or_default();
        let (loading, choices) =
            LoadContext::new(key.into(), stale, deadline, Arc::from([leader.node().clone()]));

        let loaded = tokio::select! {
            biased;
            loaded = self.bounded_load(loader.run(loading)) => loaded,
            () = self.gone(&leaders) => return leader.finish(Err(LoadFailure::Again)),
        };
        let choices = choices.lock().clone();
        self.finish(leader, mode, loaded, started.elapsed(), choices).await;
    }

    /// Stores the loaded value if it may be stored, and hands it to all waiters.
    pub(super) async fn finish(
        &self,
        leader: FlightLeader<V>,
        mode: CommitMode<V>,
        loaded: Result<Option<V>, LoadFailure>,
        took: Duration,
        choices: Choices,
    ) {
        self.cache.shared.meter.loaded(loaded.is_ok());
        let cost = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        // The caller has its value: a failure to store it is counted and not returned.
        let stored = self.end(mode, &loaded, cost, choices).await;
        if let Err(error) = stored {
            self.cache.shared.meter.bypassed(&error);
        }
        if self.reason == Reason::Forced {
            // A flight that started beside this one may have found the value that this one replaced.
            leader.detach_others();
        }
        let now = self.cache.context.store().map_or(0, Store::now);
        leader.finish(loaded.map(|value| {
            value.map(|value| CachedValue {
                value,
                source: Source::Loaded,
                nonce: 0,
                written_at: now,
                fresh_until: 0,
                load_cost: cost,
                clear_version: 0,
            })
        }));
    }

    /// Runs a loader to its end, and turns a timeout or a panic into a failure.
    pub(super) async fn bounded_load<T>(
        &self,
        run: impl Future<Output = Result<T, LoadFailure>>,
    ) -> Result<T, LoadFailure> {
        let hard_timeout = self.cache.policy.hard_timeout;
        // The loader is dropped inside this block when its time is over, because that drop may panic.
        let bounded = async move {
            match hard_timeout {
                None => run.await,
                Some(timeout) => {
                    let ended = tokio::time::timeout(timeout, run).await;
                    ended.unwrap_or(Err(LoadFailure::TimedOut(timeout)))
                }
            }
        };
        let ended = AssertUnwindSafe(bounded).catch_unwind().await;
        ended.unwrap_or_else(|panic| Err(LoadFailure::Panicked(message(&*panic))))
    }

    /// Completes when no caller waits for any of these flights and the cache cancels abandoned loads. Otherwise
    /// never.
    pub(super) async fn gone(&self, leaders: &[&FlightLeader<V>]) {
        if self.cache.policy.when_abandoned == WhenAbandoned::Finish || self.reason == Reason::Early {
            std::future::pending::<()>().await;
        }
        loop {
            for leader in leaders {
                leader.abandoned().await;
            }
            // If one flight is abandoned while another of the batch was joined again, the batch runs on and stores
            // both values.
            if leaders.iter().all(|leader| leader.end_if_abandoned()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Claims the right to store. If the store is away, the load goes on without it.
    pub(super) async fn claim(&self, found: Option<Lookup<V>>, if_busy: IfBusy) -> Claimed<V> {
        if self.away {
            return Claimed::Commit(CommitMode::None);
        }
        self.try_claim(found, if_busy).await.unwrap_or_else(|error| {
            self.cache.shared.meter.bypassed(&error);
            Claimed::Commit(CommitMode::None)
        })
    }

    async fn try_claim(&self, mut found: Option<Lookup<V>>, if_busy: IfBusy) -> Result<Claimed<V>> {
        let cache = &self.cache;
        if cache.policy.encoder.format() == Format::Plain {
            // Recorded before the loader begins: a write from now on keeps the loaded value from being stored.
            let records = &cache.shared.unfenced;
            let forced = self.reason == Reason::Forced;
            let load = if forced { records.refresh(&self.entry) } else { records.load(&self.entry) };
            return Ok(Claimed::Commit(CommitMode::Plain(load)));
        }
        // Read the versions before the loader runs. An invalidation during the load then makes the value invalid.
        let span = cache.version_span(cache.expiry(self.expiry)?);
        let versions = cache.bounded(cache.versions(&self.tags, span)).await?;
        let epoch = match self.open_tags {
            true => Some(cache.bounded(tag::epoch(&cache.context)).await?),
            false => None,
        };
        let store = cache.context.store()?;
        let fence = |claim, old| {
            let versions = versions.clone();
            Ok(Claimed::Commit(CommitMode::Fenced(Box::new(FillFence { claim, old, versions, epoch }))))
        };
        let (started, max_wait) = (tokio::time::Instant::now(), self.max_wait());
        let ends = started.checked_add(max_wait);
        let mut attempts = 0;
        loop {
            attempts += 1;
            if attempts > MOST_ATTEMPTS {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the key changed each time a load tried to claim it",
                ));
            }
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, cache.context.random.fraction())).await;
            }
            // See what is stored now. `in_place_of` is what a placeholder may replace.
            let current = match found.take() {
                Some(found) => found,
                None => cache.bounded(cache.fetch(&self.entry)).await?,
            };
            let in_place_of = match current {
                Lookup::Fresh(cached) if self.reason == Reason::Missing => {
                    return Ok(Claimed::Answered(Some(cached)));
                }
                Lookup::Absent(_) if self.reason == Reason::Missing && self.optional => {
                    return Ok(Claimed::Answered(None));
                }
                // A value with an envelope: claim its refresh beside it.
                Lookup::Fresh(cached) | Lookup::Stale(cached) if cached.nonce != 0 => {
                    let token = cache.context.tokens.next();
                    let force = if self.reason == Reason::Forced { Force::Yes } else { Force::No };
                    let refresh = RefreshClaim { token, nonce: cached.nonce };
                    let claim = ClaimGuard::new(&cache.context, &self.entry, Claim::Refresh(refresh));
                    let begun = store.begin_refresh(&self.entry, refresh, liveness(&cache.context), force);
                    match cache.bounded(begun).await? {
                        RefreshStart::Begun => return fence(claim, Some(cached)),
                        RefreshStart::Busy => {
                            claim.disarm();
                            if if_busy == IfBusy::Return {
                                return Ok(Claimed::Elsewhere);
                            }
                            let wait = cache.wait_for_refresh(&self.entry, cached.nonce);
                            let Some(waited) = within(ends, wait).await else { return Ok(self.gave_up()) };
                            (found, attempts) = (Some(waited?), 1);
                        }
                        RefreshStart::Changed => claim.disarm(),
                    }
                    continue;
                }
                // Bare JSON that another program wrote.
                Lookup::Fresh(_) | Lookup::Stale(_) => cache.bounded(store.get(&self.entry)).await?,
                Lookup::Placeholder(_) if self.reason != Reason::Forced => {
                    if if_busy == IfBusy::Return {
                        return Ok(Claimed::Elsewhere);
                    }
                    let wait = cache.wait_for_fill(&self.entry);
                    let Some(waited) = within(ends, wait).await else { return Ok(self.gave_up()) };
                    (found, attempts) = (Some(waited?), 1);
                    continue;
                }
                Lookup::Placeholder(bytes) | Lookup::Absent(bytes) | Lookup::Unusable(bytes) => Some(bytes),
                Lookup::Nothing => None,
            };
            // Nothing usable: put a placeholder under the entry's own name.
            let (clear, tags) = versions.clone();
            let token = cache.context.tokens.next();
            let stamp = WriteStamp {
                nonce: token,
                written_at: store.now(),
                clear_version: clear,
                tags,
                ..WriteStamp::default()
            };
            let placeholder = Bytes::from(placeholder(stamp));
            let claim = ClaimGuard::new(&cache.context, &self.entry, Claim::Placeholder(placeholder.clone()));
            let covered = cache.is_covered(&self.entry);
            let begun = store.begin_fill(&self.entry, placeholder, liveness(&cache.context), in_place_of);
            match cache.bounded(begun).await? {
                FillStart::Begun => return fence(claim, None),
                FillStart::Occupied(bytes) => {
                    claim.disarm();
                    found = Some(match covered {
                        true => Lookup::Unusable(bytes),
                        false => cache.bounded(cache.classify(&self.entry, bytes)).await?,
                    });
                }
            }
        }
    }

    /// Returns how long to wait for another process's load.
    fn max_wait(&self) -> Duration {
        let longest = self.cache.policy.wait_timeout;
        if self.nested { longest.min(NESTED_WAIT) } else { longest }
    }

    /// Another process's load has taken too long. A load that a loader asked for then loads by itself without
    /// storing, because the two may be waiting for each other. Any other load fails.
    fn gave_up(&self) -> Claimed<V> {
        let max_wait = self.max_wait();
        if !self.nested {
            return Claimed::Failed(LoadFailure::Waited(max_wait));
        }
        let cache = &self.cache.shared.name;
        tracing::warn!(target: target::CACHE, %cache, ?max_wait, "a nested load waited too long for another process: it loads without storing");
        self.cache.shared.meter.bypassed(&waited(max_wait));
        Claimed::Commit(CommitMode::None)
    }

    /// Stores the loaded value, if the claim still holds.
    async fn end(
        &self,
        mode: CommitMode<V>,
        loaded: &Result<Option<V>, LoadFailure>,
        cost: u32,
        choices: Choices,
    ) -> Result<()> {
        let cache = &self.cache;
        let Ok(value) = loaded else { return Ok(()) };
        #[cfg(feature = "testing")]
        cache.context.store()?.loaded(&self.entry).await;
        if choices.unstored {
            return Ok(());
        }
        let ttl = cache.expiry(choices.expiry.or(self.expiry))?;
        match mode {
            CommitMode::None => Ok(()),
            CommitMode::Plain(load) => {
                let Some(value) = value else { return Ok(()) };
                let bytes = encode(cache, value, ttl, cost, (0, Vec::new()))?;
                let stored = self.store_unfenced(&load, bytes, ttl).await;
                cache.shared.forget_near([&*self.entry]);
                stored
            }
            CommitMode::Fenced(fence) => {
                let mut versions = fence.versions;
                let kept_for =
                    value.as_ref().map_or(cache.policy.negative_ttl.map_or(ttl, Expiry::After), |_| ttl);
                let span = cache.version_span(kept_for);
                if span > cache.version_span(cache.expiry(self.expiry)?) {
                    // The loader chose a longer time to live than the versions were read for: they must outlive it.
                    cache.bounded(cache.versions(&self.tags, span)).await?;
                }
                // Add the versions of tags that only the loader could name.
                if !choices.tags.is_empty() {
                    let named = tag::checked(choices.tags, cache.policy.encoder.format())?;
                    let Some(more) = self.loader_tags(&named, ttl, fence.epoch).await? else {
                        cache.shared.meter.fill_invalidated();
                        return Ok(());
                    };
                    versions.1.extend(more);
                    versions.1.sort_by(|a, b| a.tag.cmp(&b.tag));
                    // A tag that was also named before the load keeps the older version, which is the one that
                    // counts.
                    versions.1.dedup_by(|later, earlier| later.tag == earlier.tag);
                    tag::check_count(versions.1.len())?;
                }
                // Encode the value, or the absence if that is to be remembered.
                let (bytes, expiry) = match (value, cache.policy.negative_ttl) {
                    (Some(value), _) => {
                        (Some(encode(cache, value, ttl, cost, versions)?), cache.kept_for(ttl))
                    }
                    (None, Some(ttl)) => {
                        let ttl = Expiry::After(ttl);
                        let mut stamp = cache.stamp(ttl, cost, versions)?;
                        (stamp.fresh_until, stamp.expires_at) = (0, 0);
                        (Some(Bytes::from(absence(stamp))), ttl)
                    }
                    // Without an absence to store, the value to be replaced is deleted. It must not be served when a
                    // later load fails.
                    (None, None) => (None, ttl),
                };
                // Store over the claim. A write in between has broken it, and then nothing is stored.
                let size = bytes.as_ref().map_or(0, Bytes::len);
                let stored = cache.bounded(fence.claim.commit(bytes, expiry));
                if stored.await? {
                    cache.shared.meter.wrote(size);
                } else {
                    cache.shared.meter.fill_invalidated();
                    if self.reason == Reason::Forced {
                        // The write that broke the claim may have been the very value that was to be replaced.
                        cache.bounded(cache.context.store()?.delete(&self.entry)).await?;
                    }
                }
                cache.shared.forget_near([&*self.entry]);
                Ok(())
            }
        }
    }

    /// Stores a value that no fence protects, unless this process has written to the key since before the loader
    /// began.
    async fn store_unfenced(&self, load: &UnfencedLoad, bytes: Bytes, ttl: Expiry) -> Result<()> {
        let cache = &self.cache;
        let (store, size) = (cache.context.store()?, bytes.len());
        let turn = load.turn().await;
        if turn.may_store() {
            cache.bounded(store.set(&self.entry, bytes, ttl)).await?;
            cache.shared.meter.wrote(size);
            return Ok(());
        }
        cache.shared.meter.fill_invalidated();
        if self.reason == Reason::Forced {
            // The write that came in between may have been the very value that was to be replaced.
            cache.bounded(store.delete(&self.entry)).await?;
        }
        Ok(())
    }

    /// Returns the versions of the tags that the loader named, or `None` if any tag was invalidated since the load
    /// began.
    ///
    /// An invalidation replaces the epoch first and the tag's version second; this function reads the versions first
    /// and the epoch second. So if the epoch is unchanged, an invalidation that is still to come replaces the tag's
    /// version after it was read here, and the stored value's version no longer matches.
    async fn loader_tags(
        &self,
        tags: &[String],
        ttl: Expiry,
        epoch: Option<u64>,
    ) -> Result<Option<Vec<TagVersion>>> {
        let cache = &self.cache;
        let (_, versions) = cache.bounded(cache.versions(tags, cache.version_span(ttl))).await?;
        let now = cache.bounded(tag::current_epoch(&cache.context)).await?;
        Ok((epoch.is_some() && now == epoch).then_some(versions))
    }
}

/// Waits for one of the places for loads while the store is away. A load that another loader waits for needs none:
/// that loader keeps its own place until this load has ended.
///
/// The wait is bounded, because a loader that holds a place may wait for this load without larder's knowledge.
pub(super) async fn place<'a, V>(
    cache: &'a Cache<V>,
    leaders: &[&FlightLeader<V>],
) -> Option<SemaphorePermit<'a>> {
    let nested = leaders.iter().map(|leader| Box::pin(leader.nested()));
    tokio::select! {
        place = cache.shared.outage.acquire() => place.ok(),
        () = tokio::time::sleep(cache.policy.wait_timeout) => None,
        _ = select_all(nested) => None,
    }
}

/// Runs a future until `ends`; `None` if it takes longer.
async fn within<T>(ends: Option<tokio::time::Instant>, work: impl Future<Output = T>) -> Option<T> {
    match ends {
        Some(ends) => tokio::time::timeout_at(ends, work).await.ok(),
        None => Some(work.await),
    }
}

/// Encodes a value. A `Serialize` that panics gives an error.
fn encode<V>(
    cache: &Cache<V>,
    value: &V,
    ttl: Expiry,
    cost: u32,
    versions: (u64, Vec<TagVersion>),
) -> Result<Bytes>
where
    V: Value,
{
    let stamp = cache.stamp(ttl, cost, versions)?;
    let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| cache.encode(value, stamp)));
    encoded.unwrap_or_else(|_| Err(Error::new(ErrorKind::Encode, "the value's Serialize panicked")))
}
