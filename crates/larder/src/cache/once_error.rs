//! The error of `run_once`.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::nesting::Cycle;
use super::thrown::LoaderFailure;
use crate::error::Error;

/// The reason why work that runs once gave no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The work failed in this call. Nothing is stored, and the next caller runs it. [Derefs](std::ops::Deref) to the
    /// work's own error.
    Work(LoaderFailure<E>),
    /// The work panicked in this call, with this message. What it has done is not known, so it counts as interrupted.
    Panicked(Arc<str>),
    /// A run began and its mark is no longer renewed: its process died or hangs. It may have done all of the work, a
    /// part, or nothing. Find out, then call with [`retry_interrupted`](super::RunOnce::retry_interrupted).
    Interrupted,
    /// The work would wait for itself: it asks for a result that waits, directly or through others, for its own. The
    /// text names the cycle. Correct the work.
    Cycle(Arc<str>),
    /// Another caller is running the work, and this call was [not to wait](super::RunOnce::without_waiting). Retry
    /// later.
    Running,
    /// The stored entry cannot be read by this program: it is damaged or of another type. The work may have been
    /// done.
    Unreadable,
    /// An error of larder: the server is away, the call timed out, the `Larder` was closed, the result cannot be
    /// encoded. If the server was away when the call began, the work was not run.
    Larder(Error),
}

impl<E> Clone for OnceError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Work(error) => Self::Work(error.clone()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Interrupted => Self::Interrupted,
            Self::Cycle(cycle) => Self::Cycle(cycle.clone()),
            Self::Running => Self::Running,
            Self::Unreadable => Self::Unreadable,
            Self::Larder(error) => Self::Larder(error.clone()),
        }
    }
}

impl<E> OnceError<E> {
    /// Returns the work's own error, if the work failed.
    #[must_use]
    pub fn work(&self) -> Option<&E> {
        match self {
            Self::Work(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> From<Error> for OnceError<E> {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}

impl<E> From<Cycle> for OnceError<E> {
    fn from(Cycle(cycle): Cycle) -> Self {
        Self::Cycle(cycle)
    }
}

impl<E: Send + Sync + 'static> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => write!(f, "the work failed: {error}"),
            Self::Panicked(message) => write!(f, "the work panicked: {message}"),
            Self::Interrupted => {
                f.write_str("a run of this work was interrupted, and what it has done is not known")
            }
            Self::Cycle(cycle) => write!(f, "this work would wait for itself: {cycle}"),
            Self::Running => f.write_str("another caller is running this work"),
            Self::Unreadable => f.write_str("the stored result of this work cannot be read"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

/// Shows the text of the work's own error, so `source` is that error's own cause.
impl<E: fmt::Debug + Send + Sync + 'static> StdError for OnceError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Work(error) => error.cause(),
            Self::Larder(error) => error.source(),
            Self::Panicked(_) | Self::Interrupted | Self::Cycle(_) | Self::Running | Self::Unreadable => None,
        }
    }
}
