//! The buffer of bytes that wait to be written.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use arrayvec::ArrayVec;
use bytes::Bytes;

/// The most slices that are passed to one vectored write.
const SLICES: usize = 16;
/// A value of at least this size is not copied into the buffer: it is written from its own memory.
pub(super) const LARGE: usize = 16 * 1024;
/// A buffer of at least this size gets no more bytes: its memory is freed only when all of it has been consumed.
const FULL: usize = 64 * 1024;
/// An empty buffer of at most this capacity is kept for the next requests.
const KEPT: usize = 256 * 1024;

/// A queue of bytes. Small pieces share a buffer, large values are chunks of their own.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk have been consumed.
    consumed: usize,
    len: usize,
}

#[derive(Debug)]
enum Chunk {
    Buffer(Vec<u8>),
    Value(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Value(value) => value,
        }
    }
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.append(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Appends what `write` appends to the last buffer.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.chunks.back(), Some(Chunk::Buffer(buffer)) if buffer.len() < FULL) {
            self.chunks.push_back(Chunk::Buffer(Vec::new()));
        }
        if let Some(Chunk::Buffer(buffer)) = self.chunks.back_mut() {
            let before = buffer.len();
            write(buffer);
            self.len += buffer.len() - before;
        }
    }

    pub(super) fn push(&mut self, value: &Bytes) {
        if value.len() < LARGE {
            self.extend(value);
        } else {
            self.len += value.len();
            self.chunks.push_back(Chunk::Value(value.clone()));
        }
    }

    /// Returns the first bytes, for one vectored write.
    pub(super) fn slices(&self) -> ArrayVec<IoSlice<'_>, SLICES> {
        let mut consumed = self.consumed;
        let chunks = self.chunks.iter().take(SLICES).map(Chunk::as_slice);
        chunks
            .map(|chunk| chunk.get(mem::take(&mut consumed)..).unwrap_or_default())
            .map(IoSlice::new)
            .collect()
    }

    /// Drops `count` bytes from the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        let mut rest = self.consumed + count;
        while let Some(first) = self.chunks.front_mut() {
            let length = first.as_slice().len();
            if rest < length {
                break;
            }
            rest -= length;
            if let Chunk::Buffer(buffer) = first
                && self.len == 0
                && buffer.capacity() <= KEPT
            {
                buffer.clear();
                self.chunks.truncate(1);
                rest = 0;
                break;
            }
            self.chunks.pop_front();
        }
        self.consumed = rest;
    }

    /// Moves `count` bytes from the front to the end of `target`.
    pub(super) fn move_to(&mut self, target: &mut Self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.chunks.front() else { return };
            let rest = first.as_slice().get(self.consumed..).unwrap_or_default();
            if rest.is_empty() {
                self.chunks.pop_front();
                self.consumed = 0;
                continue;
            }
            let moved = rest.len().min(count);
            match first {
                Chunk::Value(value) => target.push(&value.slice(self.consumed..self.consumed + moved)),
                Chunk::Buffer(_) => target.extend(rest.get(..moved).unwrap_or_default()),
            }
            count -= moved;
            self.consume(moved);
        }
    }

    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        (self.consumed, self.len) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_never_ends_takes_no_more_memory_than_its_bytes() {
        let (mut pending, mut out) = (Outgoing::default(), Outgoing::default());
        let request = [0; 1024];
        for _ in 0..100 {
            pending.extend(&request);
        }
        for _ in 0..10_000 {
            pending.extend(&request);
            pending.move_to(&mut out, request.len());
            out.clear();
            let held: usize = pending.chunks.iter().map(|chunk| chunk.as_slice().len()).sum();
            assert!(held < 300 * 1024, "{held} bytes for {}", pending.len());
        }
    }
}
