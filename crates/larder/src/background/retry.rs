//! Retries of work that fails for a while, with growing pauses.

use std::future::Future;
use std::time::Duration;

use crate::backoff::Backoff;

/// Whether work is tried again, or its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry<T = ()> {
    Again,
    Done(T),
}

/// Calls `attempt` until it is done, with the pauses of a default [`Backoff`]. `attempt` gets the pause that would
/// follow it, so that it can end when its time would then be over.
pub(crate) async fn retry<T, F: Future<Output = Retry<T>>>(attempt: impl FnMut(Duration) -> F) -> T {
    retry_with(Backoff::default(), attempt).await
}

/// Does the same with these pauses.
pub(crate) async fn retry_with<T, F: Future<Output = Retry<T>>>(
    mut backoff: Backoff,
    mut attempt: impl FnMut(Duration) -> F,
) -> T {
    loop {
        let pause = backoff.pause();
        if let Retry::Done(result) = attempt(pause).await {
            return result;
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_second() {
        let began = tokio::time::Instant::now();
        let mut times = Vec::new();
        retry(|_| {
            times.push(began.elapsed().as_millis());
            let next = if times.len() < 9 { Retry::Again } else { Retry::Done(()) };
            async move { next }
        })
        .await;
        assert_eq!(times, [0, 20, 60, 140, 300, 620, 1260, 2260, 3260]);
    }
}
