//! Tags, with versions at the server and in memory.

use larder_models::tags::{self, Absent, Guard, Order, Pushes, SecondRead, Tags, Versions};
use larder_models::versions::{self, Memory, OnReturn};
use larder_models::{breaks, holds};

fn plain() -> Tags {
    Tags { pushes: Pushes::Unused, ..Tags::sound() }
}

fn mistaken() -> Tags {
    Tags { processes: 1, ..plain() }
}

#[test]
fn tags_hold_with_versions_at_the_server() {
    holds("tags at the server", plain());
}

#[test]
fn tags_hold_with_versions_in_memory() {
    holds("tags in memory", Tags { rows: 1, ..Tags::sound() });
}

#[test]
fn the_epoch_may_be_looked_up_in_memory_where_pushes_and_replies_arrive_in_order() {
    let tags = Tags { pushes: Pushes::InOrder, second: SecondRead::InMemory, rows: 1, ..Tags::sound() };
    holds("epoch in memory, in order", tags);
}

#[test]
fn an_epoch_in_memory_is_caught_where_pushes_arrive_in_any_order() {
    let tags = Tags { second: SecondRead::InMemory, processes: 1, ..Tags::sound() };
    breaks("epoch in memory, any order", tags::STALE, tags);
}

#[test]
fn counted_versions_are_caught() {
    breaks("counted versions", tags::STALE, Tags { versions: Versions::Counted, ..mistaken() });
}

#[test]
fn a_tag_read_after_the_load_without_an_epoch_is_caught() {
    breaks("no epoch", tags::STALE, Tags { guard: Guard::Nothing, ..mistaken() });
}

#[test]
fn an_epoch_read_again_before_the_tag_is_caught() {
    breaks("epoch before tag", tags::STALE, Tags { guard: Guard::EpochBeforeTag, ..mistaken() });
}

#[test]
fn an_invalidation_that_replaces_the_tag_first_is_caught() {
    breaks("tag before epoch", tags::STALE, Tags { order: Order::TagFirst, ..mistaken() });
}

#[test]
fn an_absent_epoch_taken_for_a_value_is_caught() {
    breaks("absent epoch", tags::STALE, Tags { absent: Absent::IsAValue, ..mistaken() });
}

#[test]
fn own_invalidations_are_seen_in_memory() {
    holds("version in memory", Memory { on_return: OnReturn::DropsBoth });
}

#[test]
fn memory_that_waits_for_the_push_is_caught() {
    breaks("waits for the push", versions::OWN, Memory { on_return: OnReturn::Nothing });
}

#[test]
fn a_fetch_that_outlives_an_invalidation_is_caught() {
    breaks("fetch outlives", versions::OWN, Memory { on_return: OnReturn::DropsMemory });
}

#[test]
fn a_version_put_into_memory_without_being_read_is_caught() {
    breaks("puts its own", versions::COHERENT, Memory { on_return: OnReturn::PutsOwn });
}
