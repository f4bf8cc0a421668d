//! Mistakes in jobs, and in the operations on a lock apart from holding it.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const EQUIVALENCE: Test =
    unit("store::equivalence_jobs::both_stores_answer_the_same_to_every_history_of_a_job");
const LOCKS: Test = unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const LOST: Test = test("jobs", "a_run_that_lost_its_lock_completes_nothing");
const ONCE: Test = test("jobs", "a_period_is_completed_once_and_the_next_is_another");
const HELD_UP: Test = test("jobs", "a_run_that_is_under_way_holds_up_every_other_of_its_job");
const DROPPED: Test = test("jobs", "a_run_whose_body_is_dropped_has_died_and_another_takes_its_place");
const RETRIED: Test = test("jobs", "a_failed_run_is_tried_again_later_and_given_up_after_its_attempts");
const BROKEN: Test =
    test("lock_handles", "a_broken_lock_goes_to_the_next_waiter_and_its_guard_learns_it_at_the_next_renewal");
const TICKET: Test = test("lock_handles", "a_lock_is_handed_over_as_a_ticket_with_its_fence");

const BEGIN: &str = "crates/larder/src/store/redis/lua/job/begin.lua";
const BREAK: &str = "crates/larder/src/store/redis/lua/lock/break_if.lua";
const END: &str = "crates/larder/src/store/redis/lua/job/end.lua";
const GUARD: &str = "crates/larder/src/lock/guard.rs";
const HOLDER: &str = "crates/larder/src/store/redis/lua/lock/held_by.lua";
const JOB: &str = "crates/larder/src/lock/job.rs";
const MEMORY: &str = "crates/larder/src/store/memory/jobs.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a run that lost its lock completes its period",
        &[rebuilt(
            END,
            "if redis.call('GET', KEYS[3]) ~= ARGV[1] then",
            "if redis.call('GET', KEYS[3]) == 'x' then",
        )],
        &[LOST, EQUIVALENCE],
    ),
    mutant(
        "a period that is completed is run again",
        &[rebuilt(BEGIN, "if done and done >= period then", "if done and done > period then")],
        &[ONCE, EQUIVALENCE],
    ),
    mutant(
        "a clock that steps back completes a period again",
        &[rebuilt(BEGIN, "if done and done >= period then", "if done and done == period then")],
        &[ONCE, EQUIVALENCE],
    ),
    mutant(
        "a slot is forgotten after a day",
        &[within(JOB, "keep: ", ["DEFAULT_KEEP", "Duration::from_secs(24 * 3600)"], ",")],
        &[test("jobs", "the_record_of_a_slot_is_kept_for_thirty_days_or_for_as_long_as_the_job_says")],
    ),
    mutant(
        "a run that hangs is renewed without end",
        &[within(JOB, "Some(Keep { max_hold: ", ["self.max_hold", "Duration::MAX"], " })")],
        &[test("jobs", "a_run_is_stopped_when_it_has_held_its_lock_for_max_hold")],
    ),
    mutant(
        "two runs are under way at once",
        &[rebuilt(
            BEGIN,
            "if redis.call('EXISTS', KEYS[3]) == 1 then",
            "if redis.call('EXISTS', KEYS[3]) == 2 then",
        )],
        &[HELD_UP, EQUIVALENCE],
    ),
    mutant(
        "a run that was given up begins when it arrives",
        &[rebuilt(
            BEGIN,
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then",
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 2 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a run that died is no attempt",
        &[rebuilt(
            BEGIN,
            "redis.call('HSET', KEYS[2], 'period', period, 'tries', tries + 1, 'last', now)",
            "redis.call('HSET', KEYS[2], 'period', period, 'tries', tries, 'last', now)",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "an end that is sent again says that the lock was lost",
        &[rebuilt(END, "return string.find(ends, ARGV[1], 1, true) and 1 or 0", "return 0")],
        &[EQUIVALENCE],
    ),
    mutant(
        "only the last end is recognised when it is sent again",
        &[rebuilt(END, "string.sub(ends, 1, 255)", "string.sub(ends, 1, 0)")],
        &[
            test("jobs", "a_run_whose_end_is_recorded_learns_so_also_after_the_run_of_a_later_period"),
            EQUIVALENCE,
        ],
    ),
    mutant(
        "a missed period that was given up holds up the next",
        &[switched(MEMORY, "current.min(tried + 1)", "current.min(tried)")],
        &[EQUIVALENCE],
    ),
    mutant(
        "a run completes the period after its own",
        &[within(JOB, "self.end(guard, &run, ", ["period", "period + 1"], ", result.")],
        &[ONCE],
    ),
    mutant(
        "a failed run is tried again at once",
        &[rebuilt(
            BEGIN,
            "elseif tonumber(record.last) + tonumber(ARGV[10]) > now then",
            "elseif tonumber(record.last) > now then",
        )],
        &[RETRIED, EQUIVALENCE],
    ),
    mutant(
        "a run is tried without end",
        &[rebuilt(BEGIN, "elseif tries >= most then", "elseif tries < 0 then")],
        &[RETRIED, EQUIVALENCE],
    ),
    mutant(
        "a period at most once is not marked at its start",
        &[rebuilt(BEGIN, "if ARGV[11] == '1' then", "if ARGV[11] == '2' then")],
        &[test("jobs", "a_run_at_most_once_is_not_tried_again"), EQUIVALENCE],
    ),
    mutant(
        "a call before the boundary counts for the period that ends",
        &[rebuilt(BEGIN, "(now + tonumber(ARGV[7]) - tonumber(ARGV[6]))", "(now - tonumber(ARGV[6]))")],
        &[ONCE, EQUIVALENCE],
    ),
    mutant(
        "a failed body completes its period",
        &[switched(JOB, "result.is_ok()", "result.is_ok() || result.is_err()")],
        &[RETRIED],
    ),
    mutant(
        "a run whose body was dropped keeps its lock",
        &[switched(GUARD, "may_be_held && !self.ended", "may_be_held && !self.ended && !self.kept")],
        &[DROPPED],
    ),
    mutant(
        "a lock is broken whatever its fence",
        &[rebuilt(
            BREAK,
            "tonumber(string.sub(last, 1, 16)) ~= tonumber(ARGV[1])",
            "tonumber(string.sub(last, 1, 16)) == 0",
        )],
        &[BROKEN, LOCKS],
    ),
    mutant(
        "a lock that is being handed over has the last holder",
        &[rebuilt(
            HOLDER,
            "if token == '' or redis.call('ZSCORE', queue, token) then",
            "if token == '' then",
        )],
        &[LOCKS],
    ),
    mutant(
        "a record expires while its run lasts",
        &[switched(JOB, "keep.saturating_add(self.max_hold.min(LONGEST_KEEP))", "keep")],
        &[test("jobs", "a_run_that_is_longer_than_its_record_is_kept_has_it_until_the_end")],
    ),
    mutant(
        "a ticket whose adoption is answered too late leaves the lock held",
        &[switched(
            "crates/larder/src/lock/mod.rs",
            "end_in_background(&self.locks.context, self.name.clone(), token, left, Ending::Release);",
            "let _ = (left, Ending::Release);",
        )],
        &[test("lock_handles", "a_ticket_whose_adoption_is_answered_too_late_leaves_the_lock_free")],
    ),
    mutant(
        "a guard that became a ticket frees its lock",
        &[within(
            GUARD,
            "        self.end_lease();\n        ",
            ["self.ended = true;", "self.ended = false;"],
            "\n        let Lease",
        )],
        &[TICKET],
    ),
];
