//! From what the driver reports to larder's own kinds.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use redis::{RedisError, ServerErrorKind};

use crate::endpoint::Address;
use crate::error::{Error, ErrorKind};

/// Why a request was not carried out: an error, or a wish of the server's that can be met here.
#[derive(Debug)]
pub(super) enum Failure {
    /// The slot lives at another node, for good.
    Moved(Address),
    /// The key is already at another node, while its slot moves there.
    Ask(Address),
    /// The slot is moving, and the keys are apart for the moment.
    TryAgain,
    /// The server does not have the script.
    NoScript,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// `address` is who answered; it holds no secret.
    pub(super) fn of(error: &RedisError, address: &str) -> Self {
        let redirect = || {
            let (target, _) = error.redirect_node()?;
            let (host, port) = target.rsplit_once(':')?;
            let asked = address.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            Some(Address::named(host, port.parse().ok()?, asked))
        };
        match error.kind() {
            redis::ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            redis::ErrorKind::Server(ServerErrorKind::TryAgain) => Self::TryAgain,
            redis::ErrorKind::Server(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask)) => {
                match redirect() {
                    Some(target) if kind == ServerErrorKind::Moved => Self::Moved(target),
                    Some(target) => Self::Ask(target),
                    None => Self::Error(translate_request(error, address)),
                }
            }
            _ => Self::Error(translate_request(error, address)),
        }
    }

    /// For who cannot meet the server's wish.
    pub(super) fn into_error(self, address: &str) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Moved(_) | Self::Ask(_) | Self::TryAgain => Error::new(
                ErrorKind::InvalidSetting,
                format!("{address} belongs to a cluster: connect with redis-cluster://"),
            ),
            Self::NoScript => {
                Error::new(ErrorKind::Server, format!("{address} lost a script it was just given"))
            }
        }
    }
}

/// `address` is where it happened; it holds no secret.
pub(super) fn translate(error: &RedisError, address: &str) -> Error {
    translate_as(kind(error), error, address)
}

/// Of a request on a connection that stood. What a dial says before anything is sent, as that no way leads to the host, may
/// here come after the request was carried out.
pub(super) fn translate_request(error: &RedisError, address: &str) -> Error {
    let kind = match kind(error) {
        ErrorKind::Refused => ErrorKind::Disconnected,
        kind => kind,
    };
    translate_as(kind, error, address)
}

fn translate_as(kind: ErrorKind, error: &RedisError, address: &str) -> Error {
    let cause = io_cause(error);
    // In the message too, as many programs log that alone: "connection refused" and "no such host" are different errands.
    let said = match cause {
        Some(cause) => format!(": {cause}"),
        None => format!(": {}", said(error)),
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
        ErrorKind::Authentication => format!("{address} refused the credentials, or wants some{said}"),
        ErrorKind::Permission => format!("the user may not do this at {address}{said}"),
        ErrorKind::WrongType => format!("the key at {address} holds another type of data{said}"),
        ErrorKind::OutOfMemory => format!("{address} is at its maxmemory and may not evict{said}"),
        ErrorKind::ReadOnly if error.kind() == redis::ErrorKind::Server(ServerErrorKind::MasterDown) => {
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
        _ => format!("{address} answered{said}"),
    };
    match cause {
        // io::Error cannot be cloned; its kind and text can.
        Some(cause) => Error::with_source(kind, message, io::Error::new(cause.kind(), cause.to_string())),
        None => Error::new(kind, message),
    }
}

/// A server that does not know HELLO repeats what it was sent: the password, too.
fn no_resp3(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    error.kind() == redis::ErrorKind::RESP3NotSupported
        || (detail.contains("unknown command") && detail.to_ascii_uppercase().contains("HELLO"))
}

fn kind(error: &RedisError) -> ErrorKind {
    use redis::ErrorKind as Driver;
    match error.kind() {
        Driver::AuthenticationFailed => ErrorKind::Authentication,
        Driver::Io => io_kind(error),
        // The driver reports what rustls says before a byte is exchanged as a client error.
        Driver::InvalidClientConfig | Driver::Client if mentions_tls(error) => ErrorKind::Tls,
        Driver::InvalidClientConfig => ErrorKind::InvalidSetting,
        Driver::Server(server) => match server {
            ServerErrorKind::BusyLoading => ErrorKind::Loading,
            ServerErrorKind::ReadOnly => ErrorKind::ReadOnly,
            ServerErrorKind::NoPerm => ErrorKind::Permission,
            ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain => ErrorKind::ClusterDown,
            ServerErrorKind::MasterDown => ErrorKind::ReadOnly,
            _ => coded(error),
        },
        _ => coded(error),
    }
}

/// How servers put it inside a script (since Redis 8.0 and Valkey 8, before, for a command and for a key), and how the
/// driver passes on a SELECT that was refused: none of them with NOPERM.
const NO_PERMISSION: [&str; 3] =
    ["ACL failure in script", "The user executing the script can't", "has no permissions to run the"];

/// The codes that the driver has no kind for. Redis 6 puts the code of an error inside a script into a sentence.
fn coded(error: &RedisError) -> ErrorKind {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    let has = |name: &str| {
        code == name || detail.split_whitespace().any(|word| word.trim_start_matches('-') == name)
    };
    if has("WRONGTYPE") {
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

fn io_kind(error: &RedisError) -> ErrorKind {
    if mentions_tls(error) {
        return ErrorKind::Tls;
    }
    let Some(cause) = io_cause(error) else { return ErrorKind::Disconnected };
    match cause.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::NotFound
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::HostUnreachable
        // A socket's file has its permissions only a moment after the server has made it.
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NetworkUnreachable => ErrorKind::Refused,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        // What the resolver says when there is no such host has no kind of its own.
        _ if cause.to_string().contains("lookup address") => ErrorKind::Refused,
        _ => ErrorKind::Disconnected,
    }
}

/// What lies behind the driver's error. The driver gives it inside an `Arc`, which hides its type.
fn cause(error: &RedisError) -> Option<&(dyn StdError + 'static)> {
    let source = error.source()?;
    match source.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
        Some(shared) => Some(&**shared),
        None => Some(source),
    }
}

fn io_cause(error: &RedisError) -> Option<&io::Error> {
    cause(error)?.downcast_ref()
}

#[cfg(feature = "tls")]
fn mentions_tls(error: &RedisError) -> bool {
    let inside_io =
        io_cause(error).and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>());
    inside_io || cause(error).is_some_and(|cause| cause.is::<rustls::Error>())
}

#[cfg(not(feature = "tls"))]
fn mentions_tls(_: &RedisError) -> bool {
    false
}

/// What was said, without what larder's own message says already, and without what the server repeats of a command that
/// it does not know: keys, values, passwords.
fn said(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    };
    text.split(", with args beginning").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_out_of_reach_refuses_a_dial_and_breaks_a_request() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::HostUnreachable));
        assert_eq!(translate(&error, "a:1").kind(), ErrorKind::Refused);
        assert_eq!(translate_request(&error, "a:1").kind(), ErrorKind::Disconnected);
    }
}
