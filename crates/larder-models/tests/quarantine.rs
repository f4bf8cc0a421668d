//! A lock with quarantine: failovers that lose it, back and forth, and masters that go on.

use larder_models::quarantine::{Failover, Mistake, ONE_HOLDER};
use larder_models::{breaks, holds};

/// Two callers with leases as long as the quarantine, and masters that stop before another is promoted.
const BACK_AND_FORTH: Failover =
    Failover { longest: &[2, 2], lease: 2, stops_within: 0, failovers: 2, attempts: 2, mistake: None };

fn mistaken(mistake: Mistake) {
    breaks(&format!("{mistake:?}"), ONE_HOLDER, Failover { mistake: Some(mistake), ..BACK_AND_FORTH });
}

#[test]
fn no_two_holders_are_valid_through_failovers_that_lose_the_lock() {
    holds("quarantine, back and forth", BACK_AND_FORTH);
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test quarantine -- --ignored"]
fn nor_do_three_callers_through_three_failovers() {
    holds(
        "quarantine, three times",
        Failover { longest: &[3, 3, 3], failovers: 3, lease: 3, ..BACK_AND_FORTH },
    );
}

#[test]
fn without_quarantine_two_holders_are_found() {
    mistaken(Mistake::None);
}

#[test]
fn a_master_that_goes_on_beside_the_promoted_one_is_caught_however_long_the_quarantine() {
    let model = Failover { longest: &[9, 9], stops_within: 1, failovers: 1, attempts: 1, ..BACK_AND_FORTH };
    breaks("an old master", ONE_HOLDER, model);
}

#[test]
fn a_lease_that_is_longer_than_the_quarantine_is_caught() {
    breaks("a long lease", ONE_HOLDER, Failover { lease: 3, ..BACK_AND_FORTH });
}

#[test]
fn callers_that_state_different_longest_leases_are_caught() {
    breaks("two quarantines", ONE_HOLDER, Failover { longest: &[2, 1], ..BACK_AND_FORTH });
}

#[test]
fn a_run_id_which_is_the_same_again_is_caught() {
    mistaken(Mistake::RunId);
}

#[test]
fn an_id_that_was_read_before_is_caught() {
    mistaken(Mistake::IdReadBefore);
}

#[test]
fn a_lock_without_a_marker_that_is_granted_at_once_is_caught() {
    mistaken(Mistake::NoMarkerIsFine);
}

#[test]
fn a_quarantine_whose_end_is_not_kept_is_caught() {
    mistaken(Mistake::EndNotKept);
}
