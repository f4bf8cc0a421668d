//! A TCP proxy that fails on demand.
//!
//! The problem: how a client reacts to a failing network shows only on a network that fails, at a moment that the test
//! chooses, and on the connection that the test means. Pausing or killing the server fails all connections at once.
//!
//! The mechanism: a listener on 127.0.0.1, on a thread with its own runtime. So the proxy works next to a test that
//! blocks, and its delays are real whatever the test does with its clock. Each connection is one task, which moves
//! bytes between the client's socket and the server's as the current [`Settings`] say. The settings are in a watch
//! channel: each change wakes every task, and no task polls.
//!
//! Invariants: a task reads the settings and moves bytes under one read lock, and a change waits for that lock. So once
//! a method here has returned, no byte passes that the new settings would stop. Bytes of one direction never overtake
//! each other. When a [`Proxy`] has been dropped, its thread and its sockets are gone.
//!
//! Not guaranteed: the sockets need not be closed when [`Proxy::cut`] or [`Proxy::drop_connections`] returns. They
//! close a moment later, and [`Proxy::until_connections`] waits for it. A connection that the proxy has not accepted
//! yet is not counted and not dropped, though its client sees it as open. Tracked connections are recognised by the
//! word TRACKING in what the client sends: a key or value that contains it counts too, and with TLS it is never seen. A
//! direction holds 8 MiB; then its sender has to wait, as on a real network.

mod connection;
mod lane;
mod settings;

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use connection::Connection;
pub use settings::Direction;
use settings::{Mode, Scope, Settings};

/// A proxy between clients and one server, ended on drop. Every setting holds for open connections and for new ones,
/// until [`Proxy::restore`]. The methods return the proxy, so that they can be chained.
///
/// ```
/// use std::time::Duration;
/// use larder_testkit::{Direction, Proxy, Server};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let server = Server::builder().tcp().start();
/// let proxy = Proxy::start(server.addr().unwrap()).await;
/// let client = redis::Client::open(proxy.url()).unwrap();
/// let mut connection = client.get_connection().unwrap();
///
/// proxy.swallow(Direction::ToClient);
/// connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
/// assert!(redis::cmd("INCR").arg("n").query::<u64>(&mut connection).unwrap_err().is_timeout());
/// assert_eq!(server.query::<u64>(&["GET", "n"]), 1);
/// # });
/// ```
pub struct Proxy {
    address: SocketAddr,
    settings: watch::Sender<Settings>,
    upstream: watch::Sender<Arc<str>>,
    gauges: Arc<Gauges>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// What the tasks count.
#[derive(Debug, Default)]
struct Gauges {
    standing: watch::Sender<usize>,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for clients of `upstream`, a `SocketAddr` or `host:port`. It connects there
    /// once for each client, so the server may start later, or be another one after a restart.
    ///
    /// # Panics
    ///
    /// If no port or no thread is available.
    pub async fn start(upstream: impl Display) -> Self {
        let (upstream, leads_to) = watch::channel(Arc::from(upstream.to_string()));
        let (settings, watched) = watch::channel(Settings::default());
        let gauges = Arc::new(Gauges::default());
        let (stop, stopped) = oneshot::channel();
        let (listens, listening) = oneshot::channel();
        let counted = Arc::clone(&gauges);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime for the proxy");
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
                let _ = listens.send(listener.local_addr().expect("the address of a listener"));
                tokio::select! {
                    _ = stopped => {}
                    never = listen(listener, leads_to, watched, counted) => match never {},
                }
            });
            // Ends all connections. A lookup of a host name that still runs is not waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("larder-proxy".to_owned()).spawn(body);
        let thread = thread.expect("a thread for the proxy");
        let address = listening.await.expect("a proxy that listens");
        Self { address, settings, upstream, gauges, stop: Some(stop), thread: Some(thread) }
    }

    /// The address for clients: `127.0.0.1:port`. It stays the same as long as the proxy exists.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The same as a URL for larder: `redis://127.0.0.1:port`, without the server's password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Closes every connection, and each new one as soon as it is accepted. Restricted to tracked connections, it
    /// closes a new one when it becomes tracked; restricted to untracked ones, it refuses all, because each is
    /// untracked at first.
    pub fn cut(&self) -> &Self {
        self.change(|settings| settings.faults().for_each(|faults| faults.cut = true))
    }

    /// Closes the open connections; new ones work.
    pub fn drop_connections(&self) -> &Self {
        self.change(|settings| settings.faults().for_each(|faults| faults.drops += 1))
    }

    /// Half open: no byte passes in this direction, not even the end of a connection, and no connection is closed. What
    /// is sent is held, and flows on after [`Proxy::restore`].
    pub fn silence(&self, direction: Direction) -> &Self {
        self.change(|settings| settings.transits(direction).for_each(|transit| transit.mode = Mode::Hold))
    }

    /// Discards what is sent in this direction, and what is held there: with [`Direction::ToClient`] the server
    /// executes requests, and its replies are lost. The end of a connection does pass.
    pub fn swallow(&self, direction: Direction) -> &Self {
        self.change(|settings| settings.transits(direction).for_each(|transit| transit.mode = Mode::Discard))
    }

    /// Delays each chunk that arrives, and the end of a connection, in order. This includes what is in flight.
    pub fn delay(&self, direction: Direction, delay: Duration) -> &Self {
        self.change(|settings| settings.transits(direction).for_each(|transit| transit.delay = delay))
    }

    /// Lets this many bytes a second pass on each connection, as a slow path does. What has not passed is left to the
    /// sender, whose writes then wait.
    ///
    /// # Panics
    ///
    /// If `bytes_per_second` is 0: that is [`Proxy::silence`].
    pub fn rate(&self, direction: Direction, bytes_per_second: u32) -> &Self {
        let rate = NonZero::new(bytes_per_second).expect("a rate above 0");
        self.change(|settings| settings.transits(direction).for_each(|transit| transit.rate = Some(rate)))
    }

    /// Back to normal, for all connections: what is held flows on, and later faults apply to all again.
    pub fn restore(&self) -> &Self {
        self.change(Settings::restore)
    }

    /// Later faults apply to connections whose client has sent the word TRACKING, in capitals, as a request
    /// for `CLIENT TRACKING ON` does; from the chunk on that completes the word. Faults that were set before stay as
    /// they are.
    pub fn only_tracked(&self) -> &Self {
        self.change(|settings| settings.scope = Scope::Tracked)
    }

    /// Later faults apply to connections whose client has not sent the word TRACKING, until it does.
    pub fn only_untracked(&self) -> &Self {
        self.change(|settings| settings.scope = Scope::Untracked)
    }

    /// Later faults apply to all connections, as they do at first.
    pub fn all(&self) -> &Self {
        self.change(|settings| settings.scope = Scope::All)
    }

    /// Leads new clients to another server, as a virtual IP does that moves. Open connections keep their server.
    pub fn redirect(&self, upstream: impl Display) -> &Self {
        self.upstream.send_replace(upstream.to_string().into());
        self
    }

    /// The number of open connections of clients.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.gauges.standing.borrow()
    }

    /// Returns once exactly this many connections are open; has no time limit of its own.
    pub async fn until_connections(&self, count: usize) {
        // The sender is ours, so it cannot have gone.
        let _ = self.gauges.standing.subscribe().wait_for(|standing| *standing == count).await;
    }

    /// The number of bytes that have passed in this direction since the start, over all connections; for both, the sum.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        // A reply is counted a moment after it can be read. The write lock is free only while no task is in between.
        self.settings.send_if_modified(|_| false);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        match direction {
            Direction::ToServer => count(&self.gauges.to_server),
            Direction::ToClient => count(&self.gauges.to_client),
            Direction::Both => count(&self.gauges.to_server) + count(&self.gauges.to_client),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> &Self {
        self.settings.send_modify(change);
        self
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("connections", &self.connections())
            .field("settings", &*self.settings.borrow())
            .finish_non_exhaustive()
    }
}

async fn listen(
    listener: TcpListener,
    upstream: watch::Receiver<Arc<str>>,
    settings: watch::Receiver<Settings>,
    gauges: Arc<Gauges>,
) -> Infallible {
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            // The client disconnected before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => panic!("the proxy cannot accept connections: {error}"),
        };
        let accepted = Connection::accept(client, settings.clone(), Arc::clone(&gauges));
        if let Some(connection) = accepted {
            let upstream = Arc::clone(&upstream.borrow());
            tokio::spawn(connection.run(upstream));
        }
    }
}
