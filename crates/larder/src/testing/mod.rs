#![doc = include_str!("intro.md")]

mod paused;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::background::Background;
use crate::builder::LarderBuilder;
use crate::cache::Cache;
use crate::clock::{Clock, WorldTime};
use crate::context::Context;
use crate::key::CacheKey;
use crate::keyspace::Keyspace;
use crate::larder::Larder;
use crate::near::Invalidations;
use crate::random::Random;
use crate::store::AnyStore;
use crate::store::world::{ProcessStore, WorldServer};
use crate::value::Value;

pub use paused::{PausedLoad, UntilLoaded};

/// How far the clock of each further process is ahead of the one before it.
const SKEW: Duration = Duration::from_secs(600);

/// Begins to make a world: a store in memory with a clock of its own, for a test.
///
/// ```
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// let (larder, world) = larder::testing::world().seed(7).build();
/// let users = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
/// users.set(123, &"Ann".to_owned()).await?;
///
/// world.advance(Duration::from_secs(3600)).await;
/// assert_eq!(users.get(123).await?, None);
/// # Ok(())
/// # }
/// ```
pub fn world() -> WorldBuilder {
    WorldBuilder { seed: 0 }
}

/// The settings of a world. Made by [`world`].
#[derive(Debug, Clone)]
#[must_use = "a world is made by build()"]
pub struct WorldBuilder {
    seed: u64,
}

impl WorldBuilder {
    /// Sets the seed of all random numbers: tokens, versions, jitter. The same seed and the same calls give the same
    /// results. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Makes the world and a `Larder` in it. Its settings are the defaults of [`Larder::builder`].
    ///
    /// The world's time follows tokio's if that is paused now, as in `#[tokio::test(start_paused = true)]`. Otherwise
    /// only [`World::advance`] moves it.
    #[must_use]
    pub fn build(self) -> (Larder, World) {
        let time = Arc::new(WorldTime::start());
        let server = Arc::new(WorldServer::start(time.clone()));
        let world = World(Arc::new(Shared { time, server, seed: self.seed, processes: AtomicU64::new(0) }));
        (world.process(), world)
    }
}

/// The store and the clock of a test. Made by [`world`]. Cheap to clone.
///
/// The store is the embedded one, behind a connection that the test controls. So a `Larder` in a world behaves as with
/// a server: writes are queued in an outage, and claims are renewed.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    time: Arc<WorldTime>,
    server: Arc<WorldServer>,
    seed: u64,
    /// How many processes there are.
    processes: AtomicU64,
}

impl World {
    /// Lets time pass, and waits until everything that is due in it has happened: entries expire, values become stale,
    /// locks are renewed or end, waiters get their turn, windows of rate limits pass, outages end.
    ///
    /// On a runtime with one thread, tokio's timers move along, also those of your own code: a `sleep` of a minute in
    /// another task ends when a minute has passed here. On a runtime with several threads, only the world's clock
    /// moves; calls that wait for a timer of tokio go on waiting for it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, only a part of the time has passed.
    pub async fn advance(&self, span: Duration) {
        self.0.time.pass(span).await;
    }

    /// Returns the store's time. A world begins on 1 January 2026 at 00:00 UTC.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.server.now())
    }

    /// Cuts all processes off from the store for `span` from now. Calls fail at once with
    /// [`Refused`](crate::ErrorKind::Refused), or with [`Disconnected`](crate::ErrorKind::Disconnected) if they were
    /// under way. Loaders run, writes are queued, and nothing that was kept near is served. The store keeps its data.
    ///
    /// [`Duration::ZERO`] ends an outage; [`Duration::MAX`] lasts until then.
    pub fn outage(&self, span: Duration) {
        self.0.server.outage(span);
    }

    /// Makes each reply take this long from now on. The store carries the request out at once, so requests take effect
    /// in the order in which they are made, as on one connection. [`Duration::ZERO`] ends it.
    ///
    /// The requests wait by tokio's timers. With paused time that takes no time of your test.
    pub fn latency(&self, latency: Duration) {
        self.0.server.set_latency(latency);
    }

    /// Loses the reply to the next request that changes something: the store carries it out, and the caller gets
    /// [`Disconnected`](crate::ErrorKind::Disconnected). Reads and renewals do not count, as a client sends them again.
    pub fn lose_next_reply(&self) {
        self.0.server.lose_next_reply();
    }

    /// Removes an entry, as a server does that has reached its memory limit. Returns whether there was an entry. A load
    /// of the key that is under way stores nothing.
    pub fn evict<V>(&self, cache: &Cache<V>, key: impl CacheKey) -> bool
    where
        V: Value,
    {
        cache.entry(key).is_ok_and(|entry| self.0.server.evict(&entry))
    }

    /// Deletes everything: entries, locks, limits, the versions of tags. What a server does for `FLUSHALL`, or when it
    /// restarts without its data.
    pub fn flush(&self) {
        self.0.server.flush();
    }

    /// Stops the next load of the key when its loader has returned a value and before the value is stored. Returns when
    /// the load is there: change the key now, then let the load [continue](PausedLoad::resume).
    ///
    /// The load may begin before or after this call, but not before it has returned its future. If no load of the key
    /// gets there, the future waits for ever.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (larder, world) = larder::testing::world().build();
    /// let users = larder.cache("user").ttl(Duration::from_secs(60)).build()?;
    ///
    /// let loads = users.clone();
    /// let load = tokio::spawn(async move {
    ///     loads.get_or_load(123, || async { Ok::<_, std::io::Error>("old".to_owned()) }).await
    /// });
    /// let paused = world.pause_between_load_and_store(&users, 123).await;
    /// users.set(123, &"new".to_owned()).await?;
    /// paused.resume();
    ///
    /// load.await??;
    /// assert_eq!(users.get(123).await?.as_deref(), Some("new"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause_between_load_and_store<V>(&self, cache: &Cache<V>, key: impl CacheKey) -> UntilLoaded
    where
        V: Value,
    {
        UntilLoaded::new(cache.entry(key).ok().map(|entry| self.0.server.stops.arm(&entry)))
    }

    /// Makes a `Larder` of another process on the same store. It has its own near copies, loads and connections, and
    /// learns of changes by the store's notifications. Its clock is 10 minutes ahead of the process before it.
    ///
    /// It is in the same runtime, and [`Holder`](crate::lock::Holder) names the same process.
    #[must_use]
    pub fn process(&self) -> Larder {
        let Shared { time, server, seed, processes } = &*self.0;
        let number = processes.fetch_add(1, Ordering::AcqRel);
        let ahead = SKEW.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let invalidations = Arc::new(Invalidations::default());
        let store = AnyStore::World(ProcessStore::new(server.clone(), &invalidations));
        let clock = Clock::World { time: time.clone(), ahead };
        // Neighbouring seeds must not share their processes' numbers.
        let random = Random::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let limits = LarderBuilder::default().call_limits();
        let context = Context::new(store, invalidations, Keyspace::default(), limits, clock, random);
        Larder::new(Arc::new(context.with_background(Background::on_callers(), None, None)), None)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).field("seed", &self.0.seed).finish_non_exhaustive()
    }
}
