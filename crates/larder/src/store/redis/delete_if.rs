//! The command that deletes a key if it has a given value, on servers that have one: `DELIFEQ` of Valkey 9, `DELEX` of
//! Redis 8.4.
//!
//! Whether a server has it is known from the name and version in its reply to `HELLO`. A server or proxy that refuses
//! the command all the same (an ACL, a renamed command) is not asked again on that connection.

use std::sync::atomic::{AtomicBool, Ordering};

use super::wire::{Request, ServerError, frame};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteIf {
    Delifeq,
    Delex,
}

impl DeleteIf {
    /// Returns the command of a server by the name and version that it reports.
    pub(super) fn of(server: &str, version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let version = (next()?, next().unwrap_or_default());
        match server {
            "valkey" if version >= (9, 0) => Some(Self::Delifeq),
            "redis" if version >= (8, 4) => Some(Self::Delex),
            _ => None,
        }
    }

    /// The request. Its reply is 1 if the key was deleted, 0 if not.
    pub(super) fn request(self, key: &str, value: &str) -> Request {
        let bytes = frame(key.len()) + frame(value.len()) + frame(4);
        match self {
            Self::Delifeq => Request::with_capacity("DELIFEQ", bytes).arg(key).arg(value),
            Self::Delex => Request::with_capacity("DELEX", bytes).arg(key).arg("IFEQ").arg(value),
        }
    }
}

/// What a connection knows about the command.
#[derive(Debug)]
pub(super) struct OfferedDeleteIf {
    command: Option<DeleteIf>,
    refused: AtomicBool,
}

impl OfferedDeleteIf {
    pub(super) fn new(command: Option<DeleteIf>) -> Self {
        Self { command, refused: AtomicBool::new(false) }
    }

    pub(super) fn command(&self) -> Option<DeleteIf> {
        self.command.filter(|_| !self.refused.load(Ordering::Relaxed))
    }

    /// Records an error reply to the command. Others than these pass: another node serves the slot, the server is
    /// loading, it is a replica.
    pub(super) fn note(&self, error: &ServerError) {
        if matches!(error.code(), "ERR" | "NOPERM") {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_command_since_the_version_that_added_it() {
        for (server, version, expected) in [
            ("valkey", "9.0.0", Some(DeleteIf::Delifeq)),
            ("valkey", "10.1.0", Some(DeleteIf::Delifeq)),
            ("valkey", "8.1.3", None),
            ("redis", "8.4.0", Some(DeleteIf::Delex)),
            ("redis", "8.10.2", Some(DeleteIf::Delex)),
            ("redis", "9.0.0", Some(DeleteIf::Delex)),
            ("redis", "8.2.1", None),
            ("redis", "7.0.15", None),
            ("another", "9.0.0", None),
            ("redis", "unknown", None),
        ] {
            assert_eq!(DeleteIf::of(server, version), expected, "{server} {version}");
        }
    }

    #[test]
    fn only_a_refusal_of_the_command_itself_is_remembered() {
        let offered = OfferedDeleteIf::new(Some(DeleteIf::Delifeq));
        for passing in ["MOVED 7 10.0.0.1:6379", "LOADING the data set", "READONLY a replica"] {
            offered.note(&ServerError::new(passing));
            assert_eq!(offered.command(), Some(DeleteIf::Delifeq), "{passing}");
        }
        for refusal in ["ERR unknown command 'DELIFEQ'", "NOPERM no permission"] {
            let offered = OfferedDeleteIf::new(Some(DeleteIf::Delifeq));
            offered.note(&ServerError::new(refusal));
            assert_eq!(offered.command(), None, "{refusal}");
        }
    }
}
