//! `larder expire`: marks entries as stale.

use clap::Args;

use crate::app::App;
use crate::commands::each;
use crate::exit::Exit;
use crate::failure::Failure;

/// Mark entries as stale: the next reader loads them again
#[derive(Debug, Args)]
#[command(after_help = "\
An entry of a cache with stale_for is still served if that load fails; any other entry is deleted. Exits with 1 if none
of the keys was there.
Example:
  larder expire user 123")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The keys as they are stored
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let larder = app.connect().await?;
    let admin = larder.admin();
    let Arguments { cache, keys, dry_run } = &arguments;
    if *dry_run {
        return each::would(&admin, cache, keys, "would expire", app).await;
    }
    let mut done = each::Done::new("expired");
    for key in keys {
        done.add(key, admin.expire(cache, key).await?);
    }
    done.print(cache, app)
}
