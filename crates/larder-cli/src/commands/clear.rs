//! `larder clear`: invalidates a whole cache.

use clap::Args;
use serde_json::json;

use crate::app::App;
use crate::args::Consent;
use crate::confirm::{self, Answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::units;

/// The keys that are looked at to estimate how many entries the cache has.
const SAMPLE: usize = 1000;

/// Invalidate every entry of a cache
#[derive(Debug, Args)]
#[command(after_help = "\
Costs one round trip, however many entries the cache has; they expire later. It covers every schema. Asks on a \
terminal; elsewhere it needs --yes.

Example:
  larder clear page --dry-run")]
pub(crate) struct Arguments {
    /// The cache, without a schema
    cache: String,
    #[command(flatten)]
    consent: Consent,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let Arguments { cache, consent } = &arguments;
    let larder = app.connect().await?;
    let admin = larder.admin();
    // With --yes there is no question, so the number is not needed.
    let estimate =
        if consent.yes && !consent.dry_run { None } else { Some(admin.count_cache(cache, SAMPLE).await?) };
    let about = estimate.map_or_else(String::new, |estimate| {
        let sign = if estimate.error > 0.0 { "about " } else { "" };
        let number = estimate.value.round() as u64;
        let noun = if number == 1 { "entry" } else { "entries" };
        format!(", {sign}{} {noun},", units::count(number))
    });
    let answer = confirm::ask(*consent, &format!("Clear {cache:?}{about}{}?", app.place()))?;
    let text = match answer {
        Answer::No => return Ok(Exit::NO),
        Answer::Dry => format!("would clear {cache:?}{}", about.trim_end_matches(',')),
        Answer::Go => {
            admin.clear(cache).await?;
            format!("cleared {cache:?}{}", about.trim_end_matches(','))
        }
    };
    let json = json!({
        "cache": cache,
        "cleared": answer == Answer::Go,
        "entries": estimate.map(|estimate| estimate.value.round() as u64),
    });
    app.out.one(&text, &json)?;
    Ok(Exit::OK)
}
