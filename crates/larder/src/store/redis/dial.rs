//! Opening one connection: to an address, or to whichever server Sentinel names as master.

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

/// Who connects, and how.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// In place of both, where the program has a provider.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) database: u32,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) connect_timeout: Duration,
    /// What `CLIENT LIST` calls the connections.
    pub(crate) client_name: String,
    /// What the server's time is measured against.
    pub(crate) clock: Clock,
    pub(crate) learned: Arc<Learned>,
    /// Where connections are dialled and driven.
    pub(crate) hosts: Hosts,
}

impl Login {
    /// The same for connections of the background.
    pub(crate) fn at_home(&self, home: &Handle) -> Self {
        Self { hosts: Hosts::at_home(home), ..self.clone() }
    }

    /// As whom to log in, with credentials of the program's provider where it has one.
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

/// What the servers of a store have said of themselves, and which of them the links talk to.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    eviction: RwLock<Eviction>,
    /// Where there is one server at a time.
    pub(super) agreement: Agreement,
}

impl Learned {
    pub(super) fn eviction(&self) -> Eviction {
        self.eviction.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of several nodes, one that evicts counts.
    fn note(&self, said: &Eviction) {
        let mut known = self.eviction.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!((&*known, said), (Eviction::Evicts(_), Eviction::Never | Eviction::Unknown)) {
            *known = said.clone();
        }
    }
}

/// Where the connections of a link go.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    Fixed(Address),
    Sentinel { sentinels: Vec<Address>, service: String, sentinel_login: Arc<Login> },
}

impl Destination {
    /// Whether a read-only answer may mean that another server is the master by now, to be found by dialling again: by
    /// asking Sentinel, or by looking the name up.
    pub(super) fn moves(&self) -> bool {
        !matches!(self, Self::Fixed(Address::Unix(_)))
    }
}

/// A connection that was opened.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    /// Whether the server sends pushes on it.
    pub(super) resp3: bool,
    pub(super) address: Address,
    pub(super) identity: Identity,
    /// What it was authenticated with, where that may change.
    pub(super) credentials: Option<CurrentCredentials>,
}

/// Opens a connection within the login's `connect_timeout`. `events` is called in the connection's own task, before any
/// later reply is handed out.
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
                // A server without TLS waits for the end of what it takes for a command.
                if login.tls.is_some() { ": does it speak TLS on this port?" } else { "" }
            ),
        )),
    }
}

/// Where a connection that is opened now would lead. It is closed at once.
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

/// Opens a connection to a server that Sentinel named, and fails where that is no master.
pub(super) async fn open_master(address: &Address, login: &Login, events: Events) -> Result<Dialled> {
    // The end of a connection that is passed over is not the end of the one that is used. No push that matters comes before tracking
    // is on, so none is missed.
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

/// During a failover a sentinel may still name the old master, or one that is not promoted yet.
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

/// A connection, and what it was authenticated with where that may change.
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
