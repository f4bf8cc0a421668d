//! The flights of one process.
#![cfg(larder_interleavings)]

use larder_interleavings::{abandoned, breaks, holds, joined, refreshed, stored, written};

#[test]
fn one_flight_at_a_time_and_each_told_once() {
    holds("flights", joined::in_order);
}

#[test]
fn the_small_table_is_sound_without_its_mistakes() {
    holds("the small table", joined::unmistaken);
}

#[test]
fn an_outcome_that_is_told_before_the_flight_has_left_is_caught() {
    breaks("tells first", &[joined::ONCE], joined::told_first);
}

#[test]
fn a_second_flight_is_caught() {
    breaks("start without the lock", &[joined::ONE], joined::unguarded);
}

#[test]
fn callers_are_told_nothing_older_than_their_writes() {
    holds("flights beside writes", written::detached_when_ended);
}

#[test]
fn flights_that_are_detached_when_a_write_begins_are_caught() {
    breaks("detached when begun", &[written::OWN], written::detached_when_begun);
}

#[test]
fn flights_that_are_never_detached_are_caught() {
    breaks("never detached", &[written::OWN], written::never_detached);
}

#[test]
fn no_old_row_comes_to_lie_over_a_write() {
    holds("stores without a fence", stored::unless_marked);
}

#[test]
fn no_old_row_that_was_read_during_a_write_comes_to_lie_over_it() {
    holds("stores without a fence, read during a write", stored::unless_a_write_runs);
}

#[test]
fn a_write_that_marks_only_when_it_begins_is_caught() {
    breaks("marked when begun", &[stored::KEPT], stored::marked_when_begun);
}

#[test]
fn a_store_that_only_looked_before_is_caught() {
    breaks("looked before", &[stored::KEPT], stored::looked_before);
}

#[test]
fn nobody_is_left_with_a_flight_that_was_given_up() {
    holds("abandoned flights", abandoned::looked_again);
}

#[test]
fn a_flight_that_ends_at_the_news_that_nobody_waits_is_caught() {
    breaks("given up at the news", &[abandoned::TOLD], abandoned::at_the_news);
}

#[test]
fn callers_are_told_nothing_older_than_a_forced_refresh() {
    holds("forced refresh", refreshed::detached);
}

#[test]
fn flights_left_beside_a_forced_refresh_are_caught() {
    breaks("left beside a refresh", &[refreshed::FORCED], refreshed::left);
}
