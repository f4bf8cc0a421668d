//! The exit codes. They are part of the interface: `larder help exit-codes` and docs/cli.md list them.

use std::process::ExitCode;

/// How the program ended, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    /// Done; yes; allowed.
    pub(crate) const OK: Self = Self(0);
    /// No: there is no such entry or lock, or a person said no.
    pub(crate) const NO: Self = Self(1);
    /// `doctor` found a problem.
    pub(crate) const PROBLEM: Self = Self(2);
    /// The command line is wrong (`EX_USAGE`).
    pub(crate) const USAGE: Self = Self(64);
    /// The value or the key is not what the command needs (`EX_DATAERR`).
    pub(crate) const DATA: Self = Self(65);
    /// The server cannot be reached, or does not answer (`EX_UNAVAILABLE`).
    pub(crate) const UNREACHABLE: Self = Self(69);
    /// `lock run`: the lock was lost, and the child was ended.
    pub(crate) const LOST: Self = Self(70);
    /// Reading or writing a file, or the output, failed (`EX_IOERR`).
    pub(crate) const IO: Self = Self(74);
    /// Not now: the lock is held, the limit is reached, or the server is busy (`EX_TEMPFAIL`).
    pub(crate) const BUSY: Self = Self(75);
    /// The server reported an error (`EX_PROTOCOL`).
    pub(crate) const SERVER: Self = Self(76);
    /// Not permitted: by the server's users, or by `--read-only` (`EX_NOPERM`).
    pub(crate) const DENIED: Self = Self(77);
    /// The configuration file cannot be used (`EX_CONFIG`).
    pub(crate) const CONFIG: Self = Self(78);
    /// The output was closed by its reader, as `head` does: what a program that SIGPIPE ends has.
    pub(crate) const PIPE: Self = Self(141);

    /// An exit code that the caller chose.
    pub(crate) const fn code(code: u8) -> Self {
        Self(code)
    }

    /// What shells report of a program that a signal ended.
    pub(crate) fn signal(signal: i32) -> Self {
        Self(u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// The text of `larder help exit-codes`.
pub(crate) const HELP: &str = "\
Exit codes

    0    done, yes, allowed
    1    no: there is no such entry or lock, or nothing to reset; or you said no;
         doctor --strict: a warning
    2    doctor: a problem was found
   64    the command line is wrong
   65    a value cannot be decoded or encoded, or a key holds another type
   69    the server cannot be reached, or does not answer
   70    lock run: the lock was lost, and the command was ended
   74    a file or the output cannot be read or written
   75    not now: the lock is held, the limit is reached, or the server is busy
         (lock run: --conflict-exit chooses another code for a held lock)
   76    the server reported an error
   77    not permitted: by the server's users (ACL), or by --read-only
   78    the configuration file cannot be used
  126    lock run: the command cannot be executed
  127    lock run: the command was not found
  128+n  lock run: signal n ended the command; otherwise, signal n ended larder
  141    the reader of the output has gone, as in `larder ls | head -1`

lock run exits with the status of its command. So a command of your own may also
exit with one of these numbers. larder writes a line to standard error for each
of its own.
";
