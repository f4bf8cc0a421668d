//! `larder`: see into caches, locks and rate limits on a server, and use them from scripts. docs/cli.md describes it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod app;
mod args;
mod commands;
mod confirm;
mod exit;
mod failure;
mod output;
mod profile;
mod settings;

use std::env;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::app::App;
use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;

fn main() -> ExitCode {
    // The helper of `lock run`: this same program, started again to become the child.
    if let Some(exit) = commands::lock::helper(env::args_os()) {
        return exit.into();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if failure.exit() != Exit::PIPE {
                let _ = writeln!(std::io::stderr().lock(), "{failure}");
            }
            failure.exit().into()
        }
    }
}

/// Runs the command on this thread: a child's parent, for the kernel, is the thread that made it.
fn start(cli: Cli) -> Result<Exit, Failure> {
    if let Some(done) = commands::without_server(&cli.command) {
        return done;
    }
    let app = App::new(&cli.globals)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(cli.command, &app))
}

/// Prints the message about the command line; asking for help is no mistake.
fn usage(error: &clap::Error) -> Exit {
    let _ = error.print();
    if error.use_stderr() { Exit::USAGE } else { Exit::OK }
}
