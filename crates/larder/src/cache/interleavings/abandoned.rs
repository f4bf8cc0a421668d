//! A load that is abandoned when no caller waits for it any more, while another caller joins it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future::block_on;
use shuttle::thread;

use super::{NAME, outcome, wait};
use crate::cache::flight::{FlightLeader, Flights, Tags};
use crate::interleavings::{breaks, holds};

/// What a caller is promised.
const GETS_ONE: &str = "a caller that has joined a flight gets an outcome";

/// Abandons the load, or returns the leader to be finished.
type GiveUp = fn(FlightLeader<u64>) -> Option<FlightLeader<u64>>;

fn call(flights: &Flights<u64>, give_up: GiveUp) {
    let (waiter, leader) = flights.join(NAME, &Tags::default());
    if let Some(leader) = leader {
        // This call is dropped, and its load notices that.
        drop(waiter);
        if let Some(leader) = give_up(leader) {
            leader.finish(outcome(0));
        }
        return;
    }
    assert!(wait(waiter).is_some(), "{GETS_ONE}");
}

fn scenario(give_up: GiveUp) {
    let flights = Arc::new(Flights::default());
    let callers = [(); 3].map(|()| {
        let flights = flights.clone();
        thread::spawn(move || call(&flights, give_up))
    });
    for caller in callers {
        let _ = caller.join();
    }
    assert!(flights.lead(NAME, &Tags::default()).is_some(), "a flight that has ended can still be joined");
}

/// Returns whether the notification has arrived that no caller waits.
fn is_notified(leader: &FlightLeader<u64>) -> bool {
    let mut abandoned = pin!(leader.abandoned());
    block_on(poll_fn(|context| Poll::Ready(abandoned.as_mut().poll(context).is_ready())))
}

/// What larder does.
#[test]
fn no_caller_is_left_with_an_abandoned_flight() {
    holds("abandoned flights", || {
        scenario(
            |leader| {
                if is_notified(&leader) && leader.end_if_abandoned() { None } else { Some(leader) }
            },
        );
    });
}

/// The mistake: a caller may join between the notification that no caller waits and the end.
#[test]
fn a_flight_that_ends_at_the_notification_that_no_caller_waits_is_caught() {
    breaks("given up at the notification", &[GETS_ONE], || {
        scenario(|leader| if is_notified(&leader) { None } else { Some(leader) });
    });
}
