//! Mistakes in lock groups.

use super::mutant::{Mutant, Test, mutant, rebuilt, test};

const fn found(name: &'static str) -> Test {
    test("lock_groups", name)
}

const ALL: Test = found("all_are_held_or_none");
const FIRST: Test = found("of_two_attempts_with_a_lock_in_common_the_first_is_served_first");
const RANDOM: Test = found("random_overlapping_sets_come_to_no_deadlock_and_no_two_holders");

const ACQUIRE: &str = "crates/larder/src/store/redis/lua/group/acquire.lua";
const GIVE: &str = "crates/larder/src/store/redis/lua/group/give.lua";
const QUEUE: &str = "crates/larder/src/store/redis/lua/group/queue.lua";
const RENEW: &str = "crates/larder/src/store/redis/lua/group/renew.lua";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "an attempt takes a lock of a group that is held",
        &[rebuilt(
            ACQUIRE,
            "free = free and not wanted[name] and not redis.call('HGET', state, 'n' .. name)",
            "free = free and not wanted[name]",
        )],
        &[ALL, RANDOM],
    ),
    mutant(
        "an attempt takes a lock that a waiter of its group wants",
        &[rebuilt(
            ACQUIRE,
            "free = free and not wanted[name] and not redis.call('HGET', state, 'n' .. name)",
            "free = free and not redis.call('HGET', state, 'n' .. name)",
        )],
        &[FIRST],
    ),
    mutant(
        "a waiter of a group is granted what an earlier one wants",
        &[rebuilt(
            QUEUE,
            "free = free and not wanted[name] and not redis.call('HGET', state, 'n' .. name)",
            "free = free and not redis.call('HGET', state, 'n' .. name)",
        )],
        &[FIRST],
    ),
    mutant(
        "a release frees one lock of a group",
        &[rebuilt(
            QUEUE,
            "redis.call('HDEL', state, 'n' .. name)\n    end",
            "redis.call('HDEL', state, 'n' .. name)\n      break\n    end",
        )],
        &[ALL],
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
        &[rebuilt(GIVE, "leave_queue(ARGV[1])\n", "")],
        &[found("a_dropped_attempt_leaves_its_place")],
    ),
    mutant(
        "keys of a group have no end",
        &[rebuilt(QUEUE, "redis.call('PEXPIRE', key, span)", "redis.call('PERSIST', key)")],
        &[found("a_waiter_that_is_never_heard_of_again_leaves_no_key_without_an_end")],
    ),
];
