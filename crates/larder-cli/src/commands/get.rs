//! `larder get`: …

use clap::Args;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// …
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) async fn run(_arguments: Arguments, _app: &App) -> Result<Exit, Failure> {
    Err(Failure::usage("this build has no `get`"))
}
