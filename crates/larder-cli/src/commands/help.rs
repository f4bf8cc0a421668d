//! `larder help`: a command, or a topic.

use std::io::{self, Write};

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::exit;
use crate::exit::Exit;
use crate::failure::Failure;

/// Show the help of a command, or of a topic: exit-codes, environment
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A command (`lock run`) or a topic (`exit-codes`, `environment`)
    words: Vec<String>,
}

const ENVIRONMENT: &str = "\
Settings

Each setting is taken from the first of the argument, the environment, the
profile.

    argument          environment             profile
    --url             LARDER_URL              url
    --namespace       LARDER_NAMESPACE        namespace
    --user            LARDER_USER             user
                      LARDER_PASSWORD         password
    --password-file   LARDER_PASSWORD_FILE    password_file
    --coordination    LARDER_COORDINATION     coordination
    --tls-ca          LARDER_TLS_CA           tls_ca
    --tls-cert        LARDER_TLS_CERT         tls_cert
    --tls-key         LARDER_TLS_KEY          tls_key
    --timeout         LARDER_TIMEOUT          timeout
    --read-only       LARDER_READ_ONLY=1      read_only
    --profile         LARDER_PROFILE
    --color           NO_COLOR

URLs
    redis://[user@]host[:port][/db]      one server; valkey:// is the same
    rediss://…                           the same over TLS
    redis+unix:///path/to.sock[?db=N]    one server, by its socket
    redis-cluster://h1,h2,h3             Redis Cluster
    redis-sentinel://h1,h2/service       the master that Sentinel names
    memory:                              an empty store, to try commands on
    A password in --url is refused, because other users of the machine can read
    it. LARDER_URL may have one.

The configuration file, ~/.config/larder/config.toml, must have mode 0600
($XDG_CONFIG_HOME is respected):
    default = \"dev\"    # if neither --url, LARDER_URL nor a profile is given

    [profiles.dev]
    url = \"redis://127.0.0.1\"

    [profiles.prod]
    url = \"rediss://cache.internal\"
    user = \"ops\"
    password_file = \"/run/secrets/cache\"
    namespace = \"shop\"
    coordination = \"rediss://locks.internal\"
    read_only = true

Two servers are never mixed: what names the URL also brings the password and the
server of locks.
    --profile            LARDER_URL, LARDER_USER, LARDER_PASSWORD and the others
                         are not read
    --url, LARDER_URL    LARDER_PROFILE and the default profile are not read
    --url                LARDER_COORDINATION is not read
    --profile and --url  the profile's user, password, coordination, tls_cert
                         and tls_key are not used
LARDER_READ_ONLY always counts, and so does the read_only of a profile that is
named by --profile.
";

pub(crate) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let text = match words.as_slice() {
        ["exit-codes" | "exit" | "codes"] => exit::HELP.to_owned(),
        ["environment" | "env" | "settings" | "profiles"] => ENVIRONMENT.to_owned(),
        words => {
            let mut command = Cli::command();
            // Without it, the help of a command lacks the options of all commands.
            command.build();
            let mut at = &mut command;
            for word in words {
                at = at.find_subcommand_mut(word).ok_or_else(|| {
                    Failure::usage(format!("there is no command or topic {word:?}"))
                        .fix("`larder help` lists the commands; the topics are exit-codes and environment")
                })?;
            }
            at.render_long_help().to_string()
        }
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(Exit::OK)
}
