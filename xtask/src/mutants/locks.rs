//! Mistakes in locks.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const fn failover(name: &'static str) -> Test {
    test("lock_failover", name)
}

const EQUIVALENCE: Test =
    unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const LOST: Test = test("locks", "the_time_of_a_lock_ends_and_a_lost_guard_never_revives");
const FENCES: Test = test("locks", "fences_grow_though_the_servers_clock_is_behind_the_last_one");
const DEADLINE: Test = test("lock_holding", "a_deadline_counts_from_before_each_request_left");
const FENCE_KEPT: Test = test("lock_handles", "what_is_renewed_keeps_its_fence_and_its_holder");
const LATE: Test = test("lock_holding", "a_request_that_arrives_after_it_was_given_up_takes_nothing");
const OUTAGE: Test =
    test("lock_holding", "a_wait_that_ends_in_an_outage_gets_its_error_and_after_it_that_the_lock_is_held");
const ORDER: Test = test("lock_queue", "sixty_four_waiters_are_served_in_the_order_in_which_they_queued");
const LATE_PUSH: Test = test("lock_queue", "a_late_wake_up_does_not_lengthen_the_lease");
const DEAD_HEADS: Test = test("lock_queue", "dead_heads_cost_the_queue_at_most_half_a_second_each");
const GONE: Test = test("lock_queue", "a_dropped_waiter_leaves_its_place_at_once");
const HANDED_ON: Test = test("lock_release", "a_waiter_is_handed_the_lock_in_the_same_release");
const FAULTS: Test = test("faults", "nothing_that_is_promised_is_broken_whatever_fails");

const MOVED: Test = failover("a_lock_that_is_held_and_waited_for_moves_with_its_slot");
const NEW_MASTER: Test = failover("a_lock_outlives_the_master_of_its_slot_where_the_replica_had_it");
const AWAY: Test = failover("a_node_that_is_away_leaves_the_locks_of_the_others_renewed");
const SENTINEL: Test = failover("holders_and_waiters_follow_a_sentinel_failover");

const ATTEMPT: &str = "crates/larder/src/lock/attempt.rs";
const GUARD: &str = "crates/larder/src/lock/guard.rs";
const LEASE: &str = "crates/larder/src/lock/lease.rs";
const RENEWER: &str = "crates/larder/src/lock/renewer.rs";
const MEMORY: &str = "crates/larder/src/store/memory/locks.rs";
const ACQUIRE: &str = "crates/larder/src/store/redis/lua/lock/acquire.lua";
const CONFIRM: &str = "crates/larder/src/store/redis/lua/lock/confirm.lua";
const EXTEND: &str = "crates/larder/src/store/redis/lua/lock/extend.lua";
const FENCE: &str = "crates/larder/src/store/redis/lua/lock/fence.lua";
const QUEUE: &str = "crates/larder/src/store/redis/lua/lock/queue.lua";
const RELEASE: &str = "crates/larder/src/store/redis/lua/lock/release.lua";

/// Where a fence must continue from the last one.
const BEHIND: &str = "if last and last >= fence then";
const NEVER: &str = "if last and last < 0 then";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a release frees the lock of any holder",
        &[rebuilt(RELEASE, "if not held or string.sub(held, 1, 16) ~= ARGV[1] then", "if not held then")],
        &[LOST, EQUIVALENCE],
    ),
    mutant(
        "an extension is anybody's",
        &[rebuilt(
            EXTEND,
            "if redis.call('GETRANGE', lock, 0, 15) == ARGV[2 * i - 1] then",
            "if redis.call('EXISTS', lock) == 1 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a release in memory frees the lock of any holder",
        &[switched(MEMORY, "known.holder(now) != Some(token)", "known.holder(now).is_none()")],
        &[LOST, EQUIVALENCE],
    ),
    mutant(
        "no drift margin",
        &[switched(LEASE, "ttl / 100 + Duration::from_millis(2)", "ttl * 0")],
        &[unit(
            "lock::tests::a_guard_is_lost_before_another_holds_the_lock_though_its_clock_is_a_hundredth_slow",
        )],
    ),
    mutant(
        "an answer that arrives after the deadline revives the guard",
        &[within(LEASE, "Some(old) if ", ["*old > now", "*old > now || now >= *old"], " => {")],
        &[unit("lock::tests::an_answer_that_arrives_after_the_deadline_does_not_revive_it")],
    ),
    mutant(
        "a guard whose time is over asks for more",
        &[within(
            GUARD,
            "            lease::check(ttl, self.lease.failover)?;\n            if ",
            ["!self.is_valid()", "!self.is_valid() && ttl.is_zero()"],
            " {",
        )],
        &[unit("lock::tests::a_guard_whose_time_is_over_here_is_not_revived_by_a_store_that_still_holds_it")],
    ),
    mutant(
        "a renewal leaves the fence to expire",
        &[rebuilt(EXTEND, "      redis.call('PEXPIRE', fence, ttl + FENCE_KEPT)\n", "")],
        &[FENCE_KEPT, EQUIVALENCE],
    ),
    mutant(
        "a confirmation that is repeated has another fence",
        &[rebuilt(CONFIRM, "last and string", "not last and string")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a confirmation in memory that is repeated has another fence",
        &[switched(
            MEMORY,
            "known.held.as_mut().and_then(|held| Some((held.fence?, &mut held.deadline)))",
            "known.held.as_mut().and_then(|held| Some((held.fence? + 1, &mut held.deadline)))",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "renewals wait for replicas on the callers' connections",
        &[switched(RENEWER, "renewer.context.background_coordination()", "renewer.context.coordination()")],
        &[test(
            "lock_replicas",
            "a_lock_with_replicas_is_kept_while_the_only_thread_of_its_runtime_computes",
        )],
    ),
    mutant(
        "a lost lock names no holder",
        &[switched(LEASE, "self.lost_to.get()", "self.lost_to.get().filter(|_| false)")],
        &[test("lock_handles", "errors_of_locks_name_the_lock_and_its_holder")],
    ),
    mutant(
        "a waiter that lost its queue has the fence of the holder before",
        &[rebuilt(CONFIRM, "if left > tonumber(ARGV[4]) and last", "if last")],
        &[unit(
            "store::equivalence_locks::a_waiter_whose_queue_is_lost_while_it_has_a_claim_gets_a_fence_of_its_own",
        )],
    ),
    mutant(
        "an extension takes what is free",
        &[rebuilt(
            EXTEND,
            "KEYS[2 * i], tonumber(ARGV[2 * i])\n",
            "KEYS[2 * i], tonumber(ARGV[2 * i])\n  redis.call('SET', lock, ARGV[2 * i - 1], 'NX', 'PX', ARGV[2 * i])\n",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "the deadline of a free lock counts from the answer",
        &[within(
            ATTEMPT,
            "Ok(attempted) => {\n                self.last_answer = ",
            ["now", "now.max(self.locks.context.clock.now())"],
            ";",
        )],
        &[DEADLINE],
    ),
    mutant(
        "the deadline of a lock that was handed over counts from the answer",
        &[within(
            ATTEMPT,
            "        self.last_answer = ",
            ["now", "now.max(self.locks.context.clock.now())"],
            ";\n        if matches!(answer",
        )],
        &[DEADLINE, LATE_PUSH],
    ),
    mutant(
        "a push makes a holder, whose deadline counts from it",
        &[switched(
            ATTEMPT,
            "self.confirm(woken).await",
            "{ self.last_answer = woken; Ok::<_, Error>(AttemptReply::Granted { fence: 1 }) }",
        )],
        &[ORDER, LATE_PUSH],
    ),
    mutant(
        "the deadline of an extension counts from the answer",
        &[within(
            GUARD,
            "if ",
            ["self.lease.renewed(sent, ttl)", "self.lease.renewed(locks.context.clock.now(), ttl)"],
            " {",
        )],
        &[DEADLINE],
    ),
    mutant(
        "the deadline of a renewal counts from the answer",
        &[within(
            RENEWER,
            "Some(Renewal::Held) if ",
            ["lease.renewed(sent, ttl)", "lease.renewed(context.clock.now(), ttl)"],
            " => {}",
        )],
        &[DEADLINE],
    ),
    mutant(
        "an attempt that was given up is not remembered",
        &[within(
            ATTEMPT,
            "Stage::Unanswered => ",
            ["QueueTiming::REMEMBERED", "Duration::from_millis(1)"],
            ",",
        )],
        &[LATE],
    ),
    mutant(
        "an attempt that was given up is not remembered by the server",
        &[rebuilt(
            ACQUIRE,
            "if not held and redis.call('PEXPIRE', KEYS[4], '30000') == 1 then",
            "if not held and redis.call('PEXPIRE', KEYS[4], '30000') == 2 then",
        )],
        &[LATE, EQUIVALENCE],
    ),
    mutant(
        "a new caller takes the lock past the queue",
        &[rebuilt(
            ACQUIRE,
            "if not held and redis.call('PEXPIRE', KEYS[3], '10560') == 0 then",
            "if not held then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "an attempt that joins the queue leaves no mark on the lock",
        &[rebuilt(
            ACQUIRE,
            "redis.call('SETRANGE', KEYS[1], 16, string.format('+%.0f', now + 2 * KEPT * live))",
            "local _ = now",
        )],
        &[HANDED_ON],
    ),
    mutant(
        "a waiter that did not take its turn gets the next one",
        &[rebuilt(
            QUEUE,
            "redis.pcall('SET', wake, '1', 'NX', 'PX', live)\n        if woken",
            "redis.pcall('SET', wake, '1', 'PX', live)\n        if woken",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "the last caller is served first",
        &[rebuilt(
            QUEUE,
            "redis.call('ZRANGE', queue, at, at + more, 'WITHSCORES')",
            "redis.call('ZREVRANGE', queue, at, at + more, 'WITHSCORES')",
        )],
        &[ORDER, FAULTS],
    ),
    mutant(
        "a head that is dead is waited for three times as long",
        &[rebuilt(
            "crates/larder/src/store/lock.rs",
            "Self { claim: Duration::from_millis(250),",
            "Self { claim: Duration::from_millis(900),",
        )],
        &[DEAD_HEADS],
    ),
    mutant(
        "a caller that gives up stays in the queue",
        &[within(ATTEMPT, "Stage::Queued => ", ["Duration::from_millis(1)", "return"], ",")],
        &[GONE],
    ),
    mutant(
        "an outage is taken for a lock that is held",
        &[switched(
            ATTEMPT,
            "last_answer.is_some_and(|last_answer| last_answer >= sent)",
            "last_answer.is_none_or(|_| error.is_retryable() || sent <= self.last_answer)",
        )],
        &[OUTAGE],
    ),
    mutant(
        "a fence is the server's time",
        &[rebuilt(ACQUIRE, BEHIND, NEVER), rebuilt(FENCE, BEHIND, NEVER)],
        &[FENCES],
    ),
    mutant(
        "the fence of a lock that was handed over is the server's time",
        &[rebuilt(FENCE, BEHIND, NEVER)],
        &[FENCES],
    ),
    mutant(
        "a fence of memory: is its time",
        &[switched(
            MEMORY,
            "now_micros.max(self.last_fence.saturating_add(1))",
            "now_micros.max(self.last_fence.min(1))",
        )],
        &[unit("store::memory::locks::tests::fences_grow_though_the_clock_stops_or_is_set_back")],
    ),
    mutant(
        "who waits gives up at the first request that fails",
        &[switched(
            ATTEMPT,
            "error.is_retryable() && silence <= self.locks.context.limits.response_timeout",
            "error.is_retryable() && silence > 10 * self.locks.context.limits.response_timeout",
        )],
        &[NEW_MASTER, SENTINEL],
    ),
    mutant(
        "keys that are apart while their slot moves are taken for a wrong setting",
        &[rebuilt(
            "crates/larder/src/store/redis/network.rs",
            "Self::Cluster(_) if matches!(failure, Failure::TryAgain) => Error::new(",
            "Self::Cluster(_) if matches!(failure, Failure::NoScript) => Error::new(",
        )],
        &[MOVED],
    ),
    mutant(
        "a node that is away fails the renewals of all",
        &[switched(
            "crates/larder/src/store/redis/lock.rs",
            "failure.filter(|_| !any).map_or(Ok(ordered), Err)",
            "failure.filter(|_| !any || any).map_or(Ok(ordered), Err)",
        )],
        &[AWAY],
    ),
];
