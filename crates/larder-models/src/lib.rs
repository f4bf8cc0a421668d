//! Models of larder's protocols, checked in every interleaving.
//!
//! The problem: a cache's races are between processes, a server that forgets and a network that loses
//! answers, and a test sees only a few of their orders. The mechanism: each protocol is written as a small
//! state machine, and stateright visits every state that it can reach within small bounds. The tests check
//! each correct protocol, and check that the checker finds the fault in each known way to get it wrong.
//!
//! Not modelled: time (what may expire may expire at any moment), the bytes on the wire, the code itself.
//! Each model's documentation names what else it leaves out.

pub mod batch;
mod explore;
pub mod flight;
pub mod job;
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
pub use store::{By, Check, Checks, Claim, Entry, Nonce, Row, Store};
pub use token::Token;
