//! Mistakes in elections.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, within};

const fn found(name: &'static str) -> Test {
    test("elections", name)
}

const SEEN: Test = found("a_leader_is_seen_with_its_value_and_fence_and_resigning_hands_over");
const CUT_OFF: Test = found("a_leader_that_is_cut_off_is_stopped_before_another_leads_and_leads_again_later");
const RESIGNS: Test = found("a_leader_that_resigns_is_followed_within_two_and_a_half_round_trips");
const KILLED: Test =
    found("after_a_leader_is_killed_another_leads_within_its_lease_and_seven_tenths_of_a_second");
const NOTIFIED: Test = found("observers_are_notified_and_outlive_an_outage_of_the_server");
const IDLE: Test = found("while_nothing_changes_an_observer_sends_nothing");
const RENEWED: Test = found("a_leadership_is_renewed_beyond_its_lease");
const OUTAGE: Test = found("a_candidate_that_finds_no_server_campaigns_until_there_is_one");

const ELECTION: &str = "crates/larder/src/lock/election.rs";
const RUN: &str = "crates/larder/src/lock/run.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a leader that resigns hands nothing over",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/lock/release.lua",
            "if not hand_over(KEYS[1], KEYS[2], KEYS[1] .. ':seen', now, claim, tonumber(live), string.sub(held, 17)) then",
            "do",
        )],
        &[RESIGNS],
    ),
    mutant(
        "a body goes on when its leadership is lost",
        &[rebuilt(RUN, "() = guard.lost() => Err", "() = std::future::pending::<()>() => Err")],
        &[CUT_OFF],
    ),
    mutant(
        "a heartbeat does not hand on a lock whose holder died",
        &[rebuilt(
            "crates/larder/src/store/redis/lua/lock/heartbeat.lua",
            "redis.call('GET', lock) or hand_over(lock, queue, seen, now, ARGV[1], live, '+')",
            "redis.call('GET', lock)",
        )],
        &[KILLED],
    ),
    mutant(
        "a leader's value is that of every process",
        &[switched(
            ELECTION,
            "self.lock.by = Some(format!(\" {}\", value.as_ref()).into());",
            "let _ = value;",
        )],
        &[SEEN],
    ),
    mutant(
        "a value's space counts as one of its bytes",
        &[switched(ELECTION, "value.len() - 1", "value.len()")],
        &[SEEN],
    ),
    mutant(
        "an election is the lock of its name",
        &[switched(
            "crates/larder/src/keyspace.rs",
            "self.sibling(ELECTION, name)",
            "self.sibling(\"~lock.2:\", name)",
        )],
        &[SEEN],
    ),
    mutant(
        "a leadership is not renewed",
        &[switched(
            ELECTION,
            "Lock::named(locks, name).max_hold(Duration::MAX).keep_alive()",
            "Lock::named(locks, name).max_hold(Duration::MAX)",
        )],
        &[RENEWED],
    ),
    mutant(
        "a candidate that finds no server gives up",
        &[switched(
            ELECTION,
            "error.is_retryable() || error.kind() == ErrorKind::LockLost",
            "error.kind() == ErrorKind::LockLost",
        )],
        &[OUTAGE],
    ),
    mutant(
        "an observer asks and is not notified",
        &[switched(
            ELECTION,
            "tokio::time::timeout(max_wait, self.watch.changed(Duration::MAX)).await.is_ok()",
            "{ tokio::time::sleep(max_wait).await; false }",
        )],
        &[NOTIFIED],
    ),
    mutant(
        "an observer polls though it is notified",
        &[switched(
            ELECTION,
            "locks.context.coordination().is_ok_and(|store| store.sessions().is_valid(stamp, moment))",
            "false",
        )],
        &[IDLE],
    ),
    mutant(
        "an observer that is not notified waits all the same",
        &[switched(ELECTION, "observation.stamp.is_some_and(tracked)", "true")],
        &[found("an_observer_that_the_server_does_not_notify_asks")],
    ),
    mutant(
        "an observer does not know when a lease is over",
        &[switched(
            ELECTION,
            "observation.ends.is_some_and(|ends| ends <= locks.context.clock.now())",
            "observation.ends.is_some_and(|_| false)",
        )],
        &[test("testing", "an_observer_sees_the_end_of_a_lease_by_the_worlds_clock")],
    ),
    mutant(
        "an observer ends with the first read that fails",
        &[within(
            ELECTION,
            "Err(error) if ",
            ["error.is_retryable()", "error.is_retryable() && error.is_timeout()"],
            " => Retry::Again,",
        )],
        &[NOTIFIED],
    ),
];
