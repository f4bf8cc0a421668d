//! `larder ls`: what a server holds, and the keys of a cache.

mod keys;

use clap::Args;
use larder::admin::{Estimate, FormatShare, KeyGroup, Sample, SampledGroup, StoredFormat};
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::interrupt::Interrupt;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table, units};

/// List the caches with their sizes, or the keys of one cache
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without a cache, the figures are estimated from --sample random keys, in about 20 round trips for 1,000 keys. The \
last line says how far they may be off. With a cache, keys are listed by SCAN, 200 at a time, with a pause after each \
batch for as long as the batch took. Ctrl-C ends both, and shows what is known so far.

Examples:
  larder ls
  larder ls user --limit 20
  larder ls page@2 --all --details --format ndjson > pages.ndjson")]
pub(crate) struct Arguments {
    /// A cache: `user`, or `user@2` for schema 2
    cache: Option<String>,
    /// How many random keys to look at
    #[arg(long, value_name = "KEYS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample: u32,
    /// How many keys of the cache to list
    #[arg(long, value_name = "N", default_value_t = 100, requires = "cache")]
    limit: u64,
    /// List all keys of the cache
    #[arg(long, conflicts_with = "limit", requires = "cache")]
    all: bool,
    /// Show size, time to live and format of each key
    #[arg(long, short, requires = "cache")]
    details: bool,
}

const COLUMNS: &[Column] = &[
    Column::text("CACHE", "cache"),
    Column::number("ENTRIES", "entries"),
    Column::number("BYTES", "bytes"),
    Column::number("SHARE", "share"),
    Column::number("MEDIAN TTL", "median_ttl_ms"),
    Column::number("NO EXPIRY", "no_expiry"),
    Column::text("FORMAT", "format"),
];

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.connect().await?;
    if let Some(cache) = &arguments.cache {
        let limit = if arguments.all { u64::MAX } else { arguments.limit };
        return keys::run(&larder, cache, limit, arguments.details, app).await;
    }
    let wanted = usize::try_from(arguments.sample).unwrap_or(usize::MAX);
    let (sample, interrupted) = interruptible(&larder, wanted).await?;
    let mut table = Table::new(COLUMNS, "groups");
    for group in &sample.groups {
        table.row(row(group, &sample));
    }
    table.field("total", Value::from(sample.total));
    table.field("sampled", Value::from(sample.sampled));
    table.field("exact", Value::from(sample.exact));
    table.note(summary(&sample, interrupted));
    app.out.table(&table)?;
    Ok(if interrupted { Exit::signal(2) } else { Exit::OK })
}

/// Samples step by step, so that Ctrl-C can end it with what is known so far.
async fn interruptible(larder: &larder::Larder, wanted: usize) -> Result<(Sample, bool), Failure> {
    let mut sampling = larder.admin().sampling(wanted);
    let mut interrupt = Interrupt::listen();
    loop {
        tokio::select! {
            more = sampling.step() => {
                if !more? {
                    return Ok((sampling.so_far(), false));
                }
            }
            () = interrupt.pressed() => return Ok((sampling.so_far(), true)),
        }
    }
}

fn row(group: &SampledGroup, sample: &Sample) -> Vec<Cell> {
    let about = |estimate: Estimate| {
        let value = whole(estimate.value);
        Cell::number(
            if sample.exact { units::count(value) } else { format!("~{}", units::count(rounded(value))) },
            value,
        )
    };
    let share = share(group, sample);
    vec![
        Cell::text(name(&group.group)),
        about(group.keys),
        group.bytes.map_or_else(Cell::none, |bytes| {
            let bytes = whole(bytes.value);
            Cell::number(units::size(bytes), bytes)
        }),
        Cell::value(format!("{:.0} %", share * 100.0), json!((share * 10_000.0).round() / 10_000.0)),
        group.median_ttl.map_or_else(Cell::none, |ttl| {
            Cell::number(units::time(ttl), u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
        }),
        about(group.no_expiry),
        Cell::text(formats(&group.formats)),
    ]
}

/// The group's share of the memory; of the keys if the server does not say how much memory they take.
pub(crate) fn share(group: &SampledGroup, sample: &Sample) -> f64 {
    let bytes = |group: &SampledGroup| group.bytes.map(|bytes| bytes.value);
    let all: Option<f64> = sample.groups.iter().map(bytes).sum();
    match (bytes(group), all) {
        (Some(bytes), Some(all)) if all > 0.0 => bytes / all,
        _ => group.share.value,
    }
}

/// The name of a group, as it is shown. Only caches have names without parentheses.
pub(crate) fn name(group: &KeyGroup) -> String {
    match group {
        KeyGroup::Cache(name) => name.clone(),
        KeyGroup::Versions => "(versions)".to_owned(),
        KeyGroup::Loads => "(loads)".to_owned(),
        KeyGroup::Locks => "(locks)".to_owned(),
        KeyGroup::Jobs => "(jobs)".to_owned(),
        KeyGroup::Limits => "(limits)".to_owned(),
        KeyGroup::Processes => "(processes)".to_owned(),
        KeyGroup::OtherNamespaces => "(other namespaces)".to_owned(),
        KeyGroup::Foreign => "(other programs)".to_owned(),
        _ => "(unknown)".to_owned(),
    }
}

fn formats(shares: &[FormatShare]) -> String {
    let shown = shares.iter().map(|share| {
        let format = share.format.map_or("unreadable", StoredFormat::as_str);
        if share.compressed { format!("{format}+lz4") } else { format.to_owned() }
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn summary(sample: &Sample, interrupted: bool) -> String {
    let total = units::count(sample.total);
    if interrupted && sample.sampled == 0 {
        return "(interrupted before any key was looked at)".to_owned();
    }
    if sample.exact {
        return format!("({total} keys, all counted)");
    }
    let error = sample.groups.iter().map(|group| group.share.error).fold(0.0, f64::max) * 100.0;
    let why = if interrupted { "interrupted: " } else { "" };
    format!("({why}estimate from {} of {total} keys, ±{error:.0} % of them)", units::count(sample.sampled))
}

/// An estimated number of keys.
fn whole(value: f64) -> u64 {
    // Saturates, and is 0 for a NaN.
    value.round() as u64
}

/// Rounds to three digits: an estimate has no more.
fn rounded(value: u64) -> u64 {
    let scale = 10u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(2));
    value.saturating_add(scale / 2) / scale * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_three_digits() {
        assert_eq!([rounded(0), rounded(7), rounded(999), rounded(731_249)], [0, 7, 999, 731_000]);
        assert_eq!(rounded(1_999_999), 2_000_000);
    }
}
