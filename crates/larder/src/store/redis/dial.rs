//! Opens one connection: to an address, or to the server that Sentinel names as the master.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::agreement::Agreement;
use super::error::translate;
use super::full;
use super::hosts::Hosts;
use super::identity::{Identity, Role, identify};
use super::sentinel;
use super::wire::{Connection, Event, Greeting, Tls, WireError, connect, greet};
use crate::clock::Clock;
use crate::credentials::{CredentialSource, CurrentCredentials};
use crate::endpoint::{Address, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Eviction;

/// The credentials and settings of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// The program's credential provider. It replaces `username` and `password`.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) database: u32,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) connect_timeout: Duration,
    /// The name of the connections in `CLIENT LIST`.
    pub(crate) client_name: String,
    /// The clock against which the server's time is measured.
    pub(crate) clock: Clock,
    pub(crate) learned: Arc<Learned>,
    /// The runtimes on which connections are dialled and driven.
    pub(crate) hosts: Hosts,
}

impl Login {
    /// Returns the same login for the connections of the background tasks.
    pub(crate) fn at_home(&self, home: &Handle) -> Self {
        Self { hosts: Hosts::at_home(home), ..self.clone() }
    }

    /// Returns the arguments of the login, with the provider's credentials if there are any.
    pub(super) fn greeting<'a>(&'a self, credentials: Option<&'a CurrentCredentials>) -> Greeting<'a> {
        let (username, password) = match credentials {
            Some(CurrentCredentials { credentials, .. }) => {
                (&credentials.username, Some(&credentials.password))
            }
            None => (&self.username, self.password.as_ref()),
        };
        let password = password.map(|Secret(password)| password.as_str());
        Greeting { username: username.as_deref(), password, database: self.database }
    }
}

/// What the store has learned about its servers, and which of them the links use.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    eviction: RwLock<Eviction>,
    /// Used if the deployment has one server at a time, not in a cluster.
    pub(super) agreement: Agreement,
}

impl Learned {
    pub(super) fn eviction(&self) -> Eviction {
        self.eviction.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what a server said about eviction. If any node evicts, that answer is kept.
    fn note(&self, said: &Eviction) {
        let mut known = self.eviction.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!((&*known, said), (Eviction::Evicts(_), Eviction::Never | Eviction::Unknown)) {
            *known = said.clone();
        }
    }
}

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

/// An open connection, and what the server said about itself.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    /// Whether the server sends pushes on it.
    pub(super) resp3: bool,
    pub(super) address: Address,
    pub(super) identity: Identity,
    /// The credentials of the login, if they come from a provider and may change.
    pub(super) credentials: Option<CurrentCredentials>,
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

async fn open_and_identify(address: &Address, login: &Login, events: Events) -> Result<Dialled> {
    let opened = open(address, login, Some(events)).await?;
    let identity = identify(&opened.connection, &login.client_name)
        .await
        .map_err(|failure| translate(&WireError::from(failure), &address.to_string()))?;
    login.learned.note(&identity.eviction);
    let OpenedConnection { connection, resp3, credentials } = opened;
    Ok(Dialled { connection, resp3, address: address.clone(), identity, credentials })
}

/// Opens a connection to a server that Sentinel named. Fails if the server is not a master.
pub(super) async fn open_master(address: &Address, login: &Login, events: Events) -> Result<Dialled> {
    // A candidate that is passed over must not report its end: the listener would take it for the end of the
    // connection in use. No invalidation is lost before the gate opens, because tracking is switched on later.
    let used = Arc::new(AtomicBool::new(false));
    let gate = used.clone();
    let gated = move |event: &Event<'_>| {
        if gate.load(Ordering::Acquire) {
            events(event);
        }
    };
    let dialled = open_and_identify(address, login, Arc::new(gated)).await?;
    check_master(&dialled)?;
    used.store(true, Ordering::Release);
    Ok(dialled)
}

/// Fails unless the server is a master. During a failover a sentinel may still name the old master, or a replica that
/// is not promoted yet.
fn check_master(dialled: &Dialled) -> Result<()> {
    let address = &dialled.address;
    match dialled.identity.role {
        Some(Role::Master) => Ok(()),
        Some(Role::Replica) => Err(Error::new(
            ErrorKind::ReadOnly,
            format!("{address} was named master by Sentinel and is none yet"),
        )),
        None => Err(Error::new(
            ErrorKind::Permission,
            format!("{address} does not say whether it is the master: the user needs +role"),
        )),
    }
}

pub(super) type Events = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// A connection after the login, and its credentials if they may change.
pub(super) struct OpenedConnection {
    pub(super) connection: Connection,
    resp3: bool,
    credentials: Option<CurrentCredentials>,
}

pub(super) async fn open(
    address: &Address,
    login: &Login,
    events: Option<Events>,
) -> Result<OpenedConnection> {
    let credentials = match &login.credentials {
        Some(source) => Some(source.current().await?),
        None => None,
    };
    let opened = async {
        let stream = connect(address, login.tls.as_deref()).await?;
        let connection = Connection::start(stream, move |event: Event<'_>| {
            if let Some(events) = &events {
                events(&event);
            }
        });
        let resp3 = greet(&connection, login.greeting(credentials.as_ref())).await?;
        Ok::<_, WireError>((connection, resp3))
    };
    let error = match opened.await {
        Ok((connection, resp3)) => return Ok(OpenedConnection { connection, resp3, credentials }),
        Err(error) => translate(&error, &address.to_string()),
    };
    if let (ErrorKind::Authentication, Some(source), Some(kept)) =
        (error.kind(), &login.credentials, &credentials)
    {
        source.refused(kept.number).await;
    }
    if error.kind() == ErrorKind::Disconnected && login.tls.is_none() && full::is_full(address).await {
        return Err(full::error(address));
    }
    Err(error)
}
