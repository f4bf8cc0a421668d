//! A loader made one type of, whatever its own types.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::flight::LoadFailure;
use super::loading::LoadContext;
use super::nesting::scope;
use super::thrown::{LoaderError, Thrown};

type LoadFn<V> = dyn FnOnce(LoadContext<V>) -> BoxFuture<'static, Result<Option<V>, LoadFailure>> + Send;

/// A loader, whatever its own types.
pub struct Loader<V>(Box<LoadFn<V>>);

impl<V> Loader<V> {
    /// Runs it, as part of the load that it is for.
    pub(super) async fn run(self, loading: LoadContext<V>) -> Result<Option<V>, LoadFailure> {
        let loads = loading.loads();
        scope(loads, (self.0)(loading)).await
    }
}

impl<V> fmt::Debug for Loader<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loader")
    }
}

/// A loader of one error type, made into one of any.
pub(super) fn erased<V, F, Fut, E, Kind>(loader: F) -> Loader<V>
where
    V: Send + Sync + 'static,
    F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    E: LoaderError<Kind>,
{
    Loader(Box::new(move |loading| {
        let run: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let loaded = loader(loading).await;
            loaded.map_err(|error| LoadFailure::Loader(Thrown::new(error)))
        });
        run
    }))
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}
