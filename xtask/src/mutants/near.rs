//! Mistakes in the near cache, and in how long a copy stays valid (C2).

use super::mutant::{Mutant, Test, mutant, switched, test, unit, within};

const BUILDER: &str = "crates/larder/src/cache/builder.rs";
const INVALIDATIONS: &str = "crates/larder/src/near/invalidations.rs";
const CLUSTER: &str = "crates/larder/src/store/redis/cluster.rs";
const DIALLING: &str = "crates/larder/src/store/redis/supervisor/dialling.rs";
const SUPERVISOR: &str = "crates/larder/src/store/redis/supervisor/mod.rs";
const LOCAL: &str = "crates/larder/src/cache/local.rs";
const WRITE_GUARD: &str = "crates/larder/src/cache/write_guard.rs";
const TIER: &str = "crates/larder/src/near/tier.rs";
const TRUST: &str = "crates/larder/src/store/session.rs";
const VERSION: &str = "crates/larder/src/near/version.rs";

const TICKET: Test = unit("near::tier::tests::what_changed_between_the_question_and_the_answer_is_not_kept");
const PUSHED: Test =
    unit("near::invalidations::tests::a_change_reaches_the_tier_the_versions_and_the_waiters");
const OWN: Test = test("near", "what_this_larder_writes_is_seen_at_once");
const SILENT: Test = test("coherence", "near_copies_outlive_a_silent_connection_by_no_more_than_the_bound");
const SLOW_END: Test = test("near", "a_copy_ends_with_the_time_to_live_though_the_server_reports_it_late");

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a copy is kept though its name has changed since it was asked for",
        &[switched(TIER, "*sequence == ticket.sequence", "true")],
        &[TICKET],
    ),
    mutant(
        "a change moves no ticket",
        &[switched(TIER, "            *sequence += 1;", "")],
        &[TICKET, test("near_race", "a_read_that_races_with_a_write_leaves_nothing_stale")],
    ),
    mutant(
        "a change of everything moves no ticket",
        &[switched(TIER, "*stripe.lock() += 1;", "")],
        &[TICKET],
    ),
    mutant(
        "a change of everything leaves the copies",
        &[switched(TIER, "self.copies.clear();", "")],
        &[PUSHED],
    ),
    mutant("a change leaves the copy", &[switched(TIER, "self.copies.remove(key);", "")], &[PUSHED, TICKET]),
    mutant(
        "a clear empties no near tier",
        &[within(
            INVALIDATIONS,
            "get(name) {\n                ",
            ["tier.invalidate_all();", "let _ = tier;"],
            "\n            }",
        )],
        &[PUSHED],
    ),
    mutant(
        "a push that names nothing leaves the near tiers",
        &[within(
            INVALIDATIONS,
            "in self.tiers.read().values() {\n            ",
            ["tier.invalidate_all();", ""],
            "",
        )],
        &[PUSHED],
    ),
    mutant(
        "what is read is trusted for three times the bound",
        &[within(
            TRUST,
            "let span = u64::try_from(",
            ["(Self::BOUND - Self::LAG)", "(Self::BOUND * 3)"],
            ".as_nanos())",
        )],
        &[
            unit(
                "store::session::tests::a_read_is_valid_from_the_first_heartbeat_until_the_bound_after_the_last",
            ),
            SILENT,
        ],
    ),
    mutant(
        "the clock that goes on while the machine sleeps is not looked at",
        &[switched(TRUST, "now.awake() < session.until_awake.load(Ordering::Acquire)", "true")],
        &[unit("store::session::tests::sleep_invalidates_reads_though_only_one_clock_went_on")],
    ),
    mutant(
        "what was read on a connection that broke is trusted on",
        &[switched(
            TRUST,
            "session.generation.compare_exchange(\n                stamp.generation,\n                next,\n                Ordering::AcqRel,\n                Ordering::Acquire,\n            )",
            "Ok::<u32, u32>(next)",
        )],
        &[unit("store::session::tests::a_broken_connection_ends_all_that_was_read_through_it")],
    ),
    mutant(
        "trust counts from the answer to a heartbeat",
        &[switched(
            SUPERVISOR,
            "session.renew(stamp, sent);",
            "let _ = sent; session.renew(stamp, session.moment());",
        )],
        &[test("coherence", "trust_counts_from_the_sending_of_a_heartbeat_and_not_from_its_answer")],
    ),
    mutant(
        "a version is valid though its connection is silent",
        &[within(
            VERSION,
            "filter(|known| ",
            ["sessions.is_valid(known.stamp, now)", "sessions.is_current(known.stamp)"],
            ")?;",
        )],
        &[unit("near::version::tests::a_version_is_valid_no_longer_than_its_connection_gives_signs_of_life")],
    ),
    mutant(
        "a slot that moves leaves the near tiers",
        &[
            switched(CLUSTER, "tracking.sink.all_changed();", "let _ = tracking;"),
            switched(
                SUPERVISOR,
                "slots.replace(masters.clone()).is_none_or(|before| before == masters)",
                "slots.replace(masters).is_none() || true",
            ),
        ],
        &[test(
            "coherence",
            "a_slot_that_moves_empties_the_near_tier_though_no_key_is_in_it_and_no_caller_asks",
        )],
    ),
    mutant(
        "a near tier is published before it is registered for invalidations",
        &[switched(
            BUILDER,
            "slot.get_or_init(|| {
        let near = Arc::new(make());
        register(&near);
        near
    })",
            "let near = slot.get_or_init(|| Arc::new(make())); register(near); near",
        )],
        &[unit(
            "cache::builder::tests::a_near_tier_is_registered_for_invalidations_before_it_is_published_and_once",
        )],
    ),
    mutant(
        "a connection without tracking is trusted",
        &[switched(
            DIALLING,
            "stamp.filter(|_| armed && by == ConnectionUse::Trusted)",
            "stamp.filter(|_| by == ConnectionUse::Trusted)",
        )],
        &[test("near", "where_tracking_is_refused_nothing_is_kept_near_and_all_works")],
    ),
    mutant(
        "a copy outlives its maximum age",
        &[switched(LOCAL, "now.mono() < copy.until", "true")],
        &[SLOW_END, test("near", "a_copy_is_used_for_its_maximum_age_and_then_asked_for_again")],
    ),
    mutant(
        "a copy is served though its connection is silent",
        &[switched(LOCAL, "sessions.is_valid(copy.stamp, now)", "true")],
        &[SILENT],
    ),
    mutant(
        "a copy lives for its maximum age whatever the value's time to live",
        &[switched(
            LOCAL,
            "age.min(Duration::from_millis(ends.saturating_sub(self.context.store()?.now())))",
            "age",
        )],
        &[SLOW_END],
    ),
    mutant(
        "a copy's tags are not compared",
        &[switched(LOCAL, "tags_hold(&self.context, &more.tags)", "true")],
        &[OWN],
    ),
    mutant(
        "what this process writes leaves its own copy",
        &[switched(WRITE_GUARD, "cache.shared.forget_near(names.iter().copied());", "")],
        &[OWN],
    ),
    mutant(
        "a fresh handle reads copies",
        &[switched(
            LOCAL,
            "if self.policy.asks_server { None } else { self.shared.near.get() }",
            "self.shared.near.get()",
        )],
        &[test("near", "a_fresh_handle_sees_what_a_delayed_push_has_not_announced_yet")],
    ),
];
