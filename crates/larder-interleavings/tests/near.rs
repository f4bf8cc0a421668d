//! The near tier.
#![cfg(larder_interleavings)]

use larder_interleavings::{breaks, broken, cleared, copied, holds, tagged};

#[test]
fn copies_that_are_told_of_by_name_are_never_old() {
    holds("copies, told by name", copied::by_name);
}

#[test]
fn copies_that_are_told_of_all_at_once_are_never_old() {
    holds("copies, told all at once", copied::as_all);
}

#[test]
fn the_small_tier_is_sound_without_its_mistakes() {
    holds("the small tier", copied::unmistaken);
}

#[test]
fn an_insert_without_the_ticket_is_caught() {
    breaks("no ticket", &[copied::OWN, copied::COHERENT], copied::unchecked);
}

#[test]
fn an_insert_without_the_lock_is_caught() {
    breaks("insert without the lock", &[copied::OWN, copied::COHERENT], copied::unguarded);
}

#[test]
fn a_removal_before_the_number_moves_is_caught() {
    breaks("removes first", &[copied::OWN, copied::COHERENT], copied::removes_first);
}

#[test]
fn an_emptying_before_the_numbers_move_is_caught() {
    breaks("clears first", &[copied::OWN, copied::COHERENT], copied::clears_first);
}

#[test]
fn a_cleared_cache_serves_nothing_old() {
    holds("a cache that is cleared", cleared::version_first);
}

#[test]
fn copies_that_go_before_their_version_are_caught() {
    breaks("copies before the version", &[cleared::OWN, cleared::COHERENT], cleared::copies_first);
}

#[test]
fn an_invalidated_tag_serves_nothing_old() {
    holds("a tag that is invalidated", tagged::compared);
}

#[test]
fn a_tag_that_holds_while_unknown_is_caught() {
    breaks("unknown tags hold", &[tagged::OWN, tagged::COHERENT], tagged::unknown_holds);
}

#[test]
fn counted_versions_are_caught() {
    breaks("counted versions", &[tagged::OWN, tagged::COHERENT], tagged::counted);
}

#[test]
fn what_was_read_through_a_broken_connection_is_not_believed() {
    holds("a copy of a broken connection", broken::as_it_was_read);
}

#[test]
fn a_copy_that_counts_as_read_when_it_is_inserted_is_caught() {
    breaks("stamped when inserted", &[larder_interleavings::lanes::OLD], broken::as_of_insertion);
}
