//! The wire: larder's own client of the RESP protocol, one connection at a time.
//!
//! A request is encoded once ([`request`]) and appended to the write buffer of its connection ([`queue`]). One task per
//! connection writes that buffer and reads replies at the same time ([`connection`]). It finds the end of each frame
//! without reading a byte twice ([`scan`]) and decodes the frame to a [`Reply`], whose strings are slices of the read
//! buffer ([`decode`]). [`transport`] and [`tls`] open the stream, [`handshake`] logs in.
//!
//! This folder knows no keys, no scripts and no retries. A failed request says whether it was written
//! ([`RequestFailure`]); the callers of this folder decide what to do about it.

mod connection;
mod decode;
mod entries;
mod error;
mod handshake;
mod outgoing;
mod queue;
mod reader;
mod reply;
mod request;
mod scan;
mod tls;
mod transport;

pub(super) use connection::{Connection, Event};
pub(super) use error::{RequestFailure, ServerError, WireError};
pub(super) use handshake::{Greeted, Greeting, greet};
pub(super) use reply::Reply;
pub(super) use request::{Request, frame};
pub(crate) use tls::Tls;
pub(super) use transport::connect;

#[cfg(test)]
mod tests;
