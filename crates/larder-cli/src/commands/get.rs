//! `larder get`: the value of an entry.

use clap::Args;
use larder::admin::{EntryInfo, EntryKind, EntryValue};
use serde_json::{Map, Value};

use crate::app::App;
use crate::commands::entry;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, escape};

/// Print the value of an entry, whatever its format
#[derive(Debug, Args)]
#[command(after_help = "\
The key is given as it is stored: 123, or a:1 for the tuple (\"a\", 1). JSON and MessagePack are printed as \
JSON, bytes as hexadecimal digits. Exits with 1 if nothing is stored.

Examples:
  larder get user 123
  larder get page@2 a:1 --meta
  larder get image 7 --raw > 7.png")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The key
    key: String,
    /// Show the envelope too: format, size, times, tags
    #[arg(long, short)]
    meta: bool,
    /// Write the bytes of the value as they are, and nothing else
    #[arg(long, conflicts_with = "meta")]
    raw: bool,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    let larder = app.open()?;
    let Arguments { cache, key, .. } = &arguments;
    let Some(found) = larder.admin().entry(cache, key).await? else {
        return absent(&arguments, app, &format!("there is no {cache} {key:?}"));
    };
    match found.kind {
        EntryKind::Absence if !arguments.meta => {
            return absent(&arguments, app, &format!("{cache} {key:?} is known to be absent"));
        }
        EntryKind::Placeholder if !arguments.meta => {
            return absent(&arguments, app, &format!("{cache} {key:?} is being loaded"));
        }
        EntryKind::Unreadable(reason) if !arguments.meta && !arguments.raw => {
            return Err(Failure::new(Exit::DATA, format!("{cache} {key:?} cannot be read: {reason}"))
                .fix("programs load it again; --meta shows what is known of it, --raw writes its bytes"));
        }
        _ => {}
    }
    if arguments.raw {
        app.out.raw(&found.payload()?.unwrap_or_else(|| found.stored().clone()))?;
        return Ok(Exit::OK);
    }
    if let Some(remark) = entry::remark(&found).filter(|_| !arguments.meta && !app.out.is_json()) {
        output::say(&remark);
    }
    show(&arguments, app, &found)?;
    Ok(if found.kind == EntryKind::Value { Exit::OK } else { Exit::NO })
}

fn show(arguments: &Arguments, app: &App, found: &EntryInfo) -> Result<(), Failure> {
    let value = match found.value() {
        Ok(value) => value,
        // The envelope can be shown all the same.
        Err(error) if arguments.meta => {
            output::say(&error.to_string());
            None
        }
        Err(error) => {
            return Err(
                Failure::from(error).fix("--raw writes the bytes of the value, --meta shows its format")
            );
        }
    };
    if app.out.is_json() {
        let mut object = Map::new();
        object.insert("cache".to_owned(), Value::from(arguments.cache.as_str()));
        object.insert("key".to_owned(), Value::from(arguments.key.as_str()));
        if let Some(value) = value {
            entry::add_value(&mut object, value);
        }
        if arguments.meta {
            object.insert("meta".to_owned(), entry::envelope_json(found));
        }
        return app.out.json(&Value::Object(object));
    }
    let mut text = if arguments.meta { entry::envelope(found) } else { String::new() };
    match value {
        Some(EntryValue::Json(value)) => {
            let json = if app.out.is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") };
            text.push_str(&escape::json(&json));
        }
        Some(EntryValue::Bytes(bytes)) => text.push_str(&format!("{}\n", escape::hex(&bytes))),
        _ => {}
    }
    app.out.text(&text)
}

/// Nothing to print, which is no error. JSON has `null`, so that its readers always get a document.
fn absent(arguments: &Arguments, app: &App, why: &str) -> Result<Exit, Failure> {
    if app.out.is_json() && !arguments.raw {
        app.out.json(&Value::Null)?;
    }
    output::say(why);
    Ok(Exit::NO)
}
