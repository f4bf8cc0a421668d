//! A reader who inserts what it read through a connection that has broken meanwhile.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::mistaken::lock;
use super::{copy, tier};
use crate::clock::Moment;
use crate::store::lanes::{OLD, dialled, opened};

/// As what a reader keeps its copy.
#[derive(Clone, Copy)]
enum Stamp {
    AsItWasRead,
    /// As what the lane is when the copy is inserted.
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
            // An answer on its way when the connection breaks.
            let read = *lock(&value);
            let seen = match stamp {
                Stamp::AsItWasRead => old,
                Stamp::AsOfInsertion => *lock(&current),
            };
            copies.insert("a", ticket, copy((read, seen)));
        }
    };
    let readers = [thread::spawn(reader.clone()), thread::spawn(reader)];
    // Whatever changes from now on is not told. The tier is not emptied: trust alone must do.
    lanes.end(old);
    *lock(&value) += 1;
    let new = dialled(&lanes);
    *lock(&current) = new;
    lanes.renew(new, Moment::START);
    let believed = |at: &str| {
        if let Some((read, seen)) = copies.get("a")
            && lanes.believe(seen, Moment::START)
        {
            assert_eq!(read, *lock(&value), "{at}: {OLD}");
        }
    };
    believed("at once");
    for reader in readers {
        let _ = reader.join();
    }
    believed("at the end");
}

/// larder's way.
pub fn as_it_was_read() {
    scenario(Stamp::AsItWasRead);
}

/// A copy that counts as read through whatever connection there is when it is inserted.
pub fn as_of_insertion() {
    scenario(Stamp::AsOfInsertion);
}
