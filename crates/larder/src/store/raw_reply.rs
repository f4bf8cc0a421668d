//! A server's reply to a command of the caller's choice.

use bytes::Bytes;

/// A reply in RESP2 or RESP3. Made by [`Admin::command`](crate::admin::Admin::command).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RawReply {
    /// Nothing.
    Nil,
    /// An integer.
    Int(i64),
    /// A string.
    Bulk(Bytes),
    /// A simple string, such as `OK`.
    Simple(String),
    /// An array or a set.
    Array(Vec<RawReply>),
    /// A map. A server that answers in RESP2 sends an array instead: see [`pairs`](Self::pairs).
    Map(Vec<(RawReply, RawReply)>),
    /// A floating-point number.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// An error inside an array. An error as the whole reply is an `Err`.
    Error(String),
}

impl RawReply {
    /// Returns the text of a string, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Bulk(bytes) => str::from_utf8(bytes).ok(),
            Self::Simple(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the text of a string, with replacement characters where it is not UTF-8.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Simple(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Returns an integer, or parses a string.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// Returns the elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[RawReply]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the pairs of a map, or of an array of alternating names and values.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&RawReply, &RawReply)> {
        match self {
            Self::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
            Self::Array(elements) => elements
                .chunks_exact(2)
                .filter_map(|pair| match pair {
                    [key, value] => Some((key, value)),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the value of a name in a map, or in an array of alternating names and values.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawReply> {
        self.pairs().into_iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }
}
