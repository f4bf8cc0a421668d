//! The addresses of servers, and a type for passwords that never displays them.

use std::fmt;
use std::path::PathBuf;

/// The addresses of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoints {
    Single(Address),
    Cluster(Vec<Address>),
    Sentinel { sentinels: Vec<Address>, service: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A password, or a private key. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret<T = String>(pub(crate) T);

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(feature = "redis")]
impl Address {
    /// Makes an address of the host and port by which a cluster's node names another node. A node that does not know
    /// its own name sends an empty host or `?`, which means the host that was asked.
    pub(crate) fn named(host: &str, port: u16, asked: &str) -> Self {
        let host = host.trim_matches(['[', ']']);
        let host = if matches!(host, "" | "?") { asked } else { host };
        Self::Tcp { host: host.to_owned(), port }
    }

    /// Returns the host, or "" for a Unix socket.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "",
        }
    }
}
