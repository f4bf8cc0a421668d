//! `larder bench`: how fast a program on this machine gets and sets through larder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use larder::{Cache, ErrorKind, Format, Larder};
use serde_json::json;
use tokio::task::JoinSet;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table, say, units};

/// The cache that only this command uses.
const CACHE: &str = "larder-bench";
/// Values expire by themselves, if this process is killed before it deletes them.
const SPARE_TIME: Duration = Duration::from_secs(60);
/// What one histogram holds at most, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

const COLUMNS: &[Column] = &[
    Column::text("OPERATION", "operation"),
    Column::number("PER SECOND", "per_second"),
    Column::number("P50", "p50_us"),
    Column::number("P90", "p90_us"),
    Column::number("P99", "p99_us"),
    Column::number("P99.9", "p999_us"),
    Column::number("MAX", "max_us"),
    Column::number("COUNT", "count"),
    Column::number("ERRORS", "errors"),
];

/// Measure get and set through larder, from this machine
///
/// Stores values in a cache that nothing else uses (larder-bench), reads them, and deletes them at the end. Half of the
/// time goes to each operation. All tasks share one connection and one thread, as in a program with one runtime thread;
/// the figures of docs/performance.md come from another tool, which compares with other libraries.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// The size of a value: 100, 1k, 2m
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = bytes)]
    size: usize,
    /// How many tasks ask at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tasks: u32,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
}

/// What one operation took.
struct Measured {
    times: Histogram<u64>,
    errors: u64,
    /// The first error, for people.
    error: Option<larder::Error>,
    took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Set,
    Get,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let larder = app.connect().await?;
    let life = Duration::from_secs_f64(arguments.seconds) + SPARE_TIME;
    let cache: Cache<Vec<u8>> = larder.cache(CACHE).ttl(life).format(Format::Raw).build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
        })
    };
    let measured = measure(&arguments, &cache, &stop).await;
    interrupted.abort();
    clean_up(&larder, &cache, arguments.keys).await;
    let closed = larder.close().await;
    let measured = measured?;
    report(&arguments, app, &measured)?;
    closed.map_err(Failure::from)?;
    Ok(if stop.load(Ordering::Relaxed) { Exit::signal(2) } else { Exit::OK })
}

async fn measure(
    arguments: &Arguments,
    cache: &Cache<Vec<u8>>,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<(Operation, Measured)>, Failure> {
    // Bytes that do not repeat, as most values' do not.
    let value: Vec<u8> =
        (0..arguments.size).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let value = Arc::new(value);
    // Every key has a value before anything is measured. The first answer also shows an error that all would have.
    for key in 0..arguments.keys {
        cache.set(key, &*value).await?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let half = Duration::from_secs_f64(arguments.seconds / 2.0);
    let mut results = Vec::new();
    for operation in [Operation::Set, Operation::Get] {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..arguments.tasks {
            tasks.spawn(work(
                operation,
                cache.clone(),
                Arc::clone(&value),
                Arc::clone(stop),
                // Each task has its own way through the keys.
                (task.wrapping_mul(7_919), arguments.keys),
                begin + half,
            ));
        }
        let mut sum = Measured { times: histogram()?, errors: 0, error: None, took: Duration::ZERO };
        while let Some(done) = tasks.join_next().await {
            let part = done.map_err(|error| Failure::new(Exit::SERVER, error.to_string()))??;
            sum.times.add(&part.times).map_err(|error| Failure::new(Exit::SERVER, error.to_string()))?;
            sum.errors += part.errors;
            sum.error = sum.error.or(part.error);
        }
        sum.took = begin.elapsed();
        results.push((operation, sum));
    }
    Ok(results)
}

async fn work(
    operation: Operation,
    cache: Cache<Vec<u8>>,
    value: Arc<Vec<u8>>,
    stop: Arc<AtomicBool>,
    (first, keys): (u32, u32),
    end: Instant,
) -> Result<Measured, Failure> {
    let mut measured = Measured { times: histogram()?, errors: 0, error: None, took: Duration::ZERO };
    let mut key = first;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        key = key.wrapping_add(1);
        let begin = Instant::now();
        let result = match operation {
            Operation::Set => cache.set(key % keys, &*value).await,
            Operation::Get => cache.get(key % keys).await.map(drop),
        };
        match result {
            Ok(()) => {
                let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(LONGEST).clamp(1, LONGEST);
                measured.times.saturating_record(nanos);
            }
            Err(error) => {
                measured.errors += 1;
                // A server that is away refuses at once: without a pause this would be a busy loop.
                if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Disconnected) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                measured.error.get_or_insert(error);
            }
        }
    }
    Ok(measured)
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_max(LONGEST, 3).map_err(|error| Failure::new(Exit::SERVER, error.to_string()))
}

/// Deletes the values, and the version of the cache that they carry.
async fn clean_up(larder: &Larder, cache: &Cache<Vec<u8>>, keys: u32) {
    let begin = Instant::now();
    let mut first = 0;
    while first < keys {
        let next = first.saturating_add(500).min(keys);
        if let Err(error) = cache.delete_many(first..next).await {
            let left = SPARE_TIME.saturating_sub(begin.elapsed());
            say(&format!(
                "the values of {CACHE} stay until they expire, in about {}: {error}",
                units::time(left)
            ));
            return;
        }
        first = next;
    }
    let admin = larder.admin();
    let name = format!("~clear.1:{{{}/{CACHE}}}", admin.namespace());
    // On a cluster only the node that has it deletes it; the others answer with an error. It expires in any case.
    for node in admin.nodes().await.unwrap_or_default() {
        let _ = admin.command(&node, &["UNLINK", &name]).await;
    }
}

fn report(arguments: &Arguments, app: &App, results: &[(Operation, Measured)]) -> Result<(), Failure> {
    let mut table = Table::new(COLUMNS, "operations");
    for (operation, measured) in results {
        let rate = measured.times.len() as f64 / f64::max(measured.took.as_secs_f64(), 1e-9);
        let time = |quantile: f64| {
            let nanos = measured.times.value_at_quantile(quantile);
            let micros = (nanos as f64 / 100.0).round() / 10.0;
            Cell::value(shown(Duration::from_nanos(nanos)), json!(micros))
        };
        table.row(vec![
            Cell::text(if *operation == Operation::Set { "set" } else { "get" }),
            Cell::number(units::count(rate.round() as u64), rate.round() as u64),
            time(0.5),
            time(0.9),
            time(0.99),
            time(0.999),
            time(1.0),
            Cell::number(units::count(measured.times.len()), measured.times.len()),
            Cell::number(units::count(measured.errors), measured.errors),
        ]);
    }
    table.field("seconds", json!(arguments.seconds));
    table.field("size", json!(arguments.size));
    table.field("tasks", json!(arguments.tasks));
    table.field("keys", json!(arguments.keys));
    table.note(format!(
        "{} tasks, {} keys, values of {}, one connection, one thread; the values are deleted again",
        units::count(arguments.tasks.into()),
        units::count(arguments.keys.into()),
        units::size(arguments.size as u64),
    ));
    app.out.table(&table)?;
    if let Some(error) = results.iter().find_map(|(_, measured)| measured.error.as_ref()) {
        return Err(Failure::during("some calls failed", error));
    }
    Ok(())
}

/// Writes a time with three digits: `84.1µs`, `1.52ms`.
fn shown(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1_000.0;
    match micros {
        ..10.0 => format!("{micros:.2}µs"),
        ..100.0 => format!("{micros:.1}µs"),
        ..1_000.0 => format!("{micros:.0}µs"),
        ..10_000.0 => format!("{:.2}ms", micros / 1_000.0),
        ..100_000.0 => format!("{:.1}ms", micros / 1_000.0),
        _ => format!("{:.0}ms", micros / 1_000.0),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| "write it as 5 or 0.5".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("from 0.1 to 3600 seconds".to_owned()) }
}

fn bytes(text: &str) -> Result<usize, String> {
    let text = text.to_ascii_lowercase();
    let (number, unit) = match text.trim_end_matches("ib").trim_end_matches('b') {
        text if text.ends_with('k') => (text.trim_end_matches('k'), 1 << 10),
        text if text.ends_with('m') => (text.trim_end_matches('m'), 1 << 20),
        text => (text, 1),
    };
    let number: usize = number.parse().map_err(|_| "write it as 100, 1k or 2m".to_owned())?;
    number.checked_mul(unit).filter(|&bytes| bytes <= 8 << 20).ok_or_else(|| "at most 8m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_and_shown_as_people_write_them() {
        assert_eq!([bytes("100"), bytes("1k"), bytes("2MiB")], [Ok(100), Ok(1024), Ok(2 << 20)]);
        assert!(bytes("9m").is_err() && bytes("k").is_err() && bytes("1g").is_err());
        assert_eq!([seconds("0.5"), seconds("5s")], [Ok(0.5), Ok(5.0)]);
        assert!(seconds("0").is_err());
        let shown =
            [4_200, 84_100, 312_000, 1_520_000, 45_600_000].map(|nanos| shown(Duration::from_nanos(nanos)));
        assert_eq!(shown, ["4.20µs", "84.1µs", "312µs", "1.52ms", "45.6ms"]);
    }
}
