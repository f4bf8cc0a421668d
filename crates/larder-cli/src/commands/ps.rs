//! `larder ps`: the processes that announced themselves.

use clap::Args;
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::moment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table, units};

/// List the processes that announced themselves
#[derive(Debug, Args)]
#[command(after_help = "\
A program announces itself by Larder::builder().presence(\"web-3\"). A process that is not seen for 35 s is not listed.

Example:
  larder ps --format json")]
pub(crate) struct Arguments {}

const COLUMNS: &[Column] = &[
    Column::text("NAME", "name"),
    Column::text("HOST", "host"),
    Column::number("PID", "pid"),
    Column::text("VERSION", "version"),
    Column::number("UP", "uptime_ms"),
    Column::number("SEEN", "seen_ago_ms"),
    Column::number("HIT RATE", "hit_rate"),
    Column::number("LOADS", "loads"),
    Column::number("LOCKS", "locks_granted"),
    Column::number("LOST", "locks_lost"),
    Column::number("QUEUED", "queued"),
    Column::number("ERRORS", "errors"),
];

pub(crate) async fn run(_arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.open()?;
    let processes = larder.admin().processes().await?;
    let mut table = Table::new(COLUMNS, "processes");
    let count = |number: u64| Cell::number(units::count(number), number);
    // A row for each process, in the order of the columns above.
    for process in &processes {
        let counters = &process.counters;
        let reads = counters.hits + counters.misses;
        let rate = (reads > 0).then(|| counters.hits as f64 / reads as f64);
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        table.row(vec![
            Cell::text(&process.name),
            Cell::text(&process.host),
            Cell::number(process.pid.to_string(), u64::from(process.pid)),
            Cell::text(&process.version),
            Cell::number(units::time(process.uptime), millis(process.uptime)),
            Cell::number(format!("{} ago", units::time(process.seen_ago)), millis(process.seen_ago)),
            rate.map_or_else(Cell::none, |rate| {
                Cell::value(format!("{:.1} %", rate * 100.0), json!((rate * 10_000.0).round() / 10_000.0))
            }),
            count(counters.loads),
            count(counters.locks_granted),
            count(counters.locks_lost),
            count(counters.queued),
            count(counters.errors),
        ]);
    }
    // Below the table: how to be listed, or how many there are and since when.
    if processes.is_empty() {
        table.note("(no process has announced itself: LarderBuilder::presence)");
    } else {
        let oldest = processes.iter().map(|process| process.started).min();
        if let Some(oldest) = oldest {
            let noun = if processes.len() == 1 { "process" } else { "processes" };
            let since = moment::shown(oldest);
            table.note(format!("({} {noun}, the oldest since {since})", processes.len()));
            table.field("oldest", Value::from(moment::shown(oldest)));
        }
    }
    app.out.table(&table)?;
    Ok(Exit::OK)
}
