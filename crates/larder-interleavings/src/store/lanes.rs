//! A lane whose connection breaks and is dialled anew, beside those who still hold something of the old one.
//!
//! The embedded store's one lane stands for a connection's: a thousand would be made anew in each schedule.

use std::sync::Arc;

use shuttle::thread;

use super::trust::{ReadStamp, Sessions};
use crate::clock::Moment;

const LANE: u16 = 0;
/// Longer after the start than what was read then may be believed.
const LATER: Moment = Moment::seconds(3);

/// What the old connection's answers are believed as.
pub const OLD: &str = "what was read through a connection that broke is not valid";
/// What a new connection may count on.
pub const NEW: &str = "what was read through a connection that has answered is valid";

/// A lane that is open and believed.
pub(crate) fn opened() -> (Arc<Sessions>, ReadStamp) {
    let lanes = Sessions::embedded();
    let seen = lanes.open(LANE);
    lanes.renew(seen, Moment::START);
    assert!(lanes.believe(seen, Moment::START), "nothing is valid");
    (Arc::new(lanes), seen)
}

/// The next connection of the same lane.
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
    assert!(!lanes.believe(old, Moment::START), "{OLD}");
    let _ = heart.join();
    assert!(!lanes.believe(old, Moment::START), "{OLD}");
    assert!(!lanes.believe(new, Moment::START), "nothing is valid before a connection has answered");
    lanes.renew(new, Moment::START);
    assert!(lanes.believe(new, Moment::START), "{NEW}");
}

/// The old connection's end is told while the new one is dialled.
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
    assert!(!lanes.believe(old, Moment::START), "{OLD}");
    assert!(lanes.believe(new, Moment::START), "{NEW}");
}

/// The old connection has been silent for longer than the bound when a reader looks, and breaks just then.
pub fn silent() {
    let (lanes, old) = opened();
    let reader = thread::spawn({
        let lanes = lanes.clone();
        move || assert!(!lanes.believe(old, LATER), "{OLD}")
    });
    lanes.end(old);
    let new = dialled(&lanes);
    lanes.renew(new, LATER);
    assert!(lanes.believe(new, LATER), "{NEW}");
    let _ = reader.join();
}
