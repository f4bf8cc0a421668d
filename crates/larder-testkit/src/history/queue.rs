//! Checks that the attempts at a lock were granted in the order in which they were queued.
//!
//! The problem: no single process sees that a waiter was overtaken, and the order of two attempts is certain only for
//! some pairs: two requests that were under way at the same time may have arrived in either order. The mechanism: each
//! attempt is noted with the time before it was made ([`Attempt::asked`]), the time after its process learned that it
//! is queued, and the time after it was granted, with its fence. If one attempt was known to be queued before another
//! was made, the first is before the second in the queue. The fences give the order of the server's grants.
//!
//! An attempt is *live* from the moment when its process learned that it is queued until it is granted or gives up, or
//! until the first [`Fault`](super::Fault) of its process or of the server begins. A later attempt has overtaken a live
//! one if it was known to be granted while the first was live, and before the first was granted. If a fault was not
//! over when the attempt was queued, the attempt is never live: nothing is promised to a process while a fault concerns
//! it. Losing its place while it is live is no excuse: the first time in the queue counts.
//!
//! Invariants: nothing is reported as a violation that two requests under way at the same time, a clock, or a noted
//! fault could explain. The check costs n log n, and one comparison for each pair that waited at the same time.
//!
//! Not guaranteed: that a violation is found if there are faults all the time. Check the number of pairs that were
//! judged.

use std::fmt;

use super::Calm;

/// An attempt at a lock, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The process that made it.
    pub process: u32,
    /// Its number among the attempts of the process.
    pub number: u64,
    /// A time before it was made, in nanoseconds of the monotonic clock.
    pub asked: u64,
    /// A time after its process first learned that it is queued.
    pub queued: Option<u64>,
    /// How it ended.
    pub end: Ending,
}

/// How an [`Attempt`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this fence, which was known at this time.
    Granted {
        /// The grant's number.
        fence: u64,
        /// A time after it.
        at: u64,
    },
    /// It was still waiting at this time, and gave up after that.
    GaveUp {
        /// A time before it.
        at: u64,
    },
    /// It was not noted: its process was killed.
    Unknown,
}

impl Ending {
    /// Until when it was not known to be granted.
    fn waited_until(self) -> Option<u64> {
        match self {
            Self::Granted { at, .. } | Self::GaveUp { at } => Some(at),
            Self::Unknown => None,
        }
    }
}

/// A live waiter, and a later attempt that was granted before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overtaken {
    /// The attempt that was queued first.
    pub waiter: Attempt,
    /// The attempt that was granted first.
    pub by: Attempt,
}

impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was overtaken by {:?}", self.waiter, self.by)
    }
}

/// Checks that no live waiter was overtaken, and returns the number of pairs that were judged.
///
/// # Errors
///
/// All waiters that were overtaken.
pub fn first_come_first_served(attempts: &[Attempt], calm: &Calm) -> Result<usize, Vec<Overtaken>> {
    let mut granted: Vec<(u64, u64, Attempt)> = attempts
        .iter()
        .filter_map(|attempt| match attempt.end {
            Ending::Granted { fence, at } => Some((fence, at, *attempt)),
            _ => None,
        })
        .collect();
    granted.sort_by_key(|(_, _, attempt)| attempt.asked);
    let (mut judged, mut overtaken) = (0, Vec::new());
    for waiter in attempts {
        let Some(since) = waiter.queued else { continue };
        let (own, ended) = match waiter.end {
            Ending::Granted { fence, at } => (fence, at),
            Ending::GaveUp { at } => (u64::MAX, at),
            Ending::Unknown => continue,
        };
        let lives = calm.until(waiter.process, since);
        let first = granted.partition_point(|(_, _, other)| other.asked < since);
        let later = granted.iter().skip(first).take_while(|(_, _, other)| other.asked <= ended.min(lives));
        for (fence, at, by) in later {
            // A waiter that gave up waited at least until its end. The fence of one that was granted gives its order.
            let before = if own == u64::MAX { *at <= ended } else { *fence < own };
            if before && *at <= lives {
                overtaken.push(Overtaken { waiter: *waiter, by: *by });
            }
            judged += usize::from(if before { *at <= lives } else { own != u64::MAX && ended <= lives });
        }
    }
    if overtaken.is_empty() { Ok(judged) } else { Err(overtaken) }
}

/// Checks that no live waiter was overtaken, for something that several may hold. Here a grant has no fence, only the
/// time at which its holder learned of it. So a waiter is overtaken by an attempt that was made after the waiter was
/// queued, and that learned of its grant more than `slack` before the waiter learned of its own, or gave up. Returns
/// how many pairs were judged, and all waiters that were overtaken.
#[must_use]
pub fn served_in_order(
    waiters: &[Attempt],
    grants: &[Attempt],
    calm: &Calm,
    slack: u64,
) -> (usize, Vec<Overtaken>) {
    let known = |attempt: &Attempt| match attempt.end {
        Ending::Granted { at, .. } => Some(at),
        _ => None,
    };
    let mut grants: Vec<(u64, Attempt)> =
        grants.iter().filter_map(|attempt| Some((known(attempt)?, *attempt))).collect();
    grants.sort_by_key(|(_, attempt)| attempt.asked);
    let (mut judged, mut overtaken) = (0, Vec::new());
    for waiter in waiters {
        let (Some(since), Some(ended)) = (waiter.queued, waiter.end.waited_until()) else { continue };
        let last = ended.saturating_sub(slack).min(calm.until(waiter.process, since));
        let first = grants.partition_point(|(_, other)| other.asked < since);
        for (at, by) in grants.iter().skip(first).take_while(|(_, other)| other.asked <= last) {
            judged += 1;
            if *at <= last {
                overtaken.push(Overtaken { waiter: *waiter, by: *by });
            }
        }
    }
    (judged, overtaken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Fault;
    use super::*;

    fn granted(process: u32, asked: u64, queued: u64, fence: u64, at: u64) -> Attempt {
        let end = Ending::Granted { fence, at };
        Attempt { process, number: asked, asked, queued: Some(queued), end }
    }

    fn gave_up(process: u32, asked: u64, queued: u64, at: u64) -> Attempt {
        Attempt { end: Ending::GaveUp { at }, ..granted(process, asked, queued, 0, 0) }
    }

    fn fault(process: Option<u32>, from: u64, until: u64) -> Fault {
        Fault { process, from, until }
    }

    #[test]
    fn serving_in_the_order_of_arrival_is_right() {
        let history = [granted(1, 0, 10, 1, 50), granted(2, 11, 20, 2, 60), granted(3, 21, 30, 3, 70)];
        assert_eq!(first_come_first_served(&history, &Calm::of(&[])), Ok(3));
    }

    #[test]
    fn a_later_attempt_that_is_served_before_a_live_waiter_has_overtaken_it() {
        let (waiter, by) = (granted(1, 0, 10, 2, 60), granted(2, 11, 20, 1, 50));
        let found = first_come_first_served(&[waiter, by], &Calm::of(&[]));
        assert_eq!(found, Err(vec![Overtaken { waiter, by }]));
        // So has an attempt that was never queued.
        let by = Attempt { queued: None, ..by };
        assert!(first_come_first_served(&[by, waiter], &Calm::of(&[])).is_err());
    }

    #[test]
    fn a_waiter_that_is_never_served_is_overtaken_by_attempts_served_while_it_waits() {
        let by = granted(2, 11, 20, 1, 50);
        assert!(first_come_first_served(&[gave_up(1, 0, 10, 55), by], &Calm::of(&[])).is_err());
        assert_eq!(
            first_come_first_served(&[gave_up(1, 0, 10, 49), by], &Calm::of(&[])),
            Ok(0),
            "it may have gone"
        );
        let unknown = Attempt { end: Ending::Unknown, ..gave_up(1, 0, 10, 0) };
        assert_eq!(first_come_first_served(&[unknown, by], &Calm::of(&[])), Ok(0), "it was killed");
    }

    #[test]
    fn two_that_asked_at_once_may_be_served_in_either_order() {
        assert_eq!(
            first_come_first_served(&[granted(1, 0, 10, 2, 60), granted(2, 9, 20, 1, 50)], &Calm::of(&[])),
            Ok(0)
        );
    }

    #[test]
    fn only_an_attempt_that_a_fault_concerns_may_be_overtaken_from_then_on() {
        let history = [granted(1, 0, 10, 2, 60), granted(2, 11, 20, 1, 50)];
        for excused in [
            fault(Some(1), 40, 45),
            fault(None, 50 - 1, 49),
            fault(Some(1), 0, 10), // not over when the attempt was queued
            fault(None, 5, u64::MAX),
        ] {
            assert_eq!(first_come_first_served(&history, &Calm::of(&[excused])), Ok(0), "{excused:?}");
        }
        for no_excuse in [
            fault(Some(2), 0, 100),
            fault(Some(1), 0, 9),   // over before
            fault(Some(1), 51, 99), // begun when it had been overtaken
        ] {
            assert!(first_come_first_served(&history, &Calm::of(&[no_excuse])).is_err(), "{no_excuse:?}");
        }
    }

    #[test]
    fn an_attempt_passed_over_for_longer_than_the_slack_is_found_though_several_hold() {
        let calm = Calm::of(&[]);
        let (waiter, by) = (granted(1, 0, 10, 0, 60), granted(2, 11, 20, 0, 50));
        assert_eq!(served_in_order(&[waiter], &[by], &calm, 9).1, [Overtaken { waiter, by }]);
        assert_eq!(served_in_order(&[waiter], &[by], &calm, 11), (1, vec![]));
        assert_eq!(served_in_order(&[gave_up(1, 0, 10, 49)], &[by], &calm, 0), (1, vec![]));
        let struck = Calm::of(&[fault(Some(1), 40, 45)]);
        assert_eq!(served_in_order(&[waiter], &[by], &struck, 9), (1, vec![]));
        assert_eq!(
            served_in_order(&[waiter], &[granted(2, 9, 20, 0, 50)], &calm, 9),
            (0, vec![]),
            "both at once"
        );
    }

    /// As the module's head says it.
    fn by_definition(attempts: &[Attempt], faults: &[Fault]) -> usize {
        let overtakes = |waiter: &Attempt, by: &Attempt| {
            let (Some(since), Ending::Granted { fence, at }) = (waiter.queued, by.end) else { return false };
            let struck = |fault: &Fault| {
                fault.process.is_none_or(|it| it == waiter.process) && fault.until >= since && fault.from < at
            };
            let before = match waiter.end {
                Ending::Granted { fence: own, at } => fence < own && by.asked <= at,
                Ending::GaveUp { at: ended } => at <= ended,
                Ending::Unknown => false,
            };
            by.asked >= since && before && !faults.iter().any(struck)
        };
        attempts.iter().map(|waiter| attempts.iter().filter(|by| overtakes(waiter, by)).count()).sum()
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        let end = prop_oneof![
            4 => (0..20u64, 0..10u64).prop_map(|(fence, at)| Ending::Granted { fence, at }),
            2 => (0..10u64).prop_map(|at| Ending::GaveUp { at }),
            1 => Just(Ending::Unknown),
        ];
        (1..4u32, 0..30u64, prop::option::of(0..8u64), end).prop_map(|(process, asked, line, end)| {
            let queued = line.map(|line| asked + line);
            let from = queued.unwrap_or(asked);
            let end = match end {
                Ending::Granted { fence, at } => Ending::Granted { fence, at: from + at },
                Ending::GaveUp { at } => Ending::GaveUp { at: from + at },
                Ending::Unknown => Ending::Unknown,
            };
            Attempt { process, number: asked, asked, queued, end }
        })
    }

    proptest! {
        #[test]
        fn any_history_is_judged_as_the_definition_says(
            attempts in prop::collection::vec(any_attempt(), 0..12),
            faults in prop::collection::vec((prop::option::of(1..4u32), 0..40u64, 0..10u64), 0..4),
        ) {
            let faults: Vec<Fault> =
                faults.into_iter().map(|(process, from, span)| fault(process, from, from + span)).collect();
            let found = first_come_first_served(&attempts, &Calm::of(&faults)).map_or_else(|found| found.len(), |_| 0);
            prop_assert_eq!(found, by_definition(&attempts, &faults));
        }
    }
}
