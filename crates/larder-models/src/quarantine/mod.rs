//! A lock with quarantine, on a master and a replica that take each other's place and lose what was not replicated.
//!
//! The problem: a replica that is promoted may lack a lock that its predecessor granted, and grants it again. The
//! mechanism is that of `lua/quarantine.lua`, before each script that grants: the server's replication id, which is a
//! new one after each promotion and restart, is compared with a marker beside the lock; where it is another, or there
//! is no marker, nothing is granted for the longest lease. Renewals and releases of what the server knows go on.
//!
//! Time passes in ticks. Replication copies the master's data at any moment or never, so a promoted replica has any
//! state that the master once had. The old master goes on serving for [`Failover::stops_within`] ticks after a
//! promotion, and any caller may reach it; then it copies the data of the new one, and may be promoted in turn. A
//! holder's clock may miss one tick of a lease.
//!
//! The conditions that this shows: an old master stops before another is promoted (beside one that goes on, however
//! short, a holder that is renewed at the new one loses its lock at the old one, which grants it again: no quarantine
//! helps); no lease is longer than the quarantine; and all who use the lock state the same longest lease.
//!
//! Not modelled: requests under way and the queue ([`lock`](crate::lock) has them), a marker that ends with its 30
//! days.

mod model;
mod state;

pub use model::Action;
pub use state::{Holder, Marker, Server, State, Token};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// There is no quarantine: the control.
    None,
    /// Servers are told apart by their run ids, which are the same when a server is master again.
    RunId,
    /// The id is what a connection has read of it, which may be that of an earlier time as master.
    IdReadBefore,
    /// A lock without a marker is granted at once.
    NoMarkerIsFine,
    /// A refused attempt does not write the marker's end: the next one is granted.
    EndNotKept,
}

/// The servers, the callers, and how long everything takes.
#[derive(Clone, Copy, Debug)]
pub struct Failover {
    /// For each caller the longest lease that it states: the time of quarantine.
    pub longest: &'static [u8],
    /// Ticks of a lease.
    pub lease: u8,
    /// Ticks that a master goes on after another was promoted.
    pub stops_within: u8,
    /// How often a replica is promoted, or the master restarts without its data.
    pub failovers: u8,
    /// How often each caller tries.
    pub attempts: u8,
    /// What is wrong.
    pub mistake: Option<Mistake>,
}

/// L1, through failovers that lose writes.
pub const ONE_HOLDER: &str = "at most one holder is valid";
/// The model is not safe for the reason alone that nothing happens.
pub const GRANTS_AGAIN: &str = "a promoted server grants the lock after its quarantine";
/// Nor for this one.
pub const RENEWS: &str = "a holder that the promoted server knows is renewed in quarantine";
