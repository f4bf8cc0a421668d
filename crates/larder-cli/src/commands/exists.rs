//! `larder exists`: whether a reader gets a value.

use clap::Args;
use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Say whether a program that reads an entry now gets a value
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 for yes and 1 for no. A stale or invalidated entry is no.

Example:
  larder exists user 123 && echo cached")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The key as it is stored
    key: String,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let Arguments { cache, key } = &arguments;
    let larder = app.open()?;
    let exists = larder.admin().exists(cache, key).await?;
    let json = json!({ "cache": cache, "key": key, "exists": exists });
    app.out.one(if exists { "yes" } else { "no" }, &json)?;
    Ok(if exists { Exit::OK } else { Exit::NO })
}
