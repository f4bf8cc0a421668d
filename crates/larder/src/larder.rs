//! The handle that connects, names things and hands them out.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::LarderBuilder;
use crate::cache::{CacheBuilder, Explanation, Tag, TagSnapshot};
use crate::call::Call;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::limit::{LimitKey, Quotas, RateLimiter, Together, together};
use crate::lock::{Coordinator, Election, Job, Lock, LockGroup, RwLock, Semaphore, SeveralLocks};
use crate::stats::Stats;
use crate::store::Store;

/// A connection to a store, and all that stands on it.
///
/// Cheap to clone and safe to share; every clone is the same connection. When the last clone and everything made from
/// it are gone, the connection ends. [`close`](Self::close) ends it at once.
///
/// With a server it has a thread of its own, `larder`, for what no caller waits for: renewals, heartbeats, releases, queued
/// invalidations. So a program may block its threads, end a runtime, or use one `Larder` on several runtimes, one after the
/// other.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Larder};
///
/// # async fn run() -> larder::Result<()> {
/// let larder = Larder::connect("memory:").await?;
/// let users: Cache<String> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
/// users.set("123", &"Ann".to_owned()).await?;
/// assert_eq!(users.get("123").await?.as_deref(), Some("Ann"));
/// larder.close().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct Larder {
    context: Arc<Context>,
    locks: Arc<Coordinator>,
}

impl Larder {
    /// Connects to a store and waits until it answers.
    ///
    /// `memory:` · `redis://[user[:password]@]host[:port][/db]` · `rediss://…` (TLS) · `redis+unix:///path` ·
    /// `redis-cluster://h1,h2,h3` · `redis-sentinel://h1,h2/service[/db]`; `valkey` may stand for `redis` everywhere.
    ///
    /// # Errors
    ///
    /// [`ErrorKind`](crate::ErrorKind) `InvalidUrl`, `Refused`, `TimedOut`, `Tls`, `Authentication`, and what else the
    /// server may say to a newcomer. Later outages are not errors here: the connection comes back by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// As [`connect`](Self::connect), without waiting: a service starts so while its server is away. Returns at once; the
    /// connections are opened in the background, and again and again until the server is there.
    ///
    /// Until then the `Larder` is as in any outage: calls wait for the first attempt, and from then on fail at once; loaders
    /// run; invalidations are queued. [`ping`](Self::ping) says whether the server answers. docs/operations.md has more.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// let larder = larder::Larder::connect_lazy("redis://127.0.0.1:1")?;
    /// let users = larder.cache::<String>("user").ttl(std::time::Duration::from_secs(60)).build()?;
    /// let ann = users.get_or_load("1", || async { Ok::<_, std::io::Error>("Ann".to_owned()) }).await;
    /// assert_eq!(ann.unwrap(), "Ann");
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidUrl` and `InvalidSetting` for what can be known to be wrong without the server. A wrong password is not: it is
    /// the error of each call, and of `ping`.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        Self::builder().url(url).connect_lazy()
    }

    /// Settings beyond what a URL holds.
    pub fn builder() -> LarderBuilder {
        LarderBuilder::default()
    }

    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { locks: Arc::new(Coordinator::new(context.clone())), context }
    }

    /// Asks the server for a sign of life: one round trip.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request, `Refused` and `TimedOut` among them.
    pub fn ping(&self) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.ping_meter, async {
            self.context.store()?.ping().await
        })
    }

    /// Asks the provider of [`credentials`](LarderBuilder::credentials) for new ones, as after a rotation. Open connections
    /// authenticate with them within a second, and are not interrupted; new ones use them from now on.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` without a provider, `Authentication` where the provider fails. A server that refuses the new
    /// credentials is an event and not an error here: its open connections go on with the old ones.
    pub fn renew_credentials(&self) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.credentials_meter, async {
            match &self.context.credentials {
                Some(source) => source.renew().await,
                None => Err(Error::invalid("renew_credentials needs a provider: LarderBuilder::credentials")),
            }
        })
    }

    /// A typed cache under a name of `A-Z a-z 0-9 _ . -`.
    ///
    /// Handles built twice for one name share their loads; building a name with another `V` is an error.
    pub fn cache<V>(&self, name: &str) -> CacheBuilder<V>
    where
        V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        CacheBuilder::new(self.context.clone(), name)
    }

    /// A tag that entries of any cache of this namespace may carry.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).tag("team:7").await?;
    /// larder.tag("team:7").invalidate().await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    #[must_use]
    pub fn tag(&self, tag: impl Into<String>) -> Tag {
        Tag::new(self.context.clone(), tag.into())
    }

    /// The versions that tags have now, for a [`set`](crate::Cache::set) of data that is yet to be read:
    /// [`Set::snapshot`](crate::Set::snapshot) shows why.
    ///
    /// No round trip for tags that were used lately, else one each.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for tags that no entry can carry.
    pub fn tag_snapshot<T: Into<String>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Call<'_, impl Future<Output = Result<TagSnapshot>> + Send> {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        Call::new(self.context.limits.response_timeout, &self.context.snapshot_meter, async move {
            TagSnapshot::take(&self.context, tags).await
        })
    }

    /// Why an entry is served, or is not: which tier has it, whether it is being loaded and by whom, what voided it. `entry` is its
    /// name on the server, with or without the namespace, and as `redis-cli` shows it, quotes included: `user:123`,
    /// `user@2:123` of schema 2, `"shop/user:gr\xc3\xb6\xc3\x9fe"`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).tag("team:7").await?;
    /// larder.tag("team:7").invalidate().await?;
    /// println!("{}", larder.explain("user:123").await?);
    /// // user:123: void: the tag "team:7" was invalidated since it was read, kept for 59.9s; no near copy
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// Four round trips, for people and tools; not for the path of a request.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for a name of another namespace.
    pub fn explain(&self, entry: &str) -> Call<'_, impl Future<Output = Result<Explanation>> + Send> {
        let entry = entry.to_owned();
        Call::new(self.context.limits.response_timeout, &self.context.explain_meter, async move {
            Explanation::of(&self.context, &self.context.keyspace.entry_shown(&entry)?).await
        })
    }

    /// A distributed lock under any name, held for 30 s unless [`ttl`](Lock::ttl) says otherwise.
    pub fn lock(&self, name: &str) -> Lock {
        self.context.note_coordination();
        Lock::new(self.locks.clone(), name)
    }

    /// Several distributed locks, taken together and without deadlock: see [`SeveralLocks`]. Each is the lock that
    /// [`lock`](Self::lock) of its name is.
    pub fn locks(&self, names: impl IntoIterator<Item = impl AsRef<str>>) -> SeveralLocks {
        self.context.note_coordination();
        SeveralLocks::new(self.locks.clone(), names)
    }

    /// A group of locks under any name, of which any can be taken together in one command: see [`LockGroup`]. Its locks are
    /// other locks than those of [`lock`](Self::lock) and of other groups.
    pub fn lock_group(&self, name: &str) -> LockGroup {
        self.context.note_coordination();
        LockGroup::new(self.locks.clone(), name)
    }

    /// A read-write lock under any name: any number of readers, or one writer, in the order in which they come. See [`RwLock`].
    pub fn rw_lock(&self, name: &str) -> RwLock {
        self.context.note_coordination();
        RwLock::new(self.locks.clone(), name)
    }

    /// An election under any name: one process leads, the others wait to take its place. See [`Election`].
    pub fn election(&self, name: &str) -> Election {
        self.context.note_coordination();
        Election::new(self.locks.clone(), name)
    }

    /// A job under any name: at most one run at a time, and one completed run for each period, over all processes. See [`Job`].
    pub fn job(&self, name: &str) -> Job {
        self.context.note_coordination();
        Job::new(self.locks.clone(), name)
    }

    /// A distributed semaphore under any name: at most `permits` are held at a time, over all processes. The first use stores the
    /// number, which decides from then on: see [`Semaphore`]. [`key`](Semaphore::key) gives each key permits of its own.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let printers = larder.semaphore("printers", 2);
    /// let first = printers.acquire().await?;
    /// let second = printers.acquire().await?;
    /// assert!(printers.try_acquire().await?.is_none());
    /// first.release().await?;
    /// assert!(printers.try_acquire().await?.is_some());
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    pub fn semaphore(&self, name: &str, permits: u64) -> Semaphore {
        self.context.note_coordination();
        Semaphore::new(self.locks.clone(), name, permits)
    }

    /// A rate limiter under a name of `A-Z a-z 0-9 _ . -`: with one [`Quota`](crate::Quota), or with an array or a `Vec`
    /// of several that are decided together.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for a name or a quota that makes no sense.
    pub fn rate_limiter(&self, name: &str, quotas: impl Into<Quotas>) -> Result<RateLimiter> {
        self.context.note_coordination();
        self.context.check_coordination_handle()?;
        RateLimiter::new(self.context.clone(), name, quotas.into())
    }

    /// Decides several keys of rate limiters together, in one round trip: all of them are charged, or none. Say a user and an
    /// address, or a tenant and all of its users.
    ///
    /// ```
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    ///
    /// let by_user = larder.rate_limiter("user", Quota::per_minute(2))?;
    /// let by_address = larder.rate_limiter("address", Quota::per_minute(100))?;
    /// let both = || [by_user.key("ann"), by_address.key("10.0.0.1")];
    /// for allowed in [true, true, false] {
    ///     assert_eq!(larder.check_together(both()).await?.is_allowed(), allowed);
    /// }
    /// assert_eq!(by_address.remaining("10.0.0.1").await?, 98); // the refusal charged neither
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// No key takes from a lease. While the store is away each key is decided by its limiter's policy.
    ///
    /// # Errors
    ///
    /// As [`RateLimiter::check_n`]; `InvalidSetting` also for a key that is there twice, for limiters of another `Larder`,
    /// and on a cluster for keys in several slots: put the limiters into one [group](RateLimiter::in_group).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged all of them.
    pub fn check_together(
        &self,
        keys: impl IntoIterator<Item = LimitKey>,
    ) -> Call<'_, impl Future<Output = Result<Together>> + Send> {
        together::check(&self.context, keys.into_iter().collect())
    }

    /// What has been counted since the connection was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { locks: self.locks.stats(), ..self.context.stats() }
    }

    /// Makes every later request fail with `ErrorKind::Closed`, ends the loads under way, waits until the locks of dropped
    /// guards are freed and those who wait for locks have left their lines (for `response_timeout` at most), and ends the
    /// connections and the thread.
    ///
    /// Requests that are under way end as they would have. Locks whose guards are alive stay held until their time is
    /// over: release them first.
    ///
    /// # Errors
    ///
    /// None so far; the result leaves room for stores that must be told.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the `Larder` closed, with background work ending by itself.
    pub async fn close(&self) -> Result<()> {
        self.context.begin_closing();
        self.locks.close().await;
        self.context.close().await;
        Ok(())
    }
}

impl fmt::Debug for Larder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Larder").finish_non_exhaustive()
    }
}
