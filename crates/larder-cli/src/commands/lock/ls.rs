//! `larder lock ls`: the locks that are held or waited for.

use clap::Args;
use serde_json::Value;

use super::view::{self, Kind};
use crate::app::App;
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table, units};

/// List the locks, semaphores, elections and jobs that are in use
#[derive(Debug, Args)]
#[command(after_help = "\
Visits every key of the server of locks, 200 at a time, with a pause after each batch for as long as the batch took.

Examples:
  larder lock ls
  larder lock ls --kind semaphore --format json")]
pub(super) struct Arguments {
    /// List only these kinds
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
}

const COLUMNS: &[Column] = &[
    Column::text("LOCK", "name"),
    Column::text("KIND", "kind"),
    Column::text("STATE", "state"),
    Column::number("FOR", "remaining_ms"),
    Column::number("WAITING", "waiting"),
    Column::number("FENCE", "fence"),
    Column::text("HOLDER", "holders"),
];

pub(super) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.connect().await?;
    let mut scan = larder.admin().locks();
    if !arguments.kind.is_empty() {
        scan = scan.only(arguments.kind.iter().map(|kind| (*kind).into()));
    }
    let progress = Progress::start(app);
    let (mut interrupt, mut interrupted) = (Interrupt::listen(), false);
    let mut found = Vec::new();
    loop {
        let page = tokio::select! {
            page = scan.next_page() => page?,
            () = interrupt.pressed() => {
                interrupted = true;
                None
            }
        };
        let Some(page) = page else { break };
        found.extend(page);
        progress.show(scan.progress());
    }
    progress.end();

    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    // The server may return a key twice.
    found.dedup_by(|a, b| (a.kind, &a.name) == (b.kind, &b.name));
    let mut table = Table::new(COLUMNS, "locks");
    for info in &found {
        let remaining = view::remaining(info);
        let fence = info.holders.iter().filter_map(|holder| holder.fence).max();
        let holders: Vec<Value> =
            info.holders.iter().map(|holder| Value::from(view::holder(holder))).collect();
        table.row(vec![
            Cell::text(&info.name),
            Cell::text(info.kind.as_str()),
            Cell::text(view::state(info)),
            remaining.map_or_else(Cell::none, |time| Cell::number(units::time(time), view::millis(time))),
            Cell::number(units::count(info.waiting), info.waiting),
            fence.map_or_else(Cell::none, |fence| Cell::number(fence.to_string(), fence.get())),
            Cell::value(view::holders(info), Value::from(holders)),
        ]);
    }
    if interrupted {
        table.note("(interrupted: there may be more)");
    } else if found.is_empty() {
        table.note("(no lock is held or waited for)");
    }
    app.out.table(&table)?;
    Ok(if interrupted { Exit::signal(2) } else { Exit::OK })
}
