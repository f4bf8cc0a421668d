//! Mistakes in the world for tests, in the attribute, and in what observes loads.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, within};

const fn found(name: &'static str) -> Test {
    test("testing", name)
}

const fn observed(name: &'static str) -> Test {
    test("telemetry", name)
}

const fn attribute(name: &'static str) -> Test {
    test("loader", name)
}

const EXPIRE: Test = found("values_expire_and_become_stale_by_the_worlds_clock_and_not_before");
const LOCKS: Test = found("locks_end_and_are_renewed_and_pass_on_by_the_worlds_clock");
const KEPT: Test = found(
    "testing_clock::what_is_kept_alive_is_renewed_by_the_worlds_clock_and_lost_in_an_outage_longer_than_its_lease",
);
const JOBS: Test = found("testing_clock::periods_retries_and_records_of_jobs_follow_the_worlds_clock");
const LOST: Test = found("a_write_whose_reply_is_lost_took_place_and_a_lost_grant_blocks_nothing");
const OUTAGE: Test = found("in_an_outage_calls_fail_at_once_and_what_was_queued_is_sent_after_it");
const FLUSH: Test = found("an_evicted_entry_is_loaded_again_and_a_flush_takes_locks_and_limits_too");
const PAUSED: Test = found("with_paused_time_every_sleep_moves_the_world_and_with_running_time_none_does");
const SAME: Test = found("testing_history::the_same_seed_gives_the_same_history");
const EARLY: Test =
    observed("traces::an_early_refresh_is_a_root_that_follows_from_its_request_and_does_not_keep_that_open");
const WAITER: Test = observed("traces::a_load_is_a_span_in_that_of_its_leader_and_a_waiter_follows_from_it");
const ONCE: Test =
    observed("health::results_that_run_once_finds_count_as_reads_of_their_keys_near_hits_included");
const OPTIONS: Test =
    attribute("cached::options_choose_the_key_the_time_to_live_the_tags_and_what_is_stored");

const WORLD: &str = "crates/larder/src/store/world.rs";
const CLOCK: &str = "crates/larder/src/clock/world.rs";
const KIT: &str = "crates/larder/src/testing/mod.rs";
const RANDOM: &str = "crates/larder/src/random.rs";
const TRACE: &str = "crates/larder/src/cache/trace.rs";
const RUN_ONCE: &str = "crates/larder/src/cache/once.rs";
const EXPAND: &str = "crates/larder-macros/src/expand.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "the store of a world keeps the machine's time",
        &[within(
            WORLD,
            "let store = MemoryStore::of_world(START, ",
            ["clock()", "Clock::Machine"],
            ", sinks.clone());",
        )],
        &[EXPIRE, LOCKS, JOBS],
    ),
    mutant(
        "a lease's deadline does not follow the world's clock",
        &[switched(KIT, "Clock::World { time: time.clone(), ahead }", "Clock::default()")],
        &[LOCKS, KEPT],
    ),
    mutant(
        "a lost reply is a lost request",
        &[switched(
            WORLD,
            "(server.store(), Replying { failure, latency, server })",
            "(if lost { server.nowhere.clone() } else { server.store() }, Replying { failure, latency, server })",
        )],
        &[LOST],
    ),
    mutant(
        "a read loses its reply",
        &[switched(WORLD, "faults.lost > 0 && !REPEATED.contains(&operation)", "faults.lost > 0")],
        &[LOST],
    ),
    mutant(
        "every reply is lost after the first",
        &[switched(WORLD, "faults.lost -= u32::from(lost);", "")],
        &[LOST],
    ),
    mutant(
        "a load that is paused goes on",
        &[switched(WORLD, "let _ = gone.await;", "drop(gone);")],
        &[found("a_write_between_a_load_and_its_store_wins")],
    ),
    mutant(
        "a reply that is under way survives an outage",
        &[switched(
            WORLD,
            "self.failure.or_else(|| self.server.is_away().then(disconnected))",
            "self.failure",
        )],
        &[OUTAGE],
    ),
    mutant(
        "an outage leaves near copies",
        &[within(
            WORLD,
            "self.faults().away_until = Some(self.tick().after(span));\n        ",
            ["self.sinks.all_changed();", ""],
            "",
        )],
        &[found("near_copies_end_by_the_worlds_clock_and_in_an_outage")],
    ),
    mutant(
        "a slow store answers at once",
        &[switched(WORLD, "tokio::time::sleep(self.latency).await;", "tokio::task::yield_now().await;")],
        &[found("a_slow_store_makes_calls_late_and_may_have_done_what_a_late_call_asked")],
    ),
    mutant(
        "a flush keeps everything",
        &[switched(WORLD, "*store = Arc::new(empty);", "drop(empty);")],
        &[FLUSH],
    ),
    mutant(
        "fences start over after a flush",
        &[switched(WORLD, "store.now_micros() + 1000", "store.now_micros()")],
        &[FLUSH],
    ),
    mutant(
        "only the first process is notified of changes",
        &[switched(WORLD, "sinks.push(sink);", "if sinks.is_empty() { sinks.push(sink); }")],
        &[found("processes_share_the_store_and_see_each_others_changes")],
    ),
    mutant(
        "an advance jumps over what is due in it",
        &[switched(CLOCK, "tokio::time::sleep(span).await;", "tokio::time::advance(span).await;")],
        &[LOCKS, KEPT],
    ),
    mutant(
        "an advance takes longer than it says",
        &[switched(
            CLOCK,
            "self.base.saturating_add(passed).min(self.end)",
            "self.base.saturating_add(passed)",
        )],
        &[EXPIRE],
    ),
    mutant(
        "tokio's time stays paused after an advance that is dropped",
        &[switched(CLOCK, "tokio::time::resume();", "")],
        &[PAUSED],
    ),
    mutant(
        "a world does not follow tokio's paused time",
        &[within(CLOCK, "let follows = ", ["is_paused()", "false"], ";")],
        &[PAUSED],
    ),
    mutant(
        "the seed changes nothing",
        &[switched(
            KIT,
            "Random::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number))",
            "Random::seeded(number)",
        )],
        &[SAME],
    ),
    mutant(
        "the numbers of a world are of the operating system",
        &[switched(
            RANDOM,
            "Self::Seeded(Arc::new(Mutex::new(rand::SeedableRng::seed_from_u64(seed))))",
            "{ let _ = seed; Self::System }",
        )],
        &[SAME],
    ),
    mutant(
        "an early refresh keeps its request's span open",
        &[switched(TRACE, "new_span(cache, Parent::None)", "new_span(cache, Parent::Current)")],
        &[EARLY],
    ),
    mutant("a waiter follows from nothing", &[switched(TRACE, "current.follows_from(span);", "")], &[WAITER]),
    mutant(
        "near hits of run_once are not counted",
        &[switched(RUN_ONCE, "cache.near_hit(|| Ok(entry.clone()));", "")],
        &[ONCE],
    ),
    mutant(
        "results that run_once reads from the store are no reads of their keys",
        &[switched(RUN_ONCE, "cache.note_read(&entry, 1);", "")],
        &[ONCE],
    ),
    mutant(
        "the attribute clones its arguments before it asks the cache",
        &[rebuilt(
            EXPAND,
            "                #cache.#load(#key, |#setup| {
                    #settings
                    #clones
                    #loader
                })",
            "                let _ = { #clones };
                #cache.#load(#key, |#setup| {
                    #settings
                    #clones
                    #loader
                })",
        )],
        &[attribute("cached::a_hit_clones_neither_self_nor_an_argument")],
    ),
    mutant(
        "the attribute ignores ttl",
        &[rebuilt(EXPAND, "quote!(#setup.ttl(#ttl);)", "quote!(let _ = (&#setup, #ttl);)")],
        &[OPTIONS],
    ),
    mutant(
        "the attribute ignores tags",
        &[rebuilt(EXPAND, "quote!(#setup.tags(#tags);)", "quote!(let _ = (&#setup, #tags);)")],
        &[OPTIONS],
    ),
    mutant(
        "the attribute ignores refresh_if",
        &[rebuilt(EXPAND, "quote!(.refresh_if(#condition))", "quote!(.refresh_if(#condition && false))")],
        &[OPTIONS],
    ),
    mutant(
        "the attribute stores what store_if excludes",
        &[rebuilt(
            EXPAND,
            "after(&self.options.store_if, \"store_if\")",
            "after(&self.options.store_if, \"store_if\").map(|_| TokenStream::new())",
        )],
        &[OPTIONS],
    ),
];
