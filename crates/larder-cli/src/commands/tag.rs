//! `larder tag`: invalidates what carries a tag.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::App;
use crate::args::Consent;
use crate::confirm::{self, Answer};
use crate::exit::Exit;
use crate::failure::Failure;

/// Invalidate every entry that carries a tag
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Invalidate every entry of any cache that carries a tag
    #[command(after_help = "\
Costs one round trip for each tag, however many entries carry it. Asks on a terminal; elsewhere it needs --yes.

Example:
  larder tag invalidate team:7")]
    Invalidate {
        /// The tags
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let Command::Invalidate { tags, consent } = arguments.command;
    let named = tags.iter().map(|tag| format!("{tag:?}")).collect::<Vec<_>>().join(", ");
    let larder = app.connect().await?;
    let question = format!("Invalidate every entry that carries {named}{}?", app.place());
    let answer = confirm::ask(consent, &question)?;
    let done = answer == Answer::Go;
    if done {
        for tag in &tags {
            larder.admin().invalidate_tag(tag).await?;
        }
    }
    let text = match answer {
        Answer::No => return Ok(Exit::NO),
        Answer::Dry => format!("would invalidate what carries {named}"),
        Answer::Go => format!("invalidated what carries {named}"),
    };
    app.out.one(&text, &json!({ "tags": tags, "invalidated": done }))?;
    Ok(Exit::OK)
}
