//! A lock with quarantine, on a master and a replica that replace each other and lose what was not
//! replicated.
//!
//! The problem: a replica that is promoted may lack a lock that its predecessor granted, and grant it again.
//! The mechanism is that of `lua/lock/quarantine.lua`, before each script that grants: the server's replication
//! id, which changes with each promotion and restart, is compared with a marker beside the lock. If they
//! differ, or if there is no marker, nothing is granted for the longest lease. Renewals and releases of what
//! the server knows go on.
//!
//! Time passes in ticks. Replication copies the master's data at any moment or never, so a promoted replica
//! has any state that the master once had. The old master continues to serve for [`Failover::stops_within`]
//! ticks after a promotion, and any caller may reach it. Then it copies the data of the new one, and may be
//! promoted in turn. A holder's clock may miss one tick of a lease.
//!
//! The conditions that this shows: an old master stops before another is promoted (if it goes on, even for a
//! short time, a holder that is renewed at the new one loses its lock at the old one, which grants it again;
//! no quarantine helps against that); no lease is longer than the quarantine; and all callers of the lock
//! state the same longest lease.
//!
//! Not modelled: requests under way and the queue ([`lock`](crate::lock) has them), a marker that expires
//! after its 30 days.

mod model;
mod state;

pub use model::Action;
pub use state::{Holder, Marker, Server, State, Token};

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// There is no quarantine, for comparison.
    None,
    /// Servers are distinguished by their run ids, which are the same when a server becomes master again.
    RunId,
    /// The id is one that a connection has read, perhaps at an earlier time as master.
    IdReadBefore,
    /// A lock without a marker is granted at once.
    NoMarkerIsFine,
    /// A refused attempt does not store the end of the quarantine: the next one is granted.
    EndNotKept,
}

/// The servers, the callers, and how long everything takes.
#[derive(Clone, Copy, Debug)]
pub struct Failover {
    /// The longest lease that each caller states: the time of quarantine.
    pub longest: &'static [u8],
    /// Ticks of a lease.
    pub lease: u8,
    /// Ticks for which a master goes on after another was promoted.
    pub stops_within: u8,
    /// How often a replica is promoted, or the master restarts without its data.
    pub failovers: u8,
    /// How often each caller tries.
    pub attempts: u8,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// L1, through failovers that lose writes.
pub const ONE_HOLDER: &str = "at most one holder is valid";
/// The model is not safe only because nothing happens.
pub const GRANTS_AGAIN: &str = "a promoted server grants the lock after its quarantine";
/// A holder can be renewed in quarantine.
pub const RENEWS: &str = "a holder that the promoted server knows is renewed in quarantine";
