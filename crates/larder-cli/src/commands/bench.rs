//! `larder bench`: measures a server.

use clap::Args;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Measure the server from this machine
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) async fn run(_arguments: Arguments, _app: &App) -> Result<Exit, Failure> {
    Err(Failure::usage("this build has no `bench`"))
}
