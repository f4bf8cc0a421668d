//! Mistakes in read-write locks.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const fn found(name: &'static str) -> Test {
    test("rw_locks", name)
}

const EQUIVALENCE: Test =
    unit("store::equivalence_locks::both_stores_answer_the_same_to_every_history_of_locks");
const TOGETHER: Test = found("readers_enter_together_and_a_writer_is_alone");
const TURNS: Test =
    found("a_reader_that_is_queued_behind_a_writer_waits_for_it_and_readers_at_the_head_enter_together");
const OVERTAKEN: Test = found("no_writer_of_eight_is_overtaken_by_later_ones_of_sixty_four_readers");
const BETWEEN: Test = found("a_writer_that_becomes_a_reader_lets_no_waiting_writer_in_between");
const LOST: Test = found("a_guard_that_was_lost_cannot_be_downgraded");

const RW_LOCK: &str = "crates/larder/src/lock/rw_lock.rs";
const EXCHANGE: &str = "crates/larder/src/store/redis/lua/semaphore/exchange.lua";
const QUEUE: &str = "crates/larder/src/store/redis/lua/semaphore/queue.lua";
const TAKE: &str = "crates/larder/src/store/redis/lua/semaphore/take.lua";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "readers in the queue overtake a writer",
        &[rebuilt(
            QUEUE,
            "elseif used + weight > permits or grants == MOST_GRANTS then\n          return used, false",
            "elseif used + weight > permits or grants == MOST_GRANTS then\n          at = at + 1",
        )],
        &[TURNS, OVERTAKEN],
    ),
    mutant(
        "a reader enters past a waiting writer",
        &[rebuilt(TAKE, "if free and used + weight <= permits then", "if used + weight <= permits then")],
        &[TURNS, OVERTAKEN],
    ),
    mutant(
        "a writer takes as much as a reader",
        &[switched(
            RW_LOCK,
            "self.semaphore.take_within(HEAVIEST, true, max_wait)",
            "self.semaphore.take_within(1, true, max_wait)",
        )],
        &[TOGETHER],
    ),
    mutant(
        "a writer that only tries takes as much as a reader",
        &[switched(
            RW_LOCK,
            "self.semaphore.take(HEAVIEST, true, None)",
            "self.semaphore.take(1, true, None)",
        )],
        &[TOGETHER],
    ),
    mutant(
        "a writer asks for no fence",
        &[within(
            RW_LOCK,
            "self.semaphore.take_within(HEAVIEST, ",
            ["true", "max_wait.is_zero()"],
            ", max_wait)",
        )],
        &[TOGETHER],
    ),
    mutant(
        "a downgrade frees the writer, and then enters",
        &[switched(
            RW_LOCK,
            "self.semaphore.exchange(self.permit, 1).await?",
            "{
            let _ = self.permit.release().await?;
            Some(self.semaphore.take_within(1, false, Duration::MAX).await?)
        }",
        )],
        &[BETWEEN],
    ),
    mutant(
        "a writer that was lost is downgraded",
        &[rebuilt(
            EXCHANGE,
            "if not ends or ends <= now or redis.call('HGET', seen, ARGV[2]) then",
            "ends = ends or now\nif ends < 0 then",
        )],
        &[LOST, EQUIVALENCE],
    ),
    mutant(
        "a downgrade that was given up is carried out when it arrives",
        &[rebuilt(
            EXCHANGE,
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then",
            "if redis.call('PEXPIRE', KEYS[5], '30000') == 2 then",
        )],
        &[EQUIVALENCE],
    ),
    mutant(
        "a downgrade lets no waiting reader in",
        &[rebuilt(EXCHANGE, "if permits then", "if not permits then")],
        &[EQUIVALENCE],
    ),
];
