//! What a loader is told, and what it may say of the value that it gives.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::nesting::{Loads, scope};
use crate::store::Expiry;

/// What a loader is told, given to it by [`get_or_load_with`](crate::Cache::get_or_load_with) and its kin; and how it
/// says for how long its value is kept, under which tags, or that it is not.
///
/// ```
/// # use std::time::Duration;
/// # #[derive(Clone)] struct Db;
/// # #[derive(Clone, serde::Serialize, serde::Deserialize)] struct User { team: u32, etag: u64 }
/// # impl Db { async fn user_unless(&self, _: u64, _: Option<u64>) -> Result<Option<User>, std::io::Error> { Ok(Some(User { team: 7, etag: 1 })) } }
/// # async fn run(db: Db) -> Result<(), Box<dyn std::error::Error>> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// # let users = larder.cache::<User>("user").ttl(Duration::from_secs(60)).build()?;
/// let user = users
///     .get_or_load_with(123, |cx| async move {
///         // Ask the origin only for what changed; nothing came back: the stale value is as good as new.
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
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(Db)).unwrap();
/// ```
pub struct LoadContext<V> {
    key: Arc<str>,
    stale: Option<V>,
    deadline: Option<Instant>,
    loads: Loads,
    choices: Arc<Mutex<Choices>>,
}

/// What a loader said of its value.
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

    /// The key's text, without the cache's name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value that is to be replaced: one past its time, or the present one where it is refreshed early or by
    /// [`refresh`](crate::Cache::refresh). A loader that finds it still right returns a clone, which is then kept anew.
    #[must_use]
    pub fn stale(&self) -> Option<&V> {
        self.stale.as_ref()
    }

    /// When this loader will be dropped, where the cache has a `hard_timeout`.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the value is kept, in place of the call's and the cache's time to live.
    pub fn ttl(&self, ttl: Duration) {
        self.choose(|choices| choices.expiry = Some(Expiry::After(ttl)));
    }

    /// The value stays until it is deleted or evicted.
    pub fn no_expiry(&self) {
        self.choose(|choices| choices.expiry = Some(Expiry::Never));
    }

    /// A tag that only the loader knows, from what it loaded. If any tag was invalidated while it loaded, the value is returned
    /// and not stored.
    pub fn tag(&self, tag: impl Into<String>) {
        let tag = tag.into();
        self.choose(|choices| choices.tags.push(tag));
    }

    /// The value is returned to all who wait, and not stored.
    pub fn do_not_store(&self) {
        self.choose(|choices| choices.unstored = true);
    }

    /// Makes `future` part of this load, for a task that the loader spawns: loads that it asks for do not wait for this
    /// one.
    ///
    /// A load that waits for itself, through whatever others, fails at once with
    /// [`LoadError::Cycle`](crate::LoadError::Cycle). A task that was spawned without this is not known to belong to
    /// the load: there only time ends such a wait, see [`wait_timeout`](crate::CacheBuilder::wait_timeout).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
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
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Cancel safety
    ///
    /// As that of `future`.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<V, F> {
        scope(self.loads.clone(), future)
    }

    fn choose(&self, choose: impl FnOnce(&mut Choices)) {
        choose(&mut self.choices.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<V> fmt::Debug for LoadContext<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").field("stale", &self.stale.is_some()).finish_non_exhaustive()
    }
}
