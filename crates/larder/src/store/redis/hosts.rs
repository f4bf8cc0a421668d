//! Which runtimes the connections of a store live on.
//!
//! A connection is driven by a task; requests are fastest where it runs on the runtime of those who send them. But that
//! runtime may end, or be blocked by its program, while the `Larder` lives on. So the *supervisors* of connections run at
//! home, on the `Larder`'s own thread. They have a connection dialled, and so driven, on the runtime of a caller, notice when
//! that runtime ends ([`Driver`]) or does not run, and then dial on another one that callers were seen on, or at home.
//!
//! The store of the background has no callers: all of it lives at home.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;

use crate::background::Runtimes;
use crate::error::{Error, Result};
use crate::telemetry::ConnectionMeter;

/// How long a runtime may take to begin a task before another is used. It is asked only when a connection is dialled, and
/// after a heartbeat has gone unanswered.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where a store's tasks and connections live.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    home: Handle,
    /// `None` for the store of the background.
    callers: Option<Arc<Runtimes>>,
    pub(super) meter: ConnectionMeter,
    reconnects: watch::Sender<u64>,
}

impl Hosts {
    /// Supervised at home, driven by the runtimes of callers, of which the current one is the first.
    pub(crate) fn of_callers(home: &Handle) -> Self {
        let runtimes = Runtimes::default();
        runtimes.remember_current();
        Self { callers: Some(Arc::new(runtimes)), ..Self::at_home(home) }
    }

    /// Supervised and driven at home.
    pub(crate) fn at_home(home: &Handle) -> Self {
        let (home, reconnects) = (home.clone(), watch::channel(0).0);
        Self { home, callers: None, meter: ConnectionMeter::new(), reconnects }
    }

    /// Whether these are connections of the background.
    pub(super) fn is_background(&self) -> bool {
        self.callers.is_none()
    }

    pub(super) fn home(&self) -> &Handle {
        &self.home
    }

    /// Remembers the runtime of a caller that waits for a connection.
    pub(super) fn remember_caller(&self) {
        if let Some(callers) = &self.callers {
            callers.remember_current();
        }
    }

    /// Where to dial, best first. Home is always the last.
    pub(super) fn candidates(&self) -> Vec<Handle> {
        let mut candidates = self.callers.as_ref().map(|callers| callers.all()).unwrap_or_default();
        // The one that called `connect` was seen first.
        candidates.reverse();
        candidates.push(self.home.clone());
        candidates
    }

    /// Does not dial there again before a caller is seen there.
    pub(super) fn forget(&self, runtime: &Handle) {
        if let Some(callers) = &self.callers {
            callers.forget(runtime.id());
        }
    }

    pub(super) fn is_home(&self, runtime: &Handle) -> bool {
        runtime.id() == self.home.id()
    }

    /// Whether a runtime runs: one that is blocked, never polled, or ended does not.
    pub(super) async fn runs(&self, runtime: &Handle) -> bool {
        if self.is_home(runtime) {
            return true;
        }
        let (tell, told) = oneshot::channel();
        let mut probe = JoinSet::new();
        probe.spawn_on(async move { tell.send(()).is_ok() }, runtime);
        timeout(PATIENCE, told).await.is_ok_and(|told| told.is_ok())
    }

    pub(super) fn note_reconnect(&self) {
        self.reconnects.send_modify(|count| *count += 1);
    }

    /// Changes whenever a connection has come up again.
    pub(super) fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.subscribe()
    }
}

/// Runs `work` to its end on `runtime`, within `limit`. `None` where the runtime has ended or does not run.
pub(super) async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Option<Result<T>> {
    let (begin, begun) = oneshot::channel();
    // Ends with the supervisor that waits for it.
    let mut tasks = JoinSet::new();
    let work = async move {
        let _ = begin.send(());
        work.await
    };
    tasks.spawn_on(work.with_current_subscriber(), runtime);
    if !timeout(PATIENCE, begun).await.is_ok_and(|begun| begun.is_ok()) {
        return None;
    }
    match timeout(limit.saturating_add(PATIENCE), tasks.join_next()).await {
        Ok(Some(Ok(result))) => Some(result),
        // The runtime ended meanwhile.
        Ok(_) => None,
        Err(_) => Some(Err(Error::timed_out(limit))),
    }
}

/// The runtime that drives a connection, and a task there that goes down with it.
pub(super) struct Driver {
    pub(super) runtime: Handle,
    _sentinel: JoinSet<()>,
}

impl Driver {
    /// `on_end` is called when the runtime ends, at once; it may also be called after the driver was dropped.
    pub(super) fn new(runtime: Handle, on_end: impl FnOnce() + Send + 'static) -> Self {
        let mut sentinel = JoinSet::new();
        let ends = OnDrop(Some(on_end));
        let watch = async move {
            let _ends = ends;
            std::future::pending::<()>().await;
        };
        sentinel.spawn_on(watch, &runtime);
        Self { runtime, _sentinel: sentinel }
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}
