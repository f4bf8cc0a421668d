//! Reads replies as a connection does. A child of larder's modules, which nothing else can name.

use std::hint::black_box;
use std::task::{Context, Poll, Waker};

use super::error::WireError;
use super::reader::Reader;
use crate::lane::Outcome;

pub(crate) fn decode(mut stream: &[u8]) -> Outcome<usize> {
    let (mut reader, mut count) = (Reader::default(), 0);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match reader.poll_read(&mut cx, &mut stream) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(WireError::Closed)) => return Ok(count),
            Poll::Ready(Err(error)) => return Err(error.to_string().into()),
            Poll::Pending => return Err("memory does not wait".into()),
        }
        let read = reader.frames(|frame| {
            black_box(frame);
            count += 1;
        });
        read.map_err(|error| error.to_string())?;
    }
}
