//! `larder lock`: run a command under a lock, and look after locks.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Run a command under a lock, and look after locks
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

pub(crate) async fn run(arguments: Arguments, _app: &App) -> Result<Exit, Failure> {
    match arguments.command {}
}

pub(crate) fn helper(_arguments: impl Iterator<Item = OsString>) -> Option<Exit> {
    None
}
