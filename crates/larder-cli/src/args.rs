//! The command line: the options of every command, and the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    bench, clear, completions, del, doctor, exists, expire, explain, get, help, limit, lock, ls, man, ps,
    set, tag, top, ttl,
};

/// See into caches, locks and rate limits that larder keeps on a server, and use them from scripts.
#[derive(Debug, Parser)]
#[command(name = "larder", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(term_width = 80)]
#[command(after_help = "\
Settings come from the arguments, else from the environment (LARDER_URL, LARDER_NAMESPACE, …), else from a profile \
in ~/.config/larder/config.toml. `larder help environment` lists them, `larder help exit-codes` what scripts need.

larder is for what is in a server. ./redis-management.sh and compose.yaml of its repository start and stop one.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Globals {
    /// The server, as in redis://10.0.0.1 (environment: LARDER_URL); without a password
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The namespace of the programs to look at (environment: LARDER_NAMESPACE)
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// A profile of the configuration file (environment: LARDER_PROFILE)
    #[arg(long, short = 'p', global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// The server's user (environment: LARDER_USER)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A file whose first line is the password (environment: LARDER_PASSWORD_FILE)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) password_file: Option<PathBuf>,
    /// The server of locks and limits, if it is another one (environment: LARDER_COORDINATION)
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) coordination: Option<String>,
    /// The authorities to trust for rediss://, in PEM (environment: LARDER_TLS_CA)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// A certificate to show to the server, in PEM (environment: LARDER_TLS_CERT)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of that certificate, in PEM (environment: LARDER_TLS_KEY)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) tls_key: Option<PathBuf>,
    /// How long to wait for an answer (environment: LARDER_TIMEOUT) [default: 1s]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, hide_short_help = true)]
    pub(crate) timeout: Option<Duration>,
    /// Refuse every command that changes something (environment: LARDER_READ_ONLY=1)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) read_only: bool,
    /// The form of the output [default: table on a terminal, tsv in a pipe]
    #[arg(long, global = true, value_enum, value_name = "FORM")]
    pub(crate) format: Option<Form>,
    /// Whether to use colours; NO_COLOR is respected
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colour::Auto, hide_short_help = true)]
    pub(crate) color: Colour,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns, for people
    Table,
    /// Columns separated by tabs, with a line of names
    Tsv,
    /// One JSON document
    Json,
    /// One JSON object a line
    Ndjson,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ls(ls::Arguments),
    Get(get::Arguments),
    Explain(explain::Arguments),
    Set(set::Arguments),
    Del(del::Arguments),
    Expire(expire::Arguments),
    Ttl(ttl::Arguments),
    Exists(exists::Arguments),
    Tag(tag::Arguments),
    Clear(clear::Arguments),
    Lock(lock::Arguments),
    Limit(limit::Arguments),
    Ps(ps::Arguments),
    Top(top::Arguments),
    Doctor(doctor::Arguments),
    Bench(bench::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    Help(help::Arguments),
}

/// What destructive commands take.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Do it without asking
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Parses `30s`, `10m`, `1h 30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 10m, 1h30m or 250ms"))
}
