//! `larder limit`: rate limits from scripts.

mod quota;

use std::time::Duration;

use clap::{Args, Subcommand};
use larder::Quota;
use larder::limit::Decision;
use serde_json::json;

use crate::app::App;
use crate::args::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, units};

/// Check, look at, reset and wait for rate limits
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Charge permits, or be refused: exit 0 allowed, 75 refused
    #[command(after_help = "\
Several quotas are decided together, in one round trip: all are charged, or none.

Examples:
  larder limit check api ann --quota 10/1s --quota 100/1m && curl …
  larder limit check mail out --quota 5/1s:gcra=2      # one every 200 ms, two at once
  larder limit check api ann --quota 500/1h:exact --cost 20")]
    Check(Key),
    /// Say what `check` would answer, and charge nothing
    Peek(Key),
    /// Forget what a key has used, and end its block
    #[command(after_help = "Exits with 1 if there was nothing to forget.")]
    Reset {
        /// The rate limiter's name
        limiter: String,
        /// The key
        key: String,
    },
    /// Wait until permits are free, and charge them
    #[command(after_help = "\
The server books a turn, so callers are served in their order. Exits with 75 if none is free within --within.

Example:
  larder limit wait mail out --quota 5/1s --within 1m && sendmail …")]
    Wait {
        #[command(flatten)]
        of: Key,
        /// How long to wait at most
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1m")]
        within: Duration,
    },
}

/// A key of a limiter, and what it is charged.
#[derive(Debug, Args)]
struct Key {
    /// The rate limiter's name
    limiter: String,
    /// The key
    key: String,
    /// A quota, as 10/1s or 500/1h:exact; several are decided together
    #[arg(long = "quota", required = true, value_name = "N/TIME", value_parser = quota::parse)]
    quotas: Vec<Quota>,
    /// How many permits to charge
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    cost: u64,
    /// Print nothing
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Check(of) => {
            app.may_write()?;
            let larder = app.open()?;
            let decision =
                larder.admin().check_limit(&of.limiter, &of.key, of.cost, of.quotas.clone()).await?;
            show(&of, &decision, app)
        }
        Command::Peek(of) => {
            let larder = app.open()?;
            let decision =
                larder.admin().peek_limit(&of.limiter, &of.key, of.cost, of.quotas.clone()).await?;
            show(&of, &decision, app)
        }
        Command::Wait { of, within } => {
            app.may_write()?;
            let larder = app.open()?;
            let admin = larder.admin();
            let decision =
                admin.acquire_limit(&of.limiter, &of.key, of.cost, of.quotas.clone(), within).await?;
            show(&of, &decision, app)
        }
        Command::Reset { limiter, key } => {
            app.may_write()?;
            let larder = app.open()?;
            let reset = larder.admin().reset_limit(&limiter, &key).await?;
            let text = if reset { "reset" } else { "nothing was used" };
            app.out.one(text, &json!({ "limiter": limiter, "key": key, "reset": reset }))?;
            Ok(if reset { Exit::OK } else { Exit::NO })
        }
    }
}

fn show(of: &Key, decision: &Decision, app: &App) -> Result<Exit, Failure> {
    let allowed = decision.is_allowed();
    let retry = decision.retry_after();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let json = json!({
        "limiter": of.limiter,
        "key": of.key,
        "allowed": allowed,
        "cost": of.cost,
        "limit": decision.limit(),
        "window_ms": millis(decision.quota().window()),
        "remaining": decision.remaining(),
        "retry_after_ms": retry.map(millis),
        "reset_after_ms": millis(decision.reset_after()),
    });
    let quota = format!("{} in {}", units::count(decision.limit()), units::time(decision.quota().window()));
    let text = match retry {
        None => format!("allowed, {} left of {quota}", units::count(decision.remaining())),
        Some(retry) => format!("refused by {quota}, retry after {}", units::time(retry)),
    };
    if !of.quiet {
        // A script reads the exit code; the reason of a refusal is for its log.
        if allowed || app.out.is_json() || app.out.is_terminal() {
            app.out.one(&text, &json)?;
        } else {
            output::say(&text);
        }
    }
    Ok(if allowed { Exit::OK } else { Exit::BUSY })
}
