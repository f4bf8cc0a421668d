//! `larder doctor`: checks a server's setup.

use clap::Args;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Check the server, its rights and its setup
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) async fn run(_arguments: Arguments, _app: &App) -> Result<Exit, Failure> {
    Err(Failure::usage("this build has no `doctor`"))
}
