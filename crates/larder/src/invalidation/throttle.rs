//! Logs one line for many events of one kind.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines.
const APART: Duration = Duration::from_secs(10);

/// Counts events of one kind, and tells when to log them.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    logged: Option<Instant>,
    since: u64,
}

impl Throttle {
    /// Counts an event. If it is time for another line, returns how many events there were since the last
    /// one. The first event is logged at once.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < APART) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_in_ten_seconds_and_every_event_is_counted() {
        let (begun, mut throttle) = (Instant::now(), Throttle::default());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(throttle.note(at(0)), Some(1));
        assert!((0..10).flat_map(|second| [second; 100]).all(|second| throttle.note(at(second)).is_none()));
        assert_eq!(throttle.note(at(10)), Some(1001));
        assert_eq!(throttle.note(at(60)), Some(1));
    }
}
