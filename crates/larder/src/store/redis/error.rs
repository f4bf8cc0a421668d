//! Translates errors of the wire into larder's own kinds.

use std::io;

use super::wire::{RequestFailure, ServerError, WireError};
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind};

/// Why a request has no reply: an error, or an instruction of the server that this module can follow.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another node serves the slot from now on.
    Moved(Address),
    /// The slot is moving to another node, and the key is already there.
    Ask(Address),
    /// The slot is moving, and the request's keys are at two nodes for the moment.
    TryAgain,
    /// The server does not have the script.
    NoScript,
    /// The tracked connection broke before anything was written.
    NotSent,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// Reads the failure of a request to `address`, which holds no secret.
    pub(super) fn of(failure: RequestFailure, address: &str) -> Self {
        let unsent = failure.is_unsent();
        let RequestFailure::Refused(error) = failure else {
            let error = translate_request(&failure.into(), address);
            return Self::Error(if unsent { error.unsent() } else { error });
        };
        let redirect = || {
            let (host, port) = error.detail().split(' ').nth(1)?.rsplit_once(':')?;
            let asked = address.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            Some(Address::named(host, port.parse().ok()?, asked))
        };
        let wish = match error.code() {
            "NOSCRIPT" => Some(Self::NoScript),
            "TRYAGAIN" => Some(Self::TryAgain),
            "MOVED" => redirect().map(Self::Moved),
            "ASK" => redirect().map(Self::Ask),
            _ => None,
        };
        wish.unwrap_or_else(|| Self::Error(translate_request(&error.into(), address)))
    }

    /// Converts it to an error, for a caller that cannot follow the server's instruction.
    pub(super) fn into_error(self, address: &str) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Moved(_) | Self::Ask(_) | Self::TryAgain => Error::new(
                ErrorKind::InvalidSetting,
                format!("{address} belongs to a cluster: connect with redis-cluster://"),
            ),
            Self::NotSent => {
                Error::new(ErrorKind::Disconnected, format!("the connection to {address} broke"))
            }
            Self::NoScript => Error::new(
                ErrorKind::Server,
                format!("{address} lost a script that was just sent to it: retry"),
            ),
        }
    }
}

/// Translates an error at `address`, which holds no secret.
pub(super) fn translate(error: &WireError, address: &str) -> Error {
    translate_as(kind(error), error, address)
}

/// Translates the error of a request on an open connection. An I/O error such as "host unreachable" means during a
/// dial that nothing was sent. Here the server may already have carried out the request, so it is `Disconnected`
/// instead of `Refused`.
pub(super) fn translate_request(error: &WireError, address: &str) -> Error {
    let kind = match kind(error) {
        ErrorKind::Refused | ErrorKind::Tls => ErrorKind::Disconnected,
        kind => kind,
    };
    translate_as(kind, error, address)
}

fn translate_as(kind: ErrorKind, error: &WireError, address: &str) -> Error {
    // The message includes the cause, because many programs log only the message: "connection refused" and "no such
    // host" need different repairs.
    let said = format!(": {error}");
    let cause = match error {
        WireError::Io(cause) => Some(cause),
        _ => None,
    };
    let forbidden = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
    let message = match kind {
        ErrorKind::Refused if forbidden => {
            format!(
                "the operating system does not let this process connect to {address}: the permissions of a socket's file or folder, or a firewall{said}"
            )
        }
        ErrorKind::Refused => format!("cannot connect to {address}{said}"),
        ErrorKind::Tls => format!("the TLS handshake with {address} failed{said}"),
        ErrorKind::Disconnected => format!("the connection to {address} broke{said}"),
        ErrorKind::TimedOut => format!("{address} did not answer in time"),
        ErrorKind::Authentication => format!("{address} refused the user and password, or needs them{said}"),
        ErrorKind::Permission => format!("the user may not do this at {address}{said}"),
        ErrorKind::WrongType => {
            format!("a key at {address} holds another type of data: another program uses its name{said}")
        }
        ErrorKind::OutOfMemory => format!("{address} is at its maxmemory and may not evict{said}"),
        ErrorKind::ReadOnly if matches!(error, WireError::Server(error) if error.code() == "MASTERDOWN") => {
            format!("{address} is a replica that lost its master and does not answer{said}")
        }
        ErrorKind::ReadOnly => format!("{address} is a read-only replica{said}"),
        ErrorKind::Loading => format!("{address} is still loading its data{said}"),
        ErrorKind::ClusterDown => format!("the cluster at {address} cannot serve the key{said}"),
        ErrorKind::InvalidSetting if said.contains("cluster support disabled") => {
            format!("{address} is no part of a cluster: connect with redis://")
        }
        ErrorKind::InvalidSetting => format!("{address} refused a setting{said}"),
        _ if no_resp3(error) => {
            format!("{address} does not speak RESP3: larder needs Redis 6.0 or Valkey 7.2")
        }
        _ => format!("{address} replied with an error{said}"),
    };
    match cause {
        // `io::Error` cannot be cloned; its kind and text can.
        Some(cause) => Error::with_source(kind, message, io::Error::new(cause.kind(), cause.to_string())),
        None => Error::new(kind, message),
    }
}

/// Returns whether the server does not know RESP3. Its answer is not shown, because a server that does not know HELLO
/// repeats the arguments, including the password.
fn no_resp3(error: &WireError) -> bool {
    let WireError::Server(error) = error else { return false };
    let detail = error.detail();
    error.code() == "NOPROTO"
        || (detail.contains("unknown command") && detail.to_ascii_uppercase().contains("HELLO"))
}

fn kind(error: &WireError) -> ErrorKind {
    match error {
        WireError::Io(cause) => io_kind(cause),
        WireError::Tls(_) => ErrorKind::Tls,
        WireError::Server(error) => coded(error),
        WireError::Closed | WireError::Malformed(_) | WireError::GivenUp | WireError::Stranded => {
            ErrorKind::Disconnected
        }
    }
}

/// What servers say without NOPERM inside a script: since Redis 8.0 and Valkey 8; in older versions for a command,
/// and for a key.
const NO_PERMISSION: [&str; 3] =
    ["ACL failure in script", "The user executing the script can't", "has no permissions to run the"];

/// Returns the kind of a server's error. Redis 6 puts the code of an error inside a script into a sentence.
fn coded(error: &ServerError) -> ErrorKind {
    let (code, detail) = (error.code(), error.detail());
    let has = |name: &str| {
        code == name || detail.split_whitespace().any(|word| word.trim_start_matches('-') == name)
    };
    if code == "LOADING" {
        ErrorKind::Loading
    } else if matches!(code, "CLUSTERDOWN" | "TRYAGAIN") {
        ErrorKind::ClusterDown
    } else if has("WRONGTYPE") {
        ErrorKind::WrongType
    } else if has("OOM") {
        ErrorKind::OutOfMemory
    } else if has("NOAUTH") || has("WRONGPASS") || detail.contains("without any password configured") {
        ErrorKind::Authentication
    } else if has("NOPERM") || NO_PERMISSION.iter().any(|said| detail.contains(said)) {
        ErrorKind::Permission
    } else if has("READONLY") || has("MASTERDOWN") {
        ErrorKind::ReadOnly
    } else if detail.contains("DB index is out of range")
        || detail.contains("invalid DB index")
        || detail.contains("cluster support disabled")
    {
        ErrorKind::InvalidSetting
    } else if detail.contains("max number of clients") || has("MISCONF") || has("NOREPLICAS") || has("BUSY") {
        ErrorKind::Busy
    } else {
        ErrorKind::Server
    }
}

fn io_kind(cause: &io::Error) -> ErrorKind {
    if is_of_tls(cause) {
        return ErrorKind::Tls;
    }
    match cause.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::NotFound
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::HostUnreachable
        // A server sets the permissions of its socket a moment after it has created the file.
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NetworkUnreachable => ErrorKind::Refused,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        // The resolver's error for an unknown host has no kind of its own.
        _ if cause.to_string().contains("lookup address") => ErrorKind::Refused,
        _ => ErrorKind::Disconnected,
    }
}

#[cfg(feature = "tls")]
fn is_of_tls(cause: &io::Error) -> bool {
    cause.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(not(feature = "tls"))]
fn is_of_tls(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_out_of_reach_refuses_a_dial_and_breaks_a_request() {
        let error = WireError::from(io::Error::from(io::ErrorKind::HostUnreachable));
        assert_eq!(translate(&error, "a:1").kind(), ErrorKind::Refused);
        assert_eq!(translate_request(&error, "a:1").kind(), ErrorKind::Disconnected);
    }
}
