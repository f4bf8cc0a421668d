//! A semaphore's queue: batch grants, claims, weights, dead waiters and a number that is lowered.

use larder_models::permits::{self, Mistake, Pool};
use larder_models::{breaks, holds};

/// One permit, and two callers that want it, with requests that overtake each other.
const ONE: Pool = Pool {
    permits: 1,
    weights: &[1, 1],
    attempts: 1,
    lowered_to: None,
    silence: true,
    under_way: 2,
    rw: false,
    mistake: None,
};

/// Two permits, one request at a time, and three callers, of which the second wants both permits.
const WEIGHTS: Pool = Pool { permits: 2, weights: &[1, 2, 1], under_way: 1, silence: false, ..ONE };

fn mistaken(property: &'static str, mistake: Mistake, model: Pool) {
    breaks(&format!("{mistake:?}"), property, Pool { mistake: Some(mistake), ..model });
}

#[test]
fn one_permit_is_held_once_and_an_attempt_that_ends_leaves_nothing() {
    holds("two callers of one permit", ONE);
}

#[test]
fn a_large_request_is_not_overtaken_and_what_is_free_is_granted() {
    holds("callers of several weights", WEIGHTS);
}

#[test]
fn a_number_that_is_lowered_revokes_nothing_and_grants_nothing_beyond_it() {
    holds("a number that is lowered", Pool { lowered_to: Some(1), ..WEIGHTS });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test semaphore -- --ignored"]
fn nor_with_requests_that_overtake_each_other() {
    let model = Pool { under_way: 2, ..WEIGHTS };
    holds("callers of several weights, two requests", model);
    holds("a number that is lowered, two requests", Pool { lowered_to: Some(1), ..model });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test semaphore -- --ignored"]
fn nor_are_four_overtaken_whose_processes_are_silent_for_long() {
    holds("silent callers", Pool { weights: &[1, 1, 2, 1], silence: true, ..WEIGHTS });
}

#[test]
fn a_grant_that_does_not_ask_whether_it_suffices_is_caught() {
    mistaken(permits::GRANTED, Mistake::GrantsPastNumber, WEIGHTS);
}

#[test]
fn a_lease_without_the_drift_margin_is_caught() {
    mistaken(permits::HELD, Mistake::NoMargin, ONE);
}

#[test]
fn a_deadline_that_counts_from_the_answer_is_caught() {
    mistaken(permits::NUMBER, Mistake::DeadlineFromAnswer, ONE);
}

#[test]
fn a_claim_that_ended_and_is_confirmed_is_caught() {
    mistaken(
        permits::GRANTED,
        Mistake::ConfirmsEndedClaim,
        Pool { weights: &[1, 1, 1], under_way: 1, ..ONE },
    );
}

#[test]
fn a_claim_for_as_long_as_a_lease_is_caught() {
    mistaken(permits::ONE_CLAIM, Mistake::ClaimForTtl, ONE);
}

#[test]
fn a_waiter_that_does_not_confirm_and_is_granted_again_is_caught() {
    mistaken(permits::ONE_CLAIM, Mistake::LapsedIsLive, ONE);
}

#[test]
fn small_requests_that_overtake_a_large_one_are_caught() {
    mistaken(permits::ORDER, Mistake::SmallOvertakes, WEIGHTS);
}

#[test]
fn a_caller_that_takes_what_is_free_past_the_queue_is_caught() {
    mistaken(permits::ORDER, Mistake::TakesPastQueue, WEIGHTS);
}

#[test]
fn a_release_that_grants_nothing_is_caught() {
    mistaken(permits::BUSY, Mistake::ReleaseGrantsNothing, ONE);
}

#[test]
fn a_lower_number_that_revokes_what_is_held_is_caught() {
    mistaken(permits::HELD, Mistake::LoweringRevokes, Pool { lowered_to: Some(1), ..WEIGHTS });
}

#[test]
fn an_attempt_that_was_given_up_and_is_not_remembered_is_caught() {
    mistaken(permits::NO_GHOST, Mistake::NoTombstone, ONE);
}
