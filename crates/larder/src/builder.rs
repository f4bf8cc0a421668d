//! Settings of a connection, each with a default that a test holds to its documentation.

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
use crate::larder::Larder;
use crate::near::Invalidations;
use crate::random::Random;
use crate::store::AnyStore;
use crate::store::memory::{Bounds, MemoryStore};
use crate::url::{self, Server, Target};

/// Settings of a [`Larder`].
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// use std::time::Duration;
/// use larder::Larder;
///
/// let larder = Larder::builder().url("memory:").namespace("shop").response_timeout(Duration::from_millis(200)).connect().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
///
/// Address, password and database in one line: `Larder::builder().address("10.0.0.1:6379").password("…").database(2)`.
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
    connect_timeout: Duration,
    response_timeout: Duration,
    connections: usize,
    max_value_bytes: usize,
    max_key_bytes: usize,
    bounds: Bounds,
    coordination: Option<String>,
    strict: bool,
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
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(1),
            connections: 1,
            max_value_bytes: 8 * 1024 * 1024,
            max_key_bytes: 1024,
            bounds: Bounds::default(),
            coordination: None,
            strict: false,
            clock: Clock::default(),
        }
    }
}

impl LarderBuilder {
    /// The clock of this program, which in tests may be another machine's.
    #[cfg(test)]
    pub(crate) fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Where to connect, in the forms that [`Larder::connect`] lists. Default: `memory:`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// A server's `host`, `host:port` or absolute socket path, in place of a URL.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets this program's names apart from those of others on the same server. Default: none.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The ACL user, in place of the URL's. Default: the server's `default` user.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password, in place of the URL's. It is never shown. Default: none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret(password.into()));
        self
    }

    /// Where user and password come from, in place of fixed ones: short-lived tokens, a secret that is rotated. The provider is
    /// asked at each dial, again before what it gave [expires](Credentials::valid_for), and by
    /// [`Larder::renew_credentials`]; what it takes counts towards the `connect_timeout`. Open connections are authenticated
    /// again without being interrupted. It is for the servers of the URL: sentinels and the server of
    /// [`coordination`](Self::coordination) have their own. Default: none.
    ///
    /// ```no_run
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn run() -> larder::Result<()> {
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

    /// What the server's `CLIENT LIST` calls the connections: printable ASCII without spaces. Default: `larder`.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// The ACL user of the sentinels themselves. Default: their `default` user.
    pub fn sentinel_username(mut self, username: impl Into<String>) -> Self {
        self.sentinel_username = Some(username.into());
        self
    }

    /// The password of the sentinels themselves. Default: none.
    pub fn sentinel_password(mut self, password: impl Into<String>) -> Self {
        self.sentinel_password = Some(Secret(password.into()));
        self
    }

    /// The database's number, in place of the URL's. Default: 0. A cluster has no other.
    pub fn database(mut self, database: u32) -> Self {
        self.database = Some(database);
        self
    }

    /// The authorities to trust for `rediss://`, in PEM, in place of the operating system's. Default: the system's.
    ///
    /// TLS is rustls with *ring*. With the first connection over TLS, with or without this setting, larder makes *ring* the
    /// process-wide default provider of rustls' cryptography; a program that has installed one of its own by then keeps
    /// that. One that installs its own later is told by `install_default` that there is one: do it before `connect`.
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_roots = Some(pem.into());
        self
    }

    /// The longest that opening a connection may take, name lookup, TLS and login included. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest that a call may take; its own [`timeout`](crate::Call::timeout) overrides it. Waiting for a lock and
    /// loading a value take as long as they take; this bounds each of their requests. Default: 1 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// How many connections carry requests, to each node of a cluster. One carries many requests at once, so more help
    /// only where a single core is busy with one. Default: 1; at most 64.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The largest value, in bytes after encoding and before compression. It bounds what decompression may take, too.
    /// Default: 8 MiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// The longest key, in bytes of its whole name on the server. Default: 1024.
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = bytes;
        self
    }

    /// How many entries `memory:` keeps before it evicts. Default: 1,000,000.
    pub fn memory_max_entries(mut self, entries: u64) -> Self {
        self.bounds.max_entries = entries;
        self
    }

    /// How many bytes `memory:` keeps before it evicts. Default: 256 MiB.
    pub fn memory_max_bytes(mut self, bytes: u64) -> Self {
        self.bounds.max_bytes = bytes;
        self
    }

    /// A second server, for locks, semaphores and rate limits: one that does not evict, beside a cache that does. In the forms of
    /// [`url`](Self::url), user, password and database included; TLS roots and timeouts are those of the first. Default:
    /// none, so that they stand beside the cache.
    pub fn coordination(mut self, url: impl Into<String>) -> Self {
        self.coordination = Some(url.into());
        self
    }

    /// Refuses locks, semaphores and rate limits on a server that evicts, or that does not say whether it does: taking one is then
    /// an `InvalidSetting` error. Default: larder warns, and counts them in [`Stats`](crate::Stats).
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Connects and waits until the store answers.
    ///
    /// # Errors
    ///
    /// Those of [`Larder::connect`], and `InvalidSetting` for settings that make no sense, alone or together.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub async fn connect(self) -> Result<Larder> {
        let context = self.start()?;
        context.ready().await?;
        Ok(Larder::new(context))
    }

    /// Returns at once, and opens the connections in the background: see [`Larder::connect_lazy`].
    ///
    /// # Errors
    ///
    /// `InvalidUrl` and `InvalidSetting` for what can be known to be wrong without the server.
    pub fn connect_lazy(self) -> Result<Larder> {
        self.start().map(Larder::new)
    }

    /// All that the handles share. Its connections are being opened.
    fn start(self) -> Result<Arc<Context>> {
        self.check()?;
        let keyspace = Keyspace::new(self.namespace.as_deref())?;
        let limits = CallLimits {
            response_timeout: self.response_timeout,
            max_value_bytes: self.max_value_bytes,
            max_key_bytes: self.max_key_bytes,
        };
        let changes = Arc::new(Invalidations::default());
        let (target, coordination) =
            (self.target()?, self.coordination.as_deref().map(url::parse).transpose()?);
        let background = match (&target, &coordination) {
            (Target::Memory, None) => Background::on_callers(),
            _ => Background::on_thread()?,
        };
        let (coordination, background_coordination) = match coordination {
            Some(Target::Memory) => {
                return Err(Error::invalid("coordination is a server: memory: needs no second one"));
            }
            Some(Target::Server(server)) => {
                let changes = Arc::new(Invalidations::default());
                let own = Self { credentials: None, ..self.clone() };
                let stores = own.server(server, changes.clone(), &background)?;
                (Some((stores.callers, changes)), Some(stores.background))
            }
            None => (None, None),
        };
        let (strict, clock, random) = (self.strict, self.clock.clone(), Random::default());
        let credentials = self.credentials.clone();
        let (store, background_store) = match target {
            Target::Memory => {
                let store = MemoryStore::new(self.bounds, Clock::default(), changes.clone());
                (AnyStore::Memory(Arc::new(store)), None)
            }
            Target::Server(server) => {
                let stores = self.server(server, changes.clone(), &background)?;
                (stores.callers, Some(stores.background))
            }
        };
        let context = Context::new(store, changes, keyspace, limits, clock, random)
            .with_credentials(credentials)
            .with_coordination(coordination, strict)
            .with_background(background, background_store, background_coordination);
        let context = Arc::new(context);
        crate::recency::start(&context);
        Ok(context)
    }

    #[cfg(feature = "redis")]
    fn server(self, server: Server, changes: Arc<Invalidations>, background: &Background) -> Result<Stores> {
        use crate::store::redis::{Hosts, Login, RedisStore};

        if server.tls && !cfg!(feature = "tls") {
            return Err(Error::new(
                crate::ErrorKind::InvalidUrl,
                "rediss:// needs the feature tls, which this build of larder leaves out",
            ));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::invalid("connecting needs a tokio runtime: call it inside one"));
        }
        let Some(home) = background.runtime() else { return Err(Error::closed()) };
        let login = Login {
            username: server.username,
            password: server.password,
            credentials: self.credentials,
            database: server.database,
            tls: server.tls,
            tls_roots: self.tls_roots,
            connect_timeout: self.connect_timeout,
            client_name: self.client_name,
            clock: self.clock,
            learned: Arc::default(),
            hosts: Hosts::of_callers(home),
        };
        // The driver leaves out AUTH where there is no password.
        let no_password = self.sentinel_username.as_ref().map(|_| Secret(String::new()));
        let sentinel_login = Login {
            username: self.sentinel_username,
            password: self.sentinel_password.or(no_password),
            credentials: None,
            database: 0,
            ..login.clone()
        };
        let (deployment, alone, alone_sentinel) =
            (server.deployment.clone(), login.at_home(home), sentinel_login.at_home(home));
        let callers =
            RedisStore::start(server.deployment, login, sentinel_login, self.connections, Some(changes));
        let alone = RedisStore::start(deployment, alone, alone_sentinel, 1, None);
        Ok(Stores { callers: AnyStore::Redis(callers), background: AnyStore::Redis(alone) })
    }

    #[cfg(not(feature = "redis"))]
    fn server(self, _: Server, _: Arc<Invalidations>, _: &Background) -> Result<Stores> {
        Err(Error::new(
            crate::ErrorKind::InvalidUrl,
            "servers need the feature redis, which this build of larder leaves out",
        ))
    }
}

/// A server's store for callers, and the one for background work.
struct Stores {
    callers: AnyStore,
    background: AnyStore,
}

impl fmt::Debug for LarderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL, and not what was given for an address: either may hold a password.
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
