//! The error of a load.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::flight::LoadFailure;
use super::nesting::Cycle;
use super::thrown::{Foreign, LoaderFailure};
use crate::error::{Error, ErrorKind};

/// The reason why a load gave no value.
///
/// All callers that waited for the loader share its error.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader failed with this error.
    Loader(LoaderFailure<E>),
    /// The loader panicked, with this message. The panic was caught.
    Panicked(Arc<str>),
    /// This call waited for another call's loader, which failed with an error of another type.
    Foreign(Foreign),
    /// The load would wait for itself: its loader asks for a key whose load waits, directly or through others, for
    /// this one. The text names the cycle.
    Cycle(Arc<str>),
    /// An error of larder: the call timed out, the key is too long, the `Larder` was closed. An outage of the server
    /// is not among them, because the loader runs in spite of it.
    Larder(Error),
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Loader(error) => Self::Loader(error.clone()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Foreign(error) => Self::Foreign(error.clone()),
            Self::Cycle(cycle) => Self::Cycle(cycle.clone()),
            Self::Larder(error) => Self::Larder(error.clone()),
        }
    }
}

impl<E> From<Error> for LoadError<E> {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}

impl<E: Send + Sync + 'static> From<LoadFailure> for LoadError<E> {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::Loader(error) => match error.of() {
                Ok(error) => Self::Loader(error),
                Err(error) => Self::Foreign(error),
            },
            LoadFailure::Panicked(message) => Self::Panicked(message),
            LoadFailure::TimedOut(timeout) => Self::Larder(Error::new(
                ErrorKind::TimedOut,
                format!("the loader was dropped after hard_timeout ({timeout:?})"),
            )),
            LoadFailure::Waited(max_wait) => Self::Larder(waited(max_wait)),
            LoadFailure::Again => Self::Larder(Error::closed()),
        }
    }
}

/// The error of a call that has waited `wait_timeout` for another call's load.
pub(super) fn waited(max_wait: Duration) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "waited {max_wait:?} (wait_timeout) for a load of this key that another call or process leads: that load \
             is slow, or waits for this one"
        ),
    )
}

impl<E> From<Cycle> for LoadError<E> {
    fn from(Cycle(cycle): Cycle) -> Self {
        Self::Cycle(cycle)
    }
}

impl<E: Send + Sync + 'static> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(error) => write!(f, "the loader failed: {error}"),
            Self::Panicked(message) => write!(f, "the loader panicked: {message}"),
            Self::Foreign(error) => write!(f, "another caller's loader failed: {error}"),
            Self::Cycle(cycle) => write!(f, "a load would wait for itself: {cycle}"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

/// Shows the text of the loader's own error, so `source` is that error's own cause. This works for every error that a
/// loader may return, including types that do not implement `Error` themselves, such as `anyhow::Error` and boxed
/// errors.
impl<E: fmt::Debug + Send + Sync + 'static> StdError for LoadError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Larder(error) => error.source(),
            Self::Loader(error) => error.cause(),
            Self::Foreign(error) => error.cause(),
            Self::Panicked(_) | Self::Cycle(_) => None,
        }
    }
}

impl<E> LoadError<E> {
    /// Returns the loader's own error, if the loader failed.
    #[must_use]
    pub fn loader(&self) -> Option<&E> {
        match self {
            Self::Loader(error) => Some(error),
            _ => None,
        }
    }

    /// Returns larder's error, if larder failed.
    #[must_use]
    pub fn larder(&self) -> Option<&Error> {
        match self {
            Self::Larder(error) => Some(error),
            _ => None,
        }
    }

    /// Whether this call timed out. The load goes on.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Larder(error) if error.is_timeout())
    }
}
