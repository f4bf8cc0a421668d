//! A call that did not find a value it can use: it joins or leads a flight, and acts on the flight's outcome.
//!
//! The call falls back only on a stale value that it found itself. One that another call found may be older than a
//! write that happened before this call.

use std::time::Duration;

use tracing::Instrument;

use super::Cache;
use super::fill::{Fill, Reason};
use super::flight::{FlightLeader, FlightOutcome, FlightWaiter, LoadFailure, Tags};
use super::load_error::LoadError;
use super::loader::BoxedLoader;
use super::lookup::{CachedValue, Lookup};
use super::nesting::{is_nested, wait_for};
use super::trace::{Spanned, load_span};
use super::wait::pause;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::Expiry;
use crate::value::Value;

/// The kind of load that a method asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadKind {
    pub(super) optional: bool,
    /// Whether the loader may name tags.
    pub(super) open_tags: bool,
    pub(super) reason: Reason,
}

/// How many flights of other calls without a result a call joins before it leads its own.
pub(super) const MOST_JOINED: u32 = 16;

/// One call that did not find a value it can use.
pub(super) struct LoadRequest<'a, V> {
    pub(super) cache: &'a Cache<V>,
    pub(super) entry: Name,
    pub(super) kind: LoadKind,
    pub(super) expiry: Option<Expiry>,
    pub(super) tags: Tags,
}

impl<V> LoadRequest<'_, V>
where
    V: Value,
{
    pub(super) async fn load<E>(
        self,
        found: Result<Lookup<V>>,
        loader: BoxedLoader<V>,
    ) -> Result<Option<CachedValue<V>>, LoadError<E>>
    where
        E: Send + Sync + 'static,
    {
        let flights = &self.cache.shared.flights;
        let mut away = found.as_ref().is_err_and(Error::is_outage);
        let mut found = self.usable(found);
        // A refresh does not join a flight: that loader may have read before this call.
        if self.kind.reason == Reason::Forced {
            let (waiter, leader) = flights.replace(&self.entry, &self.tags);
            let _wait = wait_for(&waiter.node)?;
            self.start(Reason::Forced, leader, found, away, loader);
            return self.outcome(wait(waiter, None).await, None);
        }
        let mut loader = Some(loader);
        let mut stale = None;
        // A fresh value at this point was already drawn for an early refresh.
        let mut early = matches!(found, Some(Lookup::Fresh(_)));
        for attempts in 1.. {
            if attempts > 2 {
                tokio::time::sleep(pause(attempts, self.cache.context.random.fraction())).await;
            }
            // Decide on what was found: return it, or remember it in case the load fails.
            match found.take() {
                Some(Lookup::Fresh(cached)) => {
                    if std::mem::take(&mut early)
                        && let Some(leader) = flights.lead(&self.entry, &self.tags)
                        && let Some(loader) = loader.take()
                    {
                        self.start(Reason::Early, leader, Some(Lookup::Fresh(cached.clone())), false, loader);
                    }
                    return Ok(Some(cached));
                }
                Some(Lookup::Absent(_)) if self.kind.optional => return Ok(None),
                Some(Lookup::Stale(cached)) => {
                    stale = Some(cached.clone());
                    found = Some(Lookup::Stale(cached));
                }
                // The store did not answer: keep the stale value that this call found before.
                None => {}
                // The store answered: the stale value is gone.
                other => {
                    stale = None;
                    found = other;
                }
            }
            // Join the flight for this entry, or start one with this call's loader.
            let (waiter, leader) = join(self.cache, &self.entry, &self.tags, attempts);
            let _wait = wait_for(&waiter.node)?;
            // The call's own loader may take as long as it needs; `wait_timeout` bounds the wait for another's.
            let longest = leader.is_none().then_some(self.cache.policy.wait_timeout);
            if let Some(leader) = leader {
                // A call that led a flight returns its outcome below and does not loop, so its loader is still here.
                let Some(loader) = loader.take() else { return Err(Error::closed().into()) };
                self.start(Reason::Missing, leader, found.take(), away, loader);
            }
            // Wait for the outcome. With a stale value to fall back on, wait for `soft_timeout` at most.
            let outcome = match (&stale, self.cache.policy.soft_timeout) {
                (Some(stale), Some(max_wait)) => {
                    match tokio::time::timeout(max_wait, wait(waiter, longest)).await {
                        Ok(outcome) => outcome,
                        Err(_) => {
                            self.cache.shared.meter.served_stale();
                            return Ok(Some(stale.clone()));
                        }
                    }
                }
                _ => wait(waiter, longest).await,
            };
            match outcome {
                // This call joined an optional load that found nothing, but needs a value: try again.
                Some(Ok(None)) if !self.kind.optional && loader.is_some() => {}
                Some(Err(LoadFailure::Again)) if loader.is_some() => {}
                // The runtime of the flight's leader ended, and the load with it: this call leads the next one.
                None if loader.is_some() => self.cache.context.store().map(drop)?,
                outcome => return self.outcome(outcome, stale),
            }
            let fetched = self.cache.bounded(self.cache.fetch(&self.entry)).await;
            away = fetched.as_ref().is_err_and(Error::is_outage);
            found = self.usable(fetched);
        }
        Err(Error::closed().into())
    }

    /// Says why a load ended without an outcome.
    fn cut_short(&self) -> Error {
        let ended = || {
            Error::new(
                ErrorKind::Closed,
                "the runtime ended while it ran the loader: retry on a runtime that is still running",
            )
        };
        self.cache.context.store().err().unwrap_or_else(ended)
    }

    /// Returns what was found if the store answered. An outage of the store must not keep the caller from loading.
    fn usable(&self, found: Result<Lookup<V>>) -> Option<Lookup<V>> {
        found.inspect_err(|error| self.cache.shared.meter.bypassed(error)).ok()
    }

    fn start(
        &self,
        reason: Reason,
        leader: FlightLeader<V>,
        found: Option<Lookup<V>>,
        away: bool,
        loader: BoxedLoader<V>,
    ) {
        let fill = Fill {
            cache: self.cache.clone(),
            entry: self.entry.clone(),
            expiry: self.expiry,
            tags: self.tags.named.clone(),
            open_tags: self.tags.open,
            optional: self.kind.optional,
            reason,
            nested: is_nested(),
            away,
        };
        let (policy, name) = (&self.cache.policy, &self.cache.shared.name);
        let key = policy.trace_keys.then(|| self.entry.get(policy.prefix.len()..).unwrap_or_default());
        let span = load_span(name, key, reason == Reason::Early);
        leader.node().span.begin(&span, Spanned::One);
        self.cache.context.loads.spawn(fill.run(leader, found, loader).instrument(span));
    }

    /// Turns a flight's outcome into this call's result. A stale value is better than an error.
    fn outcome<E>(
        &self,
        outcome: Option<FlightOutcome<V>>,
        stale: Option<CachedValue<V>>,
    ) -> Result<Option<CachedValue<V>>, LoadError<E>>
    where
        E: Send + Sync + 'static,
    {
        let error = match outcome {
            Some(Ok(cached)) => return Ok(cached),
            Some(Err(failure)) => failure.into(),
            None => LoadError::Larder(self.cut_short()),
        };
        match stale {
            Some(stale) => {
                self.cache.shared.meter.served_stale();
                Ok(Some(stale))
            }
            None => Err(error),
        }
    }
}

/// Joins the flight for an entry, or starts one and leads it. A call that has joined [`MOST_JOINED`] flights leads a
/// new one.
pub(super) fn join<V>(
    cache: &Cache<V>,
    entry: &str,
    tags: &Tags,
    attempts: u32,
) -> (FlightWaiter<V>, Option<FlightLeader<V>>) {
    let flights = &cache.shared.flights;
    if attempts > MOST_JOINED {
        let (waiter, leader) = flights.replace(entry, tags);
        return (waiter, Some(leader));
    }
    if is_nested() { flights.join_from_loader(entry, tags) } else { flights.join(entry, tags) }
}

/// Waits for a flight's outcome, for `longest` at most.
pub(super) async fn wait<V: Clone>(
    waiter: FlightWaiter<V>,
    longest: Option<Duration>,
) -> Option<FlightOutcome<V>> {
    let FlightWaiter { mut outcome, node, joined } = waiter;
    // The leader records its span just after it has started the flight, so a fast waiter finds it only afterwards.
    let follows = !joined || node.span.follow();
    let ended = async { outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
    let ended = match longest {
        None => ended.await,
        Some(longest) => match tokio::time::timeout(longest, ended).await {
            Ok(ended) => ended,
            Err(_) => Some(Err(LoadFailure::Waited(longest))),
        },
    };
    if !follows {
        node.span.follow();
    }
    ended
}
