//! The ways in which a connection or a request on it fails.

use std::fmt;
use std::io;
use std::sync::Arc;

/// An error reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct ServerError(String);

impl ServerError {
    pub(in super::super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The first word, by convention in capitals: `ERR`, `MOVED`, `NOSCRIPT`.
    pub(in super::super) fn code(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// The text after the code.
    pub(in super::super) fn detail(&self) -> &str {
        self.0.split_once(' ').map_or("", |(_, detail)| detail)
    }
}

impl fmt::Display for ServerError {
    /// Leaves out the arguments that a server repeats when it does not know a command: they may be keys, values or
    /// passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split(", with args beginning").next().unwrap_or_default())
    }
}

/// Why a connection could not be opened, or why it ended.
#[derive(Debug, Clone)]
pub(in super::super) enum WireError {
    /// The name could not be resolved, or connecting, reading or writing failed.
    Io(Arc<io::Error>),
    /// TLS is not set up in a usable way, or the peer's certificate was refused.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing speaks TLS"))]
    Tls(Arc<str>),
    /// The server closed the connection.
    Closed,
    /// The server sent bytes that violate the protocol or exceed one of larder's limits.
    Malformed(Arc<str>),
    /// The server refused the login.
    Server(ServerError),
    /// larder gave the connection up.
    GivenUp,
    /// The runtime that drove the connection has ended.
    Stranded,
}

impl WireError {
    pub(super) fn malformed(what: impl Into<Arc<str>>) -> Self {
        Self::Malformed(what.into())
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<ServerError> for WireError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Tls(what) => f.write_str(what),
            Self::Closed => f.write_str("the server closed it"),
            Self::Malformed(what) => write!(f, "the server's reply cannot be read: {what}"),
            Self::Server(error) => error.fmt(f),
            Self::GivenUp => f.write_str("it was given up"),
            Self::Stranded => f.write_str("the runtime that drove it has ended"),
        }
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone)]
pub(in super::super) enum RequestFailure {
    /// No byte of the request was written, so even a request that is not idempotent may be sent again.
    NotSent(WireError),
    /// The request was written, at least in part, and no reply arrived. The server may have carried it out.
    Lost(WireError),
    /// The server answered with an error.
    Refused(ServerError),
}

impl RequestFailure {
    /// Returns whether the connection failed, and not the request.
    pub(in super::super) fn is_of_connection(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// Returns whether no byte was written: then sending the request again cannot carry it out twice.
    pub(in super::super) fn is_unsent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}

impl From<RequestFailure> for WireError {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::NotSent(error) | RequestFailure::Lost(error) => error,
            RequestFailure::Refused(error) => Self::Server(error),
        }
    }
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) | Self::Lost(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}
