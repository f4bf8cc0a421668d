//! Reads a stream and cuts it into frames.

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::decode::{Decoder, Frame};
use super::error::WireError;
use super::scan::Scan;

const SMALLEST: usize = 32 * 1024;
const LARGEST: usize = 512 * 1024;
/// After this many reads in a row that fill less than a quarter of the room, the room is halved.
const QUIET: u32 = 64;

/// The read buffer. It grows when reads fill it, and shrinks again when they do not.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: BytesMut,
    scan: Scan,
    room: usize,
    quiet: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), scan: Scan::default(), room: SMALLEST, quiet: 0 }
    }
}

impl Reader {
    /// Reads once. After an error the stream has ended.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<Result<(), WireError>> {
        if self.buffer.capacity() - self.buffer.len() < self.room / 4 {
            self.buffer.reserve(self.room);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = match pin!(stream.read_buf(&mut self.buffer)).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(WireError::Closed)),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        };
        if read == room {
            (self.room, self.quiet) = ((self.room * 2).min(LARGEST), 0);
        } else if read * 4 < self.room && self.room > SMALLEST {
            self.quiet += 1;
            if self.quiet == QUIET {
                (self.room, self.quiet) = ((self.room / 2).max(SMALLEST), 0);
                // Continue in a new buffer. The large one is freed when the last reply that shares it is dropped.
                self.buffer = BytesMut::from(&*self.buffer);
            }
        } else {
            self.quiet = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Hands out all complete frames, in order. A push inside a reply is handed out before the reply.
    pub(super) fn frames(&mut self, mut take: impl FnMut(Frame)) -> Result<(), WireError> {
        let mut whole = 0;
        let mut count = 0usize;
        let mut failure = Ok(());
        while whole < self.buffer.len() {
            match self.scan.advance(self.buffer.get(whole..).unwrap_or_default()) {
                Ok(Some(end)) => {
                    whole += end;
                    count += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    failure = Err(error);
                    break;
                }
            }
        }
        if count == 0 {
            return failure;
        }
        let bytes: Bytes = self.buffer.split_to(whole).freeze();
        let mut decoder = Decoder::new(&bytes);
        for _ in 0..count {
            let frame = decoder.frame()?;
            if !decoder.inner.is_empty() {
                decoder.inner.drain(..).for_each(|push| take(Frame::Push(push)));
            }
            take(frame);
        }
        if whole > LARGEST {
            // Do not keep the buffer of a large reply.
            self.buffer = BytesMut::from(&*self.buffer);
        }
        failure
    }

    /// Returns whether a part of a frame has arrived, and its rest has not.
    pub(super) fn is_within_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    #[cfg(test)]
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> (usize, usize) {
        (self.room, self.buffer.capacity())
    }
}
