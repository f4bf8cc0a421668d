//! `larder set`: stores a value.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use larder::admin::{EntryValue, EntryWrite, StoredFormat};
use larder::{ErrorKind, Expiry};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::duration;
use crate::exit::Exit;
use crate::failure::Failure;

/// Store a value; what is not given is taken from the entry that it replaces
#[derive(Debug, Args)]
#[command(after_help = "\
Loads that are under way store nothing over it, and near copies are dropped, as after a write of a program.

Examples:
  larder set user 123 '{\"name\":\"Bob\"}' --ttl 1h --tag team:7
  larder set motd de --text 'Guten Tag' --ttl 1d
  larder set image 7 --file 7.png --bytes --ttl 1h
  jq .user dump.json | larder set user 123 -")]
pub(crate) struct Arguments {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The key as it is stored
    key: String,
    /// The value as JSON, or - for standard input
    #[arg(required_unless_present_any = ["text", "file"])]
    value: Option<String>,
    /// The value as text: a JSON string
    #[arg(long, conflicts_with_all = ["value", "file"], value_name = "TEXT")]
    text: Option<String>,
    /// A file with the value
    #[arg(long, conflicts_with = "value", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The value is bytes, not JSON
    #[arg(long, conflicts_with = "text")]
    bytes: bool,
    /// How long to keep it [default: what is left of the existing entry's]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// Keep it until it is deleted or evicted
    #[arg(long, conflicts_with = "ttl")]
    no_expiry: bool,
    /// How long it may be served as stale after --ttl
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stale_for: Option<Duration>,
    /// A tag that it carries; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Store it without tags
    #[arg(long, conflicts_with = "tags")]
    no_tags: bool,
    /// The stored format [default: that of the existing entry, or json; raw for --bytes]
    #[arg(long = "as", value_enum, value_name = "FORMAT")]
    stored_as: Option<Stored>,
    /// Compress it by LZ4
    #[arg(long)]
    compress: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stored {
    Json,
    Msgpack,
    Raw,
    Plain,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    let value = value(&arguments)?;
    // Options that were not given keep what the stored entry has.
    let mut how = EntryWrite::default();
    if let Some(ttl) = arguments.ttl {
        how = how.ttl(ttl);
    } else if arguments.no_expiry {
        how = how.expiry(Expiry::Never);
    }
    if let Some(stale_for) = arguments.stale_for {
        how = how.stale_for(stale_for);
    }
    for tag in &arguments.tags {
        how = how.tag(tag);
    }
    if arguments.no_tags {
        how = how.no_tags();
    }
    if let Some(format) = arguments.stored_as {
        how = how.format(match format {
            Stored::Json => StoredFormat::Json,
            Stored::Msgpack => StoredFormat::MessagePack,
            Stored::Raw => StoredFormat::Raw,
            Stored::Plain => StoredFormat::Plain,
        });
    }
    if arguments.compress {
        how = how.compress(true);
    }
    let larder = app.open()?;
    let Arguments { cache, key, .. } = &arguments;
    // A new entry has no time to live to keep: the failure names the options that give one.
    if !arguments.dry_run {
        let timed = arguments.ttl.is_some() || arguments.no_expiry;
        larder.admin().set(cache, key, &value, how).await.map_err(|error| {
            let untimed = error.kind() == ErrorKind::InvalidSetting && !timed;
            let failure = Failure::from(error);
            if untimed { failure.fix("a new entry needs --ttl 1h, or --no-expiry") } else { failure }
        })?;
    }
    let verb = if arguments.dry_run { "would store" } else { "stored" };
    let json = json!({ "cache": cache, "key": key, "stored": !arguments.dry_run });
    app.out.one(&format!("{verb} {cache} {key:?}"), &json)?;
    Ok(Exit::OK)
}

fn value(arguments: &Arguments) -> Result<EntryValue, Failure> {
    if let Some(text) = &arguments.text {
        return Ok(EntryValue::Json(Value::from(text.as_str())));
    }
    let bytes = match (&arguments.value, &arguments.file) {
        (Some(value), _) if value == "-" => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes)?;
            bytes
        }
        (Some(value), _) => value.clone().into_bytes(),
        (None, Some(file)) => {
            fs::read(file).map_err(|error| Failure::new(Exit::IO, format!("{}: {error}", file.display())))?
        }
        (None, None) => return Err(Failure::usage("the value is missing")),
    };
    if arguments.bytes {
        return Ok(EntryValue::Bytes(bytes.into()));
    }
    let parsed = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(Exit::DATA, format!("the value is not JSON: {error}"))
            .fix("quote a string as '\"text\"', or give --text 'text' or --bytes")
    })?;
    Ok(EntryValue::Json(parsed))
}
