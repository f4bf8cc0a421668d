//! The thread of a `Larder` that has a server: a current-thread runtime that no caller can block or end.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use crate::error::{Error, ErrorKind, Result};

/// Ends its thread when it is dropped, without waiting for that.
#[derive(Debug)]
pub(super) struct Thread {
    runtime: Handle,
    /// Dropped to stop the thread.
    stop: Mutex<Option<oneshot::Sender<()>>>,
    /// Closed when the thread's runtime is gone.
    gone: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    pub(super) fn start() -> Result<Self> {
        let fail =
            |error| Error::with_source(ErrorKind::Server, "the background thread did not start", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let (stop, stopped) = oneshot::channel();
        let (alive, gone) = watch::channel(());
        let handle = runtime.handle().clone();
        let run = move || {
            let _ = runtime.block_on(stopped);
            // A DNS lookup that is under way must not delay the end.
            runtime.shutdown_background();
            drop(alive);
        };
        let thread = std::thread::Builder::new().name("larder".into()).spawn(run).map_err(fail)?;
        Ok(Self { runtime: handle, stop: Mutex::new(Some(stop)), gone, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Stops the thread, and waits at most `max_wait` for its end.
    pub(super) async fn close(&self, max_wait: Duration) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut gone = self.gone.clone();
        let ended = async { while gone.changed().await.is_ok() {} };
        if tokio::time::timeout(max_wait, ended).await.is_ok()
            && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // The thread has nothing left to do, so this takes microseconds. A panic in it was reported when
            // it happened.
            let _ = thread.join();
        }
    }
}
