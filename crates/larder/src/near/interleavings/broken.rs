//! A reader that inserts what it read through a connection that has broken in the meantime.

use std::sync::Arc;

use shuttle::thread;

use super::{copy, tier};
use crate::interleavings::{breaks, holds};
use crate::store::interleavings::{OLD, at, dialled, opened};
use crate::sync::Mutex;

/// The session with which a reader keeps its copy.
#[derive(Clone, Copy)]
enum Stamp {
    AsItWasRead,
    /// The session that is current when the copy is inserted.
    AsOfInsertion,
}

fn scenario(which: Stamp) {
    let (sessions, old) = opened();
    let copies = Arc::new(tier::<Box<str>, _>());
    let value = Arc::new(Mutex::new(0_u64));
    let current = Arc::new(Mutex::new(old));
    let reader = {
        let (copies, value, current) = (copies.clone(), value.clone(), current.clone());
        move || {
            let ticket = copies.ticket("a");
            // An answer that is on its way when the connection breaks.
            let read = *value.lock();
            let stamp = match which {
                Stamp::AsItWasRead => old,
                Stamp::AsOfInsertion => *current.lock(),
            };
            copies.insert("a", ticket, copy((read, stamp)));
        }
    };
    let readers = [thread::spawn(reader.clone()), thread::spawn(reader)];
    // Changes from now on are not reported. The tier is not emptied: the sessions alone must protect readers.
    sessions.end(old);
    *value.lock() += 1;
    let new = dialled(&sessions);
    *current.lock() = new;
    sessions.renew(new, at(0));
    let check = |when: &str| {
        if let Some((read, stamp)) = copies.get("a")
            && sessions.is_valid(stamp, at(0))
        {
            assert_eq!(read, *value.lock(), "{when}: {OLD}");
        }
    };
    check("at once");
    for reader in readers {
        let _ = reader.join();
    }
    check("at the end");
}

/// What larder does.
#[test]
fn what_was_read_through_a_broken_connection_is_not_valid() {
    holds("a copy of a broken connection", || scenario(Stamp::AsItWasRead));
}

/// The mistake: a copy counts as read through the connection that is current when it is inserted.
#[test]
fn a_copy_that_counts_as_read_when_it_is_inserted_is_caught() {
    breaks("stamped when inserted", &[OLD], || scenario(Stamp::AsOfInsertion));
}
