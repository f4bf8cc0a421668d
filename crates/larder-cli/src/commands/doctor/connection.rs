//! One connection to one server, with what the examination wants to know about it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use larder::admin::ServerAddress;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificate;
use super::resp::{self, Reply};
use crate::settings::Secret;

/// How long dialling and each reply may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is needed to log in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The address cannot be reached, or the connection broke.
    Unreachable(String),
    /// The TLS handshake failed.
    Tls(String),
    /// The server refused the login.
    Login(String),
    /// No answer in time.
    Silent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Login(why) => f.write_str(why),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Silent => write!(f, "no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // rustls wraps its errors in io::Error.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.to_string()),
            None => Self::Unreachable(error.to_string()),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection that is logged in.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// Pushes that arrived while a reply was waited for.
    pushes: VecDeque<Vec<Reply>>,
    /// The protocol that the server agreed to, and its reason if that is not 3.
    pub(crate) protocol: Result<(), String>,
    pub(crate) tls: Option<TlsFacts>,
}

/// What the handshake showed.
#[derive(Debug, Clone)]
pub(crate) struct TlsFacts {
    pub(crate) version: &'static str,
    pub(crate) not_after: Option<SystemTime>,
}

impl Connection {
    /// Dials and logs in.
    pub(crate) async fn open(address: &ServerAddress, login: &Login) -> Result<Self, Failure> {
        let mut connection = Self::dial(address, login.tls.clone()).await?;
        connection.log_in(login).await?;
        Ok(connection)
    }

    /// Dials without logging in.
    pub(crate) async fn dial(
        address: &ServerAddress,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, Failure> {
        tokio::time::timeout(ANSWER_TIMEOUT, Self::connect(address, tls))
            .await
            .unwrap_or(Err(Failure::Silent))
    }

    async fn connect(address: &ServerAddress, tls: Option<Arc<ClientConfig>>) -> Result<Self, Failure> {
        let (stream, tls): (Box<dyn Stream>, _) = match address {
            #[cfg(unix)]
            ServerAddress::Unix(path) => (Box::new(tokio::net::UnixStream::connect(path).await?), None),
            #[cfg(not(unix))]
            ServerAddress::Unix(_) => {
                return Err(Failure::Unreachable("this system has no Unix sockets".to_owned()));
            }
            ServerAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match tls {
                    None => (Box::new(stream), None),
                    Some(config) => {
                        let name = ServerName::try_from(host.clone())
                            .map_err(|_| Failure::Tls(format!("no certificate can be for {host}")))?;
                        let stream = TlsConnector::from(config).connect(name, stream).await?;
                        let facts = facts(stream.get_ref().1);
                        (Box::new(stream), Some(facts))
                    }
                }
            }
        };
        Ok(Self { stream, received: Vec::new(), pushes: VecDeque::new(), protocol: Ok(()), tls })
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Failure> {
        let mut hello = vec!["HELLO", "3"];
        let username = login.username.as_deref().unwrap_or("default");
        if let Some(Secret(password)) = &login.password {
            hello.extend(["AUTH", username, password]);
        }
        let reply = self.call(&hello).await?;
        if let Some(error) = reply.error() {
            if is_login_error(error) {
                return Err(Failure::Login(error.to_owned()));
            }
            // A server or a proxy without HELLO, or a user who may not send it: log in as old clients do.
            self.protocol = Err(error.to_owned());
            if let Some(Secret(password)) = &login.password {
                let auth = match &login.username {
                    Some(username) => self.call(&["AUTH", username, password]).await?,
                    None => self.call(&["AUTH", password]).await?,
                };
                if let Some(error) = auth.error() {
                    return Err(Failure::Login(error.to_owned()));
                }
            }
        }
        if login.database != 0 {
            let reply = self.call(&["SELECT", &login.database.to_string()]).await?;
            if let Some(error) = reply.error() {
                return Err(Failure::Login(format!("SELECT {}: {error}", login.database)));
            }
        }
        Ok(())
    }

    /// Sends a command and returns its reply. A refusal is a reply.
    pub(crate) async fn call(&mut self, command: &[&str]) -> Result<Reply, Failure> {
        let replies = self.pipeline(&[command]).await?;
        replies.into_iter().next().ok_or(Failure::Silent)
    }

    /// Sends several commands at once and returns their replies in order.
    pub(crate) async fn pipeline<A, C>(&mut self, commands: &[C]) -> Result<Vec<Reply>, Failure>
    where
        A: AsRef<[u8]>,
        C: AsRef<[A]>,
    {
        let mut bytes = Vec::new();
        for command in commands {
            let parts = command.as_ref();
            bytes.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
            for part in parts {
                bytes.extend_from_slice(format!("${}\r\n", part.as_ref().len()).as_bytes());
                bytes.extend_from_slice(part.as_ref());
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        let mut replies = Vec::with_capacity(commands.len());
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while replies.len() < commands.len() {
            match self.next(deadline).await? {
                Reply::Push(push) => self.pushes.push_back(push),
                reply => replies.push(reply),
            }
        }
        Ok(replies)
    }

    /// Waits for the next push, one that has arrived already included.
    pub(crate) async fn push(&mut self, deadline: Instant) -> Result<Vec<Reply>, Failure> {
        if let Some(push) = self.pushes.pop_front() {
            return Ok(push);
        }
        loop {
            if let Reply::Push(push) = self.next(deadline).await? {
                return Ok(push);
            }
        }
    }

    async fn next(&mut self, deadline: Instant) -> Result<Reply, Failure> {
        loop {
            let parsed = resp::parse(&self.received)
                .map_err(|_| Failure::Unreachable("the answer is not the protocol of Redis".to_owned()))?;
            if let Some((reply, used)) = parsed {
                self.received.drain(..used);
                return Ok(reply);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let read = tokio::time::timeout(left, self.stream.read_buf(&mut self.received)).await;
            if read.map_err(|_| Failure::Silent)?? == 0 {
                return Err(Failure::Unreachable("the server closed the connection".to_owned()));
            }
        }
    }
}

/// Whether a reply to HELLO is about the password, and not about HELLO.
fn is_login_error(error: &str) -> bool {
    ["WRONGPASS", "NOAUTH", "MAXCLIENTS", "DENIED", "ERR max number of clients", "ERR AUTH"]
        .iter()
        .any(|start| error.starts_with(start))
}

fn facts(session: &rustls::ClientConnection) -> TlsFacts {
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let first = session.peer_certificates().and_then(<[_]>::first);
    TlsFacts { version, not_after: first.and_then(|certificate| certificate::not_after(certificate)) }
}

/// Builds the settings of TLS: the authorities to trust (or the operating system's), and the client's own certificate.
pub(crate) fn tls_config(
    roots: Option<&[u8]>,
    client: Option<(&[u8], &[u8])>,
) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("the authorities: {error}"))?;
                store.add(certificate).map_err(|error| format!("the authorities: {error}"))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
            let chain = chain.map_err(|error| format!("the client's certificate: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| format!("the client's private key: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
    };
    Ok(Arc::new(config))
}
