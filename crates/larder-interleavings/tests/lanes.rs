//! Lanes of trust.
#![cfg(larder_interleavings)]

use larder_interleavings::{holds, lanes};

#[test]
fn a_late_heartbeat_revives_nothing() {
    holds("a late heartbeat", lanes::late_heartbeat);
}

#[test]
fn a_late_end_is_none_of_the_new_connections_business() {
    holds("a late end", lanes::late_end);
}

#[test]
fn a_silent_connection_is_not_believed_while_the_next_one_is() {
    holds("a silent connection", lanes::silent);
}
