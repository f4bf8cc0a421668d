//! What to do while the store does not answer.
//!
//! A request that fails or is late opens the breaker of its domain (all names of one server, or of a stretch of a
//! cluster's slots). While it is open, decisions are made here at once; after a pause one request tries again, and the
//! pause doubles while those fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Tick;
use crate::error::{Error, ErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a limiter decides while the store does not answer. [`Decision::decided_by`](super::Decision::decided_by) says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Outage {
    /// Nothing: the call is an error. The default.
    #[default]
    Error,
    /// Refuse.
    Deny,
    /// Allow all.
    Allow,
    /// Allow this program's share, counted in its own memory: the limit divided by so many programs, rounded down.
    ///
    /// While the store is away, all of them together admit at most the limit in any window; a window in which the
    /// outage begins or ends can hold what the store admitted as well, so twice the limit. What is admitted here is
    /// not charged to the store afterwards.
    LocalShare(u32),
}

/// Whether requests are worth sending.
#[derive(Default)]
pub(super) struct Breaker(Mutex<Option<Open>>);

struct Open {
    error: Error,
    until: Tick,
    pause: Duration,
}

impl Breaker {
    /// Why a request is not worth sending. Once a pause is over, one caller is told that it is.
    pub(super) fn refusal(&self, now: Tick) -> Option<Error> {
        let mut state = self.state();
        let open = state.as_mut()?;
        if now < open.until {
            return Some(open.error.clone());
        }
        open.until = now.after(open.pause);
        None
    }

    pub(super) fn answered(&self) {
        *self.state() = None;
    }

    /// Only what says that the store is away opens it, not what it says about a request.
    pub(super) fn failed(&self, error: &Error, now: Tick) {
        use ErrorKind as Kind;
        let away = matches!(error.kind(), Kind::Refused | Kind::Disconnected | Kind::TimedOut);
        let not_now = matches!(error.kind(), Kind::ClusterDown | Kind::Loading);
        if away || not_now {
            let mut state = self.state();
            let pause = state.as_ref().map_or(FIRST_PAUSE, |open| (open.pause * 2).min(LONGEST_PAUSE));
            // Many that were under way fail together: they are one failure.
            if state.as_ref().is_none_or(|open| now >= open.until || open.pause == FIRST_PAUSE) {
                *state = Some(Open { error: error.clone(), until: now.after(pause), pause });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the limiter's policy may decide in place of this error: the store was not there, or not ready.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_retryable()
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
        assert_eq!(breaker.refusal(clock.now()).unwrap().kind(), ErrorKind::TimedOut);
        micros.fetch_add(100_000, Ordering::AcqRel);
        assert!(breaker.refusal(clock.now()).is_none());
        assert!(breaker.refusal(clock.now()).is_some());
        breaker.answered();
        assert!(breaker.refusal(clock.now()).is_none());
    }

    #[test]
    fn what_the_store_says_about_a_request_does_not_open_it() {
        let (clock, breaker) = (Clock::default(), Breaker::default());
        breaker.failed(&Error::new(ErrorKind::WrongType, "a list"), clock.now());
        assert!(breaker.refusal(clock.now()).is_none());
    }
}
