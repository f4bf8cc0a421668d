//! `larder lock show`: one lock with its holders and waiters.

use std::fmt::Write;

use clap::Args;
use larder::admin::{LockInfo, LockKind};
use serde_json::{Value, json};

use super::view::{self, Kind};
use crate::app::App;
use crate::commands::moment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{escape, units};

/// Show a lock: who holds it, for how long, and who waits
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 if nothing holds it.

Examples:
  larder lock show checkout
  larder lock show pool:ann --kind semaphore      # the key ann of the semaphore pool")]
pub(super) struct Arguments {
    /// The name that the program gave it
    name: String,
    /// What it is
    #[arg(long, value_enum, default_value = "lock")]
    kind: Kind,
}

pub(super) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.open()?;
    let info = larder.admin().lock(arguments.kind.into(), &arguments.name).await?;
    app.out.one(people(&info).trim_end(), &json(&info))?;
    Ok(if info.holding == 0 { Exit::NO } else { Exit::OK })
}

pub(super) fn people(info: &LockInfo) -> String {
    let mut out = String::new();
    let name = escape::text(&info.name);
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{} {name}: {}", info.kind.as_str(), view::state(info));
    for holder in &info.holders {
        let _ = write!(out, "  held by {}", escape::text(&view::holder(holder)));
        let _ = write!(out, ", for {} unless renewed", units::time(holder.remaining));
        if let Some(fence) = holder.fence {
            let _ = write!(out, ", fence {fence}");
        }
        if holder.permits > 1 && info.kind == LockKind::Semaphore {
            let _ = write!(out, ", {} permits", units::count(holder.permits));
        }
        if !holder.locks.is_empty() {
            let _ = write!(out, ", locks {}", escape::text(&holder.locks.join(", ")));
        }
        if let Some(value) = &holder.value {
            let _ = write!(out, ", value {}", escape::text(value));
        }
        if holder.unconfirmed {
            out.push_str(", not confirmed yet");
        }
        out.push('\n');
    }
    for (place, waiter) in info.waiters.iter().enumerate() {
        let process = waiter.process.as_ref().map_or_else(|| view::unnamed(waiter.token), view::process);
        let _ = write!(out, "  waiting, {}: {}", place + 1, escape::text(&process));
        let _ = writeln!(out, ", seen {} ago", units::time(waiter.heartbeat_ago));
    }
    if let Some(run) = &info.last_run {
        let _ = write!(out, "  last run by {}, began {}", escape::text(&run.by), moment::shown(run.started));
        match run.ended {
            Some(ended) => {
                let _ = writeln!(out, ", {} {}", escape::text(&run.outcome), moment::shown(ended));
            }
            None => out.push_str(", has not ended\n"),
        }
    }
    out
}

pub(super) fn json(info: &LockInfo) -> Value {
    let waiters: Vec<Value> = info
        .waiters
        .iter()
        .map(|waiter| {
            json!({
                "token": format!("{:016x}", waiter.token),
                "process": waiter.process.as_ref().map(|process| process.name.as_str()),
                "heartbeat_ago_ms": view::millis(waiter.heartbeat_ago),
                "permits": waiter.permits,
                "locks": waiter.locks,
            })
        })
        .collect();
    json!({
        "name": info.name,
        "kind": info.kind.as_str(),
        "state": view::state(info),
        "holding": info.holding,
        "holders": info.holders.iter().map(view::holder_json).collect::<Vec<_>>(),
        "waiting": info.waiting,
        "waiters": waiters,
        "permits": info.permits,
        "last_run": info.last_run.as_ref().map(|run| json!({
            "started": moment::shown(run.started),
            "ended": run.ended.map(moment::shown),
            "by": run.by,
            "outcome": run.outcome,
        })),
    })
}
