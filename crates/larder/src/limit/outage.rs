//! What to do while the store does not answer.
//!
//! A request that fails, or that the connection's timeout has passed over, opens the breaker of its domain (all names of one server, or of a stretch of a
//! cluster's slots). While it is open, decisions are made here at once; after a pause one request tries again, and the
//! pause doubles while those fail.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::RateLimiter;
use super::decision::{DecidedBy, Decision, RecordId};
use super::quota::Plan;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::limit::{Charge, ChargeMode, ChargeStamp};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a limiter decides while the store does not answer. [`Decision::decided_by`](super::Decision::decided_by) says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutagePolicy {
    /// Nothing: the call is an error. The default.
    #[default]
    Error,
    /// Refuse.
    Deny,
    /// Allow all.
    Allow,
    /// Allow a share of each limit, counted in this process: the limit divided by so many, rounded down. With GCRA the
    /// burst and the pace are divided.
    ///
    /// The number is how many [`Larder`](crate::Larder)s ask for this limit at the most, of all processes and hosts and at
    /// any one time, a rolling deployment's old and new ones together. larder cannot know it: with a number that is too
    /// low, more than the limit is admitted. All handles of one limiter name on one `Larder` share one count. A share of
    /// less than one permit is none: such a limiter refuses all while the store is away.
    ///
    /// While the store is away, each admits at most its share in any window of its own clock, and so all together at
    /// most the limit; a window in which the outage begins or ends can hold what the store admitted as well, and leases
    /// that are still out, so twice the limit. What is admitted here is not charged to the store afterwards.
    ///
    /// Its decisions are [`DecidedBy::Outage`](super::DecidedBy::Outage), and `remaining`, `retry_after` and `reset_after`
    /// are those of the share; `limit` is the quota's own.
    LocalShare(u32),
}

/// Whether requests are worth sending.
#[derive(Default)]
pub(super) struct Breaker(Mutex<Option<Open>>);

struct Open {
    error: Error,
    until: Tick,
    pause: Duration,
    /// Whether one request is trying again; until the pause is over once more, in case it is dropped.
    probing: bool,
}

impl Breaker {
    /// Why a request is not worth sending. Once a pause is over, one caller is told that it is.
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

    /// Only what says that the store is away opens it, not what it says about a request.
    pub(super) fn failed(&self, error: &Error, now: Tick) {
        use ErrorKind as Kind;
        let away = matches!(error.kind(), Kind::Refused | Kind::Disconnected | Kind::TimedOut);
        let not_now = matches!(error.kind(), Kind::ClusterDown | Kind::Loading);
        if away || not_now {
            let mut state = self.state();
            let pause = match state.as_ref() {
                None => FIRST_PAUSE,
                Some(open) if open.probing => (open.pause * 2).min(LONGEST_PAUSE),
                // Many that were under way fail together: they are one failure.
                Some(_) => return,
            };
            *state = Some(Open { error: error.clone(), until: now.after(pause), pause, probing: false });
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call hears that was never sent: nothing is charged, whatever became of the request that failed.
fn not_sent(error: &Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::TimedOut | ErrorKind::Disconnected => ErrorKind::Refused,
        kind => kind,
    };
    Error::with_source(kind, "not sent: the store failed just now and is tried again soon", error.clone())
}

/// Whether the limiter's policy may decide in place of this error: the store was not there, or not ready.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_retryable()
}

impl RateLimiter {
    /// What the program wants while the store is away.
    pub(super) fn without_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        take: ChargeMode,
        cost: u64,
        error: Error,
    ) -> Result<Decision> {
        self.decide_without_store(name, plan, take, cost, error).map(|(decision, _)| decision)
    }

    /// The same, and where the share of this program has counted it.
    fn decide_without_store(
        &self,
        name: &Name,
        plan: &Arc<Plan>,
        take: ChargeMode,
        cost: u64,
        error: Error,
    ) -> Result<(Decision, ChargeStamp)> {
        let whole = matches!(take, ChargeMode::All | ChargeMode::Look);
        if whole {
            plan.check_cost(cost)?;
        }
        if !is_outage(&error) {
            return Err(error);
        }
        let blunt = |granted| Decision {
            granted,
            binding: plan.quota(0),
            remaining: 0,
            // Nobody knows; not to come back at once is the point.
            retry_after: Duration::from_secs(1),
            reset_after: Duration::from_secs(1),
            decided_by: DecidedBy::Outage,
            stamp: ChargeStamp::default(),
            record: RecordId::of(name),
            counted_here: false,
        };
        let granted = match self.inner.outage {
            OutagePolicy::Error => return Err(error),
            OutagePolicy::Deny => 0,
            // As much as there is, is never more than the limit.
            OutagePolicy::Allow if whole => cost,
            OutagePolicy::Allow => cost.min(plan.most),
            OutagePolicy::LocalShare(instances) => {
                // A cost above the share never fits into it: it has to wait for the store.
                let payable = |limit: u64| !whole || cost <= limit;
                let share = plan.share(instances);
                match share.filter(|share| share.iter().all(|term| payable(term.limit))) {
                    None => 0,
                    Some(terms) => {
                        let penalty = self.inner.penalty;
                        let charge = Charge { terms: &terms, take, cost, charge_at: 0, max_wait: 0, penalty };
                        let charged = self.inner.local.share.charge(name.as_str(), charge, self.now());
                        let decision = Decision::of(name, charged, plan, DecidedBy::Outage);
                        let decision =
                            Decision { stamp: ChargeStamp::default(), counted_here: true, ..decision };
                        return Ok((decision, charged.stamp));
                    }
                }
            }
        };
        Ok((blunt(granted), ChargeStamp::default()))
    }

    /// Gives back what the share of this program has counted.
    fn give_back_to_share(&self, name: &Name, plan: &Plan, permits: u64, stamp: ChargeStamp) {
        if let OutagePolicy::LocalShare(instances) = self.inner.outage
            && let Some(terms) = plan.share(instances).filter(|_| stamp != ChargeStamp::default())
        {
            self.inner.local.share.refund(name.as_str(), &terms, permits, stamp, self.now());
        }
    }
}

/// A key that is decided together with others.
pub(super) struct Away<'a> {
    pub(super) limiter: &'a RateLimiter,
    pub(super) name: &'a Name,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) cost: u64,
}

/// Each key by the policy of its limiter: one that refuses, refuses for all, and then no share counts anything.
pub(super) fn together_without_store(keys: &[Away<'_>], error: &Error) -> Result<Vec<Decision>> {
    let decide = |key: &Away<'_>, take| {
        key.limiter.decide_without_store(key.name, key.plan, take, key.cost, error.clone())
    };
    let looked = keys.iter().map(|key| decide(key, ChargeMode::Look)).collect::<Result<Vec<_>>>()?;
    if !looked.iter().all(|(looked, _)| looked.is_allowed()) {
        // One that refuses by itself is asked again, since that may begin a block.
        let each = keys.iter().zip(looked).map(|(key, (looked, _))| {
            if looked.is_allowed() {
                Ok(looked.refused_with_others())
            } else {
                Ok(decide(key, ChargeMode::All)?.0)
            }
        });
        return each.collect();
    }
    let decided = keys.iter().map(|key| decide(key, ChargeMode::All)).collect::<Result<Vec<_>>>()?;
    if decided.iter().all(|(decision, _)| decision.is_allowed()) {
        return Ok(decided.into_iter().map(|(decision, _)| decision).collect());
    }
    // Another thread has taken what was free a moment ago.
    let each = keys.iter().zip(decided).map(|(key, (decision, stamp))| {
        key.limiter.give_back_to_share(key.name, key.plan, decision.granted, stamp);
        decision.refused_with_others()
    });
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
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
        let error = Error::new(ErrorKind::Refused, "nobody there");
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

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_flood_of_keys_in_an_outage_is_gone_from_the_share_after_its_windows() {
        let server = larder_testkit::Server::start();
        let builder = crate::Larder::builder().url(server.url());
        let larder = builder.response_timeout(Duration::from_millis(200)).connect().await.unwrap();
        let quota = crate::Quota::new(30, Duration::from_secs(3));
        let limiter = larder.rate_limiter("api", quota).unwrap().outage(OutagePolicy::LocalShare(1)).unwrap();
        server.pause();
        for key in 0..20_000 {
            assert!(limiter.allow(key).await.unwrap(), "{key}");
        }
        let share = &limiter.inner.local.share;
        let (flood, room) = share.size();
        assert!(flood > 1000 && room >= flood, "{flood}");
        server.resume();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while share.size().0 > 0 {
            assert!(std::time::Instant::now() < end, "{} of {flood} are left", share.size().0);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(share.size().1 < 5_000, "room for {} of {room} is left", share.size().1);
    }

    #[test]
    fn what_the_store_says_about_a_request_does_not_open_it() {
        let (clock, breaker) = (Clock::default(), Breaker::default());
        breaker.failed(&Error::new(ErrorKind::WrongType, "a list"), clock.now());
        assert!(breaker.refusal(clock.now()).is_none());
    }
}
