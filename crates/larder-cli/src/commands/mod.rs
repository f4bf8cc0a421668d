//! One file a command.

pub(crate) mod bench;
pub(crate) mod clear;
pub(crate) mod completions;
pub(crate) mod del;
pub(crate) mod doctor;
pub(crate) mod each;
pub(crate) mod entry;
pub(crate) mod exists;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod help;
pub(crate) mod interrupt;
pub(crate) mod limit;
pub(crate) mod lock;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod moment;
pub(crate) mod progress;
pub(crate) mod ps;
pub(crate) mod set;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod ttl;

use crate::app::App;
use crate::args::Command;
use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a command that needs no server and no settings; `None` for any other.
pub(crate) fn without_server(command: &Command) -> Option<Result<Exit, Failure>> {
    match command {
        Command::Completions(arguments) => Some(completions::run(arguments)),
        Command::Man(arguments) => Some(man::run(arguments)),
        Command::Help(arguments) => Some(help::run(arguments)),
        _ => None,
    }
}

/// Runs a command.
pub(crate) async fn run(command: Command, app: &App) -> Result<Exit, Failure> {
    match command {
        Command::Ls(arguments) => ls::run(arguments, app).await,
        Command::Get(arguments) => get::run(arguments, app).await,
        Command::Explain(arguments) => explain::run(arguments, app).await,
        Command::Set(arguments) => set::run(arguments, app).await,
        Command::Del(arguments) => del::run(arguments, app).await,
        Command::Expire(arguments) => expire::run(arguments, app).await,
        Command::Ttl(arguments) => ttl::run(arguments, app).await,
        Command::Exists(arguments) => exists::run(arguments, app).await,
        Command::Tag(arguments) => tag::run(arguments, app).await,
        Command::Clear(arguments) => clear::run(arguments, app).await,
        Command::Lock(arguments) => lock::run(arguments, app).await,
        Command::Limit(arguments) => limit::run(arguments, app).await,
        Command::Ps(arguments) => ps::run(arguments, app).await,
        Command::Top(arguments) => top::run(arguments, app).await,
        Command::Doctor(arguments) => doctor::run(arguments, app).await,
        Command::Bench(arguments) => bench::run(arguments, app).await,
        Command::Completions(_) | Command::Man(_) | Command::Help(_) => Ok(Exit::OK),
    }
}
