//! A turn that the store has booked for a caller: permits that may be used from a given time, for a short while.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::decision::{DecidedBy, Decision};
use super::quota::Quota;
use super::request::drift;
use super::{Plan, RateLimiter};
use crate::clock::Tick;
use crate::error::Error;
use crate::name::Name;
use crate::store::limit::{ChargeStamp, Charged, LimitStore};

/// The longest delay after which a turn may still be used.
const LATEST: Duration = Duration::from_millis(100);
/// The resolution of timers, and the delay that is always accepted, also for windows so short that a sixtieth is
/// less.
const TIMER: Duration = Duration::from_millis(2);

/// Permits that a caller may use from a given time. Given back unless they are taken.
pub(super) struct BookedTurn {
    pub(super) limiter: RateLimiter,
    pub(super) name: Name,
    pub(super) plan: Arc<Plan>,
    /// The charge, as far as it belongs to this caller.
    pub(super) charged: Charged,
    /// When the request left, and when its answer came.
    pub(super) sent: Tick,
    pub(super) answered: Tick,
    /// The time after which the caller takes no turn.
    pub(super) deadline: Option<Tick>,
    /// The queue's restart count when the turn was requested.
    pub(super) restarts: u64,
    pub(super) taken: bool,
}

impl BookedTurn {
    /// Returns when a turn may be used. It counts from the arrival of the reply, which is later than the booking.
    /// `drift` covers a local clock that is fast.
    pub(super) fn due(answered: Tick, wait: u64) -> Tick {
        let span = Duration::from_micros(wait);
        answered.after(span + drift(span))
    }

    /// Sleeps until the turn. `restarted` completes when the queue is restarted. Returns a refusal, after giving the
    /// turn back, if the caller's time is over. Returns `None`, after giving the turn back, if the caller must ask
    /// again because it woke up too late, the key was reset or the quotas changed.
    pub(super) async fn take(mut self, restarted: impl Future<Output = ()>) -> Option<Decision> {
        let due = Self::due(self.answered, self.charged.wait);
        let latest = self.latest(due);
        if due > latest {
            return self.give_back().await;
        }
        if self.charged.wait > 0 {
            tokio::select! {
                () = restarted => return self.give_back().await,
                () = tokio::time::sleep(due.since(self.limiter.now())) => {}
            }
        }
        if self.deadline.is_some_and(|deadline| self.limiter.now() > deadline.after(TIMER)) {
            let (wait, remaining) = (0, self.charged.remaining + self.charged.granted);
            let charged = Charged { granted: 0, wait, remaining, ..self.charged };
            let refusal = Decision::of(&self.name, charged, &self.plan, DecidedBy::Store);
            self.give_back().await;
            return Some(refusal);
        }
        // A turn that was free at once may also be late: the task that books it runs even while this caller's runtime
        // is blocked.
        if self.limiter.now() > latest {
            return self.give_back().await;
        }
        self.taken = true;
        let slept = u64::try_from(self.limiter.now().since(self.answered).as_micros()).unwrap_or(u64::MAX);
        let charged = Charged { reset: self.charged.reset.saturating_sub(slept), ..self.charged };
        Some(Decision::of(&self.name, charged, &self.plan, DecidedBy::Store))
    }

    /// Returns the last moment at which the turn may be used. `due` is the turn's time, counted from the arrival of the
    /// answer. If the answer took long, it may have been late, so the store's clock limits the time, too. A permit that
    /// was free at once may be used when its answer arrives, however long that took.
    fn latest(&self, due: Tick) -> Tick {
        let late = self.tolerance();
        let by_answer = due.after(late);
        if self.charged.wait == 0 || self.answered.since(self.sent) <= late {
            return by_answer;
        }
        let store = self.limiter.inner.context.coordination();
        let known = store.ok().and_then(|store| store.local_time(&self.name, self.charged.stamp.when));
        known.map_or(by_answer, |time| time.after(late).min(by_answer))
    }

    /// Returns the longest delay after which the turn may be used. If an override booked the turn, the shortest window
    /// of its quotas counts, too: as the label of any of them has it.
    fn tolerance(&self) -> Duration {
        let own = self.plan.shortest;
        let shortest = self.charged.label.map_or(own, |label| Quota::shortest_of(label).min(own));
        (shortest / 60).min(LATEST).max(TIMER)
    }

    /// Gives the turn back and waits until that is done, so that the caller's next request does not find it charged.
    async fn give_back(mut self) -> Option<Decision> {
        self.taken = true;
        let Self { limiter, name, charged, .. } = &self;
        limiter.give_back_in_time(name, charged.stamp, charged.granted).await;
        None
    }
}

impl RateLimiter {
    /// Gives permits back in the background, so that it is done exactly once even if this future is dropped, and waits
    /// until it is done. Returns the error if it failed.
    pub(super) async fn give_back_in_time(
        &self,
        name: &Name,
        stamp: ChargeStamp,
        permits: u64,
    ) -> Option<Error> {
        let (answer, given) = oneshot::channel();
        self.give_back_in_background(name, stamp, permits, move |given| {
            // The receiver may be gone.
            let _ = answer.send(given);
        });
        given.await.ok()?.err()
    }
}

impl Drop for BookedTurn {
    fn drop(&mut self) {
        if !self.taken {
            let Self { limiter, name, charged, .. } = &*self;
            limiter.give_back_later(name, charged.stamp, charged.granted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Larder;
    use crate::store::limit::Label;

    fn booked(limiter: &RateLimiter, stamp: ChargeStamp, label: Option<Label>) -> BookedTurn {
        let now = limiter.now();
        BookedTurn {
            limiter: limiter.clone(),
            name: limiter.record("a").unwrap(),
            plan: limiter.plan(),
            charged: Charged {
                granted: 1,
                binding: 0,
                remaining: 0,
                wait: 50_000,
                reset: 100_000,
                stamp,
                label,
            },
            sent: now,
            answered: now,
            deadline: None,
            restarts: 0,
            taken: false,
        }
    }

    #[tokio::test]
    async fn a_turn_of_an_override_is_late_by_its_shortest_window_where_that_is_shorter() {
        let larder = Larder::connect("memory:").await.unwrap();
        let limiter = larder.rate_limiter("api", Quota::per_minute(100)).unwrap();
        let millis = Duration::from_millis;
        let over = |windows: &[u64]| {
            let quotas: Vec<Quota> = windows.iter().map(|window| Quota::new(5, millis(*window))).collect();
            Plan::new(quotas.into()).unwrap().labels().collect::<Vec<_>>()
        };
        let hour = 3_600_000;
        let cases = [
            (vec![100], TIMER),
            (vec![600], millis(10)),
            (vec![hour], LATEST),
            // The quota that books the turn may be the one with the longer window.
            (vec![600, hour], millis(10)),
            (vec![hour, 600], millis(10)),
            (vec![hour, 100], TIMER),
            (vec![hour, 2 * hour], LATEST),
        ];
        for (windows, late) in cases {
            for label in over(&windows) {
                let turn = booked(&limiter, ChargeStamp::default(), Some(label));
                let due = BookedTurn::due(turn.answered, turn.charged.wait);
                let found = turn.latest(due).since(due);
                // The shortest window of several is known to one part in 32.
                assert!(found <= late && found >= late * 31 / 32, "{windows:?}: {found:?}");
            }
        }
        let own = booked(&limiter, ChargeStamp::default(), None);
        assert_eq!(own.tolerance(), LATEST);
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn a_turn_is_given_back_whole_although_its_caller_is_dropped_meanwhile() {
        let (larder, world) = crate::testing::world().build();
        let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
        let stamp = limiter.check("a").await.unwrap().stamp;
        let turn = booked(&limiter, stamp, None);
        let (name, changes) = (turn.name.clone(), limiter.changes(&turn.name));
        world.latency(Duration::from_millis(100));
        assert!(futures_util::FutureExt::now_or_never(turn.give_back()).is_none());
        world.advance(Duration::from_secs(1)).await;
        // The refusals that are known end with it, and the callers that wait are woken.
        assert!(limiter.changes(&name) > changes);
        assert_eq!(limiter.remaining("a").await.unwrap(), 1);
    }
}
