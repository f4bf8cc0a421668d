//! From what the driver reports to larder's own kinds.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use redis::{RedisError, ServerErrorKind};

use crate::error::{Error, ErrorKind};
use crate::url::Address;

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
            // A node that does not know its own name means: where you asked, at this port.
            let here = address.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            match Address::parse(target, 0).ok()? {
                Address::Tcp { host, port } if host == "?" => {
                    Some(Address::Tcp { host: here.to_owned(), port })
                }
                named => Some(named),
            }
        };
        match error.kind() {
            redis::ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            redis::ErrorKind::Server(ServerErrorKind::TryAgain) => Self::TryAgain,
            redis::ErrorKind::Server(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask)) => {
                match redirect() {
                    Some(target) if kind == ServerErrorKind::Moved => Self::Moved(target),
                    Some(target) => Self::Ask(target),
                    None => Self::Error(translate(error, address)),
                }
            }
            _ => Self::Error(translate(error, address)),
        }
    }

    /// For a server that is not meant to be part of a cluster.
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
    let kind = kind(error);
    let said = said(error);
    let message = match kind {
        ErrorKind::Refused => format!("cannot connect to {address}: {said}"),
        ErrorKind::Tls => format!("the TLS handshake with {address} failed: {said}"),
        ErrorKind::Disconnected => format!("the connection to {address} broke: {said}"),
        ErrorKind::TimedOut => format!("{address} did not answer in time"),
        ErrorKind::Authentication => format!("{address} refused the credentials, or wants some: {said}"),
        ErrorKind::Permission => format!("the user may not do this at {address}: {said}"),
        ErrorKind::WrongType => format!("the key at {address} holds another type of data: {said}"),
        ErrorKind::OutOfMemory => format!("{address} is at its maxmemory and may not evict: {said}"),
        ErrorKind::ReadOnly => format!("{address} is a read-only replica: {said}"),
        ErrorKind::Loading => format!("{address} is still loading its data: {said}"),
        ErrorKind::ClusterDown => format!("the cluster at {address} cannot serve the key: {said}"),
        _ => format!("{address} answered: {said}"),
    };
    Error::new(kind, message)
}

fn kind(error: &RedisError) -> ErrorKind {
    use redis::ErrorKind as Driver;
    match error.kind() {
        Driver::AuthenticationFailed => ErrorKind::Authentication,
        Driver::Io => io_kind(error),
        // The driver reports what rustls says before a byte is exchanged as a client error.
        Driver::InvalidClientConfig | Driver::Client if mentions_tls(error) => ErrorKind::Tls,
        Driver::InvalidClientConfig => ErrorKind::Refused,
        Driver::ClusterConnectionNotFound => ErrorKind::ClusterDown,
        Driver::Server(server) => match server {
            ServerErrorKind::BusyLoading => ErrorKind::Loading,
            ServerErrorKind::ReadOnly => ErrorKind::ReadOnly,
            ServerErrorKind::NoPerm => ErrorKind::Permission,
            ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain => {
                ErrorKind::ClusterDown
            }
            _ => coded(error),
        },
        Driver::Extension => coded(error),
        _ => ErrorKind::Server,
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
    } else if has("READONLY") {
        ErrorKind::ReadOnly
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

/// What was said, without what larder's own message says already.
fn said(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    }
}
