//! Sliding windows that admit at most their limit in any span of the window's length.
//!
//! *Strict buckets.* Time is divided into buckets of a sixtieth of the window. A decision adds up the current
//! bucket, the sixty buckets before it, and any that lie ahead; the oldest counts in full, although only part
//! of it is in the window. It admits if the cost still fits. Take any span of the window's length: when the
//! last admission in it was decided, all the others in it were counted, so the span holds no more than the
//! limit. The price is that capacity returns up to one bucket late. Bucketed windows are old practice
//! (Figma's article of 2017 has sixty of them); counting the oldest bucket in full makes the bound strict.
//!
//! *Exact log.* The time of every permit, so that capacity returns to the microsecond. *GCRA* (ITU-T I.371):
//! only a theoretical arrival time; it paces, and admits up to its burst in addition to a window's worth.
//!
//! What is charged for the future, at the expiry of a batch or for a turn that was booked, counts from now
//! on. docs/rate-limits.md has the proof. charge.lua is the same rule on the server.

mod overrides;
mod record;
mod records;
mod track;

use std::sync::Arc;
use std::time::Duration;

use crate::store::limit::{
    BUCKETS, Charge, ChargeMode, ChargeStamp, Charged, Label, Override, QuotaSpec, Rule,
};
use record::LimitRecord;
use records::{LimitRecords, Overridden, RecordTable};
use track::Track;

/// The records of all keys. A background task removes those that have ended.
#[derive(Default)]
pub(crate) struct MemoryLimits(Arc<LimitRecords>);

impl MemoryLimits {
    /// Makes records that only further charges remove. The task counts tokio's time, which is not that of a test's
    /// world.
    #[cfg(feature = "testing")]
    pub(crate) fn without_task() -> Self {
        let limits = Self::default();
        limits.0.state().without_task = true;
        limits
    }

    pub(crate) fn charge(&self, name: &str, charge: Charge<'_>, clock: u64) -> Charged {
        let (charged, made) = self.0.state().charge(name, charge, clock);
        if made {
            LimitRecords::remove_in_background(&self.0);
        }
        charged
    }

    /// Charges several keys, all or none: asks each first. A key that refuses by itself may be blocked for
    /// that. The caller makes sure that the names differ.
    pub(crate) fn charge_together(&self, charges: &[(&str, Charge<'_>)], clock: u64) -> Vec<Charged> {
        let mut state = self.0.state();
        let peek = |(name, charge): &(&str, Charge<'_>)| {
            state.charge(name, Charge { mode: ChargeMode::Peek, ..*charge }, clock).0
        };
        let peeked: Vec<Charged> = charges.iter().map(peek).collect();
        if peeked.iter().any(|one| one.granted == 0) {
            let refused = charges.iter().zip(peeked).map(|((name, charge), peeked)| {
                let blocks = peeked.granted == 0 && charge.penalty.is_some();
                if blocks { state.charge(name, *charge, clock).0 } else { peeked }
            });
            let mut answers: Vec<Charged> = refused.collect();
            while state.wait_behind_overrides(charges, &mut answers, clock) {}
            return answers;
        }
        let charged = charges.iter().map(|(name, charge)| state.charge(name, *charge, clock).0).collect();
        drop(state);
        LimitRecords::remove_in_background(&self.0);
        charged
    }

    pub(crate) fn refund(&self, name: &str, permits: u64, stamp: ChargeStamp, clock: u64) -> u64 {
        let mut state = self.0.state();
        let same = |record: &&mut LimitRecord| record.created_at == stamp.created_at;
        let over = state.overridden(name, clock).map_or(Vec::new(), |over| over.specs);
        let Some(record) = state.get_mut(name).filter(same) else { return 0 };
        let (latest, now) = (record.latest, record.latest.max(clock));
        let each = record.tracks.iter_mut().enumerate().map(|(place, track)| {
            // The burst of the override, if it paces; or else of the request, or the smaller one of both.
            let own = Some(stamp.burst).filter(|burst| *burst > 0);
            let over = over.get(place).filter(|spec| spec.rule == Rule::Gcra && track.counts(**spec));
            let burst = over.map(|spec| spec.limit).into_iter().chain(own).min().unwrap_or(0);
            track.refund(permits, stamp.when, latest, now, burst)
        });
        let given = each.max().unwrap_or(0);
        if given > 0 {
            // As on the server, a record that is written loses a block that is over, even if the clock later
            // steps back to before the block's end.
            record.block = record.block.at(clock);
            state.end_override(name, clock);
        }
        given
    }

    pub(crate) fn set_override(&self, name: &str, key: &Override, clock: u64) {
        let mut state = self.0.state();
        let until = clock.saturating_add(u64::try_from(key.lasts.as_micros()).unwrap_or(u64::MAX));
        let (specs, labels): (Vec<QuotaSpec>, _) = key.specs.iter().copied().unzip();
        if let Some(record) = state.get_mut(name) {
            // A record that is written loses a block that is over: see `refund`.
            record.block = record.block.at(clock);
            // By the program's own specs, which hold after the override, by the override's, and by the record's, as
            // another program may have charged it.
            let now = record.latest.max(clock);
            let needed = record.needed(&key.own, now).max(record.needed(&specs, now));
            record.needed_until = Some(needed.max(record.ends(now)));
            let end = record.expires(clock);
            state.may_end(name, end, clock);
        }
        if specs.is_empty() {
            state.overrides.remove(name);
            return;
        }
        state.overrides.insert(name.into(), Overridden { until, specs, labels });
        state.may_end(name, until, clock);
        drop(state);
        LimitRecords::remove_in_background(&self.0);
    }

    pub(crate) fn override_of(&self, name: &str, clock: u64) -> Option<(Vec<Label>, Duration)> {
        let over = self.0.state().overridden(name, clock)?;
        Some((over.labels, Duration::from_micros(over.until - clock)))
    }

    pub(crate) fn forget(&self, name: &str, clock: u64) -> bool {
        let mut state = self.0.state();
        state.end_override(name, clock);
        let forgotten = state.remove(name);
        forgotten.is_some_and(|record| record.expires(clock) > clock)
    }
}

impl RecordTable {
    /// Also whether a record was made.
    fn charge(&mut self, name: &str, charge: Charge<'_>, clock: u64) -> (Charged, bool) {
        let burst = charge.burst();
        let stamped = |(mut charged, made): (Charged, bool)| {
            charged.stamp.burst = if charged.granted > 0 { burst } else { 0 };
            (charged, made)
        };
        let Some(over) = self.overridden(name, clock) else {
            return stamped(self.charge_by(name, charge, None, clock));
        };
        let after = After { end: over.until, specs: charge.specs };
        let charge = Charge { specs: &over.specs, ..charge };
        let (charged, made) = stamped(self.charge_by(name, charge, Some(after), clock));
        (Charged { label: over.labels.get(charged.binding).copied(), ..charged }, made)
    }

    fn charge_by(
        &mut self,
        name: &str,
        charge: Charge<'_>,
        after: Option<After<'_>>,
        clock: u64,
    ) -> (Charged, bool) {
        if let Some(stored) = self.get_mut(name) {
            let mut record = Some(std::mem::take(stored));
            let blocks = record.as_ref().map(|record| record.block);
            let (charged, wrote) = decide(&mut record, charge, after, clock);
            let wrote = wrote || record.as_ref().map(|record| record.block) != blocks;
            *stored = record.unwrap_or_default();
            if wrote {
                self.end_override(name, clock);
            }
            self.remove_ended(2, clock, Some(name));
            return (charged, false);
        }
        let mut record = None;
        let (charged, wrote) = decide(&mut record, charge, after, clock);
        let record = record.filter(|_| wrote);
        let made = record.is_some();
        if let Some(record) = record {
            self.end_override(name, clock);
            self.insert(name, record, clock);
        }
        (charged, made)
    }
}

/// What holds after an override: the request's own specs.
#[derive(Clone, Copy)]
struct After<'a> {
    end: u64,
    specs: &'a [QuotaSpec],
}

/// Returns when `wanted` permits fit, or all of a limit that is below that, if nothing is charged until
/// then. A record of other quotas is converted at that future time, not now: its paced debt is smaller by
/// then, and the spec's own pace does not apply to it yet.
fn fits_at(stored: Option<&LimitRecord>, specs: &[QuotaSpec], wanted: u64, now: u64) -> u64 {
    let (record, _) = match stored {
        Some(record) if record.counts(specs) => {
            (LimitRecord { tracks: record.tracks.clone(), ..*record }, false)
        }
        other => LimitRecord::converted(other, specs, now),
    };
    let each = specs.iter().zip(&record.tracks).map(|(spec, track)| {
        let wanted = wanted.min(spec.limit);
        if track.total(now).saturating_add(wanted) <= spec.limit {
            return 0;
        }
        let other = stored.and_then(|stored| Some((stored, stored.source(*spec)?)));
        match other.filter(|(_, source)| !source.counts(*spec)) {
            Some((_, Track::Gcra { interval, arrival })) => {
                arrival.saturating_sub((spec.limit - wanted) * interval)
            }
            // By the events, not by the buckets: a bucket ahead is as near as a record reaches, and would move with
            // `now`.
            Some((stored, source)) if spec.rule != Rule::Log => {
                let end = |time: u64| match spec.rule {
                    Rule::Buckets => (time / spec.width + BUCKETS + 1) * spec.width,
                    _ => time + spec.window(),
                };
                let ends = source.events(spec.window(), stored.latest, now).into_iter();
                let ends = ends.map(|(time, count)| (end(time), count));
                let live: Vec<(u64, u64)> = ends.filter(|(end, _)| *end > now).collect();
                let mut left: u64 = live.iter().map(|(_, count)| count).sum();
                let leaves = live.into_iter().find(|(_, count)| {
                    left -= count;
                    left + wanted <= spec.limit
                });
                leaves.map_or(now, |(end, _)| end)
            }
            _ => track.ready(wanted, spec.limit, now),
        }
    });
    each.max().unwrap_or(0)
}

/// Decides on a copy of the record if nothing may be written: only a charge makes a conversion permanent. A
/// refusal by other quotas keeps the record for as long as its reply says.
///
/// `after` is what holds after the override that these specs belong to. A cost above the override's limit has
/// to wait for the override's end.
fn decide(
    stored: &mut Option<LimitRecord>,
    charge: Charge<'_>,
    after: Option<After<'_>>,
    clock: u64,
) -> (Charged, bool) {
    let Charge { specs, mode, mut cost, mut charge_at, max_wait, penalty: _ } = charge;
    let later = if mode == ChargeMode::Peek { std::mem::take(&mut charge_at) } else { 0 };
    // An override may pace, or have windows that are shorter than the batch's span. Then nothing can be charged at the
    // expiry: only the least cost is taken, and it is charged now.
    let longest = |spec: &QuotaSpec| if spec.rule == Rule::Gcra { 0 } else { spec.window() };
    if specs.iter().any(|spec| charge_at > longest(spec)) {
        charge_at = 0;
        if let ChargeMode::Half { least } = mode {
            cost = least;
        }
    }
    // The record as these specs see it: a copy, or a conversion.
    let now = stored.as_ref().map_or(clock, |record| record.latest.max(clock));
    let mut block = stored.as_ref().map(|record| record.block.at(clock)).unwrap_or_default();
    let (mut record, cut) = match stored.as_ref() {
        Some(record) if record.counts(specs) => {
            (LimitRecord { tracks: record.tracks.clone(), ..*record }, false)
        }
        other => LimitRecord::converted(other, specs, now),
    };
    let totals =
        |record: &LimitRecord| -> Vec<u64> { record.tracks.iter().map(|track| track.total(now)).collect() };
    let least = |totals: &[u64]| {
        let rooms = specs.iter().zip(totals).map(|(spec, total)| i128::from(spec.limit) - i128::from(*total));
        rooms.enumerate().min_by_key(|(_, room)| *room).unwrap_or((0, i128::MAX))
    };
    // What fits now, and how much of that the request takes.
    let before = totals(&record);
    let (mut binding, room) = least(&before);
    let (most, wanted) = match mode {
        ChargeMode::All | ChargeMode::Peek => {
            (if room >= i128::from(cost) { i128::from(cost) } else { 0 }, cost)
        }
        ChargeMode::UpTo => (room, 1),
        // Writing a record whose conversion dropped something would make the loss permanent.
        ChargeMode::Debt if cut => (0, 1),
        ChargeMode::Debt => {
            let rooms = specs.iter().zip(&record.tracks).zip(&before);
            let rooms = rooms.map(|((spec, track), total)| {
                (2 * spec.limit).saturating_sub(*total).min(track.room_for_count(now))
            });
            (rooms.min().unwrap_or(0).into(), 1)
        }
        ChargeMode::Half { least } if room >= i128::from(least) => {
            ((room - room / 2).max(least.into()), least)
        }
        ChargeMode::Turns { least } if room >= i128::from(least) => (room, least),
        ChargeMode::Half { least } | ChargeMode::Turns { least } => (0, least),
    };
    let mut granted = u64::try_from(most.max(0)).unwrap_or(u64::MAX).min(cost);
    // A block refuses everything but a debt, which was used already.
    let blocked = block.until > clock && mode != ChargeMode::Debt;
    if blocked {
        granted = 0;
    }
    let mut began = false;
    let (mut when, mut wait) = (now.saturating_add(charge_at), 0);
    // Refused so far: when does it fit, and may a turn be booked for that time?
    if granted == 0 {
        let (mut last, mut never, end) = (0, false, after.map_or(0, |after| after.end));
        for (place, ((spec, track), total)) in specs.iter().zip(&record.tracks).zip(&before).enumerate() {
            if total.saturating_add(wanted) > spec.limit {
                never |= wanted > spec.limit;
                let free = if wanted > spec.limit { end } else { track.ready(wanted, spec.limit, now) };
                if free > last {
                    (last, binding) = (free, place);
                }
            }
        }
        if let Some(penalty) = charge.penalty_if_refused().filter(|_| last > 0 && !blocked && !never) {
            (block, began) = (block.next(penalty, now), true);
        }
        if mode != ChargeMode::Debt {
            last = last.max(block.until);
        }
        wait = last.saturating_sub(clock);
        // The waiter measures the wait by a clock that may be slow. So the turn is used 1/1000 of the wait
        // later, and charged 2/1000 later. The wait counts from the clock, also if that has stepped back and is
        // behind the record's own time.
        let turn = (last + wait / 500).max(now);
        let reach = |spec: &QuotaSpec| match spec.rule {
            Rule::Buckets => turn / spec.width <= now / spec.width + BUCKETS + 1,
            Rule::Log => last <= now + spec.width,
            Rule::Gcra => true,
        };
        // A turn after the end of an override is not the override's: the request's own specs hold then.
        let holds = after.is_none_or(|after| turn < after.end);
        let books = holds && matches!(mode, ChargeMode::All | ChargeMode::Turns { .. });
        // Do not book a turn on a record whose conversion dropped something: writing it would make the loss
        // permanent.
        if books && wait <= max_wait && !cut && !never && specs.iter().all(reach) {
            // A request for turns covers all callers that wait together: they get all that is free at that
            // time.
            let free = specs
                .iter()
                .zip(&record.tracks)
                .map(|(spec, track)| spec.limit - track.total(last).min(spec.limit));
            let free = if mode == ChargeMode::All { cost } else { free.min().unwrap_or(0).min(cost) };
            (granted, when) = (free, turn);
        }
        // Still refused, and other specs hold for the record, now or later: see fits_at.
        let converted = stored.as_ref().is_some_and(|stored| !stored.counts(specs));
        if granted == 0 && (converted || after.is_some()) {
            let held = if mode == ChargeMode::Debt { 0 } else { block.until };
            last = fits_at(stored.as_ref(), specs, wanted, now).max(if never { end } else { 0 }).max(held);
            if let Some(after) = after.filter(|after| last >= after.end) {
                last = fits_at(stored.as_ref(), after.specs, wanted, now).max(after.end).max(held);
            }
            wait = last.saturating_sub(clock);
        }
    }
    // A request that is repeated after the end of an override meets its own specs.
    let again = clock.saturating_add(later);
    if let Some(after) = after.filter(|after| later > 0 && after.end <= again) {
        let last = fits_at(stored.as_ref(), after.specs, cost, now).max(block.until);
        if last > again {
            (granted, wait) = (0, last.saturating_sub(clock));
        }
    }
    let wrote = mode != ChargeMode::Peek && granted > 0;
    if wrote {
        for track in &mut record.tracks {
            track.charge(granted, when, now);
        }
        (record.latest, record.block, record.needed_until) = (now, block, None);
        if wait == 0 {
            binding = least(&totals(&record)).0;
        }
    }
    let limit = specs.get(binding).map_or(0, |spec| spec.limit);
    let total = record.tracks.get(binding).map_or(0, |track| track.total(now));
    let remaining = if block.until > clock { 0 } else { limit.saturating_sub(total) };
    let created_at = record.created_at;
    let reset = record.ends(now).max(block.until).saturating_sub(clock);
    if wrote {
        *stored = Some(record);
    } else if let Some(stored) = stored.as_mut().filter(|_| mode != ChargeMode::Peek) {
        if !stored.counts(specs) {
            stored.kept_until = stored.kept_until.max(record.ends(now));
        }
        if began {
            stored.block = block;
        }
    }
    let stamp = if granted > 0 { ChargeStamp { when, created_at, burst: 0 } } else { ChargeStamp::default() };
    (Charged { granted, binding, remaining, wait, reset, stamp, label: None }, wrote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::limit::Penalty;

    const START: u64 = 1_780_000_000_000_000;

    #[test]
    fn a_block_that_ended_before_a_refund_does_not_return_with_a_clock_that_steps_back() {
        let (limits, second) = (MemoryLimits::default(), 1_000_000);
        let spec = QuotaSpec { rule: Rule::Log, limit: 2, width: 600 * second };
        let charge = Charge {
            specs: &[spec],
            mode: ChargeMode::All,
            cost: 2,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        let stamp = limits.charge("a", charge, START).stamp;
        let penalty = Some(Penalty { first: 3 * second, factor: 1, most: 3 * second });
        let refused = limits.charge("a", Charge { penalty, ..charge }, START);
        assert_eq!((refused.granted, refused.wait), (0, 600 * second));
        assert_eq!(limits.refund("a", 1, stamp, START + 60 * second), 1);
        let granted = limits.charge("a", Charge { cost: 1, ..charge }, START + second).granted;
        assert_eq!(granted, 1, "the block was forgotten");
    }

    #[test]
    fn an_override_ended_by_other_quotas_lets_no_record_be_removed_early() {
        let (limits, second) = (MemoryLimits::default(), 1_000_000);
        let spec = QuotaSpec { rule: Rule::Log, limit: 2, width: 600 * second };
        let mode = ChargeMode::All;
        let charge = Charge { specs: &[spec], mode, cost: 2, charge_at: 0, max_wait: 0, penalty: None };
        assert_eq!(limits.charge("a", charge, START).granted, 2);
        let own = vec![QuotaSpec { rule: Rule::Gcra, limit: 3, width: second }];
        let lasts = Duration::from_secs(1);
        limits.set_override("a", &Override { specs: Vec::new(), own, lasts }, START + 5 * second);
        for n in 6..10 {
            limits.charge("b", charge, START + n * second);
        }
        assert_eq!(limits.charge("a", charge, START + 10 * second).granted, 0, "the record was removed");
    }

    #[test]
    fn nor_does_one_that_ended_before_an_override_was_set_or_ended() {
        let (limits, second) = (MemoryLimits::default(), 1_000_000);
        let spec = QuotaSpec { rule: Rule::Log, limit: 2, width: 600 * second };
        let charge = Charge {
            specs: &[spec],
            mode: ChargeMode::All,
            cost: 1,
            charge_at: 0,
            max_wait: 0,
            penalty: None,
        };
        limits.charge("a", charge, START);
        let penalty = Some(Penalty { first: 3 * second, factor: 1, most: 3 * second });
        assert_eq!(limits.charge("a", Charge { penalty, cost: 2, ..charge }, START).granted, 0);
        let none = Override { specs: Vec::new(), own: vec![spec], lasts: Duration::ZERO };
        limits.set_override("a", &none, START + 60 * second);
        assert_eq!(limits.charge("a", charge, START + second).granted, 1, "the block was forgotten");
    }
}
