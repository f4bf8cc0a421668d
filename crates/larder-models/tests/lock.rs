//! Locks: their line, their claims, their deadlines.

use larder_models::lock::{self, LockQueue, Mistake};
use larder_models::{breaks, holds};

fn mistaken(mistake: Mistake) -> LockQueue {
    LockQueue { processes: 2, attempts: 2, mistake: Some(mistake) }
}

#[test]
fn two_processes_that_pause_die_and_lose_answers_never_both_hold_a_lock() {
    holds("locks of two processes", LockQueue { processes: 2, attempts: 1, mistake: None });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test lock -- --ignored"]
fn nor_when_each_tries_twice() {
    holds("locks of two processes that try twice", LockQueue { processes: 2, attempts: 2, mistake: None });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test lock -- --ignored"]
fn nor_do_three() {
    holds("locks of three processes", LockQueue { processes: 3, attempts: 1, mistake: None });
}

#[test]
fn a_release_without_the_token_check_is_caught() {
    breaks("no token check", lock::ONE_HOLDER, mistaken(Mistake::NoTokenCheck));
}

#[test]
fn a_deadline_without_the_drift_margin_is_caught() {
    breaks("no margin", lock::ONE_HOLDER, mistaken(Mistake::NoMargin));
}

#[test]
fn a_renewal_that_revives_is_caught() {
    breaks("reviving extend", lock::STAYS_LOST, mistaken(Mistake::RevivingExtend));
}

#[test]
fn a_deadline_counted_from_a_push_is_caught() {
    breaks("deadline from the push", lock::ONE_HOLDER, mistaken(Mistake::DeadlineFromPush));
}

#[test]
fn a_deadline_counted_from_the_answer_is_caught() {
    breaks("deadline from the answer", lock::ONE_HOLDER, mistaken(Mistake::DeadlineFromAnswer));
}

#[test]
fn an_attempt_that_is_given_up_and_not_remembered_is_caught() {
    breaks("no tombstone", lock::NO_GHOST, mistaken(Mistake::NoTombstone));
}
