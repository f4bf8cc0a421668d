//! When the child gets its signals.
//!
//! Two deadlines count: the lease's, which moves with every renewal, and that of the grace after SIGTERM, which does
//! not. Once SIGTERM was sent, a late renewal does not save the child: it is ending already.

use std::time::Duration;

/// SIGKILL is sent this long before the lease ends: a killed process needs a moment to be gone.
pub(super) const KILL_BEFORE: Duration = Duration::from_millis(200);
/// SIGTERM is sent this long before the grace has to begin.
const TERM_BEFORE: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for so long, unless the lease is renewed or lost.
    Wait(Duration),
    /// Send SIGTERM.
    Term,
    /// Send SIGKILL.
    Kill,
}

/// The signals of one child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    grace: Duration,
    /// When SIGTERM was sent, by a clock that goes on while the machine sleeps.
    term_at: Option<Duration>,
}

impl Schedule {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, term_at: None }
    }

    /// Whether a lease that lasts `remaining` more leaves no time to run a child.
    pub(super) fn is_too_late(&self, remaining: Duration) -> bool {
        remaining <= self.grace.saturating_add(TERM_BEFORE)
    }

    /// Whether the child is ending because the lease is.
    pub(super) fn is_ending(&self) -> bool {
        self.term_at.is_some()
    }

    /// Decides what to do at `now`, while the lease certainly lasts `remaining` more.
    pub(super) fn step(&mut self, remaining: Duration, now: Duration) -> Step {
        // Lost, or nearly: another program may hold the lock at once.
        if remaining <= KILL_BEFORE {
            self.term_at.get_or_insert(now);
            return Step::Kill;
        }
        let until_kill = remaining - KILL_BEFORE;
        match self.term_at {
            Some(sent) => {
                let kill_after = self.grace.saturating_add(TERM_BEFORE - KILL_BEFORE);
                match sent.saturating_add(kill_after).checked_sub(now) {
                    None | Some(Duration::ZERO) => Step::Kill,
                    Some(left) => Step::Wait(left.min(until_kill)),
                }
            }
            None => match remaining.checked_sub(self.grace.saturating_add(TERM_BEFORE)) {
                None | Some(Duration::ZERO) => {
                    self.term_at = Some(now);
                    Step::Term
                }
                Some(left) => Step::Wait(left),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lease_that_is_not_renewed_gives_sigterm_and_then_sigkill_before_its_end() {
        let mut schedule = Schedule::new(ms(5000));
        assert_eq!(schedule.step(ms(30_000), ms(0)), Step::Wait(ms(24_000)));
        assert_eq!(schedule.step(ms(6001), ms(23_999)), Step::Wait(ms(1)));
        assert!(!schedule.is_ending());
        assert_eq!(schedule.step(ms(6000), ms(24_000)), Step::Term);
        assert!(schedule.is_ending());
        assert_eq!(schedule.step(ms(6000), ms(24_000)), Step::Wait(ms(5800)));
        assert_eq!(schedule.step(ms(200), ms(29_800)), Step::Kill);
    }

    #[test]
    fn a_renewal_after_sigterm_gives_no_more_time_than_the_grace() {
        let mut schedule = Schedule::new(ms(0));
        assert_eq!(schedule.step(ms(1000), ms(100)), Step::Term);
        assert_eq!(schedule.step(ms(9000), ms(200)), Step::Wait(ms(700)));
        assert_eq!(schedule.step(ms(8300), ms(900)), Step::Kill);
    }

    #[test]
    fn a_lost_lease_kills_at_once() {
        let mut schedule = Schedule::new(ms(5000));
        assert_eq!(schedule.step(ms(20_000), ms(0)), Step::Wait(ms(14_000)));
        assert_eq!(schedule.step(ms(0), ms(10)), Step::Kill);
        assert!(schedule.is_ending());
    }
}
