//! Opening one connection: to an address, or to whichever server Sentinel names as master.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo,
};
use tokio::time::timeout;

use super::error::translate;
use crate::clock::Clock;
use crate::endpoint::{Address, Secret};
use crate::error::{Error, ErrorKind, Result};

/// The driver's own queue of requests that wait for the socket. Its default of 50 makes callers wait for each other.
const QUEUE: usize = 1024;

/// Who connects, and how.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    pub(crate) tls: bool,
    /// Certificates of the authorities to trust in place of the operating system's, in PEM.
    pub(crate) tls_roots: Option<Vec<u8>>,
    pub(crate) connect_timeout: Duration,
    /// What the server's time is measured against.
    pub(crate) clock: Clock,
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

/// Opens a connection within the login's `connect_timeout`. `pushes` is called in the connection's own task, before any
/// later reply is handed out.
pub(super) async fn dial(
    destination: &Destination,
    login: &Login,
    pushes: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<(MultiplexedConnection, Address)> {
    let open = async {
        match destination {
            Destination::Fixed(address) => {
                Ok((open(address, login, Some(Box::new(pushes))).await?, address.clone()))
            }
            Destination::Sentinel { sentinels, service, sentinel_login } => {
                let address = master(sentinels, service, sentinel_login).await?;
                let connection = open(&address, login, Some(Box::new(pushes))).await?;
                check_role(&connection, &address).await?;
                Ok((connection, address))
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

pub(super) fn describe(destination: &Destination) -> String {
    match destination {
        Destination::Fixed(address) => address.to_string(),
        Destination::Sentinel { service, .. } => format!("the master of {service}"),
    }
}

type Pushes = Box<dyn Fn(PushInfo) + Send + Sync>;

async fn open(address: &Address, login: &Login, pushes: Option<Pushes>) -> Result<MultiplexedConnection> {
    let fail = |error| translate(&error, &address.to_string());
    let client = client(address, login).map_err(fail)?;
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
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(fail)
}

fn client(address: &Address, login: &Login) -> redis::RedisResult<Client> {
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
    if let Some(username) = &login.username {
        settings = settings.set_username(username);
    }
    if let Some(Secret(password)) = &login.password {
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

/// Asks all sentinels at once which server is the master; the first that knows is believed. The protocol: redis.io,
/// "Guidelines for Redis clients with support for Sentinel".
async fn master(sentinels: &[Address], service: &str, login: &Login) -> Result<Address> {
    let asked = sentinels.iter().map(|sentinel| Box::pin(ask(sentinel, service, login)));
    select_ok(asked).await.map(|(address, _)| address)
}

async fn ask(sentinel: &Address, service: &str, login: &Login) -> Result<Address> {
    let mut connection = open(sentinel, login, None).await?;
    let answer: Option<(String, u16)> = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(service)
        .query_async(&mut connection)
        .await
        .map_err(|error| translate(&error, &sentinel.to_string()))?;
    match answer {
        Some((host, port)) => Ok(Address::Tcp { host, port }),
        None => Err(Error::invalid(format!("the sentinel {sentinel} knows no service {service}"))),
    }
}

/// During a failover a sentinel may still name the old master, or one that is not promoted yet.
async fn check_role(connection: &MultiplexedConnection, address: &Address) -> Result<()> {
    let role: Vec<redis::Value> = redis::cmd("ROLE")
        .query_async(&mut connection.clone())
        .await
        .map_err(|error| translate(&error, &address.to_string()))?;
    let role = role.into_iter().next().and_then(|role| redis::from_redis_value::<String>(role).ok());
    if role.as_deref() == Some("master") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ReadOnly, format!("{address} was named master by Sentinel and is none yet")))
}
