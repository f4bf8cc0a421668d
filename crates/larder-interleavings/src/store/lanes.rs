//! A session whose connection breaks and is dialled again, beside threads that still use the old generation.
//!
//! The embedded store's one session is used for a connection's: a thousand would be made again in each
//! schedule.

use std::sync::Arc;

use shuttle::thread;

use super::trust::{ReadStamp, Sessions};
use crate::clock::Moment;

const LANE: u16 = 0;
/// Longer after the start than what was read then may be valid.
const LATER: Moment = Moment::seconds(3);

/// What holds for answers of the old connection.
pub const OLD: &str = "what was read through a connection that broke is not valid";
/// What holds for a new connection.
pub const NEW: &str = "what was read through a connection that has answered is valid";

/// A session that is open and valid.
pub(crate) fn opened() -> (Arc<Sessions>, ReadStamp) {
    let lanes = Sessions::embedded();
    let seen = lanes.open(LANE);
    lanes.renew(seen, Moment::START);
    assert!(lanes.is_valid(seen, Moment::START), "nothing is valid");
    (Arc::new(lanes), seen)
}

/// The next connection of the same session.
pub(crate) fn dialled(lanes: &Sessions) -> ReadStamp {
    lanes.open(LANE)
}

/// A heartbeat of the old connection is answered while the new one is dialled.
pub fn late_heartbeat() {
    let (lanes, old) = opened();
    let heart = thread::spawn({
        let lanes = lanes.clone();
        move || lanes.renew(old, Moment::START)
    });
    let new = dialled(&lanes);
    assert!(!lanes.is_valid(old, Moment::START), "{OLD}");
    let _ = heart.join();
    assert!(!lanes.is_valid(old, Moment::START), "{OLD}");
    assert!(!lanes.is_valid(new, Moment::START), "nothing is valid before a connection has answered");
    lanes.renew(new, Moment::START);
    assert!(lanes.is_valid(new, Moment::START), "{NEW}");
}

/// The end of the old connection is reported while the new one is dialled.
pub fn late_end() {
    let (lanes, old) = opened();
    let end = thread::spawn({
        let lanes = lanes.clone();
        move || lanes.end(old)
    });
    let new = dialled(&lanes);
    lanes.renew(new, Moment::START);
    let _ = end.join();
    lanes.renew(new, Moment::START);
    assert!(!lanes.is_valid(old, Moment::START), "{OLD}");
    assert!(lanes.is_valid(new, Moment::START), "{NEW}");
}

/// The old connection has been silent for longer than the bound when a reader asks, and breaks at that
/// moment.
pub fn silent() {
    let (lanes, old) = opened();
    let reader = thread::spawn({
        let lanes = lanes.clone();
        move || assert!(!lanes.is_valid(old, LATER), "{OLD}")
    });
    lanes.end(old);
    let new = dialled(&lanes);
    lanes.renew(new, LATER);
    assert!(lanes.is_valid(new, LATER), "{NEW}");
    let _ = reader.join();
}
