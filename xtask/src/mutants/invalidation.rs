//! Mistakes in invalidation: deletes, clears, tags, and the queue of invalidations that had no reply (C1, C3, C6).

use super::mutant::{Mutant, Test, mutant, switched, test, unit, within};

const INVALIDATE: &str = "crates/larder/src/cache/invalidate.rs";
const LOCAL: &str = "crates/larder/src/cache/local.rs";
/// What keeps a near copy from being served while its invalidation is queued.
const COVERED: &str = "!(self.context.invalidation_queue.is_pending() && self.is_covered(&name()?))";
const QUEUE: &str = "crates/larder/src/invalidation/queue.rs";
const SENDER: &str = "crates/larder/src/invalidation/sender.rs";
const WRITE_GUARD: &str = "crates/larder/src/cache/write_guard.rs";
const TABLE: &str = "crates/larder/src/invalidation/table.rs";
const TAG: &str = "crates/larder/src/cache/tag.rs";
const VERDICT: &str = "crates/larder/src/cache/validity.rs";

const BETWEEN: Test =
    test("between", "a_load_that_ends_between_the_two_writes_of_an_invalidation_is_not_served_after_it");
const KNOWN_AGAIN: Test =
    test("queued", "a_tag_whose_invalidation_is_queued_is_invalid_though_its_old_version_is_known_again");
const NOT_READ: Test = test("queued", "what_was_written_and_is_queued_is_not_read_in_any_way");
const NOPERM: Test = test(
    "queued",
    "a_refused_invalidation_stays_queued_is_read_around_and_reported_and_is_sent_once_permitted",
);
const LATE_ANSWER: Test = unit("invalidation::queue::tests::a_late_answer_does_not_remove_a_newer_item");
const AFTER_EPOCH: Test =
    unit("invalidation::queue::tests::a_tag_waits_for_an_epoch_that_was_sent_after_it_was_queued");
const WRITTEN: Test = unit(
    "invalidation::queue::tests::a_write_that_was_carried_out_removes_what_was_queued_before_it_and_nothing_newer",
);
const DROPPED: Test =
    unit("invalidation::queue::tests::after_a_sender_that_ended_early_another_knows_of_everything");
const AWAY: Test =
    unit("invalidation::sender::tests::a_node_that_is_away_holds_up_no_other_and_is_asked_ever_less");
const REFUSED: Test = unit("invalidation::sender::tests::what_the_server_refuses_stays_and_holds_up_nothing");

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a clear leaves the version that is known here",
        &[switched(INVALIDATE, "context.invalidations.versions.changed(&shared.clear);", "")],
        &[test("between", "a_clear_is_seen_by_its_own_larder_though_no_push_reports_it")],
    ),
    mutant(
        "an invalidated tag leaves the version that is known here",
        &[switched(TAG, "context.invalidations.versions.changed(&name);", "")],
        &[test("between", "an_invalidated_tag_is_seen_by_its_own_larder_though_no_push_reports_it")],
    ),
    mutant(
        "a clear leaves the loads under way",
        &[switched(INVALIDATE, "shared.flights.detach_all();", "")],
        &[test("invalidated", "a_load_after_a_clear_starts_again_and_waits_for_no_earlier_load")],
    ),
    mutant(
        "an invalidated tag leaves the loads under way",
        &[switched(TAG, "context.caches.detach_tagged(tag);", "")],
        &[test("invalidated", "a_load_after_a_loaders_tag_was_invalidated_never_gets_the_old_row")],
    ),
    mutant(
        "a write leaves the loads under way",
        &[switched(WRITE_GUARD, "cache.shared.flights.detach(names);", "")],
        &[test("load", "a_load_that_starts_after_a_delete_sees_nothing_older")],
    ),
    mutant(
        "the tag is replaced before the epoch",
        &[
            within(
                TAG,
                ".renew_version(&",
                ["self.context.keyspace.epoch()", "self.context.keyspace.tag(&self.tag)"],
                ", ",
            ),
            within(TAG, "store.renew_version(&", ["name", "self.context.keyspace.epoch()"], ", "),
        ],
        &[BETWEEN],
    ),
    mutant(
        "the epoch is not replaced",
        &[within(
            TAG,
            ".renew_version(&",
            ["self.context.keyspace.epoch()", "self.context.keyspace.tag(&self.tag)"],
            ", ",
        )],
        &[test(
            "invalidated",
            "what_was_read_before_its_loaders_tag_was_invalidated_is_never_stored_after_it",
        )],
    ),
    mutant(
        "a write that was not answered is not queued",
        &[switched(
            WRITE_GUARD,
            "!context.is_embedded() && each().any(|(_, answer)| answer == WriteReply::None)",
            "false",
        )],
        &[test("outage", "a_write_that_times_out_is_queued_and_made_up_for"), NOT_READ],
    ),
    mutant(
        "a clear that was not answered is not queued",
        &[switched(INVALIDATE, "context.queue_clear(&shared.clear);", "")],
        &[NOT_READ],
    ),
    mutant(
        "a tag that was not answered is not queued",
        &[switched(TAG, "context.queue_tag(&name);", "")],
        &[NOT_READ],
    ),
    mutant(
        "what is queued to be deleted is served",
        &[within(
            QUEUE,
            "let table = self.table();\n        ",
            ["table.items.contains_key(name)", "false"],
            " || ",
        )],
        &[NOT_READ],
    ),
    mutant(
        "what is queued to be cleared is served",
        &[switched(QUEUE, "table.items.contains_key(clear)", "false")],
        &[NOT_READ],
    ),
    mutant(
        "a near copy is served though its deletion is queued",
        &[
            switched(LOCAL, COVERED, "true"),
            switched(WRITE_GUARD, "cache.shared.forget_near(names.iter().copied());", ""),
        ],
        &[test("queued", "a_read_that_began_before_its_queued_delete_was_carried_out_gives_nothing_older")],
    ),
    mutant(
        "near reads of all names are bypassed while one is queued",
        &[switched(LOCAL, COVERED, "!self.context.invalidation_queue.is_pending()")],
        &[NOPERM],
    ),
    mutant(
        "what was refused is not counted",
        &[within(QUEUE, "if ", ["refused", "false"], " {\n            self.refused")],
        &[NOPERM, REFUSED],
    ),
    mutant(
        "a queued tag counts as valid",
        &[within(VERDICT, "let queued = ", ["context.invalidation_queue.replaces(&name)", "false"], ";")],
        &[KNOWN_AGAIN],
    ),
    mutant(
        "near copies of a queued tag are served",
        &[within(
            VERDICT,
            "known.version == *version) && ",
            ["!context.invalidation_queue.replaces(&name)", "true"],
            "",
        )],
        &[KNOWN_AGAIN],
    ),
    mutant(
        "a late answer removes a newer item",
        &[within(QUEUE, "Some(item) if ", ["item.generation == work.generation", "true"], " => {")],
        &[
            LATE_ANSWER,
            unit("invalidation::sender::tests::what_is_queued_again_while_it_is_on_its_way_is_sent_again"),
        ],
    ),
    mutant(
        "a tag does not wait for the epoch",
        &[switched(QUEUE, "item.kind == Invalidation::Tag && item.generation > epoch_replaced", "false")],
        &[
            AFTER_EPOCH,
            unit("invalidation::sender::tests::hundreds_of_tags_take_a_few_round_trips_and_follow_the_epoch"),
        ],
    ),
    mutant(
        "an epoch that was sent before a tag was queued counts for it",
        &[within(
            QUEUE,
            "table.epoch_replaced = ",
            ["table.epoch_replaced.max(work.taken_at)", "table.generation"],
            ";",
        )],
        &[AFTER_EPOCH],
    ),
    mutant(
        "a deletion is sent beside a write",
        &[within(QUEUE, "if ", ["written", "false"], " {\n            // `end_write` lists it again.")],
        &[
            WRITTEN,
            unit("invalidation::sender::tests::what_waits_for_a_write_is_sent_when_the_write_has_failed"),
        ],
    ),
    mutant(
        "a write removes an item that is newer than itself",
        &[within(QUEUE, "if carried_out && ", ["item.generation <= began", "true"], " && ")],
        &[WRITTEN],
    ),
    mutant(
        "a sender that ends early leaves its items in flight",
        &[switched(QUEUE, "(item.in_flight, item.listed) = (false, true);", "")],
        &[DROPPED],
    ),
    mutant(
        "a node that is away is asked without a pause",
        &[switched(SENDER, "waiting.failed(Instant::now());", "")],
        &[AWAY],
    ),
    mutant(
        "what was refused is forgotten",
        &[switched(SENDER, "self.refused.push_back((due, work.name));", "drop((due, work.name));")],
        &[REFUSED, NOPERM],
    ),
    mutant(
        "the queue has no bound",
        &[switched(TABLE, "self.taken() > MOST_BYTES", "false")],
        &[unit("invalidation::queue::tests::a_full_queue_clears_the_cache_that_fills_it_and_no_other")],
    ),
];
