//! The tasks that a `Larder` spawned, so that closing it ends them.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// Owner of background tasks: dropping or closing it ends them all.
#[derive(Debug)]
pub(crate) struct Tasks(Mutex<Option<JoinSet<()>>>);

impl Default for Tasks {
    fn default() -> Self {
        Self(Mutex::new(Some(JoinSet::new())))
    }
}

impl Tasks {
    /// Starts a task, unless the owner is closed or there is no runtime any more (a guard dropped at the very end
    /// of `main`): then the task is dropped. Whether it was started.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return false };
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = set.as_mut() else { return false };
        while set.try_join_next().is_some() {}
        set.spawn_on(task, &runtime);
        true
    }

    /// Ends every task and waits until each is gone.
    pub(crate) async fn abort(&self) {
        if let Some(mut set) = self.close() {
            set.shutdown().await;
        }
    }

    /// Lets the tasks come to their end, for as long as `patience` lasts, and ends the others.
    pub(crate) async fn finish(&self, patience: Duration) {
        if let Some(mut set) = self.close() {
            let finished = async { while set.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(patience, finished).await;
            set.shutdown().await;
        }
    }

    fn close(&self) -> Option<JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
