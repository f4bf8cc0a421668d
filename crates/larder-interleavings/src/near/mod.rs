//! The near tier: copies, versions, and the notifications of changes.

pub mod broken;
pub mod cleared;
pub mod copied;
mod mistaken;
mod server;
mod sync;
pub mod tagged;

#[allow(dead_code, reason = "no attempt waits for a lock")]
#[path = "../../../larder/src/near/wakeups.rs"]
mod calls;
#[allow(dead_code, reason = "no task watches a name")]
#[path = "../../../larder/src/near/invalidations.rs"]
mod changes;
#[allow(dead_code, reason = "no server evicts here")]
#[path = "../../../larder/src/near/recency.rs"]
mod recency;
#[allow(dead_code, clippy::type_complexity, reason = "the scenarios need no sizes; larder lints its own")]
#[path = "../../../larder/src/near/tier.rs"]
mod tier;
#[allow(dead_code, reason = "the scenarios ask for one version at a time")]
#[path = "../../../larder/src/near/version.rs"]
mod version;

use changes::Invalidations;
use tier::{Copied, InsertTicket, Tier};

const BYTES: u64 = 1 << 20;

/// A tier whose names share one lock, so that they interfere with each other.
fn tier<T: Clone>() -> Tier<T> {
    Tier::with_stripes(BYTES, 1)
}

fn copy<T>(what: T) -> Copied<T> {
    Copied { what, bytes: 1 }
}

/// What the scenarios need of a tier, larder's and the mistaken one.
trait Copies: Send + Sync + 'static {
    type Ticket: Copy + Send;

    fn get(&self, name: &str) -> Option<u64>;
    fn ticket(&self, name: &str) -> Self::Ticket;
    fn insert(&self, name: &str, ticket: Self::Ticket, value: u64);
    fn invalidate(&self, name: &str);
    fn invalidate_all(&self);
}

impl Copies for Tier<u64> {
    type Ticket = InsertTicket;

    fn get(&self, name: &str) -> Option<u64> {
        Self::get(self, name)
    }

    fn ticket(&self, name: &str) -> InsertTicket {
        Self::ticket(self, name)
    }

    fn insert(&self, name: &str, ticket: InsertTicket, value: u64) {
        Self::insert(self, name, ticket, copy(value));
    }

    fn invalidate(&self, name: &str) {
        Self::invalidate(self, name);
    }

    fn invalidate_all(&self) {
        Self::invalidate_all(self);
    }
}
