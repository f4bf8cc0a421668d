//! The part of the seam that is about who comes first: a value that is stored only where none is, and work that is
//! run once.
//!
//! A run has a *mark* beside its entry, which names the run's token and is kept as long as its result would be; and a
//! second name, the *pulse*, which is renewed while it runs. A mark without a pulse is a run that was interrupted:
//! its process died, or hangs. What that run has done is not known, so the mark stays and says so.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::{AnyStore, Expiry, FillStart};
use crate::error::Result;

/// How long a store remembers that a run was given up: its begin may arrive as late as that. And how long a caller
/// tries to say so.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(30);

/// A run that is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnceRun {
    pub(crate) token: u64,
    /// How long it counts as running after each sign of life.
    pub(crate) liveness: Duration,
    /// How long its mark is kept after it began, and after the signs of life that find half of that gone.
    pub(crate) kept: Duration,
    /// Whether it takes the place of a run that was interrupted.
    pub(crate) takes_over: bool,
}

/// The answer to [`OnceStore::begin_once`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OnceStart {
    /// Nothing is known of this work: run it, then commit.
    Begun,
    /// This is stored under the entry.
    Done(Bytes),
    /// Another run is under way, and shows a sign of life within this time.
    Running(Duration),
    /// Another run has begun and shows no sign of life.
    Interrupted,
    /// This run was abandoned before its begin arrived. Its caller waits for no answer any more.
    GivenUp,
}

/// What every store can do for who comes first.
pub(crate) trait OnceStore: Send + Sync + 'static {
    /// Stores a value under a name that is empty, or that still holds just these bytes, which are no value.
    fn set_if_absent(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        in_place_of: Option<Bytes>,
    ) -> impl Future<Output = Result<FillStart>> + Send;

    /// Begins a run, unless its result is there (other than just `in_place_of`), or another run is known.
    fn begin_once(
        &self,
        name: &str,
        run: OnceRun,
        in_place_of: Option<Bytes>,
    ) -> impl Future<Output = Result<OnceStart>> + Send;

    /// The run goes on; whether its mark is still there. Where less than half of `run.kept` is left of the mark, it is
    /// kept for that long again: work may take longer than its result is kept.
    fn renew_once(&self, name: &str, run: OnceRun) -> impl Future<Output = Result<bool>> + Send;

    /// Stores the run's result and removes its mark, if that is still there; whether it was.
    fn commit_once(
        &self,
        name: &str,
        token: u64,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Removes the run's mark, if that is still there: it had no result. If it is not, a begin of this run that arrives
    /// within [`GIVEN_UP`] is refused.
    fn abandon_once(&self, name: &str, token: u64) -> impl Future<Output = Result<()>> + Send;
}

impl OnceStore for AnyStore {
    async fn set_if_absent(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        in_place_of: Option<Bytes>,
    ) -> Result<FillStart> {
        on_either!(self.set_if_absent(name, value, expiry, in_place_of))
    }

    async fn begin_once(&self, name: &str, run: OnceRun, in_place_of: Option<Bytes>) -> Result<OnceStart> {
        on_either!(self.begin_once(name, run, in_place_of))
    }

    async fn renew_once(&self, name: &str, run: OnceRun) -> Result<bool> {
        on_either!(self.renew_once(name, run))
    }

    async fn commit_once(&self, name: &str, token: u64, value: Bytes, expiry: Expiry) -> Result<bool> {
        on_either!(self.commit_once(name, token, value, expiry))
    }

    async fn abandon_once(&self, name: &str, token: u64) -> Result<()> {
        on_either!(self.abandon_once(name, token))
    }
}
