//! Turns of rate limits: booked ahead, slept for, woken up for too late and asked for again.

use larder_models::turns::{self, Mistake, Turns};
use larder_models::{breaks, holds};

fn mistaken(mistake: Mistake) {
    let model = Turns { callers: 2, limit: 2, refunds: 2, mistake: Some(mistake) };
    breaks(&format!("{mistake:?}"), turns::BOUND, model);
}

#[test]
fn callers_that_wake_up_late_ask_again_and_never_pass_the_limit() {
    holds("turns of two callers", Turns { callers: 2, limit: 2, refunds: 2, mistake: None });
}

#[test]
fn a_turn_that_is_used_however_late_is_caught() {
    mistaken(Mistake::UsedHoweverLate);
}

#[test]
fn a_turn_that_is_used_and_given_back_is_caught() {
    mistaken(Mistake::UsedAndGivenBack);
}

#[test]
fn a_turn_that_is_given_back_twice_is_caught() {
    mistaken(Mistake::GivenBackTwice);
}

#[test]
fn turns_ahead_that_are_not_counted_are_caught() {
    mistaken(Mistake::AheadLeftOut);
}

#[test]
fn a_turn_that_is_used_before_its_time_is_caught() {
    mistaken(Mistake::UsedEarly);
}
