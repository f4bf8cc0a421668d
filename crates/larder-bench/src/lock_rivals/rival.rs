//! The locks that are compared, each as one contender uses it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd};
use rslock::{LockGuard, LockManager};

use crate::lane::Outcome;

const TTL: Duration = Duration::from_secs(30);

/// A way to lock something.
pub(crate) trait Rival: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// The commands that it sends itself, by the server's names.
    const SENDS: &'static [&'static str];
    type Process: Send + Sync;
    type Held: Send;

    /// The state that a process has once.
    fn connect(url: &str) -> impl Future<Output = Outcome<Setting<Self>>> + Send;
    fn contender(process: &Self::Process, lock: &str) -> impl Future<Output = Outcome<Self>> + Send;
    fn acquire(&mut self) -> impl Future<Output = Outcome<Self::Held>> + Send;
    fn release(&mut self, held: Self::Held) -> impl Future<Output = Outcome<()>> + Send;
}

/// The state of a process for a rival.
pub(crate) struct Setting<R: Rival>(R::Process);

impl<R: Rival> Setting<R> {
    /// A contender for this lock.
    pub(crate) async fn contender(&self, lock: &str) -> Outcome<R> {
        R::contender(&self.0, lock).await
    }
}

#[derive(Clone)]
pub(crate) struct Larder(larder::lock::Lock);

impl Rival for Larder {
    const NAME: &'static str = "larder";
    const SENDS: &'static [&'static str] = &["evalsha", "eval", "delifeq", "delex"];
    type Process = larder::Larder;
    type Held = larder::lock::Guard;

    async fn connect(url: &str) -> Outcome<Setting<Self>> {
        Ok(Setting(larder::Larder::connect(url).await?))
    }

    async fn contender(process: &larder::Larder, lock: &str) -> Outcome<Self> {
        Ok(Self(process.lock(lock).ttl(TTL)))
    }

    async fn acquire(&mut self) -> Outcome<larder::lock::Guard> {
        Ok(self.0.acquire().await?)
    }

    async fn release(&mut self, held: larder::lock::Guard) -> Outcome<()> {
        Ok(held.release().await.map(drop)?)
    }
}

/// One manager a process. A caller that finds the lock taken asks again after a random time of up to 200 ms.
#[derive(Clone)]
pub(crate) struct Rslock {
    manager: LockManager,
    lock: String,
}

impl Rival for Rslock {
    const NAME: &'static str = "rslock";
    const SENDS: &'static [&'static str] = &["set", "evalsha", "eval"];
    type Process = LockManager;
    type Held = LockGuard;

    async fn connect(url: &str) -> Outcome<Setting<Self>> {
        Ok(Setting(LockManager::from_clients(vec![Client::open(url)?])))
    }

    async fn contender(process: &LockManager, lock: &str) -> Outcome<Self> {
        Ok(Self { manager: process.clone(), lock: lock.to_owned() })
    }

    async fn acquire(&mut self) -> Outcome<LockGuard> {
        Ok(self.manager.acquire(self.lock.as_str(), TTL).await?)
    }

    async fn release(&mut self, held: LockGuard) -> Outcome<()> {
        held.release().await;
        Ok(())
    }
}

/// A list with one element: BLPOP takes it, and RPUSH gives it back. A waiter blocks its connection, so each contender
/// has its own.
#[derive(Clone)]
pub(crate) struct Token {
    connection: MultiplexedConnection,
    lock: String,
}

impl Rival for Token {
    const NAME: &'static str = "`BLPOP` token";
    const SENDS: &'static [&'static str] = &["blpop", "rpush"];
    type Process = Client;
    type Held = ();

    async fn connect(url: &str) -> Outcome<Setting<Self>> {
        Ok(Setting(Client::open(url)?))
    }

    async fn contender(process: &Client, lock: &str) -> Outcome<Self> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = process.get_multiplexed_async_connection_with_config(&config).await?;
        // The first contender to arrive puts the token there.
        let mut mark = cmd("SET");
        mark.arg(format!("{lock}:made")).arg(1).arg("NX");
        if mark.query_async::<Option<String>>(&mut connection).await?.is_some() {
            cmd("RPUSH").arg(lock).arg(1).query_async::<u64>(&mut connection).await?;
        }
        Ok(Self { connection, lock: lock.to_owned() })
    }

    async fn acquire(&mut self) -> Outcome<()> {
        let mut pop = cmd("BLPOP");
        pop.arg(&self.lock).arg(0);
        Ok(pop.query_async::<(String, u64)>(&mut self.connection).await.map(drop)?)
    }

    async fn release(&mut self, (): ()) -> Outcome<()> {
        let mut push = cmd("RPUSH");
        push.arg(&self.lock).arg(1);
        Ok(push.query_async::<u64>(&mut self.connection).await.map(drop)?)
    }
}
