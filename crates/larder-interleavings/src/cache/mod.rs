//! The flights of one process: which caller joins which flight, and with what result.

pub mod abandoned;
pub mod joined;
mod mistaken;
pub mod refreshed;
pub mod stored;
mod sync;
pub mod written;

#[allow(dead_code, reason = "the scenarios' loaders do not fail")]
#[path = "../../../larder/src/cache/flight.rs"]
mod flight;

#[allow(dead_code, reason = "no loader runs here")]
#[path = "../../../larder/src/cache/nesting.rs"]
mod nesting;
#[allow(dead_code, unreachable_pub, reason = "no loader fails here")]
#[path = "../../../larder/src/cache/thrown.rs"]
mod thrown;
#[allow(dead_code, reason = "the scenarios use a part of it")]
#[path = "../../../larder/src/cache/unfenced.rs"]
mod unfenced;

mod kept {
    /// A value.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct CachedValue<V>(pub(crate) V);
}

use std::sync::PoisonError;

use shuttle::future::block_on;
use shuttle::sync::{Mutex, MutexGuard};

use flight::{FlightLeader, FlightOutcome, Flights, Tags, Waiter};
use kept::CachedValue;
use unfenced::{UnfencedLoad, WriteRecords};

const NAME: &str = "user:1";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits as `caller.rs` does; `None` if the flight has ended without an outcome.
fn wait(waiter: Waiter<u64>) -> Option<u64> {
    let Waiter { outcome: mut waiter, .. } = waiter;
    let waiting = async { waiter.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
    block_on(waiting).and_then(Result::ok).flatten().map(|CachedValue(value)| value)
}

fn outcome(value: u64) -> FlightOutcome<u64> {
    Ok(Some(CachedValue(value)))
}
