//! The flights of one process: which caller joins which flight, and with what outcome.

mod abandoned;
mod joined;
mod mistaken;
mod refreshed;
mod stored;
mod written;

use shuttle::future::block_on;

use super::flight::{FlightOutcome, FlightWaiter};
use super::lookup::{CachedValue, Source};

const NAME: &str = "user:1";

/// Waits as a `LoadRequest` does; `None` if the flight has ended without an outcome.
fn wait(waiter: FlightWaiter<u64>) -> Option<u64> {
    let FlightWaiter { mut outcome, .. } = waiter;
    let waiting = async { outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
    block_on(waiting).and_then(Result::ok).flatten().map(|cached| cached.value)
}

fn outcome(value: u64) -> FlightOutcome<u64> {
    Ok(Some(CachedValue {
        value,
        source: Source::Loaded,
        nonce: 0,
        written_at: 0,
        fresh_until: 0,
        load_cost: 0,
        clear_version: 0,
    }))
}
