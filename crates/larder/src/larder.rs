//! The handle that connects, names things and hands them out.

mod connect;

use std::fmt;
use std::sync::Arc;

use crate::builder::LarderBuilder;
use crate::cache::{CacheBuilder, Explanation, Tag, TagSnapshot};
use crate::call::Call;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::limit::{LimitKey, Quotas, RateLimiter, Together, together};
use crate::lock::{Coordinator, Election, Job, Lock, LockGroup, RwLock, Semaphore, SeveralLocks};
use crate::presence::Presence;
use crate::stats::Stats;
use crate::store::Store;
use crate::value::Value;

/// A connection to a store, from which caches, locks and limiters are made.
///
/// Cheap to clone and to share; every clone uses the same connection. The connection ends when the last clone and
/// everything made from it are dropped, or at once with [`close`](Self::close).
///
/// With a server it has a thread of its own, `larder`, for the work that no caller waits for: renewals, heartbeats,
/// releases, queued invalidations. So a program may block its own threads, end a runtime, or use one `Larder` on
/// several runtimes, one after the other.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Larder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// let larder = Larder::connect("memory:").await?;
/// let users: Cache<String> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
/// users.set("123", &"Ann".to_owned()).await?;
/// assert_eq!(users.get("123").await?.as_deref(), Some("Ann"));
/// larder.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Larder {
    context: Arc<Context>,
    locks: Arc<Coordinator>,
    presence: Arc<Presence>,
}

impl Larder {
    /// Connects to a store and waits until it answers.
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory:` | embedded in this process |
    /// | `redis://[user[:password]@]host[:port][/db]` | a server |
    /// | `rediss://…` | a server, with TLS |
    /// | `redis+unix:///path` | a server, by a Unix socket |
    /// | `redis-cluster://h1,h2,h3` | a cluster |
    /// | `redis-sentinel://h1,h2/service[/db]` | the master that Sentinel names |
    ///
    /// `valkey` may replace `redis` in each.
    ///
    /// # Errors
    ///
    /// - [`InvalidUrl`](crate::ErrorKind::InvalidUrl), [`InvalidSetting`](crate::ErrorKind::InvalidSetting): correct
    ///   the URL or the setting.
    /// - [`Refused`](crate::ErrorKind::Refused), [`TimedOut`](crate::ErrorKind::TimedOut): the server is away. Retry,
    ///   or use [`connect_lazy`](Self::connect_lazy).
    /// - [`Tls`](crate::ErrorKind::Tls), [`Authentication`](crate::ErrorKind::Authentication), or any other kind that
    ///   the server reports on connect: correct the setup.
    ///
    /// Later outages are not reported here: the client reconnects by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// Connects without waiting, so that a service can start while its server is away. Returns at once; the
    /// connections are opened in the background, with retries until the server is there.
    ///
    /// Until then the `Larder` behaves as in any outage: calls wait for the first attempt and fail at once after it,
    /// loaders run, and invalidations are queued. [`ping`](Self::ping) says whether the server answers. See
    /// docs/operations.md.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// let larder = larder::Larder::connect_lazy("redis://127.0.0.1:1")?;
    /// let users = larder.cache::<String>("user").ttl(std::time::Duration::from_secs(60)).build()?;
    /// let ann = users.get_or_load("1", || async { Ok::<_, std::io::Error>("Ann".to_owned()) }).await;
    /// assert_eq!(ann.unwrap(), "Ann");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidUrl`](crate::ErrorKind::InvalidUrl), [`InvalidSetting`](crate::ErrorKind::InvalidSetting): correct
    ///   the URL or the setting.
    ///
    /// A wrong password cannot be known without the server. It is an error of each call, and of `ping`.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        Self::builder().url(url).connect_lazy()
    }

    /// Makes a builder, for settings that a URL cannot hold.
    pub fn builder() -> LarderBuilder {
        LarderBuilder::default()
    }

    /// Makes the handle of a context. With a name, the process announces itself.
    pub(crate) fn new(context: Arc<Context>, name: Option<String>) -> Self {
        let presence = Arc::new(Presence::new(context.clone(), name));
        let locks = Arc::new(Coordinator::new(context.clone(), presence.clone()));
        let weak = Arc::downgrade(&locks);
        presence.start(move || weak.upgrade().map(|locks| locks.stats()));
        Self { context, locks, presence }
    }

    /// Checks that the server answers. Costs one round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("doc/request_errors.md")]
    pub fn ping(&self) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.ping_meter, async {
            self.context.store()?.ping().await
        })
    }

    /// Asks the provider of [`credentials`](LarderBuilder::credentials) for new ones, for example after a rotation.
    /// Open connections authenticate with them within a second, without interruption; new connections use them from
    /// now on.
    ///
    /// # Errors
    ///
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the `Larder` has no provider.
    /// - [`Authentication`](crate::ErrorKind::Authentication): the provider failed. Correct it, or retry.
    ///
    /// If the server refuses the new credentials, that is reported as an event and not here: its open connections go
    /// on with the old ones.
    pub fn renew_credentials(&self) -> Call<'_, impl Future<Output = Result<()>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.credentials_meter, async {
            match &self.context.credentials {
                Some(source) => source.renew().await,
                None => Err(Error::invalid("renew_credentials needs a provider: LarderBuilder::credentials")),
            }
        })
    }

    /// Makes a builder for a typed cache. The name is any text type, and consists of `A-Z a-z 0-9 _ . -`.
    ///
    /// Handles that are built for the same name share their loads. Building a name again with another `V` is an
    /// error.
    pub fn cache<V>(&self, name: impl AsRef<str>) -> CacheBuilder<V>
    where
        V: Value,
    {
        CacheBuilder::new(self.context.clone(), name.as_ref())
    }

    /// Names a tag that entries of any cache of this namespace may carry.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).tag("team:7").await?;
    /// larder.tag("team:7").invalidate().await?;
    /// assert_eq!(users.get("123").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tag(&self, tag: impl Into<String>) -> Tag {
        Tag::new(self.context.clone(), tag.into())
    }

    /// Reads the versions that tags have now, for a [`set`](crate::Cache::set) of data that is read afterwards;
    /// [`Set::snapshot`](crate::Set::snapshot) shows why.
    ///
    /// Costs no round trip for tags that were used lately, and one for each other tag.
    ///
    /// # Errors
    ///
    #[doc = include_str!("doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): an entry cannot carry these tags.
    pub fn tag_snapshot<T: Into<String>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Call<'_, impl Future<Output = Result<TagSnapshot>> + Send> {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        Call::new(self.context.limits.response_timeout, &self.context.snapshot_meter, async move {
            TagSnapshot::take(&self.context, tags).await
        })
    }

    /// Explains why an entry is served or not: which tier has it, whether a load is under way and with which token,
    /// what invalidated it. `entry` is its name on the server, with or without the namespace, also as `redis-cli`
    /// shows it, quotes included: `user:123`, `user@2:123` for schema 2, `"shop/user:gr\xc3\xb6\xc3\x9fe"`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// users.set("123", &"Ann".to_owned()).tag("team:7").await?;
    /// larder.tag("team:7").invalidate().await?;
    /// println!("{}", larder.explain("user:123").await?);
    /// // user:123: invalid: the tag "team:7" was invalidated since it was read, kept for 59.9s; no near copy
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Costs four round trips. For people and tools, not for the path of a request.
    ///
    /// # Errors
    ///
    #[doc = include_str!("doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name belongs to another namespace.
    pub fn explain(&self, entry: &str) -> Call<'_, impl Future<Output = Result<Explanation>> + Send> {
        let entry = entry.to_owned();
        Call::new(self.context.limits.response_timeout, &self.context.explain_meter, async move {
            Explanation::of(&self.context, &self.context.keyspace.entry_shown(&entry)?).await
        })
    }

    /// Makes a distributed lock of any name. It is held for 30 s unless [`ttl`](Lock::ttl) says otherwise.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let (larder, cart) = (larder::Larder::connect("memory:").await?, 7);
    /// let guard = larder.lock(format!("checkout:{cart}")).acquire().await?;
    /// assert!(larder.lock("checkout:7").try_acquire().await?.is_none());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        self.context.note_coordination();
        Lock::new(self.locks.clone(), name.as_ref())
    }

    /// Makes several distributed locks that are taken together and without deadlock: see [`SeveralLocks`]. Each is
    /// the same lock as [`lock`](Self::lock) of its name.
    pub fn locks(&self, names: impl IntoIterator<Item = impl AsRef<str>>) -> SeveralLocks {
        self.context.note_coordination();
        SeveralLocks::new(self.locks.clone(), names)
    }

    /// Makes a group of locks of any name. Any of its locks can be taken together in one command: see [`LockGroup`].
    /// They are distinct from the locks of [`lock`](Self::lock) and of other groups.
    pub fn lock_group(&self, name: impl AsRef<str>) -> LockGroup {
        self.context.note_coordination();
        LockGroup::new(self.locks.clone(), name.as_ref())
    }

    /// Makes a read-write lock of any name: any number of readers or one writer, first come, first served. See
    /// [`RwLock`].
    pub fn rw_lock(&self, name: impl AsRef<str>) -> RwLock {
        self.context.note_coordination();
        RwLock::new(self.locks.clone(), name.as_ref())
    }

    /// Makes an election of any name: one process leads, and the others wait to take its place. See [`Election`].
    pub fn election(&self, name: impl AsRef<str>) -> Election {
        self.context.note_coordination();
        Election::new(self.locks.clone(), name.as_ref())
    }

    /// Makes a job of any name: over all processes, at most one run at a time and one completed run for each period.
    /// See [`Job`].
    pub fn job(&self, name: impl AsRef<str>) -> Job {
        self.context.note_coordination();
        Job::new(self.locks.clone(), name.as_ref())
    }

    /// Makes a distributed semaphore of any name: over all processes, at most `permits` are held at a time. The first
    /// use stores that number, and the stored number decides from then on: see [`Semaphore`]. [`key`](Semaphore::key)
    /// gives each key permits of its own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let printers = larder.semaphore("printers", 2);
    /// let first = printers.acquire().await?;
    /// let second = printers.acquire().await?;
    /// assert!(printers.try_acquire().await?.is_none());
    /// first.release().await?;
    /// assert!(printers.try_acquire().await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<str>, permits: u64) -> Semaphore {
        self.context.note_coordination();
        Semaphore::new(self.locks.clone(), name.as_ref(), permits)
    }

    /// Makes a rate limiter with one [`Quota`](crate::Quota), or with an array or a `Vec` of several that are decided
    /// together. The name consists of `A-Z a-z 0-9 _ . -`. Costs no round trip.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name or a quota is invalid. Correct it.
    pub fn rate_limiter(&self, name: impl AsRef<str>, quotas: impl Into<Quotas>) -> Result<RateLimiter> {
        self.context.note_coordination();
        self.context.check_coordination_handle()?;
        RateLimiter::new(self.context.clone(), name.as_ref(), quotas.into())
    }

    /// Decides several keys of rate limiters together, in one round trip: all of them are charged, or none. For
    /// example a user and an address, or one user and the whole tenant.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
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
    /// ```
    ///
    /// No key uses permits of a local batch. While the store is away, each key is decided by its limiter's policy.
    ///
    /// # Errors
    ///
    #[doc = include_str!("doc/limit_errors.md")]
    ///
    #[doc = include_str!("doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no permits, more than a limit, a key given twice, a
    ///   limiter of another `Larder`, more than 64 keys, or keys in several slots of a cluster. For the last, put the
    ///   limiters into one [group](RateLimiter::in_group).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged all keys.
    pub fn check_together(
        &self,
        keys: impl IntoIterator<Item = LimitKey>,
    ) -> Call<'_, impl Future<Output = Result<Together>> + Send> {
        together::check(&self.context, keys.into_iter().collect())
    }

    /// Returns the means to look into the store and to change single things in it, for tools. Costs no round trip.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn admin(&self) -> crate::admin::Admin {
        crate::admin::Admin::new(self.context.clone(), self.presence.clone())
    }

    /// Returns the counts since this `Larder` was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { locks: self.locks.stats(), ..self.context.stats() }
    }

    /// Returns the state of the connections, of the queue of invalidations and of tracking, as this process knows it
    /// now. Costs no round trip: a server that has just died may still count as up, for two heartbeats at most.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let health = larder.health();
    /// let status = if health.is_ready() { 200 } else { 503 };
    /// let body = serde_json::to_string(&health)?; // {"closed":false,"connections":[],…}
    /// # assert_eq!(status, 200); drop(body); Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.context.health()
    }

    /// Closes the `Larder`: every later request fails with [`Closed`](crate::ErrorKind::Closed), and the loads under
    /// way end. Then waits until the locks of dropped guards are released and the waiters for locks have left their
    /// queues, for `response_timeout` at most, and ends the connections and the thread.
    ///
    /// Requests that are under way end as they would have. A lock whose guard is alive stays held until its lease
    /// expires: release it first.
    ///
    /// # Errors
    ///
    /// None so far. The result leaves room for future kinds of store.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the `Larder` closed, and the background work ends by itself.
    pub async fn close(&self) -> Result<()> {
        self.context.begin_closing();
        self.locks.close().await;
        self.presence.withdraw().await;
        self.context.close().await;
        Ok(())
    }
}

impl fmt::Debug for Larder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Larder").finish_non_exhaustive()
    }
}
