//! Running a body under a lock.

use std::future::Future;
use std::time::Duration;

use super::Lock;
use super::guard::{Guard, LockHandle};
use crate::error::Result;

impl Lock {
    /// Takes the lock, runs the body under it, and frees it: the body's result, or why it was stopped.
    ///
    /// The lock is kept alive meanwhile, up to [`max_hold`](Self::max_hold). When it is lost the body is dropped where
    /// it stands, at its next await; the lease tells its fence, and whether it is still held. `Ok` does not prove that
    /// the lock was held until the body's end: it may be lost between two awaits. What must not come late is for the
    /// fence to refuse.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let reports = larder.lock("reports");
    /// let lines = reports.run(|lease| async move {
    ///     println!("writing with fence {}", lease.fence());
    ///     42
    /// });
    /// assert_eq!(lines.await?, 42);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), with the body not begun; `LockLost` where it was stopped. What the body
    /// itself returns, an error or not, is returned as it is, also where freeing the lock fails afterwards: then it is
    /// freed in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body, and frees the lock in the background.
    pub async fn run<T, F>(&self, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        Self::run_under(self.clone().keep_alive().acquire().await?, body).await
    }

    /// As [`run`](Self::run), waiting in line no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` if others held it all the time; else as [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_within<T, F>(&self, patience: Duration, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        Self::run_under(self.clone().keep_alive().acquire_within(patience).await?, body).await
    }

    /// As [`run`](Self::run), if the lock is free at this moment; `None` if not, with the body not begun.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn try_run<T, F>(&self, body: impl FnOnce(LockHandle) -> F) -> Result<Option<T>>
    where
        F: Future<Output = T>,
    {
        match self.clone().keep_alive().try_acquire().await? {
            Some(guard) => Self::run_under(guard, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn run_under<T, F>(guard: Guard, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        let result = Self::hold_for(&guard, body).await?;
        // Where this fails it is freed in the background.
        let _ = guard.release().await;
        Ok(result)
    }

    /// Runs the body until it ends, or the guard is lost.
    pub(super) async fn hold_for<T, F>(guard: &Guard, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        let mut body = std::pin::pin!(body(guard.lease()));
        // The clock is asked each time: the timer of `lost` may be late where the machine was stopped.
        let held = std::future::poll_fn(|context| match guard.is_valid() {
            true => body.as_mut().poll(context).map(Ok),
            false => std::task::Poll::Ready(Err(guard.lost_error())),
        });
        tokio::select! {
            biased;
            () = guard.lost() => Err(guard.lost_error()),
            result = held => result,
        }
    }
}
