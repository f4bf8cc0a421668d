//! Mistakes in reading, writing and loading (C1, C3 to C6).

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const CLAIM: &str = "crates/larder/src/cache/claim.rs";
const CONDITIONAL: &str = "crates/larder/src/cache/conditional.rs";
const FETCH: &str = "crates/larder/src/cache/fetch.rs";
const FILL: &str = "crates/larder/src/cache/fill.rs";
const SHARED: &str = "crates/larder/src/cache/mod.rs";
const ONCE: &str = "crates/larder/src/cache/once.rs";
const ONCE_RUN: &str = "crates/larder/src/cache/once_run.rs";
const TAG: &str = "crates/larder/src/cache/tag.rs";
const UNFENCED: &str = "crates/larder/src/cache/unfenced.rs";
const VERDICT: &str = "crates/larder/src/cache/validity.rs";
const BEGIN_FILL: &str = "crates/larder/src/store/redis/lua/cache/begin_fill.lua";
const BEGIN_ONCE: &str = "crates/larder/src/store/redis/lua/cache/begin_once.lua";
const BEGIN_REFRESH: &str = "crates/larder/src/store/redis/lua/cache/begin_refresh.lua";
const COMMIT_FILL: &str = "crates/larder/src/store/redis/lua/cache/commit_fill.lua";
const COMMIT_REFRESH: &str = "crates/larder/src/store/redis/lua/cache/commit_refresh.lua";
const RENEW_ONCE: &str = "crates/larder/src/store/redis/lua/cache/renew_once.lua";
const RESTAMP: &str = "crates/larder/src/store/redis/lua/cache/restamp.lua";
const VERSION: &str = "crates/larder/src/store/redis/lua/cache/version.lua";

const NONCE_DIFFERS: &str = "if redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[1] then";
const IS_MISSING: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then";

const EQUIVALENCE: Test = unit("store::equivalence::both_stores_answer_the_same_to_every_history");
const EPOCH: Test = test(
    "between",
    "a_value_whose_loaders_tag_is_invalidated_between_the_reads_of_tag_and_epoch_is_not_stored",
);
const EXPIRE: Test = test(
    "between",
    "what_is_set_between_the_read_and_the_write_of_an_expire_is_not_replaced_by_the_old_value",
);
const CLAIMED: Test = test("between", "what_is_set_between_the_read_and_the_claim_of_a_load_is_its_answer");
const LATE_BEGIN: Test = unit(
    "store::equivalence::a_run_that_is_abandoned_before_its_begin_arrives_does_not_begin_and_leaves_the_next_alone",
);
const REPLACED: Test = test(
    "once",
    "what_is_replaced_all_the_time_by_what_does_not_count_ends_a_call_after_a_few_attempts_with_pauses",
);
const LOADER_TAG: Test =
    test("invalidated", "what_was_read_before_its_loaders_tag_was_invalidated_is_never_stored_after_it");

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "the epoch is read before the versions of the loader's tags",
        &[rebuilt(
            FILL,
            "        let (_, versions) = cache.bounded(cache.versions(tags, cache.version_span(ttl))).await?;
        let now = cache.bounded(tag::current_epoch(&cache.context)).await?;
",
            "        let now = cache.bounded(tag::current_epoch(&cache.context)).await?;
        let (_, versions) = cache.bounded(cache.versions(tags, cache.version_span(ttl))).await?;
",
        )],
        &[EPOCH],
    ),
    mutant(
        "the epoch is not compared",
        &[switched(FILL, "epoch.is_some() && now == epoch", "epoch.is_some()")],
        &[LOADER_TAG],
    ),
    mutant(
        "a fill is stored over anything",
        &[rebuilt(COMMIT_FILL, "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", IS_MISSING)],
        &[test("invalidated", "what_was_read_before_a_set_is_never_stored_after_it"), EQUIVALENCE],
    ),
    mutant(
        "a claim is put over anything",
        &[rebuilt(
            BEGIN_FILL,
            "if there and there ~= '' and there ~= ARGV[3] then",
            "if there == ARGV[1] then",
        )],
        &[CLAIMED, EQUIVALENCE],
    ),
    mutant(
        "a refresh is claimed whatever the value is by now",
        &[rebuilt(BEGIN_REFRESH, NONCE_DIFFERS, IS_MISSING)],
        &[CLAIMED, EQUIVALENCE],
    ),
    mutant(
        "a refresh is stored over anything that is there",
        &[rebuilt(COMMIT_REFRESH, NONCE_DIFFERS, IS_MISSING)],
        &[test("invalidated", "what_was_read_before_a_set_is_never_stored_after_it"), EQUIVALENCE],
    ),
    mutant(
        "a refresh is stored over a value of another nonce",
        &[rebuilt(
            COMMIT_REFRESH,
            NONCE_DIFFERS,
            "if redis.call('GETRANGE', KEYS[1], 0, 1) ~= string.char(154, 1) then",
        )],
        &[test("invalidated", "what_was_read_before_a_set_is_never_stored_after_it"), EQUIVALENCE],
    ),
    mutant(
        "a refresh is stored though its claim is another's",
        &[rebuilt(
            COMMIT_REFRESH,
            "if redis.call('GET', KEYS[2]) ~= ARGV[2] then",
            "if redis.call('EXISTS', KEYS[2]) == 0 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a value gets another envelope whatever it is by now",
        &[rebuilt(RESTAMP, NONCE_DIFFERS, IS_MISSING)],
        &[
            EXPIRE,
            test("between", "what_is_written_between_the_read_and_the_write_of_a_touch_stays_as_it_is"),
        ],
    ),
    mutant(
        "each question gives a version another number",
        &[rebuilt(VERSION, "if not version then", "if true then")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a claim stays when its load has failed",
        &[switched(
            CLAIM,
            "abandon_in_background(&self.context, self.entry.clone(), claim);",
            "drop(claim);",
        )],
        &[test("loader", "a_key_whose_load_elsewhere_stored_nothing_is_loaded_after_all")],
    ),
    mutant(
        "a claim is not renewed",
        &[switched(CLAIM, "under_way.spawn(renew(context.clone(), entry, claim));", "drop((entry, claim));")],
        &[test("wire_format", "a_placeholder_and_a_refresh_claim_are_renewed_while_their_loader_runs")],
    ),
    mutant(
        "a stale value is served as fresh",
        &[within(
            VERDICT,
            "EnvelopeKind::Value if ",
            ["meta.fresh_until != 0 && meta.fresh_until <= now", "now == 0"],
            " =>",
        )],
        &[test("refresh", "a_stale_value_is_nothing_to_get_and_get_or_load_loads")],
    ),
    mutant(
        "the version of a clear is not compared",
        &[within(
            VERDICT,
            "Some(Some((version, stamp))) if ",
            ["version == meta.clear_version", "version != 0"],
            " =>",
        )],
        &[test("invalidated", "what_was_read_before_a_clear_is_never_served_after_it")],
    ),
    mutant(
        "the versions of tags are not compared",
        &[within(VERDICT, "Some(Some((current, _))) if ", ["current == *version", "current != 0"], " =>")],
        &[test("cache", "an_invalidated_tag_invalidates_all_that_carry_it_and_nothing_else")],
    ),
    mutant(
        "a known absence is loaded again",
        &[within(
            FILL,
            "Lookup::Absent(_) if ",
            ["self.reason == Reason::Missing && self.optional", "false"],
            " =>",
        )],
        &[test("loader", "an_absence_that_one_program_found_is_known_to_the_other")],
    ),
    mutant(
        "a caller that needs a value gets the answer that there is none",
        &[within(
            FILL,
            "Lookup::Absent(_) if self.reason == Reason::Missing && ",
            ["self.optional", "true"],
            " =>",
        )],
        &[test("loader", "a_remembered_absence_is_a_miss_for_calls_that_need_a_value")],
    ),
    mutant(
        "jitter lengthens",
        &[switched(
            SHARED,
            "1.0 - self.policy.jitter * self.context.random.fraction()",
            "1.0 + self.policy.jitter * self.context.random.fraction()",
        )],
        &[test("cache", "jitter_shortens_times_to_live_within_its_share")],
    ),
    mutant(
        "in an outage all loaders run at once",
        &[switched(FILL, "place(&self.cache, &leaders).await", "None")],
        &[test("outage", "while_the_server_is_away_only_so_many_loaders_run_at_once")],
    ),
    mutant(
        "an outage is a miss",
        &[switched(FETCH, "store.get(&entry).await?", "store.get(&entry).await.unwrap_or_default()")],
        &[test("outage", "while_the_server_is_away_a_get_is_an_error_and_no_miss")],
    ),
    mutant(
        "a version is kept no longer than what carries it",
        &[switched(SHARED, "ttl.max(SHORTEST_SPAN)", "ttl / 4")],
        &[test("wire_format", "a_version_outlives_what_carries_it")],
    ),
    mutant(
        "a loader's panic is not caught",
        &[switched(
            FILL,
            "ended.unwrap_or_else(|panic| Err(LoadFailure::Panicked(message(&*panic))))",
            "ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))",
        )],
        &[test("load", "a_panicking_loader_is_an_error_and_harms_no_other_caller")],
    ),
    mutant(
        "a value that is not to be stored is stored",
        &[switched(FILL, "choices.unstored", "false")],
        &[test("loader", "a_value_that_is_not_to_be_stored_is_returned_to_all_waiters")],
    ),
    mutant(
        "bare JSON that was read before a write is stored after it",
        &[switched(UNFENCED, "marks.writers == 0 && marks.count == self.seen", "true")],
        &[unit("cache::unfenced::tests::a_write_that_begins_or_ends_during_a_load_keeps_it_from_storing")],
    ),
    mutant(
        "a write does not wait for bare JSON that is being stored",
        &[switched(UNFENCED, "drop(held.record.storing.lock().await);", "let _ = held;")],
        &[unit("cache::unfenced::tests::a_write_waits_for_a_value_that_is_being_stored")],
    ),
    mutant(
        "an entry carries any number of tags",
        &[switched(TAG, "count > MOST_TAGS", "false")],
        &[test("cache", "an_entry_carries_64_tags_and_no_more")],
    ),
    mutant(
        "a call that tries again and again makes no pause",
        &[switched(CONDITIONAL, "attempt > 2", "false"), switched(ONCE, "attempts > 2", "false")],
        &[REPLACED],
    ),
    mutant(
        "a call tries again and again for ever",
        &[switched(ONCE, "attempts > MOST_ATTEMPTS", "false")],
        &[REPLACED],
    ),
    mutant(
        "a result that could not be stored is forgotten",
        &[within(
            ONCE_RUN,
            "Err(error) if error.is_retryable() && ",
            ["end.is_none_or(|end| Instant::now() < end)", "false"],
            " => {",
        )],
        &[test("once", "a_result_that_is_there_while_the_server_is_away_is_given_and_stored_later")],
    ),
    mutant(
        "the mark of a call that was given up stays",
        &[within(ONCE_RUN, "if ", ["!self.armed", "true"], " {")],
        &[
            test(
                "once",
                "a_call_that_is_given_up_before_its_begin_was_answered_runs_nothing_and_leaves_the_key_free",
            ),
            test("once", "work_that_failed_is_run_by_the_next_caller"),
        ],
    ),
    mutant(
        "the mark of a run ends with the time to live of its result",
        &[switched(ONCE, "kept.max(SHORTEST_MARK)", "kept")],
        &[test("once", "work_that_takes_longer_than_its_result_is_kept_runs_once_all_the_same")],
    ),
    mutant(
        "signs of life of a run have the connection of the background alone",
        &[switched(ONCE_RUN, "ask(context.store().unwrap_or(own))", "ask(own)")],
        &[test(
            "runtimes",
            "without_the_connection_of_background_work_locks_and_runs_are_kept_and_those_of_dropped_guards_are_freed",
        )],
    ),
    mutant(
        "a sign of life does not keep the mark of a run",
        &[rebuilt(RENEW_ONCE, "if redis.call('PTTL', KEYS[1]) < ARGV[3] / 2 then", "if false then")],
        &[unit("store::equivalence::a_run_that_shows_signs_of_life_keeps_its_mark")],
    ),
    mutant(
        "a run does not keep others from running",
        &[rebuilt(BEGIN_ONCE, "if redis.call('GET', KEYS[2]) then", "if false then")],
        &[test("once", "of_two_processes_that_race_for_a_key_one_runs_its_work_and_both_get_that_result")],
    ),
    mutant(
        "a run that was given up begins when its request arrives",
        &[rebuilt(BEGIN_ONCE, "if redis.call('GET', KEYS[4]) then", "if false then")],
        &[LATE_BEGIN],
    ),
];
