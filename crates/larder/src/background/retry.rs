//! Retries of background work, with growing pauses.

use std::future::Future;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Whether background work is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Again,
    Done,
}

/// Calls `attempt` until it is done, with pauses of 20 ms that double up to one second. `attempt` gets the pause that
/// would follow it, so that it can end when its time would then be over.
pub(crate) async fn retry<F: Future<Output = Retry>>(mut attempt: impl FnMut(Duration) -> F) {
    let mut pause = FIRST;
    while attempt(pause).await == Retry::Again {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
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
