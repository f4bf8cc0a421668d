//! Mistakes in rate limits and the HTTP layer.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const fn waiting(name: &'static str) -> Test {
    test("limits_waiting", name)
}

const fn axum(name: &'static str) -> Test {
    test("limits_axum", name)
}

const fn costs(name: &'static str) -> Test {
    test("limits_axum_costs", name)
}

const fn batches(name: &'static str) -> Test {
    test("limits_batches", name)
}

const EQUIVALENCE: Test = unit("store::equivalence_limits::both_stores_decide_the_same_at_every_time");
const CONVERSION: Test = unit(
    "store::equivalence_limits::oracle::conversion::after_a_change_to_shorter_windows_none_holds_more_than_its_limit",
);
const CROSSES: Test = unit(
    "store::equivalence_limits::oracle::conversion::a_refund_finds_what_was_charged_before_a_limit_crossed_65_535",
);
const FAR: Test = unit("limit::acquire::tests::a_far_turn_is_booked_as_soon_as_it_comes_into_reach");
const LATE_BY_OVERRIDE: Test =
    unit("limit::turn::tests::a_turn_of_an_override_is_late_by_its_shortest_window_where_that_is_shorter");
const ORACLE: Test = unit(
    "store::equivalence_limits::oracle::no_window_of_the_servers_clock_holds_more_than_the_limit_and_no_refusal_is_without_reason",
);
const OVERRIDE_ENDS: Test = unit(
    "store::equivalence_limits::retry::after_retry_after_the_cost_fits_also_where_quotas_change_or_an_override_ends_meanwhile",
);
const RETRY: Test = unit(
    "limit::programs::retry::after_retry_after_a_caller_that_asks_alone_is_admitted_wherever_the_decision_was_made",
);
const REFUSALS: Test = unit(
    "limit::local::known::tests::a_refusal_that_is_repeated_is_for_its_cost_short_and_never_says_too_little",
);
const GIVEN_BACK: Test =
    unit("limit::local::known::tests::what_is_given_back_or_granted_while_a_refusal_is_on_its_way_ends_it");
const CHARGES: Test =
    unit("limit::request::tests::every_way_to_charge_a_key_ends_the_refusal_that_is_known_of_it");
const STEPPED_BACK: Test = unit(
    "store::equivalence_limits::booked::a_turn_after_the_clock_stepped_back_is_used_when_the_cost_fits_and_not_charged_before",
);
const GIVEN_BACK_TURNS: Test =
    unit("store::equivalence_limits::booked::turns_that_are_given_back_put_no_two_turns_into_one_place");
const JOINT: Test =
    test("limits_together", "what_is_charged_or_given_back_to_any_key_ends_a_refusal_of_several_keys");
const PROGRAMS: Test =
    unit("limit::programs::whole_limiters_of_several_programs_keep_the_limit_and_lose_nothing");
const TOGETHER: Test =
    test("limits_together", "all_keys_are_charged_or_none_and_the_one_that_refuses_is_named");
const SEVERAL: Test = unit(
    "store::equivalence_limits::together::several_records_are_charged_together_or_not_at_all_by_both_stores",
);
const WOKEN: Test = waiting("a_caller_that_waits_for_long_is_woken_by_a_reset_a_refund_and_a_raised_limit");
const BLOCKED: Test = waiting("turns_that_a_blocked_runtime_sleeps_through_are_asked_for_again");
const LAYERS: Test =
    axum("two_layers_both_say_what_is_left_and_the_older_fields_are_those_of_the_one_that_binds");
const UPSTREAM: Test = axum("what_a_service_behind_says_of_its_own_limit_is_passed_on");
const PATHS: Test = axum("a_path_is_whole_in_a_nested_router_and_head_counts_as_get");

const LATE: Test = waiting("no_turn_is_granted_after_the_callers_time");
const OTHER_COSTS: Test =
    waiting("callers_with_other_costs_than_the_first_share_requests_and_wait_for_turns_of_their_own");
const IN_FLIGHT_REFUSED: Test =
    axum("a_refusal_of_a_request_in_flight_is_reported_and_its_retry_after_is_spread");

const RANDOM: &str = "crates/larder/src/random.rs";
const LIMITER: &str = "crates/larder/src/limit/mod.rs";
const REQUEST: &str = "crates/larder/src/limit/request.rs";
const QUEUE: &str = "crates/larder/src/limit/wait_queue.rs";
const TURN: &str = "crates/larder/src/limit/turn.rs";
const KNOWN: &str = "crates/larder/src/limit/local/known.rs";
const BATCH: &str = "crates/larder/src/limit/batch.rs";
const KEY_CHANGE: &str = "crates/larder/src/limit/key_change.rs";
const LOCAL: &str = "crates/larder/src/limit/local/mod.rs";
const MEMORY: &str = "crates/larder/src/store/memory/limits/mod.rs";
const OVERRIDES: &str = "crates/larder/src/store/memory/limits/overrides.rs";
const REFUNDS: &str = "crates/larder/src/limit/refund.rs";
const TIERS: &str = "crates/larder/src/limit/tiers.rs";
const TOGETHER_RS: &str = "crates/larder/src/limit/together.rs";
const RECORDS: &str = "crates/larder/src/store/memory/limits/records.rs";
const RECORD: &str = "crates/larder/src/store/memory/limits/record.rs";
const TRACK: &str = "crates/larder/src/store/memory/limits/track.rs";
const CHARGE: &str = "crates/larder/src/store/redis/lua/limit/charge.lua";
const CHARGE_ANY: &str = "crates/larder/src/store/redis/lua/limit/charge_any.lua";
const LIMIT_LUA: &str = "crates/larder/src/store/redis/lua/limit/limit.lua";
const REFUND: &str = "crates/larder/src/store/redis/lua/limit/refund.lua";
const OUTAGE: &str = "crates/larder/src/limit/outage.rs";
const OVERRIDE: &str = "crates/larder/src/store/redis/lua/limit/override.lua";
const RESET: &str = "crates/larder/src/store/redis/lua/limit/reset.lua";
const STORE: &str = "crates/larder/src/store/limit.rs";
const TIME: &str = "crates/larder/src/store/redis/time.rs";
const TOGETHER_LUA: &str = "crates/larder/src/store/redis/lua/limit/together.lua";
const FIELDS: &str = "crates/larder/src/http/fields.rs";
const FORWARDED: &str = "crates/larder/src/http/forwarded.rs";
const IN_FLIGHT: &str = "crates/larder/src/http/in_flight.rs";
const KEY: &str = "crates/larder/src/http/key.rs";
const LAYER: &str = "crates/larder/src/http/layer.rs";
const SERVICE: &str = "crates/larder/src/http/service.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a batch's time counts from the answer",
        &[switched(BATCH, "asked.0.after(span - drift(span))", "self.now().after(span - drift(span))")],
        &[test("limits_batches", "a_batchs_time_counts_from_before_its_request_left")],
    ),
    mutant(
        "a batch is charged when it is taken",
        &[switched(BATCH, "u64::try_from(span.as_micros()).unwrap_or(u64::MAX)", "0")],
        &[PROGRAMS],
    ),
    mutant(
        "a batch is spent after a reset",
        &[switched(BATCH, "self.inner.local.resets() != resets", "false")],
        &[test("limits_batches", "a_batch_that_was_asked_for_before_a_reset_is_not_spent_after_it")],
    ),
    mutant(
        "a refusal is repeated for a sixtieth of a day",
        &[switched(
            KNOWN,
            "span.min(decision.binding.window() / 60).min(LONGEST_REFUSAL)",
            "span.min(decision.binding.window() / 60)",
        )],
        &[REFUSALS],
    ),
    mutant(
        "a refusal is repeated for longer than a sixtieth of its window",
        &[switched(
            KNOWN,
            "span.min(decision.binding.window() / 60).min(LONGEST_REFUSAL)",
            "span.min(LONGEST_REFUSAL)",
        )],
        &[REFUSALS],
    ),
    mutant(
        "a refusal is kept across a refund",
        &[within(
            LOCAL,
            "or the change removes the refusal that is stored here.\n        if ",
            ["self.changes(name) == changes", "true"],
            "",
        )],
        &[GIVEN_BACK],
    ),
    mutant(
        "a repeated refusal's wait counts from its request",
        &[within(
            KNOWN,
            "figures: ",
            ["RefusalFigures::of(decision, kept, answered)", "RefusalFigures::of(decision, kept, sent)"],
            ",",
        )],
        &[REFUSALS],
    ),
    mutant(
        "a refusal answers larger costs",
        &[switched(
            KNOWN,
            "refusal.cost == cost && refusal.plan.id == plan",
            "refusal.cost <= cost && refusal.plan.id == plan",
        )],
        &[REFUSALS, test("limits_quotas", "a_refusal_of_a_small_cost_does_not_answer_a_large_one")],
    ),
    mutant(
        "a refusal answers for other quotas",
        &[switched(KNOWN, "refusal.cost == cost && refusal.plan.id == plan", "refusal.cost == cost")],
        &[test("limits_quotas", "limits_change_while_running_and_counts_go_on")],
    ),
    mutant(
        "a turn is used however late",
        &[switched(TURN, "self.limiter.now() > latest", "false")],
        &[BLOCKED],
    ),
    mutant(
        "a caller that goes away keeps its turn",
        &[switched(TURN, "!self.taken", "false")],
        &[waiting("a_waiter_that_goes_away_gives_its_turn_back")],
    ),
    mutant(
        "a reset leaves those asleep that have a turn",
        &[switched(LOCAL, "queue.restart();", "queue.given_back();")],
        &[WOKEN],
    ),
    mutant(
        "changed quotas wake no caller",
        &[switched(TIERS, "self.inner.local.quotas_changed();", "();")],
        &[WOKEN],
    ),
    mutant("a refund wakes no caller", &[switched(LOCAL, "queue.given_back();", "();")], &[WOKEN]),
    mutant(
        "a decision is given back to any key",
        &[switched(REFUNDS, "decision.is_allowed() && decision.record != RecordId::of(&name)", "false")],
        &[test("limits_quotas", "a_decision_is_given_back_only_where_it_was_charged")],
    ),
    mutant(
        "as much as there is, is more than the limit in an outage",
        &[within(OUTAGE, "OutagePolicy::Allow if ", ["whole", "true"], " => cost,")],
        &[test("limits_outage", "each_policy_decides_as_it_says")],
    ),
    mutant(
        "records that have ended stay",
        &[switched(RECORDS, "self.remove_ended(STEP, now, None)", "false")],
        &[unit(
            "store::memory::limits::records::tests::a_flood_of_keys_is_gone_after_its_windows_without_another_request",
        )],
    ),
    mutant(
        "a refused key is charged with those that pass",
        &[switched(MEMORY, "peeked.iter().any(|one| one.granted == 0)", "false")],
        &[TOGETHER],
    ),
    mutant(
        "a refused key is charged with those that pass, on the server",
        &[rebuilt(
            TOGETHER_LUA,
            "passes = passes and struct.unpack('>I4', answers[place]) > 0",
            "passes = true",
        )],
        &[TOGETHER],
    ),
    mutant(
        "what is charged to a converted bucket counts from its beginning, in both stores",
        &[
            rebuilt(TRACK, "let last = (index + 1) * width - 1;", "let last = index * width;"),
            rebuilt(LIMIT_LUA, "local last = (index + 1) * width - 1", "local last = index * width"),
        ],
        &[CONVERSION],
    ),
    mutant(
        "what is charged ahead in the latest bucket counts from the latest charge, in both stores",
        &[
            rebuilt(TRACK, "last.min(latest.saturating_add(window))", "last.min(latest)"),
            rebuilt(LIMIT_LUA, "math.min(last, latest + window)", "math.min(last, latest)"),
        ],
        &[CONVERSION],
    ),
    mutant(
        "the oldest bucket does not count",
        &[rebuilt(
            CHARGE_ANY,
            "local oldest, counts = math.floor(now / track.width) - BUCKETS, {}",
            "local oldest, counts = math.floor(now / track.width) - BUCKETS + 1, {}",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a turn is charged no later than it is used",
        &[rebuilt(CHARGE_ANY, "last + math.floor(wait / 500)", "last")],
        &[EQUIVALENCE],
    ),
    mutant(
        "what booked turns stand on is given back, in both stores",
        &[
            switched(
                TRACK,
                "when <= now && *arrival <= now.saturating_add(burst.saturating_mul(*interval))",
                "when <= now",
            ),
            rebuilt(REFUND, "when <= now and track.arrival <= now + burst * width", "when <= now"),
        ],
        &[GIVEN_BACK_TURNS],
    ),
    mutant(
        "a turn is given back although others are booked behind it, in both stores",
        &[
            switched(TRACK, "*arrival < when.saturating_add(next)", "true"),
            rebuilt(REFUND, "track.arrival < when + (permits + 1) * width", "true"),
        ],
        &[GIVEN_BACK_TURNS],
    ),
    mutant(
        "a turn behind a block is less than nothing, on the server",
        &[rebuilt(
            CHARGE_ANY,
            "math.max(math.min(granted, room_at(tracks[place], spec.limit, last)), 0)",
            "math.min(granted, room_at(tracks[place], spec.limit, last))",
        )],
        &[unit(
            "store::equivalence_limits::booked::a_turn_behind_a_block_that_ends_before_the_records_time_is_never_less_than_nothing",
        )],
    ),
    mutant(
        "turns that a pace has booked count only from a change of method, in both stores",
        &[
            switched(TRACK, "arrival.saturating_sub(*interval).max(now)", "now"),
            rebuilt(LIMIT_LUA, "math.max(now, track.arrival - width), debt", "now, debt"),
        ],
        &[unit(
            "store::equivalence_limits::booked::turns_that_a_pace_has_booked_count_after_a_change_of_method",
        )],
    ),
    mutant(
        "an override books turns for times after its end, in both stores",
        &[
            switched(MEMORY, "after.is_none_or(|after| turn < after.end)", "true"),
            rebuilt(CHARGE_ANY, "if over > 0 and when >= over then", "if false then"),
        ],
        &[unit(
            "store::equivalence_limits::booked::no_turn_is_booked_by_an_override_for_a_time_after_its_end",
        )],
    ),
    mutant(
        "a turn's wait counts from the record's time, in both stores",
        &[
            rebuilt(MEMORY, "(last + wait / 500).max(now)", "last.max(now) + (last.max(now) - now) / 500"),
            rebuilt(
                CHARGE_ANY,
                "math.max(last + math.floor(wait / 500), now)",
                "math.max(last + math.floor((last - now) / 500), now)",
            ),
        ],
        &[STEPPED_BACK],
    ),
    mutant(
        "a charge does not end the refusal that is known",
        &[switched(REQUEST, "self.local.granted(self.name.as_bytes());", "();")],
        &[CHARGES, JOINT],
    ),
    mutant(
        "a turn does not end the refusal that is known",
        &[switched(
            REQUEST,
            "charged.granted > 0",
            "charged.granted > 0 && !matches!(charge.mode, ChargeMode::Turns { .. })",
        )],
        &[CHARGES],
    ),
    mutant(
        "a batch of permits does not end the refusal that is known",
        &[switched(
            REQUEST,
            "charged.granted > 0",
            "charged.granted > 0 && !matches!(charge.mode, ChargeMode::Half { .. })",
        )],
        &[CHARGES],
    ),
    mutant(
        "a debt does not end the refusal that is known",
        &[switched(REQUEST, "charged.granted > 0", "charged.granted > 0 && charge.mode != ChargeMode::Debt")],
        &[CHARGES],
    ),
    mutant(
        "a call that was dropped has charged nothing",
        &[switched(REQUEST, "Self { local, name, charges: true }", "Self { local, name, charges: false }")],
        &[CHARGES],
    ),
    mutant(
        "a charge leaves the refusal whose answer is under way",
        &[switched(LOCAL, "count.fetch_add(1, Ordering::AcqRel);", "();")],
        &[GIVEN_BACK, JOINT],
    ),
    mutant(
        "a refusal of several keys ends only with the key that it is kept with",
        &[switched(KNOWN, "one.keys == keys && one.changes == changes", "one.keys == keys")],
        &[JOINT],
    ),
    mutant(
        "a turn is granted after the caller's time",
        &[
            switched(QUEUE, "one.latest().is_none_or(|latest| due <= latest)", "true"),
            switched(
                TURN,
                "self.deadline.is_some_and(|deadline| self.limiter.now() > deadline.after(TIMER))",
                "false",
            ),
        ],
        &[LATE],
    ),
    mutant(
        "callers with other costs than the first ask one by one",
        &[switched(
            QUEUE,
            "other.id == plan.id && group.first().is_some_and(|first| first.cost == cost)",
            "false",
        )],
        &[OTHER_COSTS],
    ),
    mutant(
        "callers with other costs than the first get no turn",
        &[switched(
            QUEUE,
            "micros(deadline.since(sent))",
            "if least == 1 { 0 } else { micros(deadline.since(sent)) }",
        )],
        &[waiting("a_smaller_cost_than_the_first_gets_a_turn_of_its_own_within_its_time")],
    ),
    mutant(
        "one decision has any number of keys",
        &[switched(TOGETHER_RS, "keys.len() > MOST_KEYS", "false")],
        &[test("limits_together", "what_cannot_be_decided_in_one_step_is_refused_with_a_reason")],
    ),
    mutant(
        "what is known belongs to a set of quotas that is forgotten",
        &[switched(
            LIMITER,
            "hasher.finish()",
            "{ static NEXT: AtomicU64 = AtomicU64::new(1); NEXT.fetch_add(1, Ordering::Relaxed) }",
        )],
        &[unit(
            "limit::local::plans::tests::handles_with_the_same_quotas_share_a_plan_whatever_others_use_between",
        )],
    ),
    mutant(
        "clients are told to retry in any number of years",
        &[switched(RANDOM, "most.min(DAY)", "most")],
        &[unit("random::tests::a_random_part_of_a_span_has_a_bound")],
    ),
    mutant(
        "several keys are settled one after the other",
        &[switched(
            SERVICE,
            "settled = join_all(settles).await;",
            "for settle in settles { settled.push(settle.await); }",
        )],
        &[test("limits_axum_costs", "the_keys_of_several_limits_are_settled_at_the_same_time")],
    ),
    mutant(
        "a debt under a small limit cuts what a larger one counted, in both stores",
        &[
            rebuilt(MEMORY, "ChargeMode::Debt if cut => (0, 1),", "ChargeMode::Debt if false => (0, 1),"),
            rebuilt(CHARGE_ANY, "cut and 0 or cost", "cost"),
        ],
        &[test("limits_quotas", "a_debt_under_a_smaller_limit_forgets_nothing_that_was_charged")],
    ),
    mutant(
        "a quote that a client left open hides what the proxy wrote",
        &[switched(
            FORWARDED,
            "elements(line.as_bytes())",
            "{
                let mut quoted = false;
                let mut parts: Vec<&[u8]> = line
                    .as_bytes()
                    .split(|byte| {
                        quoted ^= *byte == b'\"';
                        *byte == b',' && !quoted
                    })
                    .collect();
                parts.reverse();
                parts
            }",
        )],
        &[unit("http::client_ip::tests::forwarded_is_read_as_its_rfc_writes_it")],
    ),
    mutant(
        "what a new record was charged is given back for the old one",
        &[rebuilt(REFUND, "if not record or created_at ~= first then", "if not record then")],
        &[test("limits_quotas", "a_refund_gives_back_what_was_charged_and_no_more")],
    ),
    mutant(
        "a block does not grow",
        &[switched(STORE, "span.saturating_mul(penalty.factor).min(penalty.most)", "span")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a reset leaves the block",
        &[rebuilt(
            RESET,
            "string.sub(record, 1, 18) .. string.rep('\\0', 12) .. string.sub(record, 31, length)",
            "string.sub(record, 1, length)",
        )],
        &[test("limits_blocks", "a_waiter_gets_its_turn_after_the_block_and_overrides_and_refunds_leave_it")],
    ),
    mutant(
        "a block begins and the reply does not say so",
        &[rebuilt(CHARGE_ANY, "last = math.max(last, blocked)", "last = last")],
        &[test(
            "limits_blocks",
            "a_key_that_exceeds_its_limit_is_blocked_in_all_programs_though_permits_are_free",
        )],
    ),
    mutant(
        "a block is half as long, in both stores",
        &[
            rebuilt(STORE, "until: now.saturating_add(span)", "until: now.saturating_add(span / 2)"),
            rebuilt(
                CHARGE_ANY,
                "math.min(first * factor ^ level, longest)",
                "math.floor(math.min(first * factor ^ level, longest) / 2)",
            ),
        ],
        &[ORACLE],
    ),
    mutant(
        "an override has no end, in both stores",
        &[
            rebuilt(OVERRIDES, ".filter(|over| over.until > clock)", ".filter(|over| over.until > 0)"),
            rebuilt(LIMIT_LUA, "if over > clock then", "if over > 0 then"),
            rebuilt(CHARGE, "(over == 0 or over > clock)", "(over >= 0)"),
        ],
        &[ORACLE],
    ),
    mutant(
        "three times the limit is owed, in both stores",
        &[
            rebuilt(MEMORY, "(2 * spec.limit)", "(3 * spec.limit)"),
            rebuilt(CHARGE_ANY, "2 * spec.limit - track.total", "3 * spec.limit - track.total"),
        ],
        &[ORACLE],
    ),
    mutant(
        "keys are charged though one of them refuses, in both stores",
        &[
            rebuilt(MEMORY, "peeked.iter().any(|one| one.granted == 0)", "false"),
            rebuilt(
                TOGETHER_LUA,
                "passes = passes and struct.unpack('>I4', answers[place]) > 0",
                "passes = true",
            ),
        ],
        &[ORACLE],
    ),
    mutant(
        "a refusal does not know that its override ends, in both stores",
        &[
            rebuilt(MEMORY, "after.filter(|after| last >= after.end)", "after.filter(|_| false)"),
            rebuilt(CHARGE_ANY, "if over > 0 and last >= over then", "if over > 0 and last < 0 then"),
            rebuilt(CHARGE, "if over == 0 or ready < over then", "if true then"),
        ],
        &[OVERRIDE_ENDS],
    ),
    mutant(
        "a cost above a share is refused for no time",
        &[switched(OUTAGE, "!whole || cost <= limit", "limit > 0")],
        &[
            RETRY,
            test("limits_together", "while_the_store_is_away_each_key_is_decided_by_its_limiters_policy"),
        ],
    ),
    mutant(
        "a refusal of several keys answers for other costs",
        &[switched(
            TOGETHER_RS,
            "(name, plan.id, cost).hash(&mut hasher);",
            "(name, plan.id).hash(&mut hasher);",
        )],
        &[test(
            "limits_together",
            "a_refusal_of_one_key_or_of_other_costs_does_not_say_how_long_several_keys_wait",
        )],
    ),
    mutant(
        "a turn is used whose answer arrived late",
        &[switched(
            TURN,
            "self.charged.wait == 0 || self.answered.since(self.sent) <= late",
            "self.answered >= self.sent",
        )],
        &[test("limits_processes", "a_turn_whose_answer_arrives_late_is_not_used_late")],
    ),
    mutant(
        "the latest reply says what the server's clock shows",
        &[switched(TIME, "within <= last.since(first)", "within >= Duration::ZERO")],
        &[unit("store::redis::time::tests::the_fastest_reply_says_when_the_servers_clock_shows_what")],
    ),
    mutant(
        "several keys do not look behind an override",
        &[switched(MEMORY, "state.wait_behind_overrides(charges, &mut answers, clock)", "false")],
        &[SEVERAL],
    ),
    mutant(
        "nor do they on the server",
        &[rebuilt(TOGETHER_LUA, "if #answer > 37 and longest > 0 then", "if #answer > 99 then")],
        &[SEVERAL],
    ),
    mutant(
        "a reset leaves what is no record",
        &[rebuilt(RESET, "redis.call('UNLINK', KEYS[1])", "struct.unpack('>BI7I7I6I4I4', record)")],
        &[test("limits_scenarios", "a_key_whose_record_is_not_of_larder_says_so_and_a_reset_repairs_it")],
    ),
    mutant(
        "a cost that only an override allows is refused",
        &[switched(LIMITER, "charged.label.is_some()", "false")],
        &[test("limits_overrides", "a_cost_above_the_limiters_own_limit_passes_where_an_override_allows_it")],
    ),
    mutant(
        "an address is taken from the left",
        &[rebuilt(FORWARDED, "rsplit(|byte| *byte == b',')", "split(|byte| *byte == b',')")],
        &[unit("http::client_ip::tests::a_client_cannot_choose_its_address")],
    ),
    mutant(
        "the outer layer's fields replace the inner ones",
        &[switched(
            FIELDS,
            "headers.append(HeaderName::from_static(\"ratelimit\"), item);",
            "headers.insert(HeaderName::from_static(\"ratelimit\"), item);",
        )],
        &[LAYERS, UPSTREAM],
    ),
    mutant(
        "the older fields are those of the outer layer",
        &[switched(FIELDS, "inner.is_some_and(|inner| limit.remaining < inner)", "true")],
        &[LAYERS],
    ),
    mutant(
        "a refusal from behind carries the limit that passed",
        &[switched(FIELDS, "response.status() == StatusCode::TOO_MANY_REQUESTS", "false")],
        &[UPSTREAM],
    ),
    mutant(
        "seconds are rounded down",
        &[switched(FIELDS, "span.as_secs() + u64::from(span.subsec_nanos() > 0)", "span.as_secs()")],
        &[unit("http::fields::tests::seconds_are_rounded_up_and_never_to_nothing")],
    ),
    mutant(
        "HEAD is a limit of its own",
        &[switched(KEY, "request.method == Method::HEAD", "false")],
        &[PATHS],
    ),
    mutant(
        "a nested router's path is what it sees",
        &[switched(KEY, "request.original_uri().path()", "request.uri.path()")],
        &[PATHS],
    ),
    mutant(
        "every outcome counts",
        &[switched(
            LAYER,
            "if counts(response) { charged } else { 0 }",
            "if counts(response) { 1 } else { charged }",
        )],
        &[test("limits_axum_costs", "only_requests_with_the_outcome_that_counts_are_counted")],
    ),
    mutant(
        "shadow mode refuses",
        &[switched(
            SERVICE,
            "options.shadow || decided.binding().is_ok_and(|(_, decision)| decision.is_allowed())",
            "decided.binding().is_ok_and(|(_, decision)| decision.is_allowed())",
        )],
        &[axum("handlers_find_the_decision_in_shadow_mode_too_and_none_where_a_request_is_skipped")],
    ),
    mutant(
        "a permit is free when the handler returns",
        &[switched(
            IN_FLIGHT,
            "response.map(|body| InFlightBody { body, permit })",
            "{ drop(permit); response.map(|body| InFlightBody { body, permit: None }) }",
        )],
        &[axum("a_request_in_flight_holds_its_permit_until_its_body_was_sent_or_the_client_went")],
    ),
    mutant(
        "an override forgets what a batch has left",
        &[switched(
            KEY_CHANGE,
            "self.batch.take().filter(|batch| batch.left > 0)",
            "self.batch.take().filter(|_| false)",
        )],
        &[batches("unspent_permits_of_a_batch_are_given_back_when_an_override_is_set_or_ended")],
    ),
    mutant(
        "permits from before an override are not given back under it, in both stores",
        &[
            rebuilt(
                MEMORY,
                "let same = |record: &&mut LimitRecord| record.created_at == stamp.created_at;",
                "let over = state.overridden(name, clock);
        let same = |record: &&mut LimitRecord| over.is_none() && record.created_at == stamp.created_at;",
            ),
            rebuilt(REFUND, "created_at ~= first then", "created_at ~= first or over > 0 then"),
        ],
        &[test("limits_overrides", "what_was_charged_before_an_override_is_given_back_under_it")],
    ),
    mutant(
        "a converted record is still the one that was charged, in both stores",
        &[
            rebuilt(RECORD, "now.max(old.created_at + 1)", "old.created_at"),
            rebuilt(CHARGE_ANY, "created_at = math.max(now, created_at + 1)", "created_at = created_at + 0"),
        ],
        &[unit(
            "store::equivalence_limits::oracle::conversion::a_refund_takes_nothing_from_other_callers_after_a_conversion",
        )],
    ),
    mutant(
        "a limit that crosses 65,535 makes another record, in memory",
        &[switched(RECORD, "!cut && old.has_all_places_of(specs)", "false")],
        &[CROSSES],
    ),
    mutant(
        "a limit that crosses 65,535 makes another record, on the server",
        &[rebuilt(CHARGE_ANY, "if not in_place then", "if true then")],
        &[CROSSES],
    ),
    mutant(
        "buckets of any width leave a charge in its place, in both stores",
        &[
            rebuilt(TRACK, " && *width == spec.width);", " && *width > 0);"),
            rebuilt(CHARGE_ANY, "source.counts and source.width == track.width)", "source.counts)"),
        ],
        &[unit(
            "store::equivalence_limits::oracle::conversion::a_refund_takes_nothing_from_other_callers_after_a_conversion",
        )],
    ),
    mutant(
        "a quota beside a log forgets what has left the log's window, on the server",
        &[rebuilt(LIMIT_LUA, "      tracks[place] = {}\n", "      tracks[place] = source\n")],
        &[unit(
            "store::equivalence_limits::oracle::conversion::a_longer_quota_beside_a_log_refuses_for_as_long_as_it_counts_what_the_log_does_not",
        )],
    ),
    mutant(
        "a failed reset forgets the batch",
        &[switched(KEY_CHANGE, "self.may_have_happened = error.is_indeterminate()", "self.batch = None")],
        &[batches("a_batch_is_kept_when_a_reset_or_an_override_certainly_did_not_happen")],
    ),
    mutant(
        "a reset without an answer leaves the batch",
        &[within(
            KEY_CHANGE,
            "Self { limiter, name, known, batch, may_have_happened: ",
            ["true", "false"],
            ", resets }",
        )],
        &[batches("after_a_reset_without_an_answer_no_permit_from_before_it_is_spent")],
    ),
    mutant(
        "a failed reset restores a batch that another reset has wiped",
        &[switched(KEY_CHANGE, "alone && facts.batch.is_none()", "facts.batch.is_none()")],
        &[unit(
            "limit::key_change::tests::a_failed_change_restores_no_batch_that_another_change_has_wiped_meanwhile",
        )],
    ),
    mutant(
        "a batch is taken while the key is reset",
        &[switched(BATCH, "local.is_changing(name.as_bytes())", "false")],
        &[unit("limit::key_change::tests::no_batch_is_taken_while_a_reset_is_under_way")],
    ),
    mutant(
        "a turn of an override is late by the limiter's own windows",
        &[switched(
            TURN,
            "Quota::shortest_of(label).min(own)",
            "own.min(Quota::shortest_of(label).max(own))",
        )],
        &[LATE_BY_OVERRIDE],
    ),
    mutant(
        "a turn of an override is late by the window that decides",
        &[switched(TURN, "Quota::shortest_of(label).min(own)", "Quota::from_label(label).window().min(own)")],
        &[LATE_BY_OVERRIDE],
    ),
    mutant(
        "a far turn is not asked for before its refusal ends",
        &[switched(QUEUE, "refused.asks_again()", "end")],
        &[FAR],
    ),
    mutant(
        "GCRA bounds how far ahead a turn is booked",
        &[switched(LIMITER, "spec.rule != Rule::Gcra", "spec.limit > 0")],
        &[FAR],
    ),
    mutant(
        "a caller whose refusal has ended sleeps until the first one's end",
        &[switched(
            QUEUE,
            "one.asks_before(first_end, now)",
            "one.refused_until.is_none() && one.asks_before(first_end, now)",
        )],
        &[unit(
            "limit::wait_queue::tests::a_refusal_that_ended_while_others_were_asked_does_not_wait_for_the_first_callers_end",
        )],
    ),
    mutant(
        "the layer's fields forget a debt",
        &[switched(FIELDS, ".saturating_sub(settled.charged)", "")],
        &[costs("a_request_costs_what_it_says_and_then_what_its_response_says")],
    ),
    mutant(
        "the end of an override keeps the record for as long as the override",
        &[rebuilt(
            OVERRIDE,
            "redis.call('SET', KEYS[1], before_record() .. (record or ''), 'PX', string.format('%d', rest))",
            "redis.call('SET', KEYS[1], before_record() .. (record or ''), 'KEEPTTL')",
        )],
        &[test(
            "limits_overrides",
            "a_record_lives_no_longer_than_its_quotas_need_after_an_override_has_ended",
        )],
    ),
    mutant(
        "an override that is ended by other quotas forgets what the record's own count",
        &[rebuilt(
            OVERRIDE,
            "  for _, track in ipairs(tracks_of()) do\n    last = math.max(last, ends(track))\n  end\n",
            "",
        )],
        &[unit("store::equivalence_limits::an_override_ended_by_other_quotas_lets_no_record_expire_early")],
    ),
    mutant(
        "a record whose override was ended by other quotas keeps its time to live at the next charge",
        &[rebuilt(OVERRIDE, "marked = over == 0 and not same", "marked = false")],
        &[unit("store::equivalence_limits::an_override_ended_by_other_quotas_lets_no_record_expire_early")],
    ),
    mutant(
        "memory: an override that is ended by other quotas forgets what the record's own count",
        &[rebuilt(MEMORY, "Some(needed.max(record.ends(now)))", "Some(needed)")],
        &[unit(
            "store::memory::limits::tests::an_override_ended_by_other_quotas_lets_no_record_be_removed_early",
        )],
    ),
    mutant(
        "after an override the record lives only until its charges end by the override",
        &[rebuilt(OVERRIDE, "rest = math.max(own_lives, over_lives)", "rest = over_lives")],
        &[test(
            "limits_overrides",
            "a_record_lives_no_longer_than_its_quotas_need_after_an_override_has_ended",
        )],
    ),
    mutant(
        "the largest limit is half of what four bytes hold",
        &[rebuilt(STORE, "(u32::MAX / 3) as u64", "(u32::MAX / 2) as u64")],
        &[unit("store::equivalence_limits::largest::the_largest_limits_are_counted_alike_by_both_stores")],
    ),
    mutant(
        "a layer's cost above an override's limit passes at the cost of the limit",
        &[switched(
            SERVICE,
            "return self.decide_by(asked, |_, _| asked.cost).await;",
            "{
                let decided = self.decide_by(asked, |_, _| asked.cost).await?;
                let most = decided.0.iter().map(|one| one.limit()).min().unwrap_or(1);
                if most >= asked.cost { return Ok(decided); }
                return self.decide_by(asked, |_, _| most).await;
            }",
        )],
        &[costs("a_cost_above_the_limit_of_an_override_is_refused_with_429_until_the_override_ends")],
    ),
    mutant(
        "with several keys, a cost that an override allows is reduced to the limiter's own limit",
        &[switched(
            TOGETHER_RS,
            "if answer.label.is_some() { u64::MAX } else { self.plan.most }",
            "self.plan.most",
        )],
        &[
            costs("of_two_keys_only_the_one_without_an_override_is_charged_its_whole_limit"),
            costs("a_cost_above_the_limit_of_an_override_is_refused_with_429_until_the_override_ends"),
        ],
    ),
    mutant(
        "a cost above the limiter's own limit waits for no more than the override's end, in both stores",
        &[
            within(
                MEMORY,
                "let wanted = ",
                ["wanted.min(spec.limit)", "if wanted > spec.limit { return 0 } else { wanted }"],
                ";",
            ),
            rebuilt(
                CHARGE_ANY,
                "if total_of(track) + wanted > spec.limit then",
                "if total_of(track) + most > spec.limit and most <= spec.limit then",
            ),
        ],
        &[costs("a_request_refused_by_an_override_passes_after_the_time_that_its_answer_says")],
    ),
    mutant(
        "overrides in memory are removed only with a record",
        &[switched(MEMORY, "state.may_end(name, until, clock);", "let _ = until;")],
        &[unit(
            "store::memory::limits::records::tests::overrides_are_gone_after_their_end_though_nothing_is_asked",
        )],
    ),
    mutant(
        "a request in flight is refused and not reported",
        &[switched(
            IN_FLIGHT,
            "hook(&RefusedRequest { key, request, status, decision: None, shadow: false });",
            "let _ = (hook, request);",
        )],
        &[IN_FLIGHT_REFUSED],
    ),
    mutant(
        "all refusals of requests in flight say the same time",
        &[switched(IN_FLIGHT, "self.semaphore.jitter(self.jitter)", "Duration::ZERO")],
        &[IN_FLIGHT_REFUSED],
    ),
];
