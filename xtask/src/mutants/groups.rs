//! Mistakes in lock groups.

use super::mutant::{Mutant, Test, mutant, rebuilt, test, unit};

const fn found(name: &'static str) -> Test {
    test("lock_groups", name)
}

const ALL: Test = found("all_are_held_or_none");
const FIRST: Test = found("of_two_attempts_with_a_lock_in_common_the_first_is_served_first");
const EQUIVALENCE: Test =
    unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const TOGETHER: Test = found("the_keys_of_a_group_expire_together");
const RANDOM: Test = found("random_overlapping_sets_cause_no_deadlock_and_no_two_holders");

const ACQUIRE: &str = "crates/larder/src/store/redis/lua/group/acquire.lua";
const GIVE: &str = "crates/larder/src/store/redis/lua/group/give.lua";
const QUEUE: &str = "crates/larder/src/store/redis/lua/group/queue.lua";
const RENEW: &str = "crates/larder/src/store/redis/lua/group/renew.lua";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "an attempt takes a lock of a group that is held",
        &[rebuilt(
            ACQUIRE,
            "free = free and not wanted[name] and not taken(name)",
            "free = free and not wanted[name]",
        )],
        &[ALL, RANDOM],
    ),
    mutant(
        "an attempt takes a lock that a waiter of its group wants",
        &[rebuilt(
            ACQUIRE,
            "free = free and not wanted[name] and not taken(name)",
            "free = free and not taken(name)",
        )],
        &[FIRST],
    ),
    mutant(
        "a waiter of a group is granted what an earlier one wants",
        &[rebuilt(
            QUEUE,
            "free = free and not wanted[name] and not taken(name)",
            "free = free and not taken(name)",
        )],
        &[FIRST],
    ),
    mutant(
        "locks of a group are not renewed",
        &[rebuilt(
            RENEW,
            "redis.call('ZADD', group, math.max(ends, now + ttl), token)",
            "redis.call('ZADD', group, ends, token)",
        )],
        &[found("the_locks_are_renewed_together_and_lost_together")],
    ),
    mutant(
        "an attempt that is dropped keeps its place in a group",
        &[rebuilt(
            GIVE,
            "if leave_queue(ARGV[1]) then",
            "if redis.call('HEXISTS', state, 'h' .. ARGV[1]) == 1 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a lock stays taken by a holder that the server has lost",
        &[rebuilt(QUEUE, "return token and redis.call('ZSCORE', group, token)", "return token")],
        &[found("locks_whose_holder_the_server_has_lost_are_free"), EQUIVALENCE],
    ),
    mutant(
        "a step shortens the time of a group's keys",
        &[rebuilt(QUEUE, "span = math.max(span, redis.call('PTTL', key))", "redis.call('PTTL', key)")],
        &[TOGETHER],
    ),
    mutant(
        "the key of the held tokens expires before the others of its group",
        &[rebuilt(
            QUEUE,
            "    redis.call('PEXPIRE', key, span)\n",
            "    redis.call('PEXPIRE', key, key == group and 10560 or span)\n",
        )],
        &[TOGETHER],
    ),
    mutant(
        "a renewal of a group leaves its fence to expire",
        &[rebuilt(
            RENEW,
            "redis.call('PEXPIRE', KEYS[4 * i], keep(ttl + FENCE_KEPT))",
            "keep(ttl + FENCE_KEPT)",
        )],
        &[test("lock_handles", "what_is_renewed_keeps_its_fence_and_its_holder"), EQUIVALENCE],
    ),
    mutant(
        "a confirmation of a group that is repeated has another fence",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/group/confirm.lua",
            "if not fence then",
            "if fence or not fence then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "waiters of a group whose process is long dead are counted",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/group/holder.lua",
            "if now - heartbeat <= KEPT * tonumber(ARGV[2]) then",
            "if now - heartbeat <= 1000 * KEPT * tonumber(ARGV[2]) then",
        )],
        &[found("a_waiter_whose_process_is_long_dead_is_not_counted")],
    ),
    mutant(
        "keys of a group have no end",
        &[rebuilt(QUEUE, "redis.call('PEXPIRE', key, span)", "redis.call('PERSIST', key)")],
        &[found("a_waiter_that_sends_nothing_more_leaves_no_key_without_an_expiry")],
    ),
];
