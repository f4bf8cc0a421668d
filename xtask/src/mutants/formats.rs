//! Mistakes in formats, envelopes and keys.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const CHECKED: &str = "crates/larder/src/value/checked.rs";
const ENVELOPE: &str = "crates/larder/src/envelope.rs";
const FORMAT: &str = "crates/larder/src/value/format.rs";
const KEY: &str = "crates/larder/src/key.rs";
const VALUE: &str = "crates/larder/src/value/mod.rs";

const DAMAGED: Test = test("wire_format", "a_value_cut_anywhere_or_with_any_byte_changed_is_a_miss");
const REFUSED: Test = test("formats", "what_json_would_change_is_refused_on_each_store");
const GIVES_BACK: Test = unit("value::tests::every_format_gives_back_what_it_was_given");

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "the checksum is not compared",
        &[switched(ENVELOPE, "checksum != crc(bytes)", "false")],
        &[DAMAGED, unit("value::tests::damaged_values_are_unreadable")],
    ),
    mutant(
        "the checksum leaves the payload out",
        &[switched(ENVELOPE, "hasher.update(bytes.get(CHECKSUM.end..).unwrap_or_default());", "")],
        &[DAMAGED, test("wire_format", "what_larder_writes_reads_as_the_page_says")],
    ),
    mutant(
        "a layout of the future is read",
        &[switched(ENVELOPE, "magic != MAGIC || layout != LAYOUT", "magic != MAGIC")],
        &[test("wire_format", "an_unknown_layout_is_a_miss_that_is_counted_and_loaded_over")],
    ),
    mutant(
        "a stranger's word decides how much memory is taken",
        &[switched(FORMAT, "length > max_bytes", "false")],
        &[
            unit("value::tests::decompression_stops_at_the_maximum"),
            test("security", "a_stored_value_that_claims_to_be_huge_takes_no_memory"),
        ],
    ),
    mutant(
        "JSON takes what is no number",
        &[rebuilt(CHECKED, "const ANY_FLOAT: bool = false;", "const ANY_FLOAT: bool = true;")],
        &[REFUSED],
    ),
    mutant(
        "nothing within something is written",
        &[switched(CHECKED, "Position { within_some: true, ..self.place }", "self.place")],
        &[REFUSED],
    ),
    mutant(
        "depth is not counted",
        &[switched(CHECKED, "self.place.levels.checked_sub(containers)", "Some(self.place.levels)")],
        &[test("formats", "depth_is_carried_to_what_the_decoder_reads_and_refused_beyond")],
    ),
    mutant(
        "a round trip is never verified",
        &[within(VALUE, "if ", ["!self.verify", "true"], " {")],
        &[test("formats", "a_value_that_is_read_back_different_is_refused_by_the_verified_round_trip")],
    ),
    mutant(
        "a value in a new envelope keeps its nonce",
        &[switched(VALUE, "envelope.nonce = nonce;", "let _ = nonce;")],
        &[test("refresh", "a_refresh_under_way_is_invalidated_by_an_expire")],
    ),
    mutant(
        "a value of any size is stored",
        &[switched(VALUE, "bytes > self.max_bytes", "false")],
        &[test("cache", "a_key_or_value_that_is_too_large_is_refused_and_nothing_is_lost")],
    ),
    mutant(
        "a colon within a tuple is not escaped",
        &[switched(KEY, "(self.within_tuple && c == ':')", "false")],
        &[test("wire_format", "distinct_tuples_never_meet_on_the_server")],
    ),
    mutant(
        "a percent sign is not escaped",
        &[switched(KEY, "matches!(c, '%' | '{' | '}')", "matches!(c, '{' | '}')")],
        &[test("wire_format", "distinct_entries_never_meet_on_the_server")],
    ),
    mutant(
        "bare JSON of others is taken for damage",
        &[switched(VALUE, "bytes.first() != Some(&envelope::MAGIC)", "bytes.is_empty()")],
        &[
            unit("value::tests::bare_json_of_another_program_is_read"),
            test("near", "bare_json_is_kept_near_too"),
        ],
    ),
    mutant(
        "MessagePack is read as machines write it",
        &[rebuilt(
            FORMAT,
            "rmp_serde::Deserializer::from_read_ref(payload).with_human_readable()",
            "rmp_serde::Deserializer::from_read_ref(payload)",
        )],
        &[test("formats", "what_serde_reads_from_a_buffer_is_read_back_from_both_formats")],
    ),
    mutant(
        "a compressed value does not say so",
        &[switched(VALUE, "envelope.compression = PayloadCompression::Lz4;", "")],
        &[GIVES_BACK],
    ),
    mutant(
        "the end of freshness is written for an expiry",
        &[switched(
            ENVELOPE,
            "if expires == 1 { self.expires_at } else { self.fresh_until }",
            "self.fresh_until",
        )],
        &[unit("envelope::tests::what_is_written_is_read_back"), SLOW_END],
    ),
];

const SLOW_END: Test = test("near", "a_copy_ends_with_the_time_to_live_though_the_server_reports_it_late");
