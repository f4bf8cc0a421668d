//! The replies of a server.

use bytes::Bytes;

use super::error::{RequestFailure, ServerError};

/// A reply in RESP2 or RESP3. Strings are slices of the read buffer.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Reply {
    Nil,
    Int(i64),
    /// A bulk string, or a verbatim string without its format.
    Bulk(Bytes),
    /// A simple string, such as `OK`.
    Simple(Bytes),
    /// An array or a set.
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Double(f64),
    Boolean(bool),
    /// An integer that does not fit 64 bits, in decimal.
    BigNumber(Bytes),
    Error(ServerError),
}

impl Reply {
    /// Returns the reply, or the first error in it: a reply of several parts, as that of `EXEC`, may contain errors.
    pub(in super::super) fn into_result(self) -> Result<Self, RequestFailure> {
        match self {
            // Almost all replies are one of these, and contain nothing to search.
            Self::Bulk(_) | Self::Nil | Self::Int(_) | Self::Simple(_) => Ok(self),
            Self::Error(error) => Err(RequestFailure::Refused(error)),
            other => match other.first_error() {
                Some(error) => Err(RequestFailure::Refused(error.clone())),
                None => Ok(other),
            },
        }
    }

    fn first_error(&self) -> Option<&ServerError> {
        match self {
            Self::Error(error) => Some(error),
            Self::Array(parts) => parts.iter().find_map(Self::first_error),
            Self::Map(pairs) => {
                pairs.iter().find_map(|(key, value)| key.first_error().or_else(|| value.first_error()))
            }
            _ => None,
        }
    }

    /// Returns the text of a string.
    pub(in super::super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Bulk(text) | Self::Simple(text) => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// Returns an integer, or parses a string: `TIME` replies with strings.
    pub(in super::super) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            other => other.as_str()?.parse().ok(),
        }
    }
}
