//! Decodes a complete frame to a reply. Strings are slices of the frame.

use bytes::Bytes;

use super::error::{ServerError, WireError};
use super::reply::Reply;
use super::scan::{length, line_end};

/// A reply or a push. Attributes are skipped.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Reply(Reply),
    Push(Vec<Reply>),
}

/// Reads frames, one after the other.
pub(super) struct Decoder<'a> {
    bytes: &'a Bytes,
    at: usize,
    /// Pushes inside a reply: Redis 6 sends them between the elements of an array.
    pub(super) inner: Vec<Vec<Reply>>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0, inner: Vec::new() }
    }

    /// Reads the next frame. All of its bytes must be there: [`Scan`](super::scan::Scan) finds its end.
    pub(super) fn frame(&mut self) -> Result<Frame, WireError> {
        loop {
            match self.peek() {
                Some(b'>') => {
                    let (kind, text) = self.line()?;
                    let count = length(kind, text)?.unwrap_or_default();
                    return Ok(Frame::Push(self.elements(count)?));
                }
                Some(b'|') => self.attributes()?,
                _ => return Ok(Frame::Reply(self.value()?)),
            }
        }
    }

    /// Reads the next value. Attributes before it are skipped, and pushes before it are moved to `inner`.
    fn value(&mut self) -> Result<Reply, WireError> {
        loop {
            let (kind, text) = self.line()?;
            return Ok(match kind {
                b'+' => Reply::Simple(self.slice(text)),
                b'-' => Reply::Error(error(text)),
                b':' => Reply::Int(number(text).ok_or_else(|| odd("an integer"))?),
                b'$' => match length(kind, text)? {
                    Some(length) => Reply::Bulk(self.string(length)?),
                    None => Reply::Nil,
                },
                b'*' | b'~' => match length(kind, text)? {
                    Some(count) => Reply::Array(self.elements(count)?),
                    None => Reply::Nil,
                },
                b'%' => {
                    let count = length(kind, text)?.unwrap_or_default();
                    let mut pairs = Vec::with_capacity(self.room(count));
                    for _ in 0..count {
                        pairs.push((self.value()?, self.value()?));
                    }
                    Reply::Map(pairs)
                }
                b'_' if text.is_empty() => Reply::Nil,
                b'#' => match text {
                    b"t" => Reply::Boolean(true),
                    b"f" => Reply::Boolean(false),
                    _ => return Err(odd("a boolean")),
                },
                b',' => Reply::Double(number(text).ok_or_else(|| odd("a double"))?),
                b'(' => {
                    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
                    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                        return Err(odd("a big number"));
                    }
                    Reply::BigNumber(self.slice(text))
                }
                b'!' => Reply::Error(error(&self.string(length(kind, text)?.unwrap_or_default())?)),
                b'=' => {
                    let text = self.string(length(kind, text)?.unwrap_or_default())?;
                    // The text begins with three bytes of format and a colon, as in `txt:`.
                    if text.get(3) != Some(&b':') {
                        return Err(odd("a verbatim string"));
                    }
                    Reply::Bulk(text.slice(4..))
                }
                b'|' => {
                    self.skip_pairs(length(kind, text)?.unwrap_or_default())?;
                    continue;
                }
                b'>' => {
                    let push = self.elements(length(kind, text)?.unwrap_or_default())?;
                    self.inner.push(push);
                    continue;
                }
                _ => return Err(odd("a reply")),
            });
        }
    }

    fn elements(&mut self, count: u64) -> Result<Vec<Reply>, WireError> {
        let mut elements = Vec::with_capacity(self.room(count));
        for _ in 0..count {
            elements.push(self.value()?);
        }
        Ok(elements)
    }

    fn attributes(&mut self) -> Result<(), WireError> {
        let (kind, text) = self.line()?;
        self.skip_pairs(length(kind, text)?.unwrap_or_default())
    }

    fn skip_pairs(&mut self, count: u64) -> Result<(), WireError> {
        for _ in 0..count.saturating_mul(2) {
            self.value()?;
        }
        Ok(())
    }

    /// Limits a capacity to the number of elements that the rest of the frame can hold: each has at least three bytes.
    fn room(&self, count: u64) -> usize {
        usize::try_from(count).unwrap_or(usize::MAX).min((self.bytes.len() - self.at) / 3)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn line(&mut self) -> Result<(u8, &'a [u8]), WireError> {
        let begin = self.at;
        let end = line_end(self.bytes, begin, begin).ok_or_else(|| odd("a line"))?;
        self.at = end + 2;
        match self.bytes.get(begin..end).and_then(<[u8]>::split_first) {
            Some((kind, text)) => Ok((*kind, text)),
            None => Err(odd("a line")),
        }
    }

    fn string(&mut self, length: u64) -> Result<Bytes, WireError> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let Some(text) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(odd("a string"));
        };
        let text = self.slice(text);
        self.at += text.len() + 2;
        Ok(text)
    }

    fn slice(&self, text: &[u8]) -> Bytes {
        self.bytes.slice_ref(text)
    }
}

fn odd(what: &str) -> WireError {
    WireError::malformed(format!("something that should be {what}"))
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn error(text: &[u8]) -> ServerError {
    ServerError::new(String::from_utf8_lossy(text))
}
