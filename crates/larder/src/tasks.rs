//! The tasks that a `Larder` has spawned, so that closing it ends them.
//!
//! Tasks of one owner may run on several runtimes, and each runtime may end at any time. A runtime that ends drops
//! its tasks, even inside `spawn`. So no lock is held while a task is spawned or dropped.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The owner of background tasks. Dropping or closing it ends them all.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Arc<TaskList>);

#[derive(Debug, Default)]
struct TaskList {
    table: Mutex<TaskTable>,
    /// Notified when a task has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct TaskTable {
    closed: bool,
    next: u64,
    /// `None` while the task is being spawned.
    running: HashMap<u64, Option<AbortHandle>>,
}

impl TaskList {
    fn table(&self) -> MutexGuard<'_, TaskTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes its task from the list when the task ends, is aborted, or is dropped with its runtime.
struct TaskEntry {
    shared: Arc<TaskList>,
    number: u64,
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let ended = self.shared.table().running.remove(&self.number);
        drop(ended);
        self.shared.ended.notify_waiters();
    }
}

impl Tasks {
    /// Starts a task on the caller's runtime. Returns false and drops the task if the owner is closed or the caller
    /// has no runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        Handle::try_current().is_ok_and(|runtime| self.spawn_on(task, &runtime))
    }

    /// Starts a task on `runtime`. Returns false and drops the task if the owner is closed. A runtime that has ended
    /// drops the task as well.
    pub(crate) fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, runtime: &Handle) -> bool {
        let number = {
            let mut table = self.0.table();
            if table.closed {
                return false;
            }
            let number = table.next;
            table.next += 1;
            table.running.insert(number, None);
            number
        };
        let entry = TaskEntry { shared: self.0.clone(), number };
        let spawned = runtime.spawn(async move {
            let _entry = entry;
            task.await;
        });
        // The owner may have been closed since the table was unlocked. It found no handle of this task then, so abort
        // the task here.
        let mut table = self.0.table();
        if table.closed {
            spawned.abort();
        }
        // If the task has ended already, its entry is gone and must not come back.
        if let Some(running) = table.running.get_mut(&number) {
            *running = Some(spawned.abort_handle());
        }
        true
    }

    /// Ends every task. Waits until all are gone, for `max_wait` at most: a task on a blocked runtime ends later.
    pub(crate) async fn abort(&self, max_wait: Duration) {
        self.close_and_abort();
        self.settle(max_wait).await;
    }

    /// Lets the tasks finish within `max_wait`, and ends the others.
    pub(crate) async fn finish(&self, max_wait: Duration) {
        self.0.table().closed = true;
        self.settle(max_wait).await;
        self.close_and_abort();
    }

    /// Waits until no task runs, for `max_wait` at most.
    pub(crate) async fn settle(&self, max_wait: Duration) {
        let _ = tokio::time::timeout(max_wait, self.emptied()).await;
    }

    fn close_and_abort(&self) {
        let handles: Vec<AbortHandle> = {
            let mut table = self.0.table();
            table.closed = true;
            table.running.values().flatten().cloned().collect()
        };
        handles.iter().for_each(AbortHandle::abort);
    }

    async fn emptied(&self) {
        loop {
            // Register for the notification before looking, so that a task that ends in between is not missed.
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.table().running.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.close_and_abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_when_its_owner_closes_may_finish_and_then_nothing_starts() {
        let tasks = Tasks::default();
        let (tell, finished) = tokio::sync::oneshot::channel();
        assert!(tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tell.send(()).unwrap();
        }));
        assert!(tasks.spawn(std::future::pending()));
        tasks.finish(Duration::from_secs(5)).await;
        finished.await.unwrap();
        assert!(!tasks.spawn(async {}), "started after the end");
    }

    #[tokio::test]
    async fn an_aborted_task_is_gone_when_abort_returns() {
        let tasks = Tasks::default();
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        tasks.abort(LONG).await;
        assert!(gone.await.is_err());
    }

    #[test]
    fn a_task_for_a_runtime_that_has_ended_is_dropped_and_not_waited_for() {
        let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tasks, ended) = (Tasks::default(), build());
        let handle = ended.handle().clone();
        tasks.spawn_on(std::future::pending(), &handle);
        drop(ended);
        tasks.spawn_on(std::future::pending(), &handle);
        build().block_on(tasks.finish(LONG));
    }
}
