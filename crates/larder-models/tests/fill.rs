//! The cold fill.

use larder_models::load::{self, BeginLost, Load, Rules, Tokens};
use larder_models::{Check, breaks, holds};

fn mistaken() -> Rules {
    Rules { late: true, sorted: false, ..Rules::sound() }
}

#[test]
fn two_processes_two_writers_and_late_requests_keep_the_promises() {
    holds("fill and refresh, late requests", Load { rules: Rules { late: true, ..Rules::sound() } });
}

#[test]
fn a_commit_without_its_placeholder_is_caught() {
    let mut rules = mistaken();
    rules.checks.placeholder = Check::LeftOut;
    breaks("unchecked commit", load::STALE, Load { rules });
}

#[test]
fn a_counted_token_is_caught() {
    let rules = Rules { tokens: Tokens::Counted, ..mistaken() };
    breaks("counted token", load::STALE, Load { rules });
}

#[test]
fn going_on_after_a_begin_without_an_answer_is_caught() {
    let rules = Rules { begin_lost: BeginLost::GoesOn, ..mistaken() };
    breaks("trusting a lost begin", load::STALE, Load { rules });
}
