//! Mistakes in semaphores.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit};

const fn found(name: &'static str) -> Test {
    test("semaphores", name)
}

const EQUIVALENCE: Test =
    unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const LARGE: Test = found("a_large_request_at_the_head_of_the_queue_is_not_overtaken_by_small_ones");
const TOO_HEAVY: Test =
    found("an_attempt_that_wants_more_permits_than_there_are_fails_at_once_also_in_the_queue");
const VERSIONS: Test = found("the_stored_number_decides_and_only_a_later_version_changes_it");
const BUSY: Test = found("a_semaphore_with_a_queue_has_its_permits_in_use_however_far_the_server_is");
const STUCK: Test = found("a_waiter_that_does_not_confirm_its_permit_holds_it_for_a_quarter_of_a_second");
const MAXMEMORY: Test = found("permits_and_locks_are_given_back_and_handed_over_at_maxmemory");
const KEYS: Test = found("each_key_has_permits_and_a_queue_of_its_own");
const LOGGED: Test =
    found("a_number_that_differs_is_logged_once_whatever_the_reply_and_however_many_handles_there_are");
const KEPT: Test = found("a_number_is_kept_for_thirty_days_after_a_refusal_and_after_a_renewal");
const RENEWED: Test =
    found("permits_are_renewed_given_back_when_dropped_and_by_their_lease_when_their_holder_died");
const BOUND: Test = found("beyond_the_most_that_may_wait_callers_are_refused_at_once");

const GRANTS: Test =
    unit("store::equivalence_locks::a_step_grants_64_permits_at_most_and_the_next_heartbeat_continues");

const ATTEMPT: &str = "crates/larder/src/lock/attempt.rs";
const KEYSPACE: &str = "crates/larder/src/keyspace.rs";
const MEMORY: &str = "crates/larder/src/store/memory/semaphores/semaphore.rs";
const EXCHANGE: &str = "crates/larder/src/store/redis/lua/semaphore/exchange.lua";
const GIVE: &str = "crates/larder/src/store/redis/lua/semaphore/give.lua";
const QUEUE: &str = "crates/larder/src/store/redis/lua/semaphore/queue.lua";
const SET: &str = "crates/larder/src/store/redis/lua/semaphore/set_permits.lua";
const TAKE: &str = "crates/larder/src/store/redis/lua/semaphore/take.lua";
const LOCK_QUEUE: &str = "crates/larder/src/store/redis/lua/lock/queue.lua";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "the deadline of a permit counts from the answer",
        &[switched(
            ATTEMPT,
            "Lease::of_permit(clock, name, token, Fence::new(fence), sent, request.ttl)",
            "{ let now = clock.now(); Lease::of_permit(clock, name, token, Fence::new(fence), now, request.ttl) }",
        )],
        &[test("lock_holding", "a_deadline_counts_from_before_each_request_left")],
    ),
    mutant(
        "a permit that was given up is not remembered by the server",
        &[rebuilt(
            TAKE,
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then",
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 2 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a release grants one permit and not all that are free",
        &[rebuilt(QUEUE, "local MOST_GRANTS = 64", "local MOST_GRANTS = 1")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a release grants more permits in one step than a server should",
        &[rebuilt(QUEUE, "local MOST_GRANTS = 64", "local MOST_GRANTS = 1000")],
        &[GRANTS],
    ),
    mutant(
        "a waiter that is too heavy for a number that was stored again waits",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/semaphore/confirm.lua",
            "if weight_of(ARGV[1]) > permits then\n    redis",
            "if weight_of(ARGV[1]) < 0 then\n    redis",
        )],
        &[found("a_waiter_that_is_heavier_than_a_number_that_was_lost_and_stored_again_fails"), EQUIVALENCE],
    ),
    mutant(
        "a refusal does not keep the number",
        &[rebuilt(TAKE, "redis.call('PEXPIRE', number, DAYS_30)\n", "")],
        &[KEPT],
    ),
    mutant(
        "a renewal does not keep the number",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/semaphore/renew.lua",
            "    redis.call('PEXPIRE', KEYS[2 * i], DAYS_30)\n",
            "",
        )],
        &[KEPT],
    ),
    mutant(
        "a number that differs is logged for each call",
        &[switched(
            "crates/larder/src/lock/numbers.rs",
            "stored != own && self.is_new(semaphore)",
            "stored != own",
        )],
        &[LOGGED],
    ),
    mutant(
        "a permit that expired before its release is not counted as lost",
        &[switched("crates/larder/src/lock/permit.rs", "release_state.may_be_held", "false")],
        &[RENEWED],
    ),
    mutant(
        "a permit that expired before its drop is not counted as lost",
        &[switched("crates/larder/src/lock/permit.rs", "!was_valid", "false")],
        &[RENEWED],
    ),
    mutant(
        "a downgraded lock still holds all permits",
        &[rebuilt(EXCHANGE, "drop_held(ARGV[2])\n", "")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a write fence may repeat",
        &[rebuilt(QUEUE, "(tonumber(redis.call('HGET', number, 'fence')) or 0) + 1)", "0)")],
        &[test("rw_locks", "a_writers_fence_exceeds_all_before_though_the_servers_clock_is_behind")],
    ),
    mutant(
        "a release grants nothing, and heartbeats must",
        &[rebuilt(
            GIVE,
            "if redis.call('EXISTS', queue) == 1 then",
            "if redis.call('EXISTS', queue) == 2 then",
        )],
        &[EQUIVALENCE, BUSY],
    ),
    mutant(
        "small requests overtake a large one",
        &[rebuilt(
            QUEUE,
            "elseif used + weight > permits or grants == MOST_GRANTS then\n          return used, false",
            "elseif used + weight > permits or grants == MOST_GRANTS then\n          at = at + 1",
        )],
        &[LARGE, EQUIVALENCE],
    ),
    mutant(
        "a caller takes what is free past the queue",
        &[rebuilt(TAKE, "if free and used + weight <= permits then", "if used + weight <= permits then")],
        &[LARGE, EQUIVALENCE],
    ),
    mutant(
        "weights are counted as one permit each",
        &[rebuilt(QUEUE, "  elseif stored[2] then\n    used = used + stored[2]\n", "")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a waiter that became too heavy is not removed when the number is lowered",
        &[rebuilt(SET, "if weight_of(token) > permits then", "if weight_of(token) < 0 then")],
        &[EQUIVALENCE],
    ),
    mutant(
        "an older version overwrites the number",
        &[rebuilt(
            SET,
            "if version and version >= tonumber(ARGV[2]) then",
            "if version and version == tonumber(ARGV[2]) then",
        )],
        &[VERSIONS, EQUIVALENCE],
    ),
    mutant(
        "permits are granted past the number",
        &[rebuilt(
            QUEUE,
            "elseif used + weight > permits or grants == MOST_GRANTS then",
            "elseif used >= permits or grants == MOST_GRANTS then",
        )],
        &[LARGE, EQUIVALENCE],
    ),
    mutant(
        "a claim that is not confirmed ends with a lease's time",
        &[rebuilt(
            QUEUE,
            "redis.call('ZADD', held, now + claim, token)",
            "redis.call('ZADD', held, now + 30000, token)",
        )],
        &[STUCK],
    ),
    mutant(
        "a waiter that confirms late does not take over the claim of a later one",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/semaphore/confirm.lua",
            "  if string.sub(state, 1, 1) ~= 't' and not take_over(ARGV[1], now, ARGV[3]) then",
            "  if string.sub(state, 1, 1) ~= 't' then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a confirmation that is repeated has another fence of a writer",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/semaphore/confirm.lua",
            "fence or fence_if(ARGV[5])",
            "fence_if(ARGV[5])",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a claim that ended loses its place",
        &[rebuilt(QUEUE, "redis.call('HSET', seen, token, -now)", "redis.call('HDEL', seen, token)")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a waiter that does not come is granted again and again",
        &[rebuilt(
            QUEUE,
            "if heartbeat > 0 and now - heartbeat <= live then",
            "if now - math.abs(heartbeat) <= live then",
        )],
        &[STUCK, EQUIVALENCE],
    ),
    mutant(
        "a lock is handed over by a write that needs memory first",
        &[rebuilt(
            LOCK_QUEUE,
            "string.find(woken.err, 'OOM', 1, true)",
            "string.find(woken.err, 'none', 1, true)",
        )],
        &[MAXMEMORY],
    ),
    mutant(
        "a bounded queue takes one more",
        &[rebuilt(
            TAKE,
            "elseif redis.call('ZCARD', queue) >= most then",
            "elseif redis.call('ZCARD', queue) > most then",
        )],
        &[BOUND, EQUIVALENCE],
    ),
    mutant(
        "the colon of a name is not escaped, and meets a key",
        &[switched(
            KEYSPACE,
            "KeyText::new(&mut whole).parts(&[&name]);",
            "name.write(&mut KeyText::new(&mut whole));",
        )],
        &[KEYS],
    ),
    mutant(
        "in memory, a weight above the number waits",
        &[switched(
            MEMORY,
            "if weight(token) > permits {\n            return Taken::TooHeavy { permits };\n        }",
            "if weight(token) > u64::MAX - 1 {\n            return Taken::TooHeavy { permits };\n        }",
        )],
        &[TOO_HEAVY, EQUIVALENCE],
    ),
];
