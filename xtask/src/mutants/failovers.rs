//! Mistakes in what locks do about failovers: quarantine, and the acknowledgement of replicas.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit};

const fn quarantine(name: &'static str) -> Test {
    test("lock_quarantine", name)
}

const fn replicas(name: &'static str) -> Test {
    test("lock_replicas", name)
}

const AT_FIRST: Test =
    quarantine("each_kind_of_lock_is_refused_at_first_and_granted_when_the_longest_lease_is_over");
const ANOTHER_ID: Test =
    quarantine("a_server_with_another_replication_id_renews_and_frees_what_it_knows_and_grants_nothing");
const LONGEST: Test =
    quarantine("the_longest_quarantine_that_was_asked_for_counts_and_the_marker_is_kept_for_30_days");
const TOO_FEW: Test =
    replicas("a_lock_that_too_few_replicas_acknowledge_is_released_and_one_that_enough_do_is_held");
const RENEWAL: Test = replicas("a_renewal_that_too_few_replicas_acknowledge_ends_the_lock");

const FAILOVER: &str = "crates/larder/src/lock/failover.rs";
const RENEWER: &str = "crates/larder/src/lock/renewer.rs";
const QUARANTINE: &str = "crates/larder/src/store/redis/lua/lock/quarantine.lua";
const REPLICAS: &str = "crates/larder/src/store/redis/replicas.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "another replication id begins no quarantine",
        &[rebuilt(QUARANTINE, "if known ~= id then", "if not known then")],
        &[ANOTHER_ID],
    ),
    mutant(
        "a lock without a marker is granted",
        &[rebuilt(QUARANTINE, "if last ~= text then", "if last and last ~= text then")],
        &[AT_FIRST],
    ),
    mutant(
        "a quarantine does not end",
        &[rebuilt(QUARANTINE, "elseif ends > now then", "elseif ends > 0 then")],
        &[AT_FIRST],
    ),
    mutant(
        "a shorter quarantine replaces a longer one",
        &[rebuilt(QUARANTINE, "longest = math.max(longest, before)", "longest = longest + 0")],
        &[LONGEST],
    ),
    mutant(
        "a marker is forgotten after a day",
        &[rebuilt(
            QUARANTINE,
            "redis.call('SET', marker, text, 'PX', '2592000000')\n",
            "redis.call('SET', marker, text, 'PX', '86400000')\n",
        )],
        &[LONGEST],
    ),
    mutant(
        "a lease may be longer than its quarantine",
        &[switched(FAILOVER, "ttl > longest", "false")],
        &[quarantine("a_lease_that_is_longer_than_the_quarantine_is_refused")],
    ),
    mutant(
        "any number of replicas is enough",
        &[switched(REPLICAS, "flag(holds)? && enough", "flag(holds)?")],
        &[TOO_FEW, RENEWAL],
    ),
    mutant(
        "replicas acknowledge a lock that the server does not know",
        &[switched(REPLICAS, "flag(holds)? && enough", "{ flag(holds)?; enough }")],
        &[unit(
            "store::redis::replicas::tests::calls_share_connections_one_after_the_other_and_unused_ones_are_closed",
        )],
    ),
    mutant(
        "calls that wait for replicas wait for each other",
        &[switched(REPLICAS, "Semaphore::new(MOST)", "Semaphore::new(1)")],
        &[replicas("locks_that_wait_for_replicas_at_the_same_time_do_not_hold_up_each_other")],
    ),
    mutant(
        "renewals are not acknowledged",
        &[switched(RENEWER, "due.iter().any(|(lease, _)| lease.failover.replicas > 0)", "false")],
        &[RENEWAL],
    ),
];
