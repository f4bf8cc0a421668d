//! Finds out whether a server that closed a connection did so because it is at its `maxclients`.
//!
//! Such a server sends an error and closes the connection as soon as it has accepted it. The error is often
//! lost: a client that writes to the closed connection gets the failure of its write. So after a dial that
//! ended this way, one more connection is opened that writes nothing and only reads.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::Address;
use crate::error::{Error, ErrorKind};

/// The server sends its error at once, or not at all.
const ERROR_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) async fn is_full(address: &Address) -> bool {
    let ask = async {
        match address {
            Address::Tcp { host, port } => first(TcpStream::connect((host.as_str(), *port)).await?).await,
            #[cfg(unix)]
            Address::Unix(path) => first(tokio::net::UnixStream::connect(path).await?).await,
            #[cfg(not(unix))]
            Address::Unix(_) => Ok(String::new()),
        }
    };
    matches!(timeout(ERROR_TIMEOUT, ask).await, Ok(Ok(said)) if said.contains("max number of clients"))
}

pub(super) fn error(address: &Address) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!("{address} takes no more connections: raise its maxclients, or close others"),
    )
}

/// Reads the first bytes of a connection.
async fn first(mut stream: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut buffer = [0; 128];
    let count = stream.read(&mut buffer).await?;
    Ok(String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned())
}
