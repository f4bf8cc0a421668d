//! `larder del`: deletes entries.

use clap::Args;

use crate::app::App;
use crate::commands::each;
use crate::exit::Exit;
use crate::failure::Failure;

/// Delete entries
#[derive(Debug, Args)]
#[command(after_help = "\
Near copies are dropped, and loads that are under way store nothing. Exits with 1 if none of the keys was there.
Example:
  larder del user 123 124")]
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
        return each::would(&admin, cache, keys, "would delete", app).await;
    }
    let mut done = each::Done::new("deleted");
    for key in keys {
        done.add(key, admin.delete(cache, key).await?);
    }
    done.print(cache, app)
}
