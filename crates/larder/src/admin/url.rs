//! URLs taken apart, for tools that open connections of their own.

use std::fmt;
use std::path::PathBuf;

use crate::endpoint::{self, Address, Secret};
use crate::error::Result;
use crate::url::{self, Target};

/// What a URL of servers says, read as [`LarderBuilder::url`](crate::LarderBuilder::url) reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerUrl {
    /// How the servers are deployed.
    pub deployment: Deployment,
    /// The server, some nodes of the cluster, or the sentinels.
    pub addresses: Vec<ServerAddress>,
    /// Whether connections use TLS.
    pub tls: bool,
    /// The database, 0 unless the URL names another.
    pub database: u32,
    /// The user, if the URL names one.
    pub username: Option<String>,
    password: Option<Secret>,
}

/// How servers are deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployment {
    /// One server.
    Single,
    /// Redis Cluster.
    Cluster,
    /// A master that sentinels name.
    Sentinel {
        /// The name of the master.
        service: String,
    },
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// A host's name or address, and a port.
    Tcp {
        /// The name or the address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl ServerUrl {
    /// Takes a URL apart; `None` for `memory:`, which has no server.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`](crate::ErrorKind::InvalidUrl): correct the URL. The message names the wrong part, and contains no
    /// password.
    pub fn parse(url: &str) -> Result<Option<Self>> {
        let Target::Server(server) = url::parse(url)? else { return Ok(None) };
        let (deployment, addresses) = match server.deployment {
            endpoint::Endpoints::Single(address) => (Deployment::Single, vec![address]),
            endpoint::Endpoints::Cluster(nodes) => (Deployment::Cluster, nodes),
            endpoint::Endpoints::Sentinel { sentinels, service } => {
                (Deployment::Sentinel { service }, sentinels)
            }
        };
        Ok(Some(Self {
            deployment,
            addresses: addresses.into_iter().map(ServerAddress::from).collect(),
            tls: server.tls,
            database: server.database,
            username: server.username,
            password: server.password,
        }))
    }

    /// Returns the password, if the URL has one. `Debug` does not show it.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|Secret(password)| password.as_str())
    }
}

impl From<Address> for ServerAddress {
    fn from(address: Address) -> Self {
        match address {
            Address::Tcp { host, port } => Self::Tcp { host, port },
            Address::Unix(path) => Self::Unix(path),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_form_of_url_is_taken_apart() {
        let shown = |url: &str| {
            let target = ServerUrl::parse(url).unwrap().unwrap();
            let addresses: Vec<_> = target.addresses.iter().map(ToString::to_string).collect();
            (target.deployment, addresses.join(","), target.tls, target.database)
        };
        let sentinel = Deployment::Sentinel { service: "main".to_owned() };
        assert_eq!(shown("redis://cache"), (Deployment::Single, "cache:6379".to_owned(), false, 0));
        assert_eq!(shown("valkeys://[::1]:7/3"), (Deployment::Single, "[::1]:7".to_owned(), true, 3));
        let socket = shown("redis+unix:///run/r.sock?db=2");
        assert_eq!(socket, (Deployment::Single, "/run/r.sock".to_owned(), false, 2));
        assert_eq!(shown("redis-cluster://a:1,b"), (Deployment::Cluster, "a:1,b:6379".to_owned(), false, 0));
        assert_eq!(shown("rediss-sentinel://a,b:2/main/1"), (sentinel, "a:26379,b:2".to_owned(), true, 1));
        let target = ServerUrl::parse("redis://ann:p%40ss@cache").unwrap().unwrap();
        assert_eq!((target.username.as_deref(), target.password()), (Some("ann"), Some("p@ss")));
        assert!(!format!("{target:?}").contains("p@ss"));
        assert_eq!(ServerUrl::parse("memory:").unwrap(), None);
        assert_eq!(ServerUrl::parse("http://cache").unwrap_err().kind(), ErrorKind::InvalidUrl);
    }
}
