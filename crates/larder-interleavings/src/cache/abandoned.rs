//! A load that is given up when nobody waits for it any more, beside somebody who comes just then.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::{Flights, Leader, NAME, Tags, outcome, wait};

/// What a caller is promised.
pub const TOLD: &str = "who has joined a flight is not left with none";

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

/// larder's way.
pub fn looked_again() {
    scenario(|leader| {
        // Somebody who joins at once and is told by nobody else would keep this waiting: the load itself ends then.
        if leader.end_if_abandoned() { None } else { Some(leader) }
    });
}

/// Somebody may join between the news that nobody waits and the end.
pub fn at_the_news() {
    scenario(|leader| if leader.end_if_unguarded() { None } else { Some(leader) });
}

impl Leader<u64> {
    fn end_if_unguarded(&self) -> bool {
        let mut abandoned = std::pin::pin!(self.abandoned());
        block_on(std::future::poll_fn(|context| {
            std::task::Poll::Ready(abandoned.as_mut().poll(context).is_ready())
        }))
    }
}
