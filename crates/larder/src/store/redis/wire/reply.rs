//! What a server answers.

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
    /// The reply, or the first error in it: a reply of several parts may hold errors, as that of `EXEC` does.
    pub(in super::super) fn into_result(self) -> Result<Self, RequestFailure> {
        match self {
            // The replies of almost all requests: nothing to search.
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

    /// The text of a string.
    pub(in super::super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Bulk(text) | Self::Simple(text) => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// A number, or a string that is one: `TIME` answers in strings.
    pub(in super::super) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            other => other.as_str()?.parse().ok(),
        }
    }
}
