//! Loads under way in this process ("single flight"): one for each key, shared by all callers that want the key.
//!
//! A flight is found by its entry's name. A write or a delete of the entry detaches it, and so does an invalidation
//! of a tag that the load carries or may still name. Callers that already wait still get its value; later callers
//! start a new flight. That is how a load that starts after a `delete` returned never sees a value from before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::lookup::CachedValue;
#[cfg(feature = "trace")]
use super::lookup::Source;
use super::nesting::LoadNode;
use super::thrown::Thrown;
use crate::sync::{Mutex, watch};

/// Why a flight ended without a value.
#[derive(Clone)]
pub(super) enum LoadFailure {
    /// The loader's own error, of any type.
    Loader(Thrown),
    /// The message of a panic in the loader or in the value's encoding.
    Panicked(Arc<str>),
    /// The loader ran longer than it is allowed to.
    TimedOut(Duration),
    /// The load of another call or process has not ended after this time.
    Waited(Duration),
    /// No loader ran: the caller must read the entry again.
    Again,
}

#[cfg(feature = "trace")]
impl LoadFailure {
    /// Returns how a span names it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Loader(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut(_) => "timed_out",
            Self::Waited(_) => "waited",
            Self::Again => "skipped",
        }
    }
}

/// A flight's outcome. `None` means that the value does not exist in the origin.
pub(super) type FlightOutcome<V> = Result<Option<CachedValue<V>>, LoadFailure>;

/// Returns how a span names an outcome.
#[cfg(feature = "trace")]
fn outcome_name<V>(outcome: &FlightOutcome<V>) -> &'static str {
    match outcome {
        Ok(Some(cached)) if cached.source == Source::Loaded => "loaded",
        Ok(Some(_)) => "found",
        Ok(None) => "absent",
        Err(failure) => failure.name(),
    }
}

/// Receives a flight's outcome.
pub(super) struct FlightWaiter<V> {
    pub(super) outcome: watch::Receiver<Option<FlightOutcome<V>>>,
    pub(super) node: Arc<LoadNode>,
    /// Whether another call leads the flight.
    pub(super) joined: bool,
}

/// The tags that a load's value will carry.
#[derive(Debug, Clone, Default)]
pub(super) struct Tags {
    pub(super) named: Vec<String>,
    /// Whether the loader may name more.
    pub(super) open: bool,
}

struct Flight<V> {
    outcome: watch::Sender<Option<FlightOutcome<V>>>,
    tags: Tags,
    /// The flights that wait for this one find it by this node.
    node: Arc<LoadNode>,
    /// Notified when a loader joins this flight.
    nested: tokio::sync::Notify,
}

type FlightTable<V> = Arc<Mutex<HashMap<Box<str>, Arc<Flight<V>>>>>;

pub(crate) struct Flights<V>(FlightTable<V>);

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The leader of a flight: its one owner, who must finish it. If it is dropped before that, the waiters see the
/// channel close without an outcome.
pub(super) struct FlightLeader<V> {
    name: Box<str>,
    flight: Arc<Flight<V>>,
    table: FlightTable<V>,
}

impl<V> FlightLeader<V> {
    /// Ends the flight and hands the outcome to all waiters.
    pub(super) fn finish(self, outcome: FlightOutcome<V>) {
        let flight = self.flight.clone();
        // Leave the table before publishing the outcome. Otherwise a caller that arrives after a waiter has returned
        // could still join, and would get an outcome from before its own start.
        drop(self);
        #[cfg(feature = "trace")]
        flight.node.span.end(outcome_name(&outcome), flight.outcome.receiver_count());
        flight.outcome.send_replace(Some(outcome));
    }

    /// Returns how many callers wait.
    #[cfg(feature = "trace")]
    pub(super) fn waiters(&self) -> usize {
        self.flight.outcome.receiver_count()
    }

    /// Completes when no caller waits. Another may join afterwards.
    pub(super) async fn abandoned(&self) {
        self.flight.outcome.closed().await;
    }

    /// Ends the flight if no caller waits, and returns whether that is so. The table's lock keeps callers from
    /// joining in between.
    pub(super) fn end_if_abandoned(&self) -> bool {
        let mut table = self.table.lock();
        let abandoned = self.flight.outcome.is_closed();
        if abandoned && table.get(&self.name).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.name);
        }
        abandoned
    }

    /// Completes when a loader has joined this flight: that loader makes its own callers wait for this one.
    pub(super) async fn nested(&self) {
        self.flight.nested.notified().await;
    }

    /// The node of this load in the graph of waiting loads.
    pub(super) fn node(&self) -> &Arc<LoadNode> {
        &self.flight.node
    }

    /// Removes whatever flight the table holds for this name. It started beside this one, and later callers must not
    /// join it.
    pub(super) fn detach_others(&self) {
        self.table.lock().remove(&self.name);
    }
}

impl<V> Drop for FlightLeader<V> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table.get(&self.name).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.name);
        }
    }
}

impl<V> Flights<V> {
    /// Joins the flight for `name`, or starts one and leads it.
    pub(super) fn join(&self, name: &str, tags: &Tags) -> (FlightWaiter<V>, Option<FlightLeader<V>>) {
        self.join_and(name, tags, |_| {})
    }

    /// Like `join`, for a caller that is itself a loader: the flight that it joins stops waiting for a place.
    pub(super) fn join_from_loader(
        &self,
        name: &str,
        tags: &Tags,
    ) -> (FlightWaiter<V>, Option<FlightLeader<V>>) {
        self.join_and(name, tags, |flight| flight.nested.notify_one())
    }

    fn join_and(
        &self,
        name: &str,
        tags: &Tags,
        and: impl FnOnce(&Flight<V>),
    ) -> (FlightWaiter<V>, Option<FlightLeader<V>>) {
        let mut table = self.0.lock();
        if let Some(flight) = table.get(name) {
            and(flight);
            let (outcome, node) = (flight.outcome.subscribe(), flight.node.clone());
            return (FlightWaiter { outcome, node, joined: true }, None);
        }
        let (waiter, leader) = self.start(&mut table, name, tags);
        (waiter, Some(leader))
    }

    /// Starts a flight and leads it, unless one is under way.
    pub(super) fn lead(&self, name: &str, tags: &Tags) -> Option<FlightLeader<V>> {
        let mut table = self.0.lock();
        if table.contains_key(name) {
            return None;
        }
        Some(self.start(&mut table, name, tags).1)
    }

    /// Starts a flight and leads it, replacing any flight under way.
    pub(super) fn replace(&self, name: &str, tags: &Tags) -> (FlightWaiter<V>, FlightLeader<V>) {
        self.start(&mut self.0.lock(), name, tags)
    }

    fn start(
        &self,
        table: &mut HashMap<Box<str>, Arc<Flight<V>>>,
        name: &str,
        tags: &Tags,
    ) -> (FlightWaiter<V>, FlightLeader<V>) {
        let (outcome, waiter) = watch::channel(None);
        let node = LoadNode::new(name);
        let flight = Arc::new(Flight {
            outcome,
            tags: tags.clone(),
            node: node.clone(),
            nested: tokio::sync::Notify::new(),
        });
        table.insert(name.into(), flight.clone());
        let waiter = FlightWaiter { outcome: waiter, node, joined: false };
        (waiter, FlightLeader { name: name.into(), flight, table: self.0.clone() })
    }

    /// Detaches the flights of these names. Called after a write has ended and not before: a flight could start
    /// between an early call and the write.
    pub(super) fn detach(&self, names: &[&str]) {
        let mut table = self.0.lock();
        if table.is_empty() {
            return;
        }
        for name in names {
            table.remove(*name);
        }
    }

    pub(super) fn detach_tagged(&self, tag: &str) {
        self.0
            .lock()
            .retain(|_, flight| !flight.tags.open && !flight.tags.named.iter().any(|own| own == tag));
    }

    pub(super) fn detach_all(&self) {
        self.0.lock().clear();
    }
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
        assert!(waiter.outcome.has_changed().is_err(), "its waiters would wait for ever");
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
    fn a_flight_is_abandoned_only_while_no_caller_waits() {
        let flights: Flights<u32> = Flights::default();
        let (waiter, leader) = flights.join("a", &Tags::default());
        let leader = leader.unwrap();
        assert!(!leader.end_if_abandoned());
        drop(waiter);
        let (_again, _) = flights.join("a", &Tags::default());
        assert!(!leader.end_if_abandoned(), "a caller has joined again");
    }
}
