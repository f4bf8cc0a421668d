//! A small table of flights that can end them in the wrong order.

use std::collections::HashMap;
use std::sync::Arc;

use super::NAME;
use crate::cache::flight::{FlightLeader, FlightOutcome, FlightWaiter, Flights, Tags};
use crate::cache::nesting::LoadNode;
use crate::sync::{Mutex, watch};

/// What the scenarios need of a table of flights, larder's and the mistaken one.
pub(super) trait Table: Send + Sync + 'static {
    type Leader: Send;

    fn join(&self) -> (FlightWaiter<u64>, Option<Self::Leader>);
    fn finish(leader: Self::Leader, outcome: FlightOutcome<u64>);
}

impl Table for Flights<u64> {
    type Leader = FlightLeader<u64>;

    fn join(&self) -> (FlightWaiter<u64>, Option<FlightLeader<u64>>) {
        Self::join(self, NAME, &Tags::default())
    }

    fn finish(leader: FlightLeader<u64>, outcome: FlightOutcome<u64>) {
        leader.finish(outcome);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// Gives waiters the outcome before the flight has left the table.
    PublishesFirst,
    /// Checks whether there is a flight, and releases the lock before it starts one.
    Unguarded,
}

type Sender = Arc<watch::Sender<Option<FlightOutcome<u64>>>>;
type Senders = Arc<Mutex<HashMap<&'static str, Sender>>>;

pub(super) struct Mistaken {
    mistake: Mistake,
    table: Senders,
}

pub(super) struct MistakenLeader {
    mistake: Mistake,
    flight: Sender,
    table: Senders,
}

impl Mistaken {
    pub(super) fn new(mistake: Mistake) -> Self {
        Self { mistake, table: Senders::default() }
    }
}

impl Table for Mistaken {
    type Leader = MistakenLeader;

    fn join(&self) -> (FlightWaiter<u64>, Option<MistakenLeader>) {
        let mut table = self.table.lock();
        if let Some(flight) = table.get(NAME) {
            return (
                FlightWaiter { outcome: flight.subscribe(), node: LoadNode::new(NAME), joined: true },
                None,
            );
        }
        if self.mistake == Mistake::Unguarded {
            drop(table);
            table = self.table.lock();
        }
        let (sender, outcome) = watch::channel(None);
        let waiter = FlightWaiter { outcome, node: LoadNode::new(NAME), joined: false };
        let flight = Arc::new(sender);
        table.insert(NAME, flight.clone());
        (waiter, Some(MistakenLeader { mistake: self.mistake, flight, table: self.table.clone() }))
    }

    fn finish(leader: MistakenLeader, outcome: FlightOutcome<u64>) {
        let MistakenLeader { mistake, flight, table } = leader;
        if mistake == Mistake::PublishesFirst {
            flight.send_replace(Some(outcome));
            table.lock().remove(NAME);
        } else {
            table.lock().remove(NAME);
            flight.send_replace(Some(outcome));
        }
    }
}
