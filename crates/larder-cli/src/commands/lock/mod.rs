//! `larder lock`: run a command under a lock, and look after locks.

mod break_lock;
mod ls;
mod run;
mod show;
mod view;

use clap::{Args, Subcommand};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

pub(crate) use run::helper;

/// Run a command under a lock, and look after locks
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Ls(ls::Arguments),
    Show(show::Arguments),
    Break(break_lock::Arguments),
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Run(arguments) => run::run(arguments, app).await,
        Command::Ls(arguments) => ls::run(arguments, app).await,
        Command::Show(arguments) => show::run(arguments, app).await,
        Command::Break(arguments) => break_lock::run(arguments, app).await,
    }
}
