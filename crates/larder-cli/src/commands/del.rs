//! `larder del`: deletes entries.

use clap::Args;

use crate::app::App;
use crate::commands::each::Keys;
use crate::exit::Exit;
use crate::failure::Failure;

/// Delete entries
#[derive(Debug, Args)]
#[command(after_help = "\
Near copies are dropped, and loads that are under way store nothing. Exits with 1 if none of the keys was there.

Example:
  larder del user 123 124")]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: Keys,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let delete = async |admin: &larder::admin::Admin, cache: &str, key: &str| admin.delete(cache, key).await;
    arguments.of.each(app, ("deleted", "would delete"), delete).await
}
