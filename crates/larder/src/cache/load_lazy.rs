//! Loads whose loader is made on a miss. The function that makes it may borrow, so a hit clones nothing.
//! `#[larder::cached]` expands to these calls.

use super::fill::Reason;
use super::load_context::LoadContext;
use super::load_request::LoadKind;
use super::loader::{BoxedLoader, LoadSetup, erased};
use super::thrown::LoaderError;
use super::{Cache, Load, LoadSource};
use crate::key::CacheKey;
use crate::value::Value;

/// What a loader may give for a value of type `V`: a `V`, or an `Option<V>` for a value that may not exist. The
/// absence is then remembered for the cache's [`negative_ttl`](super::CacheBuilder::negative_ttl), if it has one.
#[diagnostic::on_unimplemented(
    message = "a loader that gives `{Self}` cannot fill a `Cache<{V}>`",
    note = "give a `{V}` or an `Option<{V}>`, or cache in a `Cache<{Self}>`"
)]
pub trait LoadOutput<V>: Send + 'static {
    #[doc(hidden)]
    const OPTIONAL: bool;

    #[doc(hidden)]
    fn into_option(self) -> Option<V>;
}

impl<V: Send + 'static> LoadOutput<V> for V {
    const OPTIONAL: bool = false;

    fn into_option(self) -> Option<V> {
        Some(self)
    }
}

impl<V: Send + 'static> LoadOutput<V> for Option<V> {
    const OPTIONAL: bool = true;

    fn into_option(self) -> Option<V> {
        self
    }
}

impl<V> Cache<V>
where
    V: Value,
{
    /// Like [`get_or_load`](Self::get_or_load), with a function that makes the loader on a miss. The function may
    /// borrow, so a hit clones nothing. It may also set the value's time to live and tags, and the loader may give an
    /// `Option` for a value that may not exist. [`#[larder::cached]`](crate::cached) expands to this call.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use larder::{Cache, LoadError};
    /// # #[derive(Clone)] struct Db;
    /// # impl Db { async fn user(&self, _: &str) -> Result<String, std::io::Error> { Ok("Ann".into()) } }
    /// async fn user(users: &Cache<String>, db: &Db, name: &str) -> Result<String, LoadError<std::io::Error>> {
    ///     let make = |setup: &mut larder::LoadSetup| {
    ///         setup.tags([format!("user:{name}")]);
    ///         let (db, name) = (db.clone(), name.to_owned());
    ///         move || async move { db.user(&name).await }
    ///     };
    ///     users.get_or_load_lazy(name, make).await
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// # let users = larder.cache::<String>("user").ttl(Duration::from_secs(60)).build()?;
    /// # assert_eq!(user(&users, &Db, "ann").await?, "Ann"); Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_lazy<K: CacheKey, M, F, Fut, T, E, Sort>(
        &self,
        key: K,
        make: M,
    ) -> Load<'_, V, T, E, impl LoadSource<V>>
    where
        M: FnOnce(&mut LoadSetup) -> F + Send,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: LoadOutput<V>,
        E: LoaderError<Sort>,
    {
        let start = move || {
            let mut setup = LoadSetup::default();
            let loader = make(&mut setup);
            erased(move |_| async move { loader().await.map(T::into_option) }).with_setup(setup)
        };
        self.load_lazy(key, start, T::OPTIONAL, false)
    }

    /// Like [`get_or_load_lazy`](Self::get_or_load_lazy), with a loader that gets a [`LoadContext`].
    ///
    /// If the loader names tags, the load costs two more round trips after the loader.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/load_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The same as [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_lazy_with<K: CacheKey, M, F, Fut, T, E, Sort>(
        &self,
        key: K,
        make: M,
    ) -> Load<'_, V, T, E, impl LoadSource<V>>
    where
        M: FnOnce(&mut LoadSetup) -> F + Send,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: LoadOutput<V>,
        E: LoaderError<Sort>,
    {
        let start = move || {
            let mut setup = LoadSetup::default();
            let loader = make(&mut setup);
            erased(move |loading| async move { loader(loading).await.map(T::into_option) }).with_setup(setup)
        };
        self.load_lazy(key, start, T::OPTIONAL, true)
    }

    fn load_lazy<K: CacheKey, T, E>(
        &self,
        key: K,
        start: impl FnOnce() -> BoxedLoader<V> + Send,
        optional: bool,
        open_tags: bool,
    ) -> Load<'_, V, T, E, impl LoadSource<V>> {
        self.load(key, start, LoadKind { optional, open_tags, reason: Reason::Missing })
    }
}

impl<V> LoadContext<V> {
    /// Stores the value only if `keep` says so. It is returned to all waiters in either case.
    pub fn store_if<T>(&self, value: &T, keep: impl FnOnce(&T) -> bool) {
        if !keep(value) {
            self.do_not_store();
        }
    }

    /// Adds the tags that `tags` makes of the value, as [`tag`](Self::tag) does.
    pub fn tags_of<'v, T, I>(&self, value: &'v T, tags: impl FnOnce(&'v T) -> I)
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        tags(value).into_iter().for_each(|tag| self.tag(tag));
    }
}
