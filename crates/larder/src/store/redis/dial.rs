//! Opening one connection: to an address, or to whichever server Sentinel names as master.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::agreement::Agreement;
use super::error::translate;
use super::full;
use super::hosts::Hosts;
use super::identity::{Identity, Role, identify};
use super::sentinel;
use crate::clock::Clock;
use crate::credentials::{CredentialSource, CurrentCredentials};
use crate::endpoint::{Address, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Eviction;

/// The driver's own queue of requests that wait for the socket. Its default of 50 makes callers wait for each other.
const QUEUE: usize = 1024;

/// Who connects, and how.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// In place of both, where the program has a provider.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) database: u32,
    pub(crate) tls: bool,
    /// Certificates of the authorities to trust in place of the operating system's, in PEM.
    pub(crate) tls_roots: Option<Vec<u8>>,
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
    pub(super) connection: MultiplexedConnection,
    pub(super) address: Address,
    pub(super) identity: Identity,
    /// What it was authenticated with, where that may change.
    pub(super) credentials: Option<CurrentCredentials>,
}

/// Opens a connection within the login's `connect_timeout`. `pushes` is called in the connection's own task, before any
/// later reply is handed out.
pub(super) async fn dial(
    destination: &Destination,
    login: &Login,
    pushes: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<Dialled> {
    let pushes: Pushes = Arc::new(pushes);
    let open = async {
        match destination {
            Destination::Fixed(address) => open_and_identify(address, login, pushes).await,
            Destination::Sentinel { sentinels, service, sentinel_login } => {
                sentinel::open_named((sentinels, service), sentinel_login, login, &pushes).await
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
                if login.tls { ": does it speak TLS on this port?" } else { "" }
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

async fn open_and_identify(address: &Address, login: &Login, pushes: Pushes) -> Result<Dialled> {
    let opened = open(address, login, Some(pushes)).await?;
    let identity = identify(&opened.connection, &login.client_name)
        .await
        .map_err(|error| translate(&error, &address.to_string()))?;
    login.learned.note(&identity.eviction);
    let OpenedConnection { connection, credentials } = opened;
    Ok(Dialled { connection, address: address.clone(), identity, credentials })
}

/// Opens a connection to a server that Sentinel named, and fails where that is no master.
pub(super) async fn open_master(address: &Address, login: &Login, pushes: Pushes) -> Result<Dialled> {
    // The end of a connection that is passed over is not the end of the one that is used. No push that matters comes before tracking
    // is on, so none is missed.
    let used = Arc::new(AtomicBool::new(false));
    let gate = used.clone();
    let gated = move |push| {
        if gate.load(Ordering::Acquire) {
            pushes(push);
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

type Pushes = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection, and what it was authenticated with where that may change.
pub(super) struct OpenedConnection {
    pub(super) connection: MultiplexedConnection,
    credentials: Option<CurrentCredentials>,
}

pub(super) async fn open(
    address: &Address,
    login: &Login,
    pushes: Option<Pushes>,
) -> Result<OpenedConnection> {
    let credentials = match &login.credentials {
        Some(source) => Some(source.current().await?),
        None => None,
    };
    let fail = |error| translate(&error, &address.to_string());
    let client = client(address, login, credentials.as_ref()).map_err(fail)?;
    // larder has timeouts of its own, around whole operations.
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(move |push| {
            pushes(push);
            Ok::<(), ()>(())
        });
    }
    let error = match client.get_multiplexed_async_connection_with_config(&config).await {
        Ok(connection) => return Ok(OpenedConnection { connection, credentials }),
        Err(error) => fail(error),
    };
    if let (ErrorKind::Authentication, Some(source), Some(kept)) =
        (error.kind(), &login.credentials, &credentials)
    {
        source.refused(kept.number).await;
    }
    if error.kind() == ErrorKind::Disconnected && !login.tls && full::is_full(address).await {
        return Err(full::error(address));
    }
    Err(error)
}

fn client(
    address: &Address,
    login: &Login,
    credentials: Option<&CurrentCredentials>,
) -> redis::RedisResult<Client> {
    let address = match address {
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Address::Tcp { host, port } if login.tls => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        Address::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
    };
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(login.database.into())
        .set_lib_name("larder", env!("CARGO_PKG_VERSION"));
    let (username, password) = match credentials {
        Some(CurrentCredentials { credentials, .. }) => (&credentials.username, Some(&credentials.password)),
        None => (&login.username, login.password.as_ref()),
    };
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(Secret(password)) = password {
        settings = settings.set_password(password);
    }
    let info: ConnectionInfo = address
        .into_connection_info()?
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    with_tls(info, login)
}

#[cfg(feature = "tls")]
fn with_tls(info: ConnectionInfo, login: &Login) -> redis::RedisResult<Client> {
    if !login.tls {
        return Client::open(info);
    }
    // rustls wants the program to choose its cryptography. One that chose before keeps its choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = redis::TlsCertificates { client_tls: None, root_cert: login.tls_roots.clone() };
    Client::build_with_tls(info, certificates)
}

#[cfg(not(feature = "tls"))]
fn with_tls(info: ConnectionInfo, _: &Login) -> redis::RedisResult<Client> {
    Client::open(info)
}
