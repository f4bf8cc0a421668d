//! A read-write lock: readers together, writers alone, fences, and writers that become readers.

use larder_models::permits::{self, Mistake, Pool};
use larder_models::{breaks, holds};

/// Two writers, with requests that overtake each other.
const WRITERS: Pool = Pool {
    permits: 2,
    weights: &[2, 2],
    attempts: 1,
    lowered_to: None,
    silence: false,
    under_way: 2,
    rw: true,
    mistake: None,
};

/// A writer between two readers, one request at a time.
const BETWEEN: Pool = Pool { weights: &[1, 2, 1], under_way: 1, ..WRITERS };

fn mistaken(property: &'static str, mistake: Mistake, model: Pool) {
    breaks(&format!("{mistake:?}"), property, Pool { mistake: Some(mistake), ..model });
}

#[test]
fn writers_that_become_readers_let_no_other_in_between() {
    holds("two writers", WRITERS);
    holds("a writer whose requests come in any order", Pool { weights: &[2], under_way: 3, ..WRITERS });
}

#[test]
fn a_writer_between_readers_is_alone_and_none_is_overtaken() {
    holds("a writer between readers", BETWEEN);
}

#[test]
#[ignore = "half a minute; by hand"]
fn two_writers_and_a_reader_take_their_turns() {
    holds("two writers and a reader", Pool { weights: &[2, 2, 1], ..BETWEEN });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test rw_lock -- --ignored"]
fn so_do_more_with_requests_that_overtake_each_other() {
    holds("a writer between readers, two requests", Pool { under_way: 2, ..BETWEEN });
    holds("two writers and two readers", Pool { weights: &[2, 1, 2, 1], ..BETWEEN });
}

#[test]
fn readers_that_overtake_a_writer_are_caught() {
    mistaken(permits::ORDER, Mistake::SmallOvertakes, BETWEEN);
}

#[test]
fn a_reader_that_enters_past_a_waiting_writer_is_caught() {
    mistaken(permits::ORDER, Mistake::TakesPastQueue, BETWEEN);
}

#[test]
fn a_writer_that_enters_beside_a_reader_is_caught() {
    mistaken(permits::GRANTED, Mistake::GrantsPastNumber, BETWEEN);
}

#[test]
fn a_downgrade_that_frees_the_writer_first_is_caught() {
    mistaken(permits::ALONE, Mistake::DowngradeFreesFirst, WRITERS);
}

#[test]
fn a_downgrade_of_a_writer_that_was_lost_is_caught() {
    mistaken(permits::GRANTED, Mistake::ExchangesWhatIsLost, WRITERS);
}

#[test]
fn a_downgrade_that_was_given_up_and_is_not_remembered_is_caught() {
    let model = Pool { weights: &[2], under_way: 3, ..WRITERS };
    mistaken(permits::NO_GHOST, Mistake::ExchangeNotRemembered, model);
}

#[test]
fn a_fence_that_is_the_servers_time_is_caught() {
    mistaken(permits::FENCE, Mistake::FenceIsClock, WRITERS);
}
