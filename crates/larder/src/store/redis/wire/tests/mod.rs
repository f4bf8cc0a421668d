//! Tests of the wire as a whole.

mod codec;
mod real;
mod replies;
mod scripted;
