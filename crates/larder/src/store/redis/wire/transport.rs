//! Opening the stream of a connection.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::error::WireError;
use super::tls::Tls;
use crate::endpoint::Address;

/// How long a connection attempt may take before the next address is tried at the same time (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// The idle time before the operating system's first TCP keepalive probe, and the time between probes. Heartbeats
/// notice a dead peer earlier. The probes are for connections without heartbeats: firewalls would forget these.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A stream to a server.
#[derive(Debug)]
pub(in super::super) enum Stream {
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// Opens a stream. If the name has several addresses, they are tried as RFC 8305 describes.
pub(in super::super) async fn connect(address: &Address, tls: Option<&Tls>) -> Result<Stream, WireError> {
    match address {
        Address::Tcp { host, port } => {
            let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
            let stream = connect_first(in_turns(addresses)).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            match tls {
                None => Ok(Stream::Tcp(stream)),
                #[cfg(feature = "tls")]
                Some(tls) => Ok(Stream::Tls(Box::new(tls.wrap(stream, host).await?))),
                #[cfg(not(feature = "tls"))]
                Some(_) => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
            }
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Stream::Unix(tokio::net::UnixStream::connect(path).await?)),
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}

/// Orders the addresses so that the two families alternate, beginning with the family that the resolver prefers.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let prefers_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == prefers_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return ordered,
            (one, other) => ordered.extend(one.into_iter().chain(other)),
        }
    }
}

/// Returns the first connection that opens. The next address is tried when an attempt fails, or at the same time as an
/// attempt that takes longer than [`STAGGER`].
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut rest = addresses.into_iter();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut attempts = FuturesUnordered::new();
    loop {
        if attempts.is_empty() {
            let Some(address) = rest.next() else { return Err(failed) };
            attempts.push(TcpStream::connect(address));
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failed = error;
                    attempts.extend(rest.next().map(TcpStream::connect));
                }
            },
            () = sleep(STAGGER), if rest.len() > 0 => attempts.extend(rest.next().map(TcpStream::connect)),
        }
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_both_families_are_tried_in_turns() {
        let all = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(at);
        assert_eq!(in_turns(all.to_vec()), ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(at));
        let all = ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"].map(at);
        assert_eq!(in_turns(all.to_vec()), all.map(|address| address));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_for_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // Nothing listens on a port that was free a moment ago.
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let stream = connect_first(vec![closed, open]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = connect_first(vec![closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
