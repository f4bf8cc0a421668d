//! A load that has stopped between its loader's return and the store of its value.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Waits until a load has stopped. Made by
/// [`World::pause_between_load_and_store`](super::World::pause_between_load_and_store).
#[derive(Debug)]
#[must_use = "await it, then resume the load; a load that finds nothing waiting does not stop"]
pub struct UntilLoaded(Option<oneshot::Receiver<oneshot::Sender<()>>>);

impl UntilLoaded {
    pub(super) fn new(reached: Option<oneshot::Receiver<oneshot::Sender<()>>>) -> Self {
        Self(reached)
    }
}

impl Future for UntilLoaded {
    type Output = PausedLoad;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PausedLoad> {
        let Some(reached) = &mut self.0 else { return Poll::Pending };
        match Pin::new(reached).poll(cx) {
            Poll::Ready(Ok(go)) => Poll::Ready(PausedLoad { _go: go }),
            // Another call waits for the key's next load in place of this one.
            Poll::Ready(Err(_)) => {
                self.0 = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A load whose loader has returned, and whose value is not stored yet. Continues when this is dropped.
#[derive(Debug)]
#[must_use = "the load continues when this is dropped"]
pub struct PausedLoad {
    _go: oneshot::Sender<()>,
}

impl PausedLoad {
    /// Lets the load continue. It stores its value unless the key was changed in the meantime.
    pub fn resume(self) {}
}
