//! Checks that no window of a rate limit admitted more than the limit.
//!
//! The server decided between the moment before a call was sent and the moment after its answer. So calls that were
//! sent and answered within a window's length were decided within one window, and must not be more than the limit.

use super::Losses;

/// A call that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admitted {
    /// Before it was sent.
    pub sent: u64,
    /// After it was answered.
    pub answered: u64,
}

/// A window that held too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// When it begins.
    pub from: u64,
    /// How many were decided in it for certain.
    pub admitted: usize,
}

/// Checks that no window admitted more than `limit`. Returns how many windows were judged, the most that one admitted,
/// and all windows that admitted more.
#[must_use]
pub fn within_limit(
    admitted: &[Admitted],
    limit: usize,
    window: u64,
    losses: &Losses,
) -> (usize, usize, Vec<Exceeded>) {
    let mut all = admitted.to_vec();
    all.sort_unstable();
    let (mut most, mut violations) = (0, Vec::new());
    for (place, first) in all.iter().enumerate() {
        let end = first.sent.saturating_add(window);
        // A loss of data starts the count again: calls that may have been decided before it do not count with later
        // ones.
        if losses.touch(first.sent, end) {
            continue;
        }
        let within = all.iter().skip(place).take_while(|call| call.sent < end);
        let count = within.filter(|call| call.answered < end).count();
        most = most.max(count);
        if count > limit {
            violations.push(Exceeded { from: first.sent, admitted: count });
        }
    }
    (all.len(), most, violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(times: &[(u64, u64)]) -> Vec<Admitted> {
        times.iter().map(|(sent, answered)| Admitted { sent: *sent, answered: *answered }).collect()
    }

    #[test]
    fn a_window_that_holds_more_than_the_limit_is_found() {
        let three = calls(&[(0, 1), (50, 51), (98, 99)]);
        assert_eq!(within_limit(&three, 3, 100, &Losses::default()), (3, 3, vec![]));
        let found = within_limit(&three, 2, 100, &Losses::default()).2;
        assert_eq!(found, [Exceeded { from: 0, admitted: 3 }]);
    }

    #[test]
    fn what_may_have_been_decided_outside_of_the_window_or_before_a_loss_does_not_count() {
        let late = calls(&[(0, 1), (50, 51), (98, 100)]);
        assert_eq!(within_limit(&late, 2, 100, &Losses::default()).2, []);
        let three = calls(&[(0, 1), (50, 51), (98, 99)]);
        assert_eq!(within_limit(&three, 2, 100, &Losses::of([(60, 70)])).2, []);
        assert_eq!(within_limit(&three, 2, 100, &Losses::of([(160, 170)])).2.len(), 1);
    }
}
