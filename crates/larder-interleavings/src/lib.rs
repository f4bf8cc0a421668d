//! Explores the interleavings of larder's own source.
//!
//! The problem: `larder-models` checks the protocols and not the code, and a test sees only the orders that
//! the machine's scheduler happens to choose. The mechanism: the files that keep copies and flights are
//! compiled here a second time, by `#[path]`, with shuttle's locks and atomics in place of std's; they import
//! these from a module `sync` beside them. shuttle runs a scenario again and again, and decides at each lock
//! and atomic which thread goes on: at random, and by PCT (Burckhardt et al., "A Randomized Scheduler with
//! Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). The tests check that larder keeps its promises in
//! every schedule that was tried, and that each known mistake breaks one.
//!
//! Not explored: memory orders weaker than sequential consistency; the inside of tokio's channels and locks,
//! of which each operation is one step here; anything that awaits the network.
//!
//! Empty without the cfg, which also gives quick_cache shuttle's locks: `RUSTFLAGS="--cfg
//! larder_interleavings" cargo test -p larder-interleavings`.
#![cfg(larder_interleavings)]

mod cache;
mod clock;
mod explore;
mod near;
mod store;

pub use cache::{abandoned, joined, refreshed, stored, written};
pub use explore::{breaks, holds};
pub use near::{broken, cleared, copied, tagged};
pub use store::lanes;

/// The items that the included files import from their crate.
mod error {
    /// Never made: the scenarios' store does not fail.
    #[derive(Debug)]
    pub(crate) enum Error {}

    impl Error {
        pub(crate) fn in_context(self, _: &str) -> Self {
            self
        }
    }

    pub(crate) type Result<T> = std::result::Result<T, Error>;
}

mod keyspace {
    pub(crate) const ELECTION: &str = "~election.1:";
}

mod name {
    pub(crate) type Name = String;
}
