//! Turns what was read into rows.

use std::collections::BTreeMap;
use std::time::Duration;

use larder::admin::{LockInfo, Process, Sample};

use super::data::{Cell, Sheet};
use super::view;
use crate::commands::ls;
use crate::output::units;

pub(super) fn cache_rows(sample: &Sample) -> Sheet {
    let exact = sample.exact;
    let about = |number: f64| {
        format!("{}{}", if exact { "" } else { "~" }, units::count(number.round().max(0.0) as u64))
    };
    let rows = sample.groups.iter().map(|group| {
        let (name, share) = (Cell::text(&ls::name(&group.group)), ls::share(group, sample));
        let bytes = group.bytes.map_or_else(Cell::none, |bytes| {
            Cell::number(units::size(bytes.value.max(0.0) as u64), bytes.value)
        });
        let ttl =
            group.median_ttl.map_or_else(Cell::none, |ttl| Cell::number(units::time(ttl), ttl.as_secs_f64()));
        let format = group.formats.first().map_or_else(String::new, |first| {
            let name = first.format.map_or("unreadable", |format| format.as_str());
            format!("{name}{}", if first.compressed { "+lz4" } else { "" })
        });
        vec![
            name,
            Cell::number(about(group.keys.value), group.keys.value),
            bytes,
            Cell::number(format!("{:.0} %", share * 100.0), share),
            ttl,
            Cell::number(about(group.no_expiry.value), group.no_expiry.value),
            Cell::text(&format),
        ]
    });
    let note = if exact {
        format!("all {} keys", units::count(sample.total))
    } else {
        format!("sample of {} of {} keys", units::count(sample.sampled), units::count(sample.total))
    };
    Sheet { rows: rows.collect(), note, ..Sheet::default() }
}

pub(super) fn lock_rows(locks: &[LockInfo]) -> Sheet {
    let rows = locks.iter().map(|lock| {
        let holder = lock.holders.first();
        let named = holder.map(|holder| match &holder.process {
            Some(process) => process.name.clone(),
            None if holder.by.is_empty() => format!("process {:08x}", holder.token >> 32),
            None => holder.by.clone(),
        });
        let more = lock.holding.saturating_sub(1);
        let named = match named {
            Some(name) if more > 0 => Cell::text(&format!("{name} +{more}")),
            Some(name) => Cell::text(&name),
            None => Cell::none(),
        };
        let held = match lock.permits {
            Some(permits) => {
                let used: u64 = lock.holders.iter().map(|holder| holder.permits).sum();
                Cell::number(format!("{used}/{permits}"), used as f64)
            }
            None => Cell::number(lock.holding.to_string(), lock.holding as f64),
        };
        vec![
            Cell::text(&lock.name),
            Cell::text(lock.kind.as_str()),
            named,
            holder.map_or_else(Cell::none, |holder| {
                Cell::number(units::time(holder.remaining), holder.remaining.as_secs_f64())
            }),
            Cell::number(lock.waiting.to_string(), lock.waiting as f64).alert_if(lock.waiting > 0),
            held,
            holder
                .and_then(|holder| holder.fence)
                .map_or_else(Cell::none, |fence| Cell::number(fence.get().to_string(), fence.get() as f64)),
        ]
    });
    Sheet { rows: rows.collect(), ..Sheet::default() }
}

pub(super) fn identity(process: &Process) -> String {
    format!("{}\0{}\0{}", process.name, process.host, process.pid)
}

pub(super) fn process_rows(
    processes: &[Process],
    before: &BTreeMap<String, Process>,
    interval: Duration,
) -> Sheet {
    let rows = processes.iter().map(|process| {
        let (new, old) = (process.counters, before.get(&identity(process)));
        // A process writes its record every ten seconds: between two records nothing changes.
        let seconds = old
            .map(|old| process.uptime.saturating_sub(old.uptime))
            .filter(|span| *span >= interval.min(Duration::from_secs(1)))
            .map(|span| span.as_secs_f64());
        let rate = |new: u64, old: Option<u64>| match (seconds, old) {
            (Some(seconds), Some(old)) => {
                let rate = new.saturating_sub(old) as f64 / seconds;
                Cell::number(per_second(rate), rate)
            }
            // The mean since the process began.
            _ => {
                let rate = new as f64 / f64::max(process.uptime.as_secs_f64(), 1.0);
                Cell::number(per_second(rate), rate)
            }
        };
        let reads = new.hits + new.misses;
        let hits = if reads == 0 {
            Cell::none()
        } else {
            let share = new.hits as f64 / reads as f64;
            Cell::number(format!("{:.0} %", share * 100.0), share)
        };
        let late = process.seen_ago > Duration::from_secs(15);
        vec![
            Cell::text(&process.name),
            Cell::text(&process.host),
            Cell::number(process.pid.to_string(), f64::from(process.pid)),
            Cell::text(&process.version),
            Cell::number(view::seconds(process.uptime), process.uptime.as_secs_f64()),
            hits,
            rate(new.loads, old.map(|old| old.counters.loads)),
            Cell::number(units::count(new.locks_granted), new.locks_granted as f64),
            rate(new.errors, old.map(|old| old.counters.errors))
                .alert_if(new.errors > old.map_or(0, |old| old.counters.errors)),
            Cell::number(view::seconds(process.seen_ago), process.seen_ago.as_secs_f64()).alert_if(late),
        ]
    });
    Sheet { rows: rows.collect(), ..Sheet::default() }
}

pub(super) fn limit_rows(found: &BTreeMap<String, u64>) -> Sheet {
    let total: u64 = found.values().sum();
    let rows = found.iter().map(|(name, &keys)| {
        let share = keys as f64 / total as f64;
        vec![
            Cell::text(name),
            Cell::number(units::count(keys), keys as f64),
            Cell::number(format!("{:.0} %", share * 100.0), share),
        ]
    });
    Sheet { rows: rows.collect(), note: format!("{} records", units::count(total)), ..Sheet::default() }
}

/// Writes a rate: `0`, `0.3`, `12`, `1,234`.
pub(crate) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { units::count(rate.round().max(0.0) as u64) }
}
