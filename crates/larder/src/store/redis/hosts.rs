//! The runtimes on which the connections of a store run.
//!
//! A task drives each connection. Requests are fastest if it runs on the runtime of the callers. But that runtime may
//! end, or the program may block it, while the `Larder` lives on. So the *supervisors* of connections run at home, on
//! the `Larder`'s own thread. They dial and drive a connection on the runtime of a caller, and notice when that
//! runtime ends ([`Driver`]) or is blocked. Then they dial on another runtime of a caller, or at home.
//!
//! The store of the background tasks has no callers: all of it runs at home.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;

use crate::error::{Error, Result};
use crate::runtimes::Runtimes;
use crate::telemetry::ConnectionMeter;

/// How long a runtime may take to start a task before another one is used. It is measured only when a connection is
/// dialled, and after an unanswered heartbeat.
const START_TIMEOUT: Duration = Duration::from_millis(250);

/// The runtimes of a store's tasks and connections.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    home: Handle,
    /// `None` for the store of the background tasks.
    callers: Option<Arc<Runtimes>>,
    pub(super) meter: ConnectionMeter,
    reconnects: watch::Sender<u64>,
}

impl Hosts {
    /// Makes hosts with supervisors at home and connections on the runtimes of callers, the current one first.
    pub(crate) fn of_callers(home: &Handle) -> Self {
        let runtimes = Runtimes::default();
        runtimes.remember_current();
        Self { callers: Some(Arc::new(runtimes)), ..Self::at_home(home) }
    }

    /// Makes hosts with both supervisors and connections at home.
    pub(crate) fn at_home(home: &Handle) -> Self {
        let (home, reconnects) = (home.clone(), watch::channel(0).0);
        Self { home, callers: None, meter: ConnectionMeter::new(), reconnects }
    }

    /// Returns whether these are the connections of the background tasks.
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

    /// Returns the runtimes to dial on, best first. Home is the last.
    pub(super) fn candidates(&self) -> Vec<Handle> {
        let mut candidates = self.callers.as_ref().map(|callers| callers.all()).unwrap_or_default();
        // The newest comes first in the list. Reverse it, so that the runtime that called `connect` is the first.
        candidates.reverse();
        candidates.push(self.home.clone());
        candidates
    }

    /// Skips the runtime until a caller is seen there again.
    pub(super) fn forget(&self, runtime: &Handle) {
        if let Some(callers) = &self.callers {
            callers.forget(runtime.id());
        }
    }

    pub(super) fn is_home(&self, runtime: &Handle) -> bool {
        runtime.id() == self.home.id()
    }

    /// Returns whether a runtime runs tasks. One that is blocked, never polled, or ended does not.
    pub(super) async fn runs(&self, runtime: &Handle) -> bool {
        if self.is_home(runtime) {
            return true;
        }
        let (start, started) = oneshot::channel();
        let mut probe = JoinSet::new();
        probe.spawn_on(async move { start.send(()).is_ok() }, runtime);
        timeout(START_TIMEOUT, started).await.is_ok_and(|started| started.is_ok())
    }

    pub(super) fn note_reconnect(&self) {
        self.reconnects.send_modify(|count| *count += 1);
    }

    /// Returns a counter that changes each time a lost connection is up again.
    pub(super) fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.subscribe()
    }
}

/// Runs `work` to its end on `runtime`, within `limit`. Returns `None` if the runtime has ended or is blocked.
pub(super) async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Option<Result<T>> {
    let (begin, begun) = oneshot::channel();
    // The task is aborted together with the supervisor that waits for it.
    let mut tasks = JoinSet::new();
    let work = async move {
        let _ = begin.send(());
        work.await
    };
    tasks.spawn_on(work.with_current_subscriber(), runtime);
    if !timeout(START_TIMEOUT, begun).await.is_ok_and(|begun| begun.is_ok()) {
        return None;
    }
    match timeout(limit.saturating_add(START_TIMEOUT), tasks.join_next()).await {
        Ok(Some(Ok(result))) => Some(result),
        // The runtime ended during the work.
        Ok(_) => None,
        Err(_) => Some(Err(Error::timed_out(limit))),
    }
}

/// The runtime of a connection, and a task on it that ends together with it.
pub(super) struct Driver {
    pub(super) runtime: Handle,
    _sentinel: JoinSet<()>,
}

impl Driver {
    /// Calls `on_end` as soon as the runtime ends; perhaps also after the driver was dropped.
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
