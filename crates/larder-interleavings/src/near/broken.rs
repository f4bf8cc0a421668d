//! A reader that inserts what it read through a connection that has broken in the meantime.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::mistaken::lock;
use super::{copy, tier};
use crate::clock::Moment;
use crate::store::lanes::{OLD, dialled, opened};

/// The session with which a reader keeps its copy.
#[derive(Clone, Copy)]
enum Stamp {
    AsItWasRead,
    /// The session that is current when the copy is inserted.
    AsOfInsertion,
}

fn scenario(stamp: Stamp) {
    let (lanes, old) = opened();
    let copies = Arc::new(tier());
    let value = Arc::new(Mutex::new(0_u64));
    let current = Arc::new(Mutex::new(old));
    let reader = {
        let (copies, value, current) = (copies.clone(), value.clone(), current.clone());
        move || {
            let ticket = copies.ticket("a");
            // An answer that is on its way when the connection breaks.
            let read = *lock(&value);
            let seen = match stamp {
                Stamp::AsItWasRead => old,
                Stamp::AsOfInsertion => *lock(&current),
            };
            copies.insert("a", ticket, copy((read, seen)));
        }
    };
    let readers = [thread::spawn(reader.clone()), thread::spawn(reader)];
    // Changes from now on are not reported. The tier is not emptied: the sessions alone must protect readers.
    lanes.end(old);
    *lock(&value) += 1;
    let new = dialled(&lanes);
    *lock(&current) = new;
    lanes.renew(new, Moment::START);
    let check = |at: &str| {
        if let Some((read, seen)) = copies.get("a")
            && lanes.is_valid(seen, Moment::START)
        {
            assert_eq!(read, *lock(&value), "{at}: {OLD}");
        }
    };
    check("at once");
    for reader in readers {
        let _ = reader.join();
    }
    check("at the end");
}

/// What larder does.
pub fn as_it_was_read() {
    scenario(Stamp::AsItWasRead);
}

/// The mistake: a copy counts as read through the connection that is current when it is inserted.
pub fn as_of_insertion() {
    scenario(Stamp::AsOfInsertion);
}
