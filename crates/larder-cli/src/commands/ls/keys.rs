//! `larder ls CACHE`: the keys of one cache.

use larder::Larder;
use larder::admin::{EntryKind, ScannedEntry, StoredFormat};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::Form;
use crate::commands::entry;
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Cell, Column, Table, units};

const KEYS: &[Column] = &[Column::text("KEY", "key")];
const DETAILS: &[Column] = &[
    Column::text("KEY", "key"),
    Column::text("KIND", "kind"),
    Column::text("FORMAT", "format"),
    Column::number("SIZE", "bytes"),
    Column::number("TTL", "ttl_ms"),
];

pub(super) async fn run(
    larder: &Larder,
    cache: &str,
    limit: u64,
    details: bool,
    app: &App,
) -> Result<Exit, Failure> {
    let mut scan = larder.admin().scan(cache)?;
    if details {
        scan = scan.details();
    }
    let progress = Progress::start(app);
    let columns = if details { DETAILS } else { KEYS };
    let mut listed = 0;
    let (mut interrupt, mut interrupted) = (Interrupt::listen(), false);
    // A table and a JSON document are printed as one; lines are printed as they come.
    let streams = matches!(app.out.form(), Form::Tsv | Form::Ndjson);
    let mut table = Table::new(columns, "keys");
    if app.out.form() == Form::Tsv {
        app.out.table(&table)?;
    }
    'pages: loop {
        let page = tokio::select! {
            page = scan.next_page() => page?,
            () = interrupt.pressed() => {
                interrupted = true;
                None
            }
        };
        let Some(page) = page else { break };
        for entry in page {
            if listed == limit {
                break 'pages;
            }
            listed += 1;
            table.row(row(&entry, details));
        }
        if streams {
            progress.aside(|| app.out.rows(&table))?;
            table.clear();
        }
        progress.show(scan.progress());
    }
    progress.end();
    if listed == 0 && !interrupted {
        output::say(&format!("there is no entry of {cache:?}; `larder ls` lists the caches"));
    }
    if streams {
        app.out.rows(&table)?;
    } else {
        table.note(summary(listed, limit, interrupted));
        app.out.table(&table)?;
    }
    Ok(match (interrupted, listed) {
        (true, _) => Exit::signal(2),
        (false, 0) => Exit::NO,
        (false, _) => Exit::OK,
    })
}

fn row(entry: &ScannedEntry, details: bool) -> Vec<Cell> {
    let mut cells = vec![Cell::text(&entry.key)];
    if details {
        cells.push(entry.kind.map_or_else(Cell::none, |kind| Cell::text(entry::kind(kind))));
        cells.push(match (entry.kind, entry.format) {
            (Some(EntryKind::Value), Some(format)) => Cell::text(StoredFormat::as_str(format)),
            _ => Cell::none(),
        });
        cells.push(
            entry.stored_bytes.map_or_else(Cell::none, |bytes| Cell::number(units::size(bytes), bytes)),
        );
        cells.push(match entry.expiry {
            Some(larder::Expiry::After(left)) => {
                Cell::number(units::time(left), u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
            }
            Some(_) => Cell::value("never", Value::Null),
            None => Cell::value("", json!(null)),
        });
    }
    cells
}

fn summary(listed: u64, limit: u64, interrupted: bool) -> String {
    let listed_keys = if listed == 1 { "1 key".to_owned() } else { format!("{} keys", units::count(listed)) };
    if interrupted {
        format!("({listed_keys}, interrupted: there may be more)")
    } else if listed == limit {
        format!("({listed_keys}; there may be more: --limit, --all)")
    } else {
        format!("({listed_keys})")
    }
}
