//! Errors for people: one line that says what, one line that says what to do, and an exit code for scripts.

use std::fmt;
use std::io;

use larder::ErrorKind;

use crate::exit::Exit;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    fix: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), fix: None }
    }

    /// A mistake on the command line.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, what)
    }

    /// Adds what to do about it.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// An error of the library, with words before it that say what could not be done.
    pub(crate) fn during(doing: &str, error: &larder::Error) -> Self {
        let failure = Self::of(error);
        Self { what: format!("{doing}: {}", failure.what), ..failure }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    fn of(error: &larder::Error) -> Self {
        // The exit code that docs/cli.md documents, and what to do; an empty text where the message says it already.
        let (exit, fix) = match error.kind() {
            ErrorKind::InvalidUrl => {
                (Exit::USAGE, "correct the URL: `larder help environment` shows the forms")
            }
            ErrorKind::InvalidSetting | ErrorKind::KeyTooLong => (Exit::USAGE, ""),
            ErrorKind::ValueTooLarge | ErrorKind::Encode => (Exit::DATA, ""),
            ErrorKind::WrongType => (
                Exit::DATA,
                "another program writes to this name: look at it with `redis-cli TYPE`, or give it another namespace",
            ),
            ErrorKind::Refused => {
                (Exit::UNREACHABLE, "start the server, or correct the URL (--url, LARDER_URL, --profile)")
            }
            ErrorKind::Tls => {
                (Exit::UNREACHABLE, "check the scheme (rediss:// is TLS), --tls-ca and the certificate")
            }
            ErrorKind::Disconnected | ErrorKind::TimedOut => {
                (Exit::UNREACHABLE, "try again, or allow more time with --timeout")
            }
            ErrorKind::ClusterDown => (Exit::UNREACHABLE, "try again when the cluster's failover is over"),
            ErrorKind::Authentication => {
                (Exit::DENIED, "give the password in LARDER_PASSWORD, --password-file or a profile")
            }
            ErrorKind::Permission => (
                Exit::DENIED,
                "extend the user's permissions: docs/security.md lists what each command needs",
            ),
            ErrorKind::LockLost => (Exit::LOST, ""),
            ErrorKind::LockHeld | ErrorKind::QueueFull => (Exit::BUSY, "try again later, or wait longer"),
            ErrorKind::OutOfMemory => {
                (Exit::BUSY, "give the server more memory (maxmemory), or remove entries")
            }
            ErrorKind::ReadOnly
            | ErrorKind::Loading
            | ErrorKind::Busy
            | ErrorKind::Quarantined { .. }
            | ErrorKind::NotReplicated => (Exit::BUSY, "try again later"),
            _ => (Exit::SERVER, ""),
        };
        let failure = Self::new(exit, error.to_string());
        if fix.is_empty() { failure } else { failure.fix(fix) }
    }
}

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Self {
        Self::of(&error)
    }
}

/// The output cannot be written. If its reader has gone, nothing is printed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::PIPE, "");
        }
        Self::new(Exit::IO, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server's message, or a name in it, may hold control characters.
        write!(f, "larder: {}", crate::output::escape::text(&self.what))?;
        if let Some(fix) = &self.fix {
            write!(f, "\n  {fix}")?;
        }
        Ok(())
    }
}
