//! Opens one connection: to an address, or to the server that Sentinel names as the master.

use std::sync::Arc;

use tokio::time::timeout;

use super::identity::Identity;
use super::login::Login;
use super::open::{Dialled, Events, open_and_identify};
use super::sentinel;
use super::wire::Event;
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

/// The address of a link's connections, or how to find it.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    Fixed(Address),
    Sentinel { sentinels: Vec<Address>, service: String, sentinel_login: Arc<Login> },
}

impl Destination {
    /// Returns whether another server may be the master after a read-only answer, so that dialling again can find it:
    /// by asking Sentinel, or by looking the name up. A Unix socket always leads to the same server.
    pub(super) fn moves(&self) -> bool {
        !matches!(self, Self::Fixed(Address::Unix(_)))
    }
}

/// Opens a connection within the login's `connect_timeout`. The connection's own task calls `events` before it hands
/// out any later reply.
pub(super) async fn dial(
    destination: &Destination,
    login: &Login,
    events: impl Fn(&Event<'_>) + Send + Sync + 'static,
) -> Result<Dialled> {
    let events: Events = Arc::new(events);
    let open = async {
        match destination {
            Destination::Fixed(address) => open_and_identify(address, login, events).await,
            Destination::Sentinel { sentinels, service, sentinel_login } => {
                sentinel::open_named((sentinels, service), sentinel_login, login, &events).await
            }
        }
    };
    match timeout(login.connect_timeout, open).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "{} did not complete a connection within {:?}{}",
                describe(destination),
                login.connect_timeout,
                // A server without TLS takes the start of the handshake for an unfinished command, and waits for its
                // end.
                if login.tls.is_some() { ": does it speak TLS on this port?" } else { "" }
            ),
        )),
    }
}

/// Finds out which server a new connection leads to. The connection is closed at once.
pub(super) async fn look_up(destination: &Destination, login: &Login) -> Result<Identity> {
    dial(destination, login, |_| {}).await.map(|dialled| dialled.identity)
}

pub(super) fn describe(destination: &Destination) -> String {
    match destination {
        Destination::Fixed(address) => address.to_string(),
        Destination::Sentinel { service, .. } => format!("the master of {service}"),
    }
}
