//! Batches of rate limits: charged to their end, spent by slow clocks, lost and given back.

use larder_models::batch::{self, Batches, Mistake};
use larder_models::{breaks, holds};

fn mistaken(mistake: Mistake) {
    breaks(
        &format!("{mistake:?}"),
        batch::BOUND,
        Batches { processes: 1, limit: 3, requests: 2, mistake: Some(mistake) },
    );
}

#[test]
fn a_process_that_dies_and_loses_answers_never_passes_the_limit() {
    holds("batches of one process", Batches { processes: 1, limit: 3, requests: 2, mistake: None });
}

#[test]
fn nor_do_two() {
    holds("batches of two processes", Batches { processes: 2, limit: 2, requests: 1, mistake: None });
}

#[test]
#[ignore = "a minute: cargo test --release -p larder-models --test batch -- --ignored"]
fn nor_do_two_with_batches_of_several() {
    holds("larger batches of two processes", Batches { processes: 2, limit: 3, requests: 1, mistake: None });
}

#[test]
fn a_batch_charged_to_the_time_of_taking_is_caught() {
    mistaken(Mistake::ChargedWhenTaken);
}

#[test]
fn a_batch_without_the_drift_margin_is_caught() {
    mistaken(Mistake::NoMargin);
}

#[test]
fn a_batch_whose_time_counts_from_the_answer_is_caught() {
    mistaken(Mistake::DeadlineFromAnswer);
}

#[test]
fn a_batch_spent_beyond_its_end_is_caught() {
    mistaken(Mistake::SpentAfterEnd);
}

#[test]
fn a_lost_reply_that_is_spent_anyway_is_caught() {
    mistaken(Mistake::LostReplySpent);
}

#[test]
fn permits_given_back_and_spent_are_caught() {
    mistaken(Mistake::SpentAndGivenBack);
}

#[test]
fn permits_given_back_twice_are_caught() {
    mistaken(Mistake::GivenBackTwice);
}

#[test]
fn an_oldest_bucket_that_is_not_counted_is_caught() {
    mistaken(Mistake::OldestLeftOut);
}

#[test]
fn charges_ahead_that_are_not_counted_are_caught() {
    mistaken(Mistake::AheadLeftOut);
}
