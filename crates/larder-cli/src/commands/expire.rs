//! `larder expire`: marks entries as stale.

use clap::Args;

use crate::app::App;
use crate::commands::each::Keys;
use crate::exit::Exit;
use crate::failure::Failure;

/// Mark entries as stale: the next reader loads them again
#[derive(Debug, Args)]
#[command(after_help = "\
An entry of a cache with stale_for is still served if that load fails; any other entry is deleted. Exits with 1 \
if none of the keys was there.

Example:
  larder expire user 123")]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: Keys,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let expire = async |admin: &larder::admin::Admin, cache: &str, key: &str| admin.expire(cache, key).await;
    arguments.of.each(app, ("expired", "would expire"), expire).await
}
