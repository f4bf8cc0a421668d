//! A command with its arguments, encoded once.

use arrayvec::ArrayVec;
use bytes::Bytes;

use super::outgoing::Outgoing;

/// A command, encoded as bulk strings. The header of their array is added by [`write_to`](Self::write_to), when the
/// number of parts is known.
#[derive(Debug, Clone)]
pub(in super::super) struct Request {
    parts: usize,
    encoded: Vec<u8>,
    /// Values that are not copied into `encoded`, each with its offset in it.
    values: ArrayVec<(usize, Bytes), 1>,
}

impl Request {
    pub(in super::super) fn new(command: &str) -> Self {
        Self::with_capacity(command, 0)
    }

    /// Creates a request with room for `arguments` bytes: the encoded arguments with their headers (see [`frame`]).
    pub(in super::super) fn with_capacity(command: &str, arguments: usize) -> Self {
        let encoded = Vec::with_capacity(frame(command.len()) + arguments);
        Self { parts: 0, encoded, values: ArrayVec::new() }.arg(command)
    }

    /// Creates a request that begins as this one, with room for `arguments` more bytes.
    pub(in super::super) fn begun(&self, arguments: usize) -> Self {
        let mut encoded = Vec::with_capacity(self.encoded.len() + arguments);
        encoded.extend_from_slice(&self.encoded);
        Self { parts: self.parts, encoded, values: self.values.clone() }
    }

    pub(in super::super) fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument.as_ref());
        self
    }

    pub(in super::super) fn number(self, number: u64) -> Self {
        self.arg(itoa::Buffer::new().format(number))
    }

    /// Adds a value that is copied once, into the write buffer. A large value is not copied at all.
    pub(in super::super) fn value(mut self, value: &Bytes) -> Self {
        if self.values.is_full() {
            return self.arg(value);
        }
        self.parts += 1;
        header(&mut self.encoded, b'$', value.len());
        self.values.push((self.encoded.len(), value.clone()));
        self.encoded.extend_from_slice(b"\r\n");
        self
    }

    pub(in super::super) fn push(&mut self, argument: &[u8]) {
        self.parts += 1;
        header(&mut self.encoded, b'$', argument.len());
        self.encoded.extend_from_slice(argument);
        self.encoded.extend_from_slice(b"\r\n");
    }

    /// Whether this is an `AUTH`.
    pub(super) fn is_auth(&self) -> bool {
        self.encoded.starts_with(b"$4\r\nAUTH\r\n")
    }

    /// Returns the size of the encoded request in bytes, give or take a few.
    pub(super) fn size(&self) -> usize {
        8 + self.encoded.len() + self.values.iter().map(|(_, value)| value.len()).sum::<usize>()
    }

    pub(super) fn write_to(&self, out: &mut Outgoing) {
        out.append(|buffer| header(buffer, b'*', self.parts));
        let mut written = 0;
        for (place, value) in &self.values {
            out.extend(self.encoded.get(written..*place).unwrap_or_default());
            out.push(value);
            written = *place;
        }
        out.extend(self.encoded.get(written..).unwrap_or_default());
    }
}

/// Appends the header of an array or a bulk string.
fn header(buffer: &mut Vec<u8>, kind: u8, length: usize) {
    let mut digits = itoa::Buffer::new();
    buffer.push(kind);
    buffer.extend_from_slice(digits.format(length).as_bytes());
    buffer.extend_from_slice(b"\r\n");
}

/// Returns the size of an encoded bulk string of this length in bytes, give or take a few.
pub(in super::super) const fn frame(length: usize) -> usize {
    length + 12
}
