//! Runs a body of code under a lock.

use std::future::Future;
use std::time::Duration;

use super::Lock;
use super::guard::{Guard, LockHandle};
use crate::error::Result;

impl Lock {
    /// Acquires the lock, runs the body, and releases the lock. Returns the body's result, or the reason why the
    /// body was stopped.
    ///
    /// The lock is kept alive meanwhile, up to [`max_hold`](Self::max_hold). If the lock is lost, the body is
    /// dropped at its next await. The body gets a [`LockHandle`] with the fence and the state of the lock. `Ok`
    /// does not prove that the lock was held until the body's end, because it may be lost between two awaits: let
    /// the resource check the fence if a late write must be refused.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let reports = larder.lock("reports");
    /// let lines = reports.run(|lock| async move {
    ///     println!("writing with fence {}", lock.fence());
    ///     42
    /// });
    /// assert_eq!(lines.await?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors in the first list mean that the body has not started. The body's own result is returned unchanged,
    /// even if it is an error or the release fails afterwards. A failed release is retried in the background.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// While the body runs:
    ///
    /// - [`LockLost`](crate::ErrorKind::LockLost): the lock was lost and the body was stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body and releases the lock in the background.
    pub async fn run<T, F>(&self, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        Self::run_under(self.clone().keep_alive().acquire().await?, body).await
    }

    /// As [`run`](Self::run), but waits in the queue for at most `max_wait`.
    ///
    /// # Errors
    ///
    /// - [`LockHeld`](crate::ErrorKind::LockHeld): others held the lock all the time, and the body has not started.
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// [`LockLost`](crate::ErrorKind::LockLost) can also mean that the lock was lost and the body was stopped.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_within<T, F>(&self, max_wait: Duration, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        Self::run_under(self.clone().keep_alive().acquire_within(max_wait).await?, body).await
    }

    /// As [`run`](Self::run) if the lock is free now. Otherwise returns `None` without starting the body.
    ///
    /// # Errors
    ///
    /// A lock that is held is `None`, not an error.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// [`LockLost`](crate::ErrorKind::LockLost) can also mean that the lock was lost and the body was stopped.
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
        // A release that fails is retried in the background.
        let _ = guard.release().await;
        Ok(result)
    }

    /// Runs the body until it ends or the guard is lost.
    pub(super) async fn hold_for<T, F>(guard: &Guard, body: impl FnOnce(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        let mut body = std::pin::pin!(body(guard.handle()));
        // Check the clock at each poll: the timer of `lost` may be late if the machine was suspended.
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
