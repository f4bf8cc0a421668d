//! A session whose connection breaks and is dialled again, beside threads that still use the old generation.
//!
//! The embedded store's one session is used as a connection's, because a thousand would be made again in each schedule.

use std::sync::Arc;

use shuttle::thread;

use super::session::{ReadStamp, Sessions};
use crate::clock::Moment;
use crate::interleavings::holds;

const SESSION: u16 = 0;

/// What holds for answers of the old connection.
pub(crate) const OLD: &str = "what was read through a connection that broke is not valid";
/// What holds for a new connection.
const NEW: &str = "what was read through a connection that has answered is valid";

pub(crate) fn at(seconds: u64) -> Moment {
    Moment::new(seconds * 1_000_000_000, seconds * 1_000_000_000)
}

/// Makes a session that is open and valid.
pub(crate) fn opened() -> (Arc<Sessions>, ReadStamp) {
    let sessions = Sessions::embedded();
    let stamp = sessions.open(SESSION);
    sessions.renew(stamp, at(0));
    assert!(sessions.is_valid(stamp, at(0)), "nothing is valid");
    (Arc::new(sessions), stamp)
}

/// Opens the next connection of the same session.
pub(crate) fn dialled(sessions: &Sessions) -> ReadStamp {
    sessions.open(SESSION)
}

/// A heartbeat of the old connection is answered while the new one is dialled.
#[test]
fn a_late_heartbeat_revives_nothing() {
    holds("a late heartbeat", || {
        let (sessions, old) = opened();
        let heart = thread::spawn({
            let sessions = sessions.clone();
            move || sessions.renew(old, at(0))
        });
        let new = dialled(&sessions);
        assert!(!sessions.is_valid(old, at(0)), "{OLD}");
        let _ = heart.join();
        assert!(!sessions.is_valid(old, at(0)), "{OLD}");
        assert!(!sessions.is_valid(new, at(0)), "nothing is valid before a connection has answered");
        sessions.renew(new, at(0));
        assert!(sessions.is_valid(new, at(0)), "{NEW}");
    });
}

/// The end of the old connection is reported while the new one is dialled.
#[test]
fn a_late_end_does_not_end_the_new_connection() {
    holds("a late end", || {
        let (sessions, old) = opened();
        let end = thread::spawn({
            let sessions = sessions.clone();
            move || sessions.end(old)
        });
        let new = dialled(&sessions);
        sessions.renew(new, at(0));
        let _ = end.join();
        sessions.renew(new, at(0));
        assert!(!sessions.is_valid(old, at(0)), "{OLD}");
        assert!(sessions.is_valid(new, at(0)), "{NEW}");
    });
}

/// The old connection has been silent for longer than the bound when a reader asks, and breaks at that moment.
#[test]
fn a_silent_connection_is_not_valid_while_the_next_one_is() {
    /// More than the bound after the start.
    const LATER: u64 = 3;
    holds("a silent connection", || {
        let (sessions, old) = opened();
        let reader = thread::spawn({
            let sessions = sessions.clone();
            move || assert!(!sessions.is_valid(old, at(LATER)), "{OLD}")
        });
        sessions.end(old);
        let new = dialled(&sessions);
        sessions.renew(new, at(LATER));
        assert!(sessions.is_valid(new, at(LATER)), "{NEW}");
        let _ = reader.join();
    });
}
