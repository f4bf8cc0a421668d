//! Why a load has no value.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::flight::LoadFailure;
use super::nesting::Cycle;
use super::thrown::{Foreign, LoaderFailure};
use crate::error::{Error, ErrorKind};

/// Why a load has no value.
///
/// The loader's own error is shared by all who waited for it.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader failed.
    Loader(LoaderFailure<E>),
    /// The loader panicked, with this message. The panic went no further.
    Panicked(Arc<str>),
    /// The loader that this call waited for was another call's, and failed with this error of another type.
    Foreign(Foreign),
    /// This load would wait for itself: its loader asks for a key whose load waits, directly or through others, for
    /// this one. The text names the circle.
    Cycle(Arc<str>),
    /// larder itself: the call timed out, the key is too long, the `Larder` was closed. An outage of the server is not
    /// among them: the loader runs all the same.
    Larder(Error),
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Loader(error) => Self::Loader(error.clone()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::Foreign(error) => Self::Foreign(error.clone()),
            Self::Cycle(circle) => Self::Cycle(circle.clone()),
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
            LoadFailure::Waited(patience) => Self::Larder(waited(patience)),
            LoadFailure::Again => Self::Larder(Error::closed()),
        }
    }
}

/// Says that a wait for another call's load was given up.
pub(super) fn waited(patience: Duration) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "waited {patience:?} (wait_timeout) for a load of this key that another call or process leads: it is \
             slow, or waits in its turn for this one"
        ),
    )
}

impl<E> From<Cycle> for LoadError<E> {
    fn from(Cycle(circle): Cycle) -> Self {
        Self::Cycle(circle)
    }
}

impl<E: Send + Sync + 'static> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(error) => write!(f, "the loader failed: {error}"),
            Self::Panicked(message) => write!(f, "the loader panicked: {message}"),
            Self::Foreign(error) => write!(f, "another caller's loader failed: {error}"),
            Self::Cycle(circle) => write!(f, "a load would wait for itself: {circle}"),
            Self::Larder(error) => error.fmt(f),
        }
    }
}

/// This error shows the text of the loader's own, so the `source` is what lies behind that one. It is there for any
/// error a loader may fail with, also those that are no `Error` themselves, as `anyhow::Error` and boxed errors.
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
    /// The loader's own error, if it was the loader that failed.
    #[must_use]
    pub fn loader(&self) -> Option<&E> {
        match self {
            Self::Loader(error) => Some(error),
            _ => None,
        }
    }

    /// larder's own error, if it was larder that failed.
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
