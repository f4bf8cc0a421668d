//! The near tier: copies, versions, and the notifications of changes.

mod broken;
mod cleared;
mod copied;
mod mistaken;
mod server;
mod tagged;

use super::key::TierKey;
use super::{Copied, InsertTicket, Tier};

const BYTES: u64 = 1 << 20;

/// Makes a tier whose keys share one lock, so that they interfere with each other.
fn tier<K: TierKey, T: Clone>() -> Tier<K, T> {
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

impl Copies for Tier<Box<str>, u64> {
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
