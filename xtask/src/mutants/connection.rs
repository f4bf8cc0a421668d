//! Mistakes in connections, in the classification of errors, and in outages.

use super::mutant::{Mutant, Test, mutant, rebuilt, switched, test, unit, within};

const CLUSTER: &str = "crates/larder/src/store/redis/cluster.rs";
const ERROR: &str = "crates/larder/src/store/redis/error.rs";
const DIALLING: &str = "crates/larder/src/store/redis/supervisor/dialling.rs";
const LINK: &str = "crates/larder/src/store/redis/link.rs";
const SUPERVISOR: &str = "crates/larder/src/store/redis/supervisor/mod.rs";
const NETWORK: &str = "crates/larder/src/store/redis/network.rs";
const NODE: &str = "crates/larder/src/store/redis/node.rs";
const WIRE_CONNECTION: &str = "crates/larder/src/store/redis/wire/connection.rs";
const WIRE_ENTRIES: &str = "crates/larder/src/store/redis/wire/entries.rs";
const WIRE_ERROR: &str = "crates/larder/src/store/redis/wire/error.rs";
const WIRE_SCAN: &str = "crates/larder/src/store/redis/wire/scan.rs";

const SOCKET: Test =
    test("errors", "a_socket_that_the_user_may_not_open_is_reported_as_that_and_not_as_an_acl");
const HANGING: Test = test("connection", "a_hanging_server_costs_the_timeout_and_then_nothing");

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a script that the server forgot is an error",
        &[within(
            NETWORK,
            "Err(Failure::NoScript) => ",
            [
                "self.try_run(name, &script.by_source(keys, arguments), replay).await",
                "Err::<Value, Failure>(Failure::NoScript)",
            ],
            ",",
        )],
        &[test("commands", "a_script_that_the_server_forgot_is_sent_again")],
    ),
    mutant(
        "heartbeats that go unanswered are not counted",
        &[within(SUPERVISOR, "if ", ["missed == 2", "false"], " {")],
        &[HANGING],
    ),
    mutant(
        "callers wait while the server is down",
        &[rebuilt(
            LINK,
            "LinkStatus::Down(_) | LinkStatus::Closed => true,",
            "LinkStatus::Down(_) => false,\n            LinkStatus::Closed => true,",
        )],
        &[HANGING],
    ),
    mutant(
        "a dial that failed is repeated without a pause",
        &[within(DIALLING, "Backoff::new(FIRST_DELAY, ", ["LONGEST_DELAY", "FIRST_DELAY"], ")")],
        &[unit(
            "store::redis::supervisor::dialling::tests::pauses_between_dials_grow_to_two_seconds_and_differ_from_link_to_link",
        )],
    ),
    mutant(
        "a read whose answer was lost is not sent again",
        &[switched(NODE, "failure.is_unsent() || replay == Replay::Safe", "failure.is_unsent()")],
        &[test("connection", "a_dropped_connection_costs_a_reader_nothing")],
    ),
    mutant(
        "what was not written goes out after the connection was given up",
        &[
            within(
                WIRE_CONNECTION,
                "        if !self.out.is_empty() && ",
                ["!self.queue.is_given_up()", "true"],
                " {",
            ),
            switched(WIRE_CONNECTION, "self.out.clear()", "()"),
        ],
        &[unit(
            "store::redis::wire::tests::scripted::what_is_not_written_when_a_connection_is_given_up_never_is",
        )],
    ),
    mutant(
        "the request of a caller that went away is written",
        &[switched(WIRE_ENTRIES, "matches!(self.stage(&entry), Some(RequestStage::Dropped))", "self.closed")],
        &[unit(
            "store::redis::wire::tests::scripted::the_unsent_request_of_a_caller_that_went_away_is_dropped",
        )],
    ),
    mutant(
        "a reply is taken for one to a request that was not written",
        &[within(
            WIRE_ENTRIES,
            "Some(entry) if self.taken > 0 && (",
            ["entry.ends <= written", "true"],
            " || ",
        )],
        &[unit(
            "store::redis::wire::tests::scripted::a_reply_before_its_request_was_written_is_no_reply_to_it",
        )],
    ),
    mutant(
        "a push inside a reply counts as an element of it",
        &[switched(WIRE_SCAN, "(1, !self.levels.is_empty())", "(1, false)")],
        &[unit("store::redis::wire::tests::codec::pushes_are_separated_from_replies_also_inside_them")],
    ),
    mutant(
        "a key that moves is asked for without ASKING",
        &[switched(CLUSTER, "ask(&node, slot, command).await", "node.send(slot, command, replay).await")],
        &[test("connection", "a_slot_that_moves_is_followed_while_it_moves")],
    ),
    mutant(
        "an error repeats what the server was sent",
        &[switched(
            WIRE_ERROR,
            "self.0.split(\", with args beginning\").next().unwrap_or_default()",
            "self.0.as_str()",
        )],
        &[test("errors", "a_server_that_does_not_know_a_command_and_repeats_its_arguments")],
    ),
    mutant(
        "a socket's permissions are reported as a refusal of the server's",
        &[within(ERROR, "ErrorKind::Refused if ", ["forbidden", "forbidden && address.is_empty()"], " =>")],
        &[SOCKET],
    ),
    mutant(
        "a server out of memory is an unknown error",
        &[switched(ERROR, "has(\"OOM\")", "false")],
        &[test("errors", "a_server_out_of_memory")],
    ),
    mutant(
        "a wrong password is an unknown error",
        &[switched(
            ERROR,
            "has(\"NOAUTH\") || has(\"WRONGPASS\") || detail.contains(\"without any password configured\")",
            "false",
        )],
        &[test("errors", "a_wrong_a_missing_and_a_needless_password")],
    ),
];
