//! The flights of one process.

use larder_models::flight::{self, Detach, Flights, Forced, Old, Rules};
use larder_models::{breaks, holds};

#[test]
fn callers_never_see_less_than_their_process_has_completed() {
    holds("flights", Flights { rules: Rules::sound() });
}

#[test]
fn nor_less_than_a_forced_refresh() {
    let rules = Rules { forced: true, faults: false, remote: false, ..Rules::sound() };
    holds("flights, forced refresh", Flights { rules });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test flight -- --ignored"]
fn nor_less_than_a_forced_refresh_beside_another_process() {
    let rules = Rules { forced: true, faults: false, ..Rules::sound() };
    holds("flights, forced refresh, another process", Flights { rules });
}

#[test]
fn a_flight_that_no_write_detaches_is_caught() {
    let rules = Rules { faults: false, sorted: false, detach: Detach::Never, ..Rules::sound() };
    breaks("never detached", flight::OWN_WRITES, Flights { rules });
}

#[test]
fn a_flight_that_is_detached_before_the_write_is_caught() {
    let rules = Rules { faults: false, sorted: false, detach: Detach::WhenBegun, ..Rules::sound() };
    breaks("detached too early", flight::OWN_WRITES, Flights { rules });
}

#[test]
fn an_old_value_that_another_call_has_found_is_caught() {
    let rules = Rules { faults: false, sorted: false, old: Old::OfTheFlight, ..Rules::sound() };
    breaks("the flight's old value", flight::OWN_WRITES, Flights { rules });
}

#[test]
fn a_forced_refresh_that_joins_is_caught() {
    let rules = Rules { faults: false, sorted: false, forced: true, join: Forced::Joins, ..Rules::sound() };
    breaks("forced refresh joins", flight::OWN_WRITES, Flights { rules });
}

#[test]
fn a_forced_refresh_that_leaves_a_flight_to_be_joined_is_caught() {
    let rules =
        Rules { faults: false, sorted: false, forced: true, join: Forced::FliesBeside, ..Rules::sound() };
    breaks("forced refresh beside a flight", flight::OWN_WRITES, Flights { rules });
}

#[test]
fn a_forced_refresh_that_detaches_only_when_it_starts_is_caught() {
    let rules = Rules { faults: false, forced: true, join: Forced::TakesThePlace, ..Rules::sound() };
    breaks("forced refresh detaches once", flight::OWN_WRITES, Flights { rules });
}
