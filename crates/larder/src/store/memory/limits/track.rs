//! What one quota of a key has counted.

use std::collections::BTreeMap;

use crate::store::limit::{BUCKETS, QuotaSpec, Rule};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Track {
    Buckets {
        /// The most that a count can hold on the server.
        most: u64,
        width: u64,
        counts: BTreeMap<u64, u64>,
    },
    Log {
        window: u64,
        /// The time of each permit, oldest first.
        times: Vec<u64>,
    },
    Gcra {
        interval: u64,
        /// The theoretical arrival time.
        arrival: u64,
    },
}

impl Track {
    pub(super) fn counts(&self, spec: QuotaSpec) -> bool {
        match self {
            Self::Buckets { most, width, .. } => {
                spec.rule == Rule::Buckets && *most == spec.most() && *width == spec.width
            }
            Self::Log { window, .. } => spec.rule == Rule::Log && *window == spec.width,
            Self::Gcra { interval, .. } => spec.rule == Rule::Gcra && *interval == spec.width,
        }
    }

    /// Whether each charge has the place that the spec gives it: the spec's own track, or buckets of the same width.
    pub(super) fn has_places_of(&self, spec: QuotaSpec) -> bool {
        let same_buckets =
            matches!(self, Self::Buckets { width, .. } if spec.rule == Rule::Buckets && *width == spec.width);
        same_buckets || self.counts(spec)
    }

    /// How far back the track looks. GCRA has no events.
    pub(super) fn window(&self) -> u64 {
        match self {
            Self::Buckets { width, .. } => width.saturating_mul(BUCKETS),
            Self::Log { window, .. } => *window,
            Self::Gcra { .. } => 0,
        }
    }

    /// Returns what counts now.
    pub(super) fn total(&self, now: u64) -> u64 {
        match self {
            Self::Buckets { width, counts, .. } => live(counts, *width, now).map(|(_, count)| count).sum(),
            Self::Log { window, times } => {
                u64::try_from(times.iter().filter(|time| **time + window > now).count()).unwrap_or(u64::MAX)
            }
            Self::Gcra { interval, arrival } => arrival.saturating_sub(now).div_ceil(*interval),
        }
    }

    /// Returns how much more the count of the current bucket can hold.
    pub(super) fn room_for_count(&self, now: u64) -> u64 {
        match self {
            Self::Buckets { most, width, counts } => most - counts.get(&(now / width)).copied().unwrap_or(0),
            Self::Log { .. } | Self::Gcra { .. } => u64::MAX,
        }
    }

    /// Returns when `wanted` permits fit into the limit. They do not fit now.
    pub(super) fn ready(&self, wanted: u64, limit: u64, now: u64) -> u64 {
        match self {
            Self::Buckets { width, counts, .. } => {
                let (mut left, mut free) = (self.total(now), now);
                for (index, count) in live(counts, *width, now) {
                    left -= count;
                    free = (index + BUCKETS + 1) * width;
                    if left + wanted <= limit {
                        break;
                    }
                }
                free
            }
            Self::Log { window, times } => {
                let mut left = self.total(now);
                let mut free = now;
                for time in times.iter().filter(|time| **time + window > now) {
                    left -= 1;
                    free = time + window;
                    if left + wanted <= limit {
                        break;
                    }
                }
                free
            }
            Self::Gcra { interval, arrival } => {
                ((*arrival).max(now) + wanted * interval).saturating_sub(limit * interval)
            }
        }
    }

    /// Returns when nothing counts any more; 0 if nothing counts now.
    pub(super) fn ends(&self, now: u64) -> u64 {
        if self.total(now) == 0 {
            return 0;
        }
        match self {
            Self::Buckets { width, counts, .. } => {
                live(counts, *width, now).last().map_or(0, |(index, _)| (index + BUCKETS + 1) * width)
            }
            Self::Log { window, times } => times.last().map_or(0, |time| time + window),
            Self::Gcra { arrival, .. } => *arrival,
        }
    }

    pub(super) fn charge(&mut self, granted: u64, when: u64, now: u64) {
        match self {
            Self::Buckets { width, counts, .. } => {
                let oldest = (now / *width).saturating_sub(BUCKETS);
                counts.retain(|index, _| *index >= oldest);
                *counts.entry(when / *width).or_default() += granted;
            }
            Self::Log { window, times } => {
                times.retain(|time| *time + *window > now);
                let at = times.partition_point(|time| *time <= when);
                let granted = usize::try_from(granted).unwrap_or(usize::MAX);
                times.splice(at..at, std::iter::repeat_n(when, granted));
            }
            Self::Gcra { interval, arrival } => *arrival = (*arrival).max(when) + granted * *interval,
        }
    }

    /// Gives back what was charged at `when`, as far as it is still there, and returns how much.
    ///
    /// GCRA: turns that were booked behind the charge keep their times, so what they stand on is not given back. A turn
    /// is booked if the cost does not fit, so while it is awaited, the arrival is more than a burst ahead. And every
    /// charge behind this one puts the arrival one interval further, so below that there is none.
    pub(super) fn refund(&mut self, permits: u64, when: u64, latest: u64, now: u64, burst: u64) -> u64 {
        match self {
            Self::Buckets { width, counts, .. } => {
                let index = when / *width;
                if index < (latest / *width).saturating_sub(BUCKETS) {
                    return 0;
                }
                let Some(count) = counts.get_mut(&index) else { return 0 };
                let back = permits.min(*count);
                *count -= back;
                counts.retain(|_, count| *count > 0);
                back
            }
            Self::Log { times, .. } => {
                let (from, to) =
                    (times.partition_point(|time| *time < when), times.partition_point(|time| *time <= when));
                let back = usize::try_from(permits).unwrap_or(usize::MAX).min(to - from);
                times.drain(from..from + back);
                u64::try_from(back).unwrap_or(u64::MAX)
            }
            Self::Gcra { interval, arrival } => {
                let no_turn = when <= now && *arrival <= now.saturating_add(burst.saturating_mul(*interval));
                let next = permits.saturating_add(1).saturating_mul(*interval);
                let nothing_behind = *arrival < when.saturating_add(next);
                if !no_turn && !nothing_behind {
                    return 0;
                }
                // What the pace has already made good is not given back. It would be available a second time,
                // at the cost of later charges.
                let rest = permits.saturating_mul(*interval).saturating_sub(now.saturating_sub(when));
                let rest = rest.min(arrival.saturating_sub(now));
                *arrival -= rest;
                rest.div_ceil(*interval)
            }
        }
    }

    /// Returns what was counted, each count at the latest time at which the charge can count. In the current bucket
    /// that is after the latest charge: a batch is charged ahead, here as far as the new window is long.
    pub(super) fn events(&self, window: u64, latest: u64, now: u64) -> Vec<(u64, u64)> {
        match self {
            Self::Buckets { width, counts, .. } => {
                let (current, oldest) = (latest / width, (latest / width).saturating_sub(BUCKETS));
                let at = |index: u64| {
                    let last = (index + 1) * width - 1;
                    if index == current { last.min(latest.saturating_add(window)) } else { last }
                };
                counts.range(oldest..).map(|(index, count)| (at(*index), *count)).collect()
            }
            Self::Log { times, .. } => times.iter().map(|time| (*time, 1)).collect(),
            Self::Gcra { interval, arrival } => {
                let debt = arrival.saturating_sub(now).div_ceil(*interval);
                // A turn that is booked may be used one interval before the arrival, and not later.
                let last = arrival.saturating_sub(*interval).max(now);
                if debt > 0 { vec![(last, debt)] } else { Vec::new() }
            }
        }
    }

    /// Makes a track that counts these events. Also returns whether something that still counts was dropped.
    pub(super) fn from_events(spec: QuotaSpec, events: &[(u64, u64)], now: u64) -> (Self, bool) {
        let (width, mut cut) = (spec.width, false);
        let track = match spec.rule {
            Rule::Buckets => {
                let (most, current) = (spec.most(), now / width);
                let mut counts = BTreeMap::new();
                for (time, count) in events {
                    let index = (time / width).min(current + BUCKETS + 1);
                    if index + BUCKETS >= current {
                        let kept: &mut u64 = counts.entry(index).or_default();
                        cut |= *kept + count > most;
                        *kept = (*kept + count).min(most);
                    }
                }
                Self::Buckets { most, width, counts }
            }
            Rule::Log => {
                let live = events.iter().filter(|(time, _)| time + width > now);
                let all = live.flat_map(|(time, count)| {
                    cut |= *count > spec.limit;
                    std::iter::repeat_n(*time, usize::try_from(*count.min(&spec.limit)).unwrap_or(0))
                });
                let mut times: Vec<u64> = all.collect();
                let excess = times.len().saturating_sub(usize::try_from(spec.limit).unwrap_or(usize::MAX));
                times.drain(..excess);
                cut |= excess > 0;
                Self::Log { window: width, times }
            }
            Rule::Gcra => {
                let live = events.iter().filter(|(time, _)| time + spec.window() > now);
                let debt: u64 = live.map(|(_, count)| count).sum();
                cut = debt > spec.limit;
                Self::Gcra { interval: width, arrival: now + debt.min(spec.limit) * width }
            }
        };
        (track, cut)
    }
}

fn live(counts: &BTreeMap<u64, u64>, width: u64, now: u64) -> impl Iterator<Item = (u64, u64)> {
    let oldest = (now / width).saturating_sub(BUCKETS);
    counts.range(oldest..).filter(|(_, count)| **count > 0).map(|(index, count)| (*index, *count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Programs with different windows convert a record back and forth. What the shortest window reaches counts for
        /// at least that window, whatever the conversions between.
        #[test]
        fn conversions_move_no_charge_to_an_earlier_time(
            charges in prop::collection::vec(0..120_000_000u64, 1..30),
            steps in prop::collection::vec((0..6usize, 0..20_000_000u64), 1..12),
        ) {
            const START: u64 = 1_780_000_000_000_000;
            let buckets = |width| QuotaSpec { rule: Rule::Buckets, limit: 1000, width };
            let log = |width| QuotaSpec { rule: Rule::Log, limit: 1000, width };
            let specs =
                [log(60_000_000), log(61_000_000), buckets(1_000_000), buckets(1_000_003), buckets(1_016_667), buckets(7_000_000)];
            let shortest = 60_000_000;
            let (mut track, _) = Track::from_events(specs[0], &[], START);
            let (mut now, mut latest, mut charged) = (START, START, Vec::new());
            for (place, (which, pass)) in steps.into_iter().enumerate() {
                now += pass;
                let (converted, cut) =
                    Track::from_events(specs[which], &track.events(specs[which].window(), latest, now), now);
                (track, latest) = (converted, now);
                prop_assert!(!cut);
                // What is charged meanwhile is charged by the new specs.
                for time in charges.iter().skip(place * 3).take(3) {
                    now += time / 100;
                    track.charge(1, now, now);
                    (charged, latest) = ([charged, vec![now]].concat(), now);
                }
                for later in (0..=shortest).step_by(1_234_567) {
                    let at = now + later;
                    let count = charged.iter().filter(|time| **time + shortest > at).count() as u64;
                    prop_assert!(track.total(at) >= count, "{} of {count} count {later} later", track.total(at));
                }
            }
        }
    }
}
