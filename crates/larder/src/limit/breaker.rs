//! Decides whether a request is worth sending.
//!
//! A request that fails or exceeds `response_timeout` opens the breaker of its domain (all names of one server, or of
//! a range of a cluster's slots). After a pause one request tries the store again, and the pause doubles while these
//! fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::error::{Error, ErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The breaker of one domain.
#[derive(Default)]
pub(super) struct Breaker(Mutex<Option<Open>>);

struct Open {
    error: Error,
    until: Tick,
    pause: Duration,
    /// Whether one request tries the store again. If that request is dropped, another may try after one more pause.
    probing: bool,
}

impl Breaker {
    /// Returns why a request is not worth sending. After a pause, one caller gets `None` and tries.
    pub(super) fn refusal(&self, now: Tick) -> Option<Error> {
        let mut state = self.state();
        let open = state.as_mut()?;
        if now < open.until {
            return Some(not_sent(&open.error));
        }
        (open.until, open.probing) = (now.after(open.pause), true);
        None
    }

    pub(super) fn answered(&self) {
        *self.state() = None;
    }

    /// Opens the breaker, but only for errors that mean that the store is down, not for errors of the request
    /// itself.
    pub(super) fn failed(&self, error: &Error, now: Tick) {
        use ErrorKind as Kind;
        let away = matches!(error.kind(), Kind::Refused | Kind::Disconnected | Kind::TimedOut);
        let not_now = matches!(error.kind(), Kind::ClusterDown | Kind::Loading);
        if away || not_now {
            let mut state = self.state();
            let pause = match state.as_ref() {
                None => FIRST_PAUSE,
                Some(open) if open.probing => (open.pause * 2).min(LONGEST_PAUSE),
                // Requests that were in flight together fail together: count them as one failure.
                Some(_) => return,
            };
            *state = Some(Open { error: error.clone(), until: now.after(pause), pause, probing: false });
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a request that was not sent. Nothing is charged, whatever happened to the request that failed
/// before.
fn not_sent(error: &Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::TimedOut | ErrorKind::Disconnected => ErrorKind::Refused,
        kind => kind,
    };
    Error::with_source(kind, "not sent: the store has just failed and is retried soon", error.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_open_breaker_lets_one_caller_try_after_each_pause() {
        let micros = Arc::new(AtomicU64::new(0));
        let (clock, breaker) = (Clock::Manual(micros.clone()), Breaker::default());
        assert!(breaker.refusal(clock.now()).is_none());
        breaker.failed(&Error::timed_out(Duration::from_secs(1)), clock.now());
        let refused = breaker.refusal(clock.now()).unwrap();
        assert!(refused.is_retryable() && !refused.is_indeterminate(), "{refused:?}");
        micros.fetch_add(100_000, Ordering::AcqRel);
        assert!(breaker.refusal(clock.now()).is_none());
        assert!(breaker.refusal(clock.now()).is_some());
        breaker.answered();
        assert!(breaker.refusal(clock.now()).is_none());
    }

    #[test]
    fn pauses_grow_with_each_try_that_fails_however_fast_and_not_with_failures_at_one_time() {
        let micros = Arc::new(AtomicU64::new(0));
        let (clock, breaker) = (Clock::Manual(micros.clone()), Breaker::default());
        let error = Error::new(ErrorKind::Refused, "connection refused");
        breaker.failed(&error, clock.now());
        breaker.failed(&error, clock.now());
        for pause in [100_000, 200_000, 400_000, 800_000, 1_600_000, 2_000_000, 2_000_000] {
            micros.fetch_add(pause - 1, Ordering::AcqRel);
            assert!(breaker.refusal(clock.now()).is_some(), "{pause}");
            micros.fetch_add(1, Ordering::AcqRel);
            assert!(breaker.refusal(clock.now()).is_none(), "{pause}");
            breaker.failed(&error, clock.now());
            breaker.failed(&error, clock.now());
        }
    }

    #[test]
    fn what_the_store_says_about_a_request_does_not_open_it() {
        let (clock, breaker) = (Clock::default(), Breaker::default());
        breaker.failed(&Error::new(ErrorKind::WrongType, "a list"), clock.now());
        assert!(breaker.refusal(clock.now()).is_none());
    }
}
