//! What a load runs: a loader with its own types erased, and the key that it is for.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::flight::LoadFailure;
use super::load_context::LoadContext;
use super::nesting::scope;
use super::thrown::{LoaderError, Thrown};
use crate::key::CacheKey;
use crate::store::Expiry;

type LoadFn<V> = dyn FnOnce(LoadContext<V>) -> BoxFuture<'static, Result<Option<V>, LoadFailure>> + Send;

/// What a call of [`get_or_load_lazy`](super::Cache::get_or_load_lazy) says of a value before it is loaded.
#[derive(Debug, Default)]
pub struct LoadSetup {
    expiry: Option<Expiry>,
    tags: Vec<String>,
}

impl LoadSetup {
    /// Keeps the loaded value for `ttl`, in place of the cache's time to live.
    pub fn ttl(&mut self, ttl: Duration) {
        self.expiry = Some(Expiry::After(ttl));
    }

    /// Keeps the loaded value until it is deleted or evicted.
    pub fn no_expiry(&mut self) {
        self.expiry = Some(Expiry::Never);
    }

    /// Adds tags to the loaded value. Their versions are read before the loader runs, so an invalidation during the
    /// load makes the value invalid.
    pub fn tags<T: Into<String>>(&mut self, tags: impl IntoIterator<Item = T>) {
        self.tags.extend(tags.into_iter().map(Into::into));
    }

    /// Combines this with what the call itself says.
    pub(super) fn over(self, expiry: Option<Expiry>, mut tags: Vec<String>) -> (Option<Expiry>, Vec<String>) {
        tags.extend(self.tags);
        (self.expiry.or(expiry), tags)
    }
}

/// A loader with its own types erased, and what it says of its value before it runs.
pub struct BoxedLoader<V>(Box<LoadFn<V>>, LoadSetup);

impl<V> BoxedLoader<V> {
    pub(super) fn with_setup(self, setup: LoadSetup) -> Self {
        Self(self.0, setup)
    }

    pub(super) fn take_setup(&mut self) -> LoadSetup {
        std::mem::take(&mut self.1)
    }

    /// Runs the loader as part of its load.
    pub(super) async fn run(self, loading: LoadContext<V>) -> Result<Option<V>, LoadFailure> {
        let loads = loading.loads();
        scope(loads, (self.0)(loading)).await
    }
}

impl<V> fmt::Debug for BoxedLoader<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxedLoader")
    }
}

/// Erases the types of a loader, its error's type included.
pub(super) fn erased<V, F, Fut, E, Kind>(loader: F) -> BoxedLoader<V>
where
    V: Send + Sync + 'static,
    F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    E: LoaderError<Kind>,
{
    let run = move |loading| {
        let run: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let loaded = loader(loading).await;
            loaded.map_err(|error| LoadFailure::Loader(Thrown::new(error)))
        });
        run
    };
    BoxedLoader(Box::new(run), LoadSetup::default())
}

/// The key and the loader of a [`Load`](super::Load). Sealed: [`Cache::get_or_load`](super::Cache::get_or_load) and the
/// methods beside it make it.
pub trait LoadSource<V>: sealed::Sealed<V> {}

mod sealed {
    use super::{BoxedLoader, CacheKey};

    pub trait Sealed<V> {
        type Key: CacheKey;

        fn key(&self) -> &Self::Key;

        fn into_loader(self) -> BoxedLoader<V>;
    }
}

/// A key, and a function that makes the loader: a hit never calls it.
pub(super) struct KeyAndLoader<K, S> {
    pub(super) key: K,
    pub(super) start: S,
}

impl<V, K: CacheKey, S: FnOnce() -> BoxedLoader<V> + Send> sealed::Sealed<V> for KeyAndLoader<K, S> {
    type Key = K;

    fn key(&self) -> &K {
        &self.key
    }

    fn into_loader(self) -> BoxedLoader<V> {
        (self.start)()
    }
}

impl<V, K: CacheKey, S: FnOnce() -> BoxedLoader<V> + Send> LoadSource<V> for KeyAndLoader<K, S> {}

/// Returns the message of a panic.
pub(super) fn message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}
