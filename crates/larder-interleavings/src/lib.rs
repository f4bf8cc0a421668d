//! The interleavings of larder's own source, explored.
//!
//! The problem: `larder-models` checks the protocols, not the code, and a test sees only the orders that the machine's
//! scheduler happens to take. The mechanism: the files that keep copies and flights are compiled here a second time, by
//! `#[path]`, with shuttle's locks and atomics in place of std's; they ask for them by a module `sync` beside them. shuttle
//! runs a scenario again and again, and decides at each lock and atomic who goes on: at random, and by PCT
//! (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). The tests
//! check that larder keeps its promises in every schedule tried, and that each known mistake breaks one.
//!
//! Not explored: memory orders weaker than sequential; the insides of tokio's channels and locks, whose every operation is
//! one step here; what awaits the network.
//!
//! Empty without the cfg, which also gives quick_cache shuttle's locks:
//! `RUSTFLAGS="--cfg larder_interleavings" cargo test -p larder-interleavings`.
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

/// What the included files know as their crate's.
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
