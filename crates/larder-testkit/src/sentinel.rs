//! A master and a replica under three sentinels.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::tls::Certificates;
use crate::{Server, ServerBuilder, eventually};

/// The name under which the sentinels watch the master.
const SERVICE: &str = "larder";
const LIMIT: Duration = Duration::from_secs(60);
const DOWN_AFTER: Duration = Duration::from_millis(500);

/// A running master, its replica and three sentinels on 127.0.0.1, killed on drop. A master that is silent for half a
/// second counts as down.
#[derive(Debug)]
pub struct Sentinel {
    sentinels: Vec<Server>,
    servers: Vec<Server>,
    tls: bool,
}

/// What a [`Sentinel`] to be started is like.
#[derive(Debug, Clone, Default)]
pub struct SentinelBuilder {
    sentinel_password: Option<String>,
    tls: bool,
    down_after: Option<Duration>,
}

impl SentinelBuilder {
    /// A master that is silent for so long counts as down.
    #[must_use]
    pub fn down_after(mut self, silence: Duration) -> Self {
        self.down_after = Some(silence);
        self
    }

    /// The sentinels demand this password. That of the servers is another matter; they have none.
    #[must_use]
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// All five speak TLS only, with certificates signed by [`Sentinel::ca_pem`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Starts all five, and returns once the sentinels know each other and the replica.
    ///
    /// # Panics
    ///
    /// If that is not so within a minute.
    #[must_use]
    pub fn start(self) -> Sentinel {
        let certificates = self.tls.then(|| Arc::new(Certificates::make()));
        let listening = |builder: ServerBuilder| match &certificates {
            Some(certificates) => builder.tls_among(certificates.clone()),
            None => builder.tcp(),
        };
        let master = listening(Server::builder()).start();
        let master_port = master.port().to_string();
        let replica =
            listening(Server::builder()).arg("replicaof", &format!("127.0.0.1 {master_port}")).start();
        // The sentinels ask the master for its replicas as soon as they start, and then only every ten seconds.
        eventually("the replica follows its master", LIMIT, || {
            let info = master.info("replication");
            info.get("slave0").is_some_and(|slave| slave.contains("state=online")).then_some(())
        });
        let monitor = format!("monitor {SERVICE} 127.0.0.1 {master_port} 2");
        let mut sentinel = listening(Server::builder().sentinel());
        if let Some(password) = &self.sentinel_password {
            sentinel = sentinel.password(password);
        }
        let down_after = self.down_after.unwrap_or(DOWN_AFTER);
        let sentinel = sentinel.args(&[
            ("sentinel", &monitor),
            ("sentinel", &format!("down-after-milliseconds {SERVICE} {}", down_after.as_millis())),
            ("sentinel", &format!("failover-timeout {SERVICE} 2000")),
        ]);
        let sentinels: Vec<Server> = (0..3).map(|_| sentinel.clone().launch()).collect();
        sentinels.iter().for_each(Server::await_ready);
        let started = Sentinel { sentinels, servers: vec![master, replica], tls: self.tls };
        eventually("the sentinels know each other and the replica", LIMIT, || {
            started.sentinels.iter().all(is_complete).then_some(())
        });
        started
    }
}

impl Sentinel {
    /// Starts all five, without TLS and passwords.
    ///
    /// # Panics
    ///
    /// As [`SentinelBuilder::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// With TLS, or with a password for the sentinels.
    #[must_use]
    pub fn builder() -> SentinelBuilder {
        SentinelBuilder::default()
    }

    /// One sentinel more, which does not belong to these: it calls this server the master of the service, whatever the
    /// others say, as a sentinel does that was left behind by a change of the deployment.
    #[must_use]
    pub fn stale(master: SocketAddr) -> Server {
        let monitor = format!("monitor {SERVICE} {} {} 2", master.ip(), master.port());
        Server::builder().sentinel().arg("sentinel", &monitor).start()
    }

    /// What a client connects to: `redis-sentinel://127.0.0.1:s1,127.0.0.1:s2,127.0.0.1:s3/larder`, with
    /// `rediss-sentinel` where all speak TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let seeds: Vec<String> =
            self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis{}-sentinel://{}/{SERVICE}", if self.tls { "s" } else { "" }, seeds.join(","))
    }

    /// The authority that signed the certificates of all servers and sentinels, as PEM.
    ///
    /// # Panics
    ///
    /// Without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.servers.first().expect("a server").ca_pem()
    }

    /// The two servers: the first master, then its first replica.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The three sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The server that the sentinels which run call the master now, also when it is down.
    ///
    /// # Panics
    ///
    /// If they do not agree within a minute.
    #[must_use]
    pub fn master(&self) -> &Server {
        eventually("the sentinels agree on a master", LIMIT, || self.agreed())
    }

    /// SIGKILL for the master. The sentinels make the other server master within a few seconds, which
    /// [`Sentinel::wait_for_new_master`] waits for.
    ///
    /// # Panics
    ///
    /// As [`Sentinel::master`].
    pub fn kill_master(&self) {
        self.master().kill();
    }

    /// Waits until the sentinels agree on a master that runs and knows that it is one.
    ///
    /// # Panics
    ///
    /// If that is not so within a minute.
    pub fn wait_for_new_master(&self) -> &Server {
        eventually("there is a new master", LIMIT, || {
            let master = self.agreed().filter(|server| server.is_running())?;
            (master.info("replication").get("role")? == "master").then_some(master)
        })
    }

    /// Cuts the replica off: what the master acknowledges from now on is lost by [`Sentinel::fail_over`].
    ///
    /// # Panics
    ///
    /// If there is no replica that runs.
    pub fn cut_replica(&self) {
        let master = self.master();
        self.replica_of(master).pause();
        // A paused replica would still read what waits in its socket.
        master.command(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// SIGKILL for the master; the replica goes on, also one that was [cut off](Sentinel::cut_replica). Returns when
    /// the sentinels have made it master. [`Sentinel::heal`] brings the other back.
    ///
    /// # Panics
    ///
    /// If that takes more than a minute.
    pub fn fail_over(&self) {
        let master = self.master();
        let replica = self.replica_of(master);
        master.kill();
        replica.resume();
        eventually("the replica is the new master", LIMIT, || {
            (self.agreed()?.addr() == replica.addr()).then_some(())
        });
        self.wait_for_new_master();
    }

    /// Starts the server again that is down, as a replica of the master, without what it had; returns when it has all
    /// that the master has, and the sentinels could make it master. Which of the two is master may change meanwhile.
    ///
    /// # Panics
    ///
    /// If that takes more than a minute.
    pub fn heal(&self) {
        let master = self.master();
        let down = self.replica_of(master);
        if !down.is_running() {
            down.restart();
        }
        down.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
        let deadline = Instant::now() + LIMIT;
        while !self.is_whole() {
            assert!(
                Instant::now() < deadline,
                "the sentinels could not make the replica master: {}",
                self.state()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether the replica follows the master that the sentinels agree on, and each of them would make it master.
    fn is_whole(&self) -> bool {
        let Some(master) = self.agreed() else { return false };
        let replica = self.replica_of(master);
        in_step(master, replica).is_some()
            && self.sentinels.iter().all(|sentinel| knows_replica(sentinel, replica))
    }

    /// What the servers and the sentinels say of each other.
    fn state(&self) -> String {
        let role = |server: &Server| format!("{}: {:?}", server.port(), server.info("replication"));
        let replicas = |sentinel: &Server| {
            format!(
                "{:?}",
                sentinel.try_query::<Vec<BTreeMap<String, String>>>(&["SENTINEL", "REPLICAS", SERVICE])
            )
        };
        let servers = self.servers.iter().map(role);
        servers.chain(self.sentinels.iter().map(replicas)).collect::<Vec<_>>().join("\n")
    }

    /// The server that is not the master: its replica, or one that is down.
    ///
    /// # Panics
    ///
    /// As [`Sentinel::master`].
    #[must_use]
    pub fn replica(&self) -> &Server {
        self.replica_of(self.master())
    }

    /// Waits until the replica has all that the master had when it was asked.
    ///
    /// # Panics
    ///
    /// If that takes more than a minute.
    pub fn wait_until_in_step(&self) {
        eventually("the replica is in step", LIMIT, || {
            // Which is which may change meanwhile.
            let master = self.agreed()?;
            in_step(master, self.replica_of(master))
        });
    }

    fn replica_of(&self, master: &Server) -> &Server {
        let other = self.servers.iter().find(|server| server.port() != master.port());
        other.expect("two servers")
    }

    fn agreed(&self) -> Option<&Server> {
        let port = |sentinel: &Server| {
            let address: Vec<String> =
                sentinel.try_query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).ok()?;
            address.get(1)?.parse::<u16>().ok()
        };
        let mut ports = self.sentinels.iter().filter(|sentinel| sentinel.is_running()).map(port);
        let first = ports.next()??;
        let agreed = ports.all(|port| port == Some(first));
        self.servers.iter().find(|server| agreed && server.port() == first)
    }
}

/// Whether the replica has what the master had when it was asked.
fn in_step(master: &Server, replica: &Server) -> Option<()> {
    let (of_master, of_replica) = (master.info("replication"), replica.info("replication"));
    let offset = |of: &BTreeMap<String, String>, field: &str| of.get(field)?.parse::<u64>().ok();
    let (wanted, reached) =
        (offset(&of_master, "master_repl_offset")?, offset(&of_replica, "slave_repl_offset")?);
    (of_replica.get("master_link_status")? == "up" && reached >= wanted).then_some(())
}

/// Whether a sentinel calls the replica up, and a replica.
fn knows_replica(sentinel: &Server, replica: &Server) -> bool {
    let Ok(replicas) =
        sentinel.try_query::<Vec<BTreeMap<String, String>>>(&["SENTINEL", "REPLICAS", SERVICE])
    else {
        return false;
    };
    let port = replica.port().to_string();
    let field = |replica: &BTreeMap<String, String>, name: &str, value: &str| {
        replica.get(name).is_some_and(|found| found == value)
    };
    replicas.iter().any(|known| {
        field(known, "port", &port)
            && field(known, "flags", "slave")
            && field(known, "role-reported", "slave")
            && field(known, "master-link-status", "ok")
    })
}

fn is_complete(sentinel: &Server) -> bool {
    // master0:name=larder,status=ok,address=127.0.0.1:14133,slaves=1,sentinels=3
    let info = sentinel.info("sentinel");
    info.get("master0")
        .is_some_and(|line| line.contains("status=ok") && line.ends_with("slaves=1,sentinels=3"))
}
