//! What must hold for any bytes that a server sends. Property tests and the fuzz target in `fuzz/` call [`check`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use redis::{Value, VerbatimFormat};
use tokio::io::{AsyncRead, ReadBuf};

use super::super::decode::Frame;
use super::super::error::WireError;
use super::super::reader::Reader;
use super::super::reply::Reply;

/// The longest input. A line that is longer may be refused or not: that depends on the pieces in which it arrives.
const LONGEST: usize = 64 * 1024;

/// Checks that bytes are read or refused in the same way whatever the pieces in which they arrive, and that redis-rs
/// reads the same, if both read anything. The first byte of `input` is the size of the pieces, the others arrive.
pub(crate) fn check(input: &[u8]) {
    let Some((size, bytes)) = input.split_first().filter(|_| input.len() <= LONGEST) else { return };
    let (whole, failed) = read(bytes, LONGEST);
    let (parts, parts_failed) = read(bytes, usize::from(*size).max(1));
    assert_eq!(failed.as_ref().map(ToString::to_string), parts_failed.as_ref().map(ToString::to_string));
    // A frame that contains NaN is not equal to itself.
    assert!(whole == parts || format!("{whole:?}") == format!("{parts:?}"), "{whole:?} {parts:?}");
    // redis-rs does not tell pushes inside an array from its elements.
    if let Some(Frame::Reply(ours)) = whole.first()
        && !bytes.contains(&b'>')
        && let Ok(theirs) = redis::parse_redis_value(bytes)
    {
        assert!(same(&theirs, ours), "{theirs:?} {ours:?}");
    }
}

/// Reads all frames that arrive in pieces of this size, and returns them with the error that follows them, if any.
fn read(bytes: &[u8], size: usize) -> (Vec<Frame>, Option<WireError>) {
    let mut reader = Reader::default();
    let mut stream = Pieces { rest: bytes, size };
    let mut frames = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match reader.poll_read(&mut cx, &mut stream) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(WireError::Closed)) => return (frames, None),
            other => unreachable!("{other:?}"),
        }
        if let Err(error) = reader.frames(|frame| frames.push(frame)) {
            return (frames, Some(error));
        }
    }
}

struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.size.min(self.rest.len()).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(count);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// Whether both parsers read the same.
pub(super) fn same(theirs: &Value, ours: &Reply) -> bool {
    let all = |theirs: &[Value], ours: &[Reply]| {
        theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(theirs, ours)| same(theirs, ours))
    };
    match (theirs, ours) {
        (Value::Attribute { data, .. }, ours) => same(data, ours),
        (Value::Nil, Reply::Nil) => true,
        (Value::Int(theirs), Reply::Int(ours)) => theirs == ours,
        (Value::BulkString(theirs), Reply::Bulk(ours)) => theirs == ours,
        // A format is three bytes long; redis-rs also takes others, and ends it at the first colon.
        (Value::VerbatimString { format: VerbatimFormat::Unknown(format), .. }, Reply::Bulk(_))
            if format.len() != 3 =>
        {
            true
        }
        (Value::VerbatimString { text, .. }, Reply::Bulk(ours)) => *text == String::from_utf8_lossy(ours),
        (Value::SimpleString(theirs), Reply::Simple(ours)) => theirs.as_bytes() == ours,
        (Value::Okay, Reply::Simple(ours)) => ours == "OK",
        (Value::Array(theirs) | Value::Set(theirs), Reply::Array(ours)) => all(theirs, ours),
        (Value::Map(theirs), Reply::Map(ours)) => {
            let pairs = theirs.iter().zip(ours);
            theirs.len() == ours.len() && pairs.into_iter().all(|(a, b)| same(&a.0, &b.0) && same(&a.1, &b.1))
        }
        (Value::Double(theirs), Reply::Double(ours)) => theirs == ours || theirs.is_nan() && ours.is_nan(),
        (Value::Boolean(theirs), Reply::Boolean(ours)) => theirs == ours,
        (Value::BigNumber(theirs), Reply::BigNumber(ours)) => theirs == ours,
        (Value::ServerError(theirs), Reply::Error(ours)) => {
            theirs.code() == ours.code() && theirs.details().unwrap_or_default() == ours.detail()
        }
        _ => false,
    }
}
