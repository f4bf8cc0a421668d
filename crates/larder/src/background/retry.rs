//! Retries of background work, with growing pauses.

use std::future::Future;
use std::time::Duration;

/// Pauses between attempts: each is twice the one before, up to the longest.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Returns the pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

impl Default for Backoff {
    /// From 20 ms to one second.
    fn default() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(1))
    }
}

/// Whether background work is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Again,
    Done,
}

/// Calls `attempt` until it is done, with the pauses of a default [`Backoff`]. `attempt` gets the pause that would
/// follow it, so that it can end when its time would then be over.
pub(crate) async fn retry<F: Future<Output = Retry>>(mut attempt: impl FnMut(Duration) -> F) {
    let mut backoff = Backoff::default();
    loop {
        let pause = backoff.pause();
        if attempt(pause).await == Retry::Done {
            return;
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
            let next = if times.len() < 9 { Retry::Again } else { Retry::Done };
            async move { next }
        })
        .await;
        assert_eq!(times, [0, 20, 60, 140, 300, 620, 1260, 2260, 3260]);
    }
}
