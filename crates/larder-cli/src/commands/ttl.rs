//! `larder ttl`: how long an entry is kept.

use std::time::Duration;

use clap::Args;
use larder::Expiry;
use serde_json::json;

use crate::app::App;
use crate::args::duration;
use crate::commands::entry;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, units};

/// Print how long an entry is kept, or change it
#[derive(Debug, Args)]
#[command(after_help = "\
Prints milliseconds in a pipe, and `never` for an entry without an expiry. Exits with 1 if there is no such entry.

Examples:
  larder ttl user 123
  larder ttl user 123 --set 1h")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The key as it is stored
    key: String,
    /// Keep it for this long from now
    #[arg(long, value_name = "TIME", value_parser = duration)]
    set: Option<Duration>,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let Arguments { cache, key, set } = &arguments;
    if set.is_some() {
        app.may_write()?;
    }
    let larder = app.open()?;
    let admin = larder.admin();
    let expiry = match set {
        Some(ttl) => admin.touch(cache, key, *ttl).await?.then_some(Expiry::After(*ttl)),
        None => admin.ttl(cache, key).await?,
    };
    let Some(expiry) = expiry else {
        if app.out.is_json() {
            app.out.json(&json!({ "cache": cache, "key": key, "exists": false, "ttl_ms": null }))?;
        }
        output::say(&format!("there is no {cache} {key:?}"));
        return Ok(Exit::NO);
    };
    let text = match expiry {
        Expiry::After(left) if app.out.is_terminal() => units::time(left),
        Expiry::After(left) => left.as_millis().to_string(),
        _ => "never".to_owned(),
    };
    let json = json!({ "cache": cache, "key": key, "exists": true, "ttl_ms": entry::expiry_json(expiry) });
    app.out.one(&text, &json)?;
    Ok(Exit::OK)
}
