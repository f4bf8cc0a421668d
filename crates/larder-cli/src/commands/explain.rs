//! `larder explain`: why an entry is served or not.

use std::fmt::Write;

use clap::Args;
use larder::Stored;
use larder::admin::EntryReport;
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::{entry, moment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::escape;

/// Say why an entry is served or not: age, freshness, tags, who loads it
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 if a program that reads it now gets a value, else with 1.

Examples:
  larder explain user 123
  larder explain user 123 --format json | jq .verdict")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The key as it is stored
    key: String,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.open()?;
    let report = larder.admin().explain(&arguments.cache, &arguments.key).await?;
    let (verdict, words, served) = verdict(&report);
    let mut text = format!("{}: {}\n", escape::text(&report.explanation.name), escape::text(&words));
    if let Some(found) = &report.entry {
        // The first line has the name already.
        text.push_str(entry::envelope(found).split_once('\n').map_or("", |(_, rest)| rest));
    }
    if let Some(loader) = &report.loader {
        let by = loader.process.as_ref().map_or_else(
            || format!("process {:08x} (no name)", loader.token >> 32),
            |process| format!("{} ({}:{})", process.name, process.host, process.pid),
        );
        let since = loader.since.map(|since| format!(", since {}", moment::shown(since))).unwrap_or_default();
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{:>12}  {}{since}", "loaded by", escape::text(&by));
    }
    app.out.one(text.trim_end(), &json(&report, verdict, served))?;
    Ok(if served { Exit::OK } else { Exit::NO })
}

fn json(report: &EntryReport, verdict: &str, served: bool) -> Value {
    json!({
        "name": report.explanation.name,
        "served": served,
        "verdict": verdict,
        "by": match &report.explanation.stored { Stored::Invalidated { by } => Some(by.as_str()), _ => None },
        "entry": report.entry.as_ref().map(entry::envelope_json),
        "loader": report.loader.as_ref().map(|loader| json!({
            "token": format!("{:016x}", loader.token),
            "process": loader.process.as_ref().map(|process| process.name.as_str()),
            "since": loader.since.map(moment::shown),
        })),
    })
}

/// The verdict for programs and for people, and whether a reader gets a value.
fn verdict(report: &EntryReport) -> (&'static str, String, bool) {
    match &report.explanation.stored {
        Stored::Nothing => ("nothing", "nothing is stored: a miss".to_owned(), false),
        Stored::Fresh => ("fresh", "a fresh value, which is served".to_owned(), true),
        Stored::Stale => {
            ("stale", "a stale value: a miss for get(), and get_or_load() loads".to_owned(), false)
        }
        Stored::Absent => ("absent", "known to be absent: a miss without a load".to_owned(), false),
        Stored::Loading(_) => ("loading", "being loaded: readers wait for it".to_owned(), false),
        Stored::Invalidated { by } if by == "clear" => {
            ("cleared", "not served: the cache was cleared since it was read".to_owned(), false)
        }
        Stored::Invalidated { by } => {
            ("invalidated", format!("not served: the tag {by:?} was invalidated since it was read"), false)
        }
        Stored::Bare => (
            "bare",
            "bytes without an envelope: served if they are JSON of the value's shape".to_owned(),
            true,
        ),
        Stored::Unreadable(reason) => ("unreadable", format!("unreadable ({reason}): a miss"), false),
        _ => ("other", "not served at the moment".to_owned(), false),
    }
}
