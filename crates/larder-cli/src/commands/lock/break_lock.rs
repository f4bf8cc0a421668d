//! `larder lock break`: takes a lock from its holder.

use clap::Args;
use serde_json::json;

use super::show;
use super::view::{self, Kind};
use crate::app::App;
use crate::args::Consent;
use crate::confirm::{self, Answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Take a lock from its holder, who may still be working
#[derive(Debug, Args)]
#[command(after_long_help = "\
The next waiter gets the lock at once. The holder learns of it with its next renewal, and until then both may work: \
only the fence tells them apart. Break only what hangs.

Exits with 1 if nothing held it, or the holder that was shown has released it meanwhile.

Examples:
  larder lock break checkout
  larder lock break checkout --yes --fence 1764565200000000     # only this grant
  larder lock break pool --kind semaphore --holder 0badcafe00000001 --yes")]
pub(super) struct Arguments {
    /// The name that the program gave it
    name: String,
    /// What it is
    #[arg(long, value_enum, default_value = "lock")]
    kind: Kind,
    /// Only if the holder has this fence
    #[arg(long)]
    fence: Option<u64>,
    /// The token of the holder, as `lock show --format json` has it; needed if there are several
    #[arg(long, value_name = "TOKEN")]
    holder: Option<String>,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let larder = app.connect().await?;
    let admin = larder.admin();
    let name = &arguments.name;
    let info = admin.lock(arguments.kind.into(), name).await?;
    let chosen: Vec<_> = info
        .holders
        .iter()
        .filter(|holder| arguments.fence.is_none_or(|fence| holder.fence.is_some_and(|of| of.get() == fence)))
        .filter(|holder| {
            arguments.holder.as_ref().is_none_or(|token| format!("{:016x}", holder.token) == *token)
        })
        .collect();
    let holder = match chosen.as_slice() {
        [] => {
            output::say(&format!(
                "nothing holds {name:?}{}",
                if info.holding > 0 { " that was named" } else { "" }
            ));
            return Ok(Exit::NO);
        }
        [holder] => *holder,
        several => {
            return Err(Failure::usage(format!("{name:?} has {} holders", several.len()))
                .fix("name one with --holder: `larder lock show --format json` lists their tokens"));
        }
    };
    let by = view::holder(holder);
    let question = format!(
        "{}Take {name:?}{} from {by}? It may go on working until its next renewal.",
        show::people(&info),
        app.place_of_locks()
    );
    // The answer is asked for on one line; what is known of the lock is printed before it.
    let (shown, question) = question.split_at(question.rfind("Take ").unwrap_or(0));
    if !arguments.consent.yes && !app.out.is_json() {
        output::note(shown);
    }
    match confirm::ask(arguments.consent, question)? {
        Answer::No => Ok(Exit::NO),
        Answer::Dry => {
            let json = json!({ "name": name, "holder": view::holder_json(holder), "broken": false, "dry_run": true });
            app.out.one(&format!("would take {name:?} from {by}"), &json)?;
            Ok(Exit::OK)
        }
        Answer::Go => {
            let broken = admin.break_lock(arguments.kind.into(), name, holder).await?;
            let json = json!({ "name": name, "holder": view::holder_json(holder), "broken": broken, "dry_run": false });
            let text = if broken {
                format!("took {name:?} from {by}")
            } else {
                format!("{by} has released {name:?} meanwhile")
            };
            app.out.one(&text, &json)?;
            Ok(if broken { Exit::OK } else { Exit::NO })
        }
    }
}
