//! Models of larder's protocols, checked in every interleaving.
//!
//! The problem: a cache's races are between processes, a server that forgets and a network that loses answers, and a
//! test sees but a few of their orders. The mechanism: each protocol is written down as a small machine of its own, and
//! stateright visits every state that it can come to, within small bounds. The tests check each protocol as it should
//! be, and that the checker finds the fault in each known way to get it wrong.
//!
//! Not modelled: time (whatever may expire may do so at any moment), the bytes on the wire, the code itself. What the
//! machines leave out stands at the head of each.

mod explore;
pub mod flight;
pub mod job;
pub mod lease;
pub mod load;
pub mod lock;
pub mod permits;
pub mod quarantine;
pub mod queue;
mod store;
pub mod tags;
mod token;
pub mod turns;
pub mod versions;

pub use explore::{breaks, holds};
pub use store::{By, Check, Checks, Entry, Fence, Nonce, Row, Store};
pub use token::Token;
