//! A load that is given up when nobody waits for it any more, beside somebody who comes just then.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future::block_on;
use shuttle::thread;

use super::{Flights, Leader, NAME, Tags, outcome, wait};

/// What a caller is promised.
pub const TOLD: &str = "a caller that has joined a flight gets an outcome";

/// Gives the load up, or passes the leader on to be finished.
type GiveUp = fn(Leader<u64>) -> Option<Leader<u64>>;

fn call(flights: &Flights<u64>, give_up: GiveUp) {
    let (waiter, leader) = flights.join(NAME, &Tags::default());
    if let Some(leader) = leader {
        // This call is dropped, and its load learns of it.
        drop(waiter);
        if let Some(leader) = give_up(leader) {
            leader.finish(outcome(0));
        }
        return;
    }
    assert!(wait(waiter).is_some(), "{TOLD}");
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

/// Whether the news that nobody waits has come.
fn hears(leader: &Leader<u64>) -> bool {
    let mut abandoned = pin!(leader.abandoned());
    block_on(poll_fn(|context| Poll::Ready(abandoned.as_mut().poll(context).is_ready())))
}

/// larder's way.
pub fn looked_again() {
    scenario(|leader| if hears(&leader) && leader.end_if_abandoned() { None } else { Some(leader) });
}

/// Somebody may join between the news that nobody waits and the end.
pub fn at_the_news() {
    scenario(|leader| if hears(&leader) { None } else { Some(leader) });
}
