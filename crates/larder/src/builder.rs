//! The settings of a connection. A test compares each default with its documentation.

mod stores;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::background::Background;
use crate::clock::Clock;
use crate::context::{CallLimits, Context};
use crate::credentials::{CredentialSource, Credentials};
use crate::endpoint::Secret;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::near::Invalidations;
use crate::random::Random;
use crate::store::AnyStore;
use crate::store::memory::{Bounds, MemoryStore};
use crate::url::{self, Target};

/// The settings of a [`Larder`](crate::Larder). Made by [`Larder::builder`](crate::Larder::builder).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// use std::time::Duration;
/// use larder::Larder;
///
/// let larder = Larder::builder()
///     .url("memory:")
///     .namespace("shop")
///     .response_timeout(Duration::from_millis(200))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// Sets address, password and database in one line:
/// `Larder::builder().address("10.0.0.1:6379").password("…").database(2)`.
#[derive(Clone)]
#[must_use = "nothing is connected before connect()"]
pub struct LarderBuilder {
    url: Option<String>,
    address: Option<String>,
    namespace: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    credentials: Option<Arc<CredentialSource>>,
    sentinel_username: Option<String>,
    sentinel_password: Option<Secret>,
    client_name: String,
    database: Option<u32>,
    tls_roots: Option<Vec<u8>>,
    tls_client: Option<(Vec<u8>, Secret<Vec<u8>>)>,
    connect_timeout: Duration,
    response_timeout: Duration,
    connections: usize,
    max_value_bytes: usize,
    max_key_bytes: usize,
    bounds: Bounds,
    coordination: Option<String>,
    strict: bool,
    presence: Option<String>,
    clock: Clock,
}

impl Default for LarderBuilder {
    fn default() -> Self {
        Self {
            url: None,
            address: None,
            namespace: None,
            username: None,
            password: None,
            credentials: None,
            sentinel_username: None,
            sentinel_password: None,
            client_name: "larder".into(),
            database: None,
            tls_roots: None,
            tls_client: None,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(1),
            connections: 1,
            max_value_bytes: 8 * 1024 * 1024,
            max_key_bytes: 1024,
            bounds: Bounds::default(),
            coordination: None,
            strict: false,
            presence: None,
            clock: Clock::default(),
        }
    }
}

impl LarderBuilder {
    /// Sets this program's clock. A test may give one that behaves like another machine's.
    #[cfg(test)]
    pub(crate) fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Sets the URL to connect to, in a form that [`Larder::connect`](crate::Larder::connect) lists. Default:
    /// `memory:`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// Sets a server's `host`, `host:port` or absolute socket path, in place of a URL.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets a prefix that separates this program's names from others on the same server. Default: none.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the ACL user, in place of the URL's. Default: the server's `default` user.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password, in place of the URL's. It never appears in messages or `Debug`. Default: none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret(password.into()));
        self
    }

    /// Sets a provider of user and password, in place of fixed ones: for short-lived tokens, or a secret that is
    /// rotated. The provider is asked at each dial, again before its answer [expires](Credentials::valid_for), and by
    /// [`Larder::renew_credentials`](crate::Larder::renew_credentials). Its time counts towards the `connect_timeout`.
    /// Open connections authenticate again without interruption. It serves the servers of the URL; sentinels and the
    /// server of [`coordination`](Self::coordination) have their own settings. Default: none.
    ///
    /// ```no_run
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # #[tokio::main]
    /// # async fn main() -> larder::Result<()> {
    /// use std::time::Duration;
    /// use larder::{Credentials, Larder};
    ///
    /// let larder = Larder::builder()
    ///     .url("rediss://cache.internal")
    ///     .credentials(|| async {
    ///         Ok(Credentials::password(token().await?).username("shop").valid_for(Duration::from_secs(900)))
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn credentials<F, Fut>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.credentials = Some(Arc::new(CredentialSource::new(provider, self.clock.clone())));
        self
    }

    /// Sets the name of the connections in the server's `CLIENT LIST`: printable ASCII without spaces. Default:
    /// `larder`.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// Sets the ACL user of the sentinels themselves. Default: their `default` user.
    pub fn sentinel_username(mut self, username: impl Into<String>) -> Self {
        self.sentinel_username = Some(username.into());
        self
    }

    /// Sets the password of the sentinels themselves. Default: none.
    pub fn sentinel_password(mut self, password: impl Into<String>) -> Self {
        self.sentinel_password = Some(Secret(password.into()));
        self
    }

    /// Sets the database's number, in place of the URL's. Default: 0. A cluster has no other.
    pub fn database(mut self, database: u32) -> Self {
        self.database = Some(database);
        self
    }

    /// Sets the authorities to trust for `rediss://`, in PEM. Default: the operating system's.
    ///
    /// TLS is rustls. It uses the process-wide default provider of cryptography if the program has installed one
    /// before the first connection, and *ring* otherwise. larder installs none.
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_roots = Some(pem.into());
        self
    }

    /// Sets the certificate chain that this program shows to servers that ask for one (`tls-auth-clients yes`), its own
    /// certificate first, and the private key of that certificate, both in PEM. Default: none.
    ///
    /// Used for every connection of a `rediss://` URL: to the server, the nodes of a cluster, and Sentinels.
    /// `connect` fails with [`ErrorKind::Tls`](crate::ErrorKind::Tls) if the key does not belong to the certificate,
    /// or the server does not accept it.
    ///
    /// ```no_run
    /// # use larder::Larder;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (chain, key) = (std::fs::read("client.pem")?, std::fs::read("client.key")?);
    /// let builder = Larder::builder().url("rediss://cache.internal");
    /// let larder = builder.tls_client_certificate(chain, key).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tls_client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls_client = Some((chain.into(), Secret(key.into())));
        self
    }

    /// Limits how long opening a connection may take, including name lookup, TLS and login. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Limits how long a call may take; the call's own [`timeout`](crate::Call::timeout) overrides it. Waiting for a
    /// lock and loading a value may take longer: there it bounds each request. Default: 1 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Sets how many connections carry requests to each node. One connection carries many requests at once, so more
    /// help only if one of them keeps a core busy. Default: 1; at most 64.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the largest size of a value, in bytes after encoding and before compression. It also bounds
    /// decompression. Default: 8 MiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Sets the longest key, in bytes of its full name on the server. Default: 1024.
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = bytes;
        self
    }

    /// Sets how many entries `memory:` keeps before it evicts. Default: 1,000,000.
    pub fn memory_max_entries(mut self, entries: u64) -> Self {
        self.bounds.max_entries = entries;
        self
    }

    /// Sets how many bytes `memory:` keeps before it evicts. Default: 256 MiB.
    pub fn memory_max_bytes(mut self, bytes: u64) -> Self {
        self.bounds.max_bytes = bytes;
        self
    }

    /// Sets a second server for locks, semaphores and rate limits: one that does not evict, while the cache's server
    /// may. Takes a URL in a form of [`url`](Self::url), with its own user, password and database; TLS roots and
    /// timeouts are those of the first server. Default: none, so they share the cache's server.
    pub fn coordination(mut self, url: impl Into<String>) -> Self {
        self.coordination = Some(url.into());
        self
    }

    /// Refuses locks, semaphores and rate limits on a server that evicts, or that does not say whether it does: their
    /// calls then fail with [`InvalidSetting`](crate::ErrorKind::InvalidSetting). Default: larder warns, and counts
    /// them in [`Stats`](crate::Stats).
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Announces this process under a name, such as `web-3`, so that tools and
    /// [`Lock::holder`](crate::lock::Lock::holder) can say which process holds a lock or loads a value. Default: not
    /// announced.
    ///
    /// A small JSON record is stored at once, every 10 s after that with a time to live of 35 s, and removed by
    /// [`close`](crate::Larder::close): name, host, process id, larder's version, uptime and counters; no keys. The
    /// name has 1 to 64 characters of printable ASCII without spaces.
    pub fn presence(mut self, name: impl Into<String>) -> Self {
        self.presence = Some(name.into());
        self
    }

    pub(crate) fn call_limits(&self) -> CallLimits {
        CallLimits {
            response_timeout: self.response_timeout,
            max_value_bytes: self.max_value_bytes,
            max_key_bytes: self.max_key_bytes,
        }
    }

    /// Makes the state that all handles share, and begins to open its connections. Also returns the name under which
    /// the process announces itself.
    pub(crate) fn start(self) -> Result<(Arc<Context>, Option<String>)> {
        self.check()?;
        let keyspace = Keyspace::new(self.namespace.as_deref())?;
        let limits = self.call_limits();
        let invalidations = Arc::new(Invalidations::default());
        let (target, coordination) =
            (self.target()?, self.coordination.as_deref().map(url::parse).transpose()?);
        // Background work gets a thread of its own, unless everything is in this process.
        let background = match (&target, &coordination) {
            (Target::Memory, None) => Background::on_callers(),
            _ => Background::on_thread()?,
        };
        // The second server, for locks and limits.
        let (coordination, background_coordination) = match coordination {
            Some(Target::Memory) => {
                return Err(Error::invalid(
                    "coordination() takes the URL of a server: memory: needs no second store",
                ));
            }
            Some(Target::Server(server)) => {
                let invalidations = Arc::new(Invalidations::default());
                let own = Self { credentials: None, ..self.clone() };
                let stores = own.server(server, invalidations.clone(), &background)?;
                (Some((stores.callers, invalidations)), Some(stores.background))
            }
            None => (None, None),
        };
        // The first store, for callers and, if it is a server, another for the background.
        let (strict, clock, random) = (self.strict, self.clock.clone(), Random::default());
        let (credentials, presence) = (self.credentials.clone(), self.presence.clone());
        let (store, background_store) = match target {
            Target::Memory => {
                let store = MemoryStore::new(self.bounds, Clock::default(), invalidations.clone());
                (AnyStore::Memory(Arc::new(store)), None)
            }
            Target::Server(server) => {
                let stores = self.server(server, invalidations.clone(), &background)?;
                (stores.callers, Some(stores.background))
            }
        };
        let context = Context::new(store, invalidations, keyspace, limits, clock, random)
            .with_credentials(credentials)
            .with_coordination(coordination, strict)
            .with_background(background, background_store, background_coordination);
        let context = Arc::new(context);
        crate::recency::start(&context);
        Ok((context, presence))
    }
}

impl fmt::Debug for LarderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL and the address are left out: either may hold a password.
        f.debug_struct("LarderBuilder")
            .field("namespace", &self.namespace)
            .field("username", &self.username)
            .field("password", &self.password)
            .field("database", &self.database)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
