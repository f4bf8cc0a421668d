//! The queue of invalidations.

use larder_models::queue::{KEPT, Mistake, Names, OWN, Tags};
use larder_models::{breaks, holds};

fn names(mistake: Option<Mistake>) -> Names {
    Names { rows: 2, sets: 2, mistake }
}

fn tags(mistake: Option<Mistake>) -> Tags {
    Tags { rows: 2, mistake }
}

#[test]
fn deletions_beside_sets_leave_nothing_older_and_take_nothing_newer_away() {
    holds("queued deletions", names(None));
}

#[test]
fn tags_after_their_epoch_leave_nothing_older_to_be_served() {
    holds("queued tags", tags(None));
}

#[test]
fn an_answer_that_removes_a_newer_item_is_caught() {
    breaks("no generations", OWN, names(Some(Mistake::NoGenerations)));
}

#[test]
fn a_deletion_sent_beside_a_set_is_caught() {
    breaks("sent beside a writer", KEPT, names(Some(Mistake::SentBesideWriter)));
}

#[test]
fn a_set_beside_a_deletion_on_its_way_is_caught() {
    breaks("set beside what is sent", KEPT, names(Some(Mistake::SetBesideSent)));
}

#[test]
fn a_set_that_removes_what_was_queued_since_it_began_is_caught() {
    breaks("removes newer", OWN, names(Some(Mistake::RemovesNewer)));
}

#[test]
fn a_tag_sent_before_its_epoch_is_caught() {
    breaks("the tag first", OWN, tags(Some(Mistake::TagFirst)));
}

#[test]
fn an_epoch_that_counts_for_tags_queued_since_it_was_sent_is_caught() {
    breaks("the epoch of the answer", OWN, tags(Some(Mistake::EpochOfAnswer)));
}
