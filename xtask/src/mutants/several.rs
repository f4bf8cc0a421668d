//! Mistakes in locks that are taken together.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test};

const fn found(name: &'static str) -> Test {
    test("locks_several", name)
}

const ALL: Test = found("all_are_held_or_none");
const RENEWED: Test = found("what_is_taken_is_renewed_while_the_next_is_waited_for_and_a_loss_begins_again");
const CIRCLE: Test = found("overlapping_sets_in_any_order_never_wait_in_a_circle_and_never_overlap");
const MAX_WAIT: Test = found("one_max_wait_is_for_all_locks_together");
const FIRST: Test = found("a_release_reports_any_lock_that_was_lost");

const SEVERAL: &str = "crates/larder/src/lock/several.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "locks are taken in the order of the call",
        &[switched(SEVERAL, "names.sort();", "names.reverse();")],
        &[CIRCLE],
    ),
    mutant(
        "a name that is given twice counts once",
        &[switched(SEVERAL, "names.len() == all", "names.len() <= all")],
        &[ALL],
    ),
    mutant(
        "an attempt that fails keeps what it took",
        &[switched(
            SEVERAL,
            "return Ok(None)",
            "std::mem::forget(std::mem::take(&mut guards)); return Ok(None)",
        )],
        &[ALL],
    ),
    mutant(
        "a lock that is lost while the next is waited for is not noticed",
        &[rebuilt(SEVERAL, "() = guard.lost() => break,", "() = std::future::pending::<()>() => break,")],
        &[RENEWED],
    ),
    mutant(
        "locks that are taken are not renewed",
        &[switched(
            SEVERAL,
            "Lock::new(self.locks.clone(), name).ttl(self.ttl).max_hold(self.max_hold).keep_alive()",
            "Lock::new(self.locks.clone(), name).ttl(self.ttl).max_hold(self.max_hold)",
        )],
        &[RENEWED],
    ),
    mutant(
        "all count as held while one is",
        &[switched(
            SEVERAL,
            "self.guards.iter().all(|(_, guard)| guard.is_valid())",
            "self.guards.iter().any(|(_, guard)| guard.is_valid())",
        )],
        &[RENEWED],
    ),
    mutant(
        "each lock has the whole max_wait",
        &[switched(SEVERAL, "end.since(clock.now())", "max_wait.max(end.since(clock.now()))")],
        &[MAX_WAIT],
    ),
    mutant(
        "the outcome of the last release is reported",
        &[switched(SEVERAL, "first == ReleaseOutcome::Released", "first == first")],
        &[FIRST],
    ),
];
