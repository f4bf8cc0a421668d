//! How many permits in how long, and how they are counted.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::store::limit::{BUCKETS, LARGEST_LIMIT, Label, QuotaSpec, Rule};

const LARGEST_EXACT: u64 = 10_000;
/// Up to this limit a log is no larger than buckets, and it is exact.
const EXACT_BY_ITSELF: u64 = 20;
const SHORTEST_WINDOW: Duration = Duration::from_millis(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(366 * 24 * 3600);
/// The bits of the longest window in microseconds.
const WINDOW_BITS: u32 = 45;

/// At most `limit` permits in any `window`.
///
/// By default a quota counts in strict buckets, a sixtieth of the window each, and up to a limit of 20 by the time of
/// each permit. [`exact`](Self::exact) and [`gcra`](Self::gcra) choose otherwise. The guide to [rate limits]
/// compares them, and has the proof of the bounds.
///
/// | kind | admitted in any window | capacity returns | bytes a key |
/// |---|---|---|---|
/// | strict buckets | at most the limit | up to 1/60 of the window late | 29 to 149, from 65,536 on 271 |
/// | exact, and any limit up to 20 | at most the limit | on time | 29 and 4 to 6 a permit |
/// | GCRA | at most the limit and the burst | evenly | 29 |
///
/// The bytes are those of the value of one quota, without the key; buckets take up to 271 (from 65,536 on 515)
/// while a permit batch or a turn is charged ahead. *Strict buckets* are the usual bucketed sliding window (Figma's
/// write-up of 2017 has sixty buckets a window), but the oldest bucket counts in full, which makes the bound
/// strict. *Exact* is the sliding-window log, in 4 to 6 bytes a permit where a sorted set takes a hundred. *GCRA*
/// is the algorithm of ITU-T I.371.
///
/// [rate limits]: crate::guide::rate_limits
///
/// ```
/// use std::time::Duration;
/// use larder::Quota;
///
/// let plain = Quota::per_minute(100);
/// let exact = Quota::new(500, Duration::from_secs(90)).exact();
/// let paced = Quota::per_second(10).gcra(3);
/// # let _ = (plain, exact, paced);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u64,
    window: Duration,
    method: Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Method {
    BySize,
    Exact,
    Gcra { burst: u64 },
}

impl Quota {
    /// Allows at most `limit` (1 to 1,431,655,765) in any `window` (a millisecond to 366 days).
    #[must_use]
    pub const fn new(limit: u64, window: Duration) -> Self {
        Self { limit, window, method: Method::BySize }
    }

    /// Allows at most `limit` in any second.
    #[must_use]
    pub const fn per_second(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(1))
    }

    /// Allows at most `limit` in any 60 seconds.
    #[must_use]
    pub const fn per_minute(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(60))
    }

    /// Allows at most `limit` in any 60 minutes.
    #[must_use]
    pub const fn per_hour(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(3600))
    }

    /// Allows at most `limit` in any 24 hours.
    #[must_use]
    pub const fn per_day(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(24 * 3600))
    }

    /// Counts by the time of each permit (a sliding-window log), so that capacity returns exactly when the window
    /// has passed, and not up to a sixtieth later. Admits at most the limit in any window. For limits up to 10,000:
    /// the record takes 4 bytes a permit, 5 for windows above 71 minutes and 6 above 12 days, and the server copies
    /// it with every admission. Limits up to 20 are always counted this way.
    #[must_use]
    pub const fn exact(self) -> Self {
        Self { method: Method::Exact, ..self }
    }

    /// Spaces permits evenly: one every `window / limit`, and up to `burst` at once after a pause. Use it for a
    /// smooth load on the resource behind the limiter.
    ///
    /// A window can admit `limit + burst`: first the burst and then the pace. A burst of 1 is even spacing. The
    /// pace is kept in whole microseconds, rounded to the slow side; a rate that this would slow by more than a
    /// hundredth is refused. This is the generic cell rate algorithm of ITU-T I.371, in the form of virtual
    /// scheduling.
    #[must_use]
    pub const fn gcra(self, burst: u64) -> Self {
        Self { method: Method::Gcra { burst }, ..self }
    }

    /// Returns the limit.
    #[must_use]
    pub const fn limit(self) -> u64 {
        self.limit
    }

    /// Returns the window.
    #[must_use]
    pub const fn window(self) -> Duration {
        self.window
    }

    /// Encodes what a store keeps beside a spec of an override: limit (4 bytes); the shortest window of all its quotas
    /// in [`coarse`] form (0 if that is this one's) times 2^45, plus the window in microseconds (7); and counting
    /// method (4).
    pub(super) fn label(self, shortest: Duration) -> Label {
        let method = match self.method {
            Method::BySize => 0,
            Method::Exact => u64::from(u32::MAX),
            Method::Gcra { burst } => burst,
        };
        let shortest = if shortest < self.window { coarse(micros(shortest)) } else { 0 };
        let windows = (shortest << WINDOW_BITS) + micros(self.window);
        let parts = [(self.limit, 4), (windows, 7), (method, 4)];
        let bytes =
            parts.into_iter().flat_map(|(number, bytes)| number.to_be_bytes().into_iter().skip(8 - bytes));
        let mut label = Label::default();
        label.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        label
    }

    pub(super) fn from_label(label: Label) -> Self {
        let method = match number(label, 11, 4) {
            0 => Method::BySize,
            burst if burst == u64::from(u32::MAX) => Method::Exact,
            burst => Method::Gcra { burst },
        };
        let window = Duration::from_micros(number(label, 4, 7) % (1 << WINDOW_BITS));
        Self { limit: number(label, 0, 4), window, method }
    }

    /// Returns the shortest window of the override that a label belongs to: up to a 32nd less if it has several quotas.
    pub(super) fn shortest_of(label: Label) -> Duration {
        match number(label, 4, 7) >> WINDOW_BITS {
            0 => Self::from_label(label).window,
            coarse => Duration::from_micros((32 + coarse % 32) << (coarse / 32)),
        }
    }

    /// Converts it to the store's `QuotaSpec`, or fails if it is invalid.
    pub(super) fn spec(self) -> Result<QuotaSpec> {
        if !(1..=LARGEST_LIMIT).contains(&self.limit) {
            return Err(Error::invalid(format!("a limit is from 1 to {LARGEST_LIMIT}, not {}", self.limit)));
        }
        if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&self.window) {
            return Err(Error::invalid(format!(
                "a window is from {SHORTEST_WINDOW:?} to 366 days, not {:?}",
                self.window
            )));
        }
        // Rounded up, here and below: the counted span must not be shorter than the window.
        let window = micros(self.window);
        let limit = self.limit;
        match self.method {
            Method::BySize if limit > EXACT_BY_ITSELF => {
                Ok(QuotaSpec { rule: Rule::Buckets, limit, width: window.div_ceil(BUCKETS) })
            }
            Method::Exact if limit > LARGEST_EXACT => Err(Error::invalid(format!(
                "an exact quota keeps the time of each permit: its limit is at most {LARGEST_EXACT}, not {limit}"
            ))),
            Method::BySize | Method::Exact => Ok(QuotaSpec { rule: Rule::Log, limit, width: window }),
            Method::Gcra { burst } => {
                let interval = window.div_ceil(limit);
                if !(1..=limit).contains(&burst) {
                    return Err(Error::invalid(format!(
                        "a burst is from 1 to the limit of {limit}, not {burst}"
                    )));
                }
                if u128::from(interval) * u128::from(limit) * 100 > u128::from(window) * 101 {
                    return Err(Error::invalid(format!(
                        "a limit of {limit} in {:?} cannot be paced in whole microseconds",
                        self.window
                    )));
                }
                Ok(QuotaSpec { rule: Rule::Gcra, limit: burst, width: interval })
            }
        }
    }
}

/// Rounded up.
fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Writes a number of microseconds, from a millisecond on, as its first six bits and their place: 32 times the number
/// of bits below them, plus the last five of the six. The bits below are left out.
fn coarse(micros: u64) -> u64 {
    let below = u64::from(micros.max(32).ilog2() - 5);
    32 * below + (micros >> below) % 32
}

fn number(label: Label, from: usize, bytes: usize) -> u64 {
    label.iter().skip(from).take(bytes).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The quotas of one limiter, decided together: made from one [`Quota`], an array or a `Vec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quotas(pub(super) Vec<Quota>);

impl From<Quota> for Quotas {
    fn from(quota: Quota) -> Self {
        Self(vec![quota])
    }
}

impl<const N: usize> From<[Quota; N]> for Quotas {
    fn from(quotas: [Quota; N]) -> Self {
        Self(quotas.into())
    }
}

impl From<&[Quota]> for Quotas {
    fn from(quotas: &[Quota]) -> Self {
        Self(quotas.into())
    }
}

impl From<Vec<Quota>> for Quotas {
    fn from(quotas: Vec<Quota>) -> Self {
        Self(quotas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Plan;

    #[test]
    fn the_buckets_cover_the_window() {
        for micros in [1_000u64, 1_001, 59_999, 60_000, 1_000_000, 3_600_000_001] {
            let spec = Quota::new(50, Duration::from_micros(micros)).spec().unwrap();
            assert_eq!(spec.rule, Rule::Buckets);
            assert!(spec.window() >= micros && spec.window() < micros + BUCKETS, "{micros}");
        }
    }

    #[test]
    fn small_limits_are_exact_by_themselves() {
        assert_eq!(Quota::per_hour(20).spec().unwrap().rule, Rule::Log);
        assert_eq!(Quota::per_hour(21).spec().unwrap().rule, Rule::Buckets);
        assert_eq!(Quota::per_hour(21).exact().spec().unwrap().rule, Rule::Log);
    }

    #[test]
    fn nonsense_is_refused() {
        let second = Duration::from_secs(1);
        for quota in [
            Quota::per_second(0),
            Quota::per_second(u64::MAX),
            Quota::per_day(LARGEST_LIMIT + 1),
            Quota::new(1, Duration::ZERO),
            Quota::new(1, Duration::MAX),
            Quota::per_day(10_001).exact(),
            Quota::per_second(5).gcra(0),
            Quota::per_second(5).gcra(6),
            Quota::per_second(300_000).gcra(1),
        ] {
            assert!(quota.spec().is_err(), "{quota:?}");
        }
        assert!(Plan::new(Quotas(Vec::new())).is_err());
        assert!(Plan::new([Quota::per_second(1), Quota::new(2, second)].into()).is_err());
        assert!(Plan::new(vec![Quota::per_second(1); 9].into()).is_err());
        let plan = Plan::new([Quota::per_second(5), Quota::per_minute(50)].into()).unwrap();
        assert!(plan.check_cost(0).is_err() && plan.check_cost(6).is_err() && plan.check_cost(5).is_ok());
    }

    #[test]
    fn a_label_has_the_quota_and_the_shortest_window_of_its_override() {
        let windows = [1_000, 1_001, 65_537, 999_999, 60_000_000, 3_600_000_001, 31_622_400_000_000];
        let windows = windows.map(Duration::from_micros);
        for (place, window) in windows.into_iter().enumerate() {
            for quota in
                [Quota::new(7, window), Quota::new(LARGEST_LIMIT, window), Quota::new(9, window).gcra(3)]
            {
                for shortest in windows.into_iter().take(place + 1) {
                    let label = quota.label(shortest);
                    assert_eq!(Quota::from_label(label), quota);
                    let found = Quota::shortest_of(label);
                    let exact = shortest == window;
                    assert!(found == shortest || !exact && found < shortest, "{found:?} of {shortest:?}");
                    assert!(found >= shortest * 31 / 32, "{found:?} of {shortest:?}");
                }
            }
        }
        // Of a single quota, the label is the quota alone.
        assert_eq!(Quota::new(1, windows[0]).label(windows[0])[4..11], [0, 0, 0, 0, 0, 3, 232]);
    }

    #[test]
    fn shares_together_are_never_more_than_the_whole() {
        let plan = Plan::new([Quota::per_second(7), Quota::per_minute(50).gcra(7)].into()).unwrap();
        let share = plan.share(3).unwrap();
        assert_eq!((share[0].limit, share[1].limit, share[1].width), (2, 2, 3 * plan.specs[1].width));
        assert!(plan.share(8).is_none());
    }
}
