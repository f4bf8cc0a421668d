//! A loader made one type of, whatever its own types; and the mark that one is running.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::flight::Failure;
use super::loading::Loading;

type Run<V> = dyn FnOnce(Loading<V>) -> BoxFuture<'static, Result<Option<V>, Failure>> + Send;

/// A loader, whatever its own types.
pub struct Loader<V>(Box<Run<V>>);

impl<V> Loader<V> {
    /// Runs it, marked as a loader.
    pub(super) async fn run(self, loading: Loading<V>) -> Result<Option<V>, Failure> {
        nested((self.0)(loading)).await
    }
}

impl<V> fmt::Debug for Loader<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loader")
    }
}

tokio::task_local! {
    /// Set while a loader runs: what it loads itself must not wait for the places that its likes hold.
    static NESTED: ();
}

/// Runs what a loader is made of, marked as one.
pub(super) async fn nested<T>(run: impl Future<Output = T>) -> T {
    NESTED.scope((), run).await
}

/// Whether this is called by a loader.
pub(super) fn is_nested() -> bool {
    NESTED.try_with(|()| ()).is_ok()
}

/// A loader of one error type, made into one of any.
pub(super) fn erased<V, F, Fut, E>(loader: F) -> Loader<V>
where
    V: Send + Sync + 'static,
    F: FnOnce(Loading<V>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    E: Send + Sync + 'static,
{
    Loader(Box::new(move |loading| {
        let run: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let loaded = loader(loading).await;
            loaded.map_err(|error| Failure::Loader(Arc::new(error) as Arc<dyn Any + Send + Sync>))
        });
        run
    }))
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}
