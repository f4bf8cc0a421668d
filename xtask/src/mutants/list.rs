//! The mistakes, and who is to find them.

use std::fmt;

/// A mistake in the code.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) edits: &'static [Edit],
    /// Each of them must.
    pub(super) found_by: &'static [Test],
}

pub(super) struct Edit {
    pub(super) file: &'static str,
    /// Stands there once.
    pub(super) from: &'static str,
    pub(super) to: &'static str,
}

/// A test of the crate larder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    /// A file in tests/, or nothing for a test beside the code.
    pub(super) target: &'static str,
    /// Its whole name.
    pub(super) name: &'static str,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.target.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}::{}", self.target, self.name)
        }
    }
}

impl Test {
    #[cfg(test)]
    pub(super) fn file(&self) -> String {
        if !self.target.is_empty() {
            return format!("crates/larder/tests/{}.rs", self.target);
        }
        // A module of tests stands in its parent's file, or in one of its own.
        let mut modules: Vec<&str> = self.name.split("::").collect();
        modules.pop();
        if modules.last() == Some(&"tests") && modules != ["lock", "tests"] {
            modules.pop();
        }
        format!("crates/larder/src/{}.rs", modules.join("/"))
    }
}

const fn unit(name: &'static str) -> Test {
    Test { target: "", name }
}

const fn failover(name: &'static str) -> Test {
    Test { target: "lock_failover", name }
}

const EQUIVALENCE: Test =
    unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const LOST: Test = Test { target: "locks", name: "the_time_of_a_lock_ends_and_a_lost_guard_never_revives" };
const FENCES: Test =
    Test { target: "locks", name: "fences_grow_though_the_servers_clock_is_behind_the_last_one" };
const DEADLINE: Test =
    Test { target: "lock_holding", name: "a_deadline_counts_from_before_each_request_left" };
const LATE: Test =
    Test { target: "lock_holding", name: "a_request_that_arrives_after_it_was_given_up_takes_nothing" };
const OUTAGE: Test = Test {
    target: "lock_holding",
    name: "whose_time_ends_in_an_outage_is_told_of_that_and_after_it_that_the_lock_is_held",
};
const ORDER: Test =
    Test { target: "lock_line", name: "sixty_four_waiters_are_served_in_the_order_in_which_they_came" };
const LATE_PUSH: Test =
    Test { target: "lock_line", name: "a_wake_up_that_comes_late_does_not_lengthen_what_is_believed" };
const DEAD_HEADS: Test =
    Test { target: "lock_line", name: "dead_heads_cost_the_line_at_most_half_a_second_each" };
const GONE: Test = Test { target: "lock_line", name: "who_goes_away_leaves_its_place_at_once" };
const HISTORY: Test = Test { target: "lock_history", name: "held_intervals_never_overlap_whatever_fails" };

const MOVED: Test = failover("a_lock_that_is_held_and_waited_for_moves_with_its_slot");
const NEW_MASTER: Test = failover("a_lock_outlives_the_master_of_its_slot_where_the_replica_had_it");
const AWAY: Test = failover("a_node_that_is_away_leaves_the_locks_of_the_others_renewed");
const SENTINEL: Test = failover("a_sentinel_failover_is_followed_by_who_holds_and_by_who_waits");

const ATTEMPT: &str = "crates/larder/src/lock/attempt.rs";
const GUARD: &str = "crates/larder/src/lock/guard.rs";
const HOLDING: &str = "crates/larder/src/lock/holding.rs";
const KEEPING: &str = "crates/larder/src/lock/keeping.rs";
const SEMAPHORE: &str = "crates/larder/src/lock/semaphore.rs";
const MEMORY: &str = "crates/larder/src/store/memory/locks.rs";
const ACQUIRE: &str = "crates/larder/src/store/redis/lua/acquire.lua";
const EXTEND: &str = "crates/larder/src/store/redis/lua/extend.lua";
const FENCE: &str = "crates/larder/src/store/redis/lua/fence.lua";
const LINE: &str = "crates/larder/src/store/redis/lua/line.lua";
const RELEASE: &str = "crates/larder/src/store/redis/lua/release.lua";
const TAKE_PERMIT: &str = "crates/larder/src/store/redis/lua/take_permit.lua";

/// Where a fence must go on from the last one.
const BEHIND: &str = "if last and tonumber(last) >= fence then";
const NEVER: &str = "if last and tonumber(last) < 0 then";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a release frees the lock whoever holds it",
        edits: &[Edit {
            file: RELEASE,
            from: "if redis.call('GET', KEYS[1]) ~= ARGV[1] then",
            to: "if redis.call('EXISTS', KEYS[1]) == 0 then",
        }],
        found_by: &[LOST, EQUIVALENCE],
    },
    Mutant {
        name: "an extension is anybody's",
        edits: &[Edit {
            file: EXTEND,
            from: "if redis.call('GET', lock) == ARGV[2 * i - 1] then",
            to: "if redis.call('EXISTS', lock) == 1 then",
        }],
        found_by: &[EQUIVALENCE],
    },
    Mutant {
        name: "a release in memory frees the lock whoever holds it",
        edits: &[Edit {
            file: MEMORY,
            from: "if line.holder(now) != Some(token) {",
            to: "if line.holder(now).is_none() {",
        }],
        found_by: &[LOST, EQUIVALENCE],
    },
    Mutant {
        name: "no drift margin",
        edits: &[Edit { file: HOLDING, from: "    ttl / 100 + Duration::from_millis(2)", to: "    ttl * 0" }],
        found_by: &[unit(
            "lock::tests::a_guard_is_lost_before_another_holds_the_lock_though_its_clock_is_a_hundredth_slow",
        )],
    },
    Mutant {
        name: "an answer that comes after the deadline revives the guard",
        edits: &[Edit {
            file: HOLDING,
            from: "Some(old) if *old > now => {",
            to: "Some(old) if *old > now || now >= *old => {",
        }],
        found_by: &[unit("lock::tests::an_answer_that_comes_after_the_deadline_does_not_revive_it")],
    },
    Mutant {
        name: "a guard whose time is over asks for more",
        edits: &[Edit {
            file: GUARD,
            from: "            check_ttl(ttl)?;\n            if !self.is_valid() {",
            to: "            check_ttl(ttl)?;\n            if !self.is_valid() && ttl.is_zero() {",
        }],
        found_by: &[unit(
            "lock::tests::a_guard_whose_time_is_over_here_is_not_revived_by_a_store_that_still_holds_it",
        )],
    },
    Mutant {
        name: "an extension takes what is free",
        edits: &[Edit {
            file: EXTEND,
            from: "  reply[i] = 0\n",
            to: "  reply[i] = 0\n  redis.call('SET', lock, ARGV[2 * i - 1], 'NX', 'PX', ARGV[2 * i])\n",
        }],
        found_by: &[EQUIVALENCE],
    },
    Mutant {
        name: "the deadline of a free lock counts from the answer",
        edits: &[Edit {
            file: ATTEMPT,
            from: "Ok(attempted) => {\n                self.heard = now;",
            to: "Ok(attempted) => {\n                self.heard = now.max(self.locks.context.clock.now());",
        }],
        found_by: &[DEADLINE],
    },
    Mutant {
        name: "the deadline of a lock that was handed over counts from the answer",
        edits: &[Edit {
            file: ATTEMPT,
            from: "        self.heard = now;\n        if answer == Attempted::Gone {",
            to: "        self.heard = now.max(self.locks.context.clock.now());\n        if answer == Attempted::Gone {",
        }],
        found_by: &[DEADLINE, LATE_PUSH],
    },
    Mutant {
        name: "a push makes a holder, whose deadline counts from it",
        edits: &[Edit {
            file: ATTEMPT,
            from: "match self.confirm(woken).await {",
            to: "self.heard = woken;\n            match std::future::ready(Ok::<_, Error>(Attempted::Granted { fence: 1 })).await {",
        }],
        found_by: &[ORDER, LATE_PUSH],
    },
    Mutant {
        name: "the deadline of an extension counts from the answer",
        edits: &[Edit {
            file: GUARD,
            from: "if held && self.holding.renewed(sent, ttl) {",
            to: "if held && self.holding.renewed(locks.context.clock.now(), ttl) {",
        }],
        found_by: &[DEADLINE],
    },
    Mutant {
        name: "the deadline of a renewal counts from the answer",
        edits: &[Edit {
            file: KEEPING,
            from: "Some(held) if held && holding.renewed(sent, ttl) =>",
            to: "Some(held) if held && holding.renewed(now, ttl) =>",
        }],
        found_by: &[DEADLINE],
    },
    Mutant {
        name: "the deadline of a permit counts from the answer",
        edits: &[Edit {
            file: SEMAPHORE,
            from: "Holding::of_permit(locks, name, attempt.token, sent, self.ttl)",
            to: "Holding::of_permit(locks, name, attempt.token, sent.max(self.locks.context.clock.now()), self.ttl)",
        }],
        found_by: &[DEADLINE],
    },
    Mutant {
        name: "an attempt that was given up is not remembered",
        edits: &[Edit {
            file: ATTEMPT,
            from: "Stage::Unanswered => Pace::REMEMBERED,",
            to: "Stage::Unanswered => Duration::from_millis(1),",
        }],
        found_by: &[LATE],
    },
    Mutant {
        name: "an attempt that was given up is not remembered by the server",
        edits: &[Edit {
            file: ACQUIRE,
            from: "if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then",
            to: "if redis.call('PEXPIRE', KEYS[5], '30000') == 2 then",
        }],
        found_by: &[LATE, EQUIVALENCE],
    },
    Mutant {
        name: "a permit that was given up is not remembered by the server",
        edits: &[Edit {
            file: TAKE_PERMIT,
            from: "if redis.call('PEXPIRE', KEYS[4], ARGV[5]) == 1 then",
            to: "if redis.call('PEXPIRE', KEYS[4], ARGV[5]) == 2 then",
        }],
        found_by: &[EQUIVALENCE],
    },
    Mutant {
        name: "who comes takes the lock past the line",
        edits: &[Edit { file: ACQUIRE, from: "if taken and not waited_for then", to: "if taken then" }],
        found_by: &[EQUIVALENCE],
    },
    Mutant {
        name: "who came last is served first",
        edits: &[Edit {
            file: LINE,
            from: "redis.call('ZRANGE', line, at, at + more)",
            to: "redis.call('ZREVRANGE', line, at, at + more)",
        }],
        found_by: &[ORDER, HISTORY],
    },
    Mutant {
        name: "a head that is dead is waited for three times as long",
        edits: &[Edit {
            file: "crates/larder/src/store/lock.rs",
            from: "Self { claim: Duration::from_millis(250),",
            to: "Self { claim: Duration::from_millis(900),",
        }],
        found_by: &[DEAD_HEADS],
    },
    Mutant {
        name: "who goes away stays in line",
        edits: &[Edit {
            file: ATTEMPT,
            from: "            Stage::Settled => return,\n",
            to: "            Stage::Settled | Stage::InLine => return,\n",
        }],
        found_by: &[GONE],
    },
    Mutant {
        name: "an outage is taken for a lock that is held",
        edits: &[Edit {
            file: ATTEMPT,
            from: "if heard.is_some_and(|heard| heard >= sent) {",
            to: "if heard.is_none_or(|_| error.is_retryable() || sent <= self.heard) {",
        }],
        found_by: &[OUTAGE],
    },
    Mutant {
        name: "a fence is the server's time",
        edits: &[
            Edit { file: ACQUIRE, from: BEHIND, to: NEVER },
            Edit { file: FENCE, from: BEHIND, to: NEVER },
        ],
        found_by: &[FENCES],
    },
    Mutant {
        name: "the fence of a lock that was handed over is the server's time",
        edits: &[Edit { file: FENCE, from: BEHIND, to: NEVER }],
        found_by: &[FENCES],
    },
    Mutant {
        name: "a fence of memory: is its time",
        edits: &[Edit {
            file: MEMORY,
            from: "now_micros.max(self.last_fence.saturating_add(1))",
            to: "now_micros.max(self.last_fence.min(1))",
        }],
        found_by: &[unit(
            "store::memory::locks::tests::fences_grow_though_the_clock_stands_still_or_is_set_back",
        )],
    },
    Mutant {
        name: "others come to the door while a permit of memory: is taken",
        edits: &[
            Edit { file: MEMORY, from: "        work(match door {", to: "        let waits = match door {" },
            Edit {
                file: MEMORY,
                from: "line.is_some_and(|line| !line.waiters.is_empty()),\n        })\n",
                to: "line.is_some_and(|line| !line.waiters.is_empty()),\n        };\n        drop(state);\n        work(waits)\n",
            },
        ],
        found_by: &[unit(
            "store::memory::semaphores::tests::nobody_comes_to_the_door_while_a_permit_is_being_taken",
        )],
    },
    Mutant {
        name: "who waits gives up at the first request that fails",
        edits: &[Edit {
            file: ATTEMPT,
            from: "error.is_retryable() && silence <= self.locks.timeout()",
            to: "error.is_retryable() && silence > 10 * self.locks.timeout()",
        }],
        found_by: &[MOVED, NEW_MASTER, SENTINEL],
    },
    Mutant {
        name: "keys that are apart while their slot moves are taken for a wrong setting",
        edits: &[Edit {
            file: "crates/larder/src/store/redis/network.rs",
            from: "Self::Cluster(_) if matches!(failure, Failure::TryAgain) => Error::new(",
            to: "Self::Cluster(_) if matches!(failure, Failure::NoScript) => Error::new(",
        }],
        found_by: &[MOVED],
    },
    Mutant {
        name: "a node that is away fails the renewals of all",
        edits: &[Edit {
            file: "crates/larder/src/store/redis/lock.rs",
            from: "failure.filter(|_| !any).map_or(Ok(ordered), Err)",
            to: "failure.filter(|_| !any || any).map_or(Ok(ordered), Err)",
        }],
        found_by: &[AWAY],
    },
];
