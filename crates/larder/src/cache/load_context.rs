//! The context of a load: what a loader knows, and what it may choose for its value.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::nesting::{Loads, scope};
use crate::store::Expiry;
use crate::sync::Mutex;

/// The context that a loader gets from [`get_or_load_with`](crate::Cache::get_or_load_with) and its relatives. It
/// tells the loader about the load, and the loader uses it to choose its value's time to live and tags, or that the
/// value is not stored.
///
/// ```
/// # use std::time::Duration;
/// # #[derive(Clone)] struct Db;
/// # #[derive(Clone, serde::Serialize, serde::Deserialize)] struct User { team: u32, etag: u64 }
/// # impl Db {
/// #     async fn user_unless(&self, _: u64, _: Option<u64>) -> Result<Option<User>, std::io::Error> {
/// #         Ok(Some(User { team: 7, etag: 1 }))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let db = Db;
/// # let larder = larder::Larder::connect("memory:").await?;
/// # let users = larder.cache::<User>("user").ttl(Duration::from_secs(60)).build()?;
/// let user = users
///     .get_or_load_with(123, |cx| async move {
///         // Ask the origin only for a changed row. If it has none, the stale value is still valid.
///         let user = match db.user_unless(123, cx.stale().map(|user| user.etag)).await? {
///             Some(user) => user,
///             None => cx.stale().cloned().ok_or(std::io::ErrorKind::NotFound)?,
///         };
///         cx.tag(format!("team:{}", user.team));
///         Ok::<_, std::io::Error>(user)
///     })
///     .await?;
/// # let _ = user; Ok(())
/// # }
/// ```
pub struct LoadContext<V> {
    key: Arc<str>,
    stale: Option<V>,
    deadline: Option<Instant>,
    loads: Loads,
    choices: Arc<Mutex<Choices>>,
}

/// A loader's choices for its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choices {
    pub(super) expiry: Option<Expiry>,
    pub(super) tags: Vec<String>,
    pub(super) unstored: bool,
}

impl<V> LoadContext<V> {
    pub(super) fn new(
        key: Arc<str>,
        stale: Option<V>,
        deadline: Option<Instant>,
        loads: Loads,
    ) -> (Self, Arc<Mutex<Choices>>) {
        let choices = Arc::<Mutex<Choices>>::default();
        (Self { key, stale, deadline, loads, choices: choices.clone() }, choices)
    }

    pub(super) fn loads(&self) -> Loads {
        self.loads.clone()
    }

    /// Returns the key's text, without the cache's name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the value that is to be replaced: an expired one, or the current one if this load is an early refresh
    /// or a [`refresh`](crate::Cache::refresh). A loader that finds it still valid returns a clone, which is stored
    /// with a new time to live.
    #[must_use]
    pub fn stale(&self) -> Option<&V> {
        self.stale.as_ref()
    }

    /// Returns when this loader will be dropped, if the cache has a `hard_timeout`.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Keeps the value for `ttl`, in place of the call's and the cache's time to live.
    pub fn ttl(&self, ttl: Duration) {
        self.choose(|choices| choices.expiry = Some(Expiry::After(ttl)));
    }

    /// Keeps the value until it is deleted or evicted.
    pub fn no_expiry(&self) {
        self.choose(|choices| choices.expiry = Some(Expiry::Never));
    }

    /// Adds a tag that only the loader knows, from the data that it loaded. If any tag was invalidated during the
    /// load, the value is returned and not stored.
    pub fn tag(&self, tag: impl Into<String>) {
        let tag = tag.into();
        self.choose(|choices| choices.tags.push(tag));
    }

    /// Returns the value to all waiters without storing it.
    pub fn do_not_store(&self) {
        self.choose(|choices| choices.unstored = true);
    }

    /// Makes `future` part of this load. Use it for a task that the loader spawns: if that task asks for a load that
    /// waits for this one, the call fails at once with [`LoadError::Cycle`](crate::LoadError::Cycle).
    ///
    /// A task that is spawned without it is not known to belong to the load. Then only the
    /// [`wait_timeout`](crate::CacheBuilder::wait_timeout) ends such a wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<u32>("user").ttl(Duration::from_secs(60)).build()?;
    /// let (parts, sum) = (users.clone(), users.clone());
    /// let total = sum
    ///     .get_or_load_with("total", |cx| async move {
    ///         let part = tokio::spawn(cx.scope(async move {
    ///             parts.get_or_load("part", || async { Ok::<_, std::io::Error>(7) }).await
    ///         }));
    ///         let part = part.await.expect("it does not panic").expect("it does not fail");
    ///         Ok::<_, std::io::Error>(part + 1)
    ///     })
    ///     .await?;
    /// assert_eq!(total, 8);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The same as `future`'s.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<V, F> {
        scope(self.loads.clone(), future)
    }

    fn choose(&self, choose: impl FnOnce(&mut Choices)) {
        choose(&mut self.choices.lock());
    }
}

impl<V> fmt::Debug for LoadContext<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadContext").field("stale", &self.stale.is_some()).finish_non_exhaustive()
    }
}
