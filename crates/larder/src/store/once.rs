//! The operations of a store where the first caller wins: a value that is stored only if there is none, and
//! work that runs once.
//!
//! A run has a *mark* beside its entry, which names the run's token and is kept for as long as its result
//! would be. A second key, the *pulse*, is renewed while the work runs. A mark without a pulse is an
//! interrupted run: its process has died or hangs. What that run has done is unknown, so its mark stays and
//! reports it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::{Expiry, FillStart};
use crate::error::Result;

/// How long a store remembers a cancelled run, because the request that begins it may arrive that late. Also
/// how long a caller tries to report a cancellation.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(30);

/// A run to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnceRun {
    pub(crate) token: u64,
    /// How long it counts as running after each renewal.
    pub(crate) liveness: Duration,
    /// How long its mark is kept from the beginning, and from each renewal that finds less than half of that
    /// left.
    pub(crate) kept: Duration,
    /// Whether it replaces an interrupted run.
    pub(crate) takes_over: bool,
}

/// The reply to [`OnceStore::begin_once`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OnceStart {
    /// No run is known: do the work, then commit.
    Begun,
    /// The entry holds this result.
    Done(Bytes),
    /// Another run is under way, and must renew within this time.
    Running(Duration),
    /// Another run has begun and has stopped renewing.
    Interrupted,
    /// This run was cancelled before its request arrived. Its caller no longer waits for a reply.
    GivenUp,
}

store_operations! {
    /// The operations of every store where the first caller wins.
    pub(crate) trait OnceStore {
        /// Stores a value in an entry that is empty, or that still holds exactly these bytes, which are not a
        /// value.
        async fn set_if_absent(
            &self,
            name: &str,
            value: Bytes,
            expiry: Expiry,
            in_place_of: Option<Bytes>,
        ) -> Result<FillStart>;

        /// Begins a run, unless a result is stored (anything but exactly `in_place_of`) or another run is known.
        async fn begin_once(
            &self,
            name: &str,
            run: OnceRun,
            in_place_of: Option<Bytes>,
        ) -> Result<OnceStart>;

        /// Renews a run, and returns whether its mark is still there. A mark with less than half of `run.kept`
        /// left is kept for that long again, because work may take longer than its result is kept.
        async fn renew_once(&self, name: &str, run: OnceRun) -> Result<bool>;

        /// Stores the run's result and removes its mark if that is still there, and returns whether it was.
        async fn commit_once(
            &self,
            name: &str,
            token: u64,
            value: Bytes,
            expiry: Expiry,
        ) -> Result<bool>;

        /// Removes the mark of a run that had no result. If the mark is not there, a request that begins this run
        /// and arrives within [`GIVEN_UP`] is refused.
        async fn abandon_once(&self, name: &str, token: u64) -> Result<()>;
    }
}
