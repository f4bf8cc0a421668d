//! Loads under way in this process: one a key, which all who want the key wait for together ("single flight").
//!
//! A flight is found by its entry's name. Whoever writes or deletes the entry, or invalidates a tag that the load would
//! or could carry, detaches it: those who wait already still get its value, those who come later start anew. That is what makes
//! a load that starts after a `delete` returned see nothing older than the delete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::kept::CachedValue;
use super::nesting::LoadNode;
use super::sync::{Mutex, MutexGuard, PoisonError, watch};
use super::thrown::Thrown;

/// Why a flight has no value.
#[derive(Clone)]
pub(super) enum LoadFailure {
    /// The loader's own error, of whatever type.
    Loader(Thrown),
    /// The message of a panic, the loader's or that of the value's encoding.
    Panicked(Arc<str>),
    /// The loader ran for as long as it may.
    TimedOut(Duration),
    /// A load that another call leads took this long and has not ended.
    Waited(Duration),
    /// Nobody loaded: look again.
    Again,
}

/// What a flight brings: `None` where the origin has no such thing.
pub(super) type FlightOutcome<V> = Result<Option<CachedValue<V>>, LoadFailure>;

/// Waits for a flight's outcome.
pub(super) struct Waiter<V> {
    pub(super) outcome: watch::Receiver<Option<FlightOutcome<V>>>,
    pub(super) node: Arc<LoadNode>,
}

/// Under which tags a load will be stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Tags {
    pub(super) named: Vec<String>,
    /// Whether the loader may name more.
    pub(super) open: bool,
}

struct Flight<V> {
    outcome: watch::Sender<Option<FlightOutcome<V>>>,
    tags: Tags,
    /// Which other flights wait for this one.
    node: Arc<LoadNode>,
    /// Told when a loader waits for this flight.
    nested: tokio::sync::Notify,
}

type FlightTable<V> = Arc<Mutex<HashMap<Box<str>, Arc<Flight<V>>>>>;

pub(crate) struct Flights<V>(FlightTable<V>);

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The right and the duty to bring a flight to its end. When it is dropped before that, those who wait learn that nobody
/// flies.
pub(super) struct FlightLeader<V> {
    name: Box<str>,
    flight: Arc<Flight<V>>,
    table: FlightTable<V>,
}

impl<V> FlightLeader<V> {
    /// Ends the flight, and hands the outcome to all who wait.
    pub(super) fn finish(self, outcome: FlightOutcome<V>) {
        let flight = self.flight.clone();
        // Out of the table first: who comes after a waiter was told must not be told the same.
        drop(self);
        flight.outcome.send_replace(Some(outcome));
    }

    /// Completes when nobody waits any more. Somebody may join again later.
    pub(super) async fn abandoned(&self) {
        self.flight.outcome.closed().await;
    }

    /// Ends the flight if nobody waits; whether it has. Nobody can join in between.
    pub(super) fn end_if_abandoned(&self) -> bool {
        let mut table = lock(&self.table);
        let abandoned = self.flight.outcome.is_closed();
        if abandoned && table.get(&self.name).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.name);
        }
        abandoned
    }

    /// Completes when a loader has joined, which holds up whoever waits for it.
    pub(super) async fn nested(&self) {
        self.flight.nested.notified().await;
    }

    /// What loads that wait for this one wait for.
    pub(super) fn node(&self) -> &Arc<LoadNode> {
        &self.flight.node
    }

    /// Who comes from now on joins no flight that started beside this one.
    pub(super) fn detach_others(&self) {
        lock(&self.table).remove(&self.name);
    }
}

impl<V> Drop for FlightLeader<V> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if table.get(&self.name).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.name);
        }
    }
}

impl<V> Flights<V> {
    /// Joins the flight for `name`, or starts one and leads it.
    pub(super) fn join(&self, name: &str, tags: &Tags) -> (Waiter<V>, Option<FlightLeader<V>>) {
        self.join_and(name, tags, |_| {})
    }

    /// The same for a loader, which the flight that it joins must not keep waiting for a place.
    pub(super) fn join_from_loader(&self, name: &str, tags: &Tags) -> (Waiter<V>, Option<FlightLeader<V>>) {
        self.join_and(name, tags, |flight| flight.nested.notify_one())
    }

    fn join_and(
        &self,
        name: &str,
        tags: &Tags,
        and: impl FnOnce(&Flight<V>),
    ) -> (Waiter<V>, Option<FlightLeader<V>>) {
        let mut table = lock(&self.0);
        if let Some(flight) = table.get(name) {
            and(flight);
            return (Waiter { outcome: flight.outcome.subscribe(), node: flight.node.clone() }, None);
        }
        let (waiter, leader) = self.start(&mut table, name, tags);
        (waiter, Some(leader))
    }

    /// Starts a flight and leads it, unless there is one.
    pub(super) fn lead(&self, name: &str, tags: &Tags) -> Option<FlightLeader<V>> {
        let mut table = lock(&self.0);
        if table.contains_key(name) {
            return None;
        }
        Some(self.start(&mut table, name, tags).1)
    }

    /// Starts a flight and leads it, in place of the one that there may be.
    pub(super) fn replace(&self, name: &str, tags: &Tags) -> (Waiter<V>, FlightLeader<V>) {
        self.start(&mut lock(&self.0), name, tags)
    }

    fn start(
        &self,
        table: &mut HashMap<Box<str>, Arc<Flight<V>>>,
        name: &str,
        tags: &Tags,
    ) -> (Waiter<V>, FlightLeader<V>) {
        let (outcome, waiter) = watch::channel(None);
        let node = LoadNode::new(name);
        let flight = Arc::new(Flight {
            outcome,
            tags: tags.clone(),
            node: node.clone(),
            nested: tokio::sync::Notify::new(),
        });
        table.insert(name.into(), flight.clone());
        (Waiter { outcome: waiter, node }, FlightLeader { name: name.into(), flight, table: self.0.clone() })
    }

    /// A write to these names has ended. Not before: a flight could start between that and the write.
    pub(super) fn detach(&self, names: &[&str]) {
        let mut table = lock(&self.0);
        if table.is_empty() {
            return;
        }
        for name in names {
            table.remove(*name);
        }
    }

    pub(super) fn detach_tagged(&self, tag: &str) {
        lock(&self.0)
            .retain(|_, flight| !flight.tags.open && !flight.tags.named.iter().any(|own| own == tag));
    }

    pub(super) fn detach_all(&self) {
        lock(&self.0).clear();
    }
}

fn lock<V>(table: &FlightTable<V>) -> MutexGuard<'_, HashMap<Box<str>, Arc<Flight<V>>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(named: &[&str], open: bool) -> Tags {
        Tags { named: named.iter().map(|&tag| tag.to_owned()).collect(), open }
    }

    #[test]
    fn a_write_detaches_the_flight_when_it_ends() {
        let flights: Flights<u32> = Flights::default();
        let (_waiter, leader) = flights.join("a", &Tags::default());
        assert!(flights.join("a", &Tags::default()).1.is_none());
        flights.detach(&["a"]);
        assert!(flights.join("a", &Tags::default()).1.is_some(), "joined a flight that a write has detached");
        drop(leader);
    }

    #[test]
    fn a_leader_that_is_dropped_leaves_no_flight_behind() {
        let flights: Flights<u32> = Flights::default();
        let (waiter, leader) = flights.join("a", &Tags::default());
        drop(leader);
        assert!(waiter.outcome.has_changed().is_err(), "who waits would wait for ever");
        assert!(flights.join("a", &Tags::default()).1.is_some());
    }

    #[test]
    fn a_tag_detaches_the_flights_that_carry_it_or_may_yet() {
        let flights: Flights<u32> = Flights::default();
        let _leaders =
            [("carries", tags(&["t"], false)), ("other", tags(&["u"], false)), ("may", tags(&[], true))]
                .map(|(name, tags)| flights.join(name, &tags).1.unwrap());
        flights.detach_tagged("t");
        assert!(flights.lead("carries", &Tags::default()).is_some());
        assert!(flights.lead("other", &Tags::default()).is_none());
        assert!(flights.lead("may", &Tags::default()).is_some());
    }

    #[test]
    fn a_flight_is_abandoned_only_while_nobody_waits() {
        let flights: Flights<u32> = Flights::default();
        let (waiter, leader) = flights.join("a", &Tags::default());
        let leader = leader.unwrap();
        assert!(!leader.end_if_abandoned());
        drop(waiter);
        let (_again, _) = flights.join("a", &Tags::default());
        assert!(!leader.end_if_abandoned(), "somebody has joined again");
    }
}
