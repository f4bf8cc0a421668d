//! Where the examined servers are: the URL, taken apart.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) shape: Shape,
    pub(crate) addresses: Vec<Address>,
    pub(crate) tls: bool,
    pub(crate) database: u32,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// How the servers are deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Single,
    Cluster,
    Sentinel { service: String },
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
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

impl Address {
    /// Reads `host:port`; the host may be in brackets.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(default_port), |digits| digits.parse().ok())?;
        let host = decode(host)?;
        (!host.is_empty()).then_some(Self::Tcp { host, port })
    }

    /// Whether bytes to this address stay on the machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl Target {
    /// Parses a URL of a server. `None` for `memory:` and for anything that the library refuses too.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase().replacen("valkey", "redis", 1);
        let (scheme, tls) = match scheme.strip_prefix("rediss") {
            Some(rest) => (rest.to_owned(), true),
            None => (scheme.strip_prefix("redis")?.to_owned(), false),
        };
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (username, password) = match user_info.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((username, password)) => (filled(username)?, filled(password)?.map(Secret)),
            None => (None, None),
        };
        let list = |port| hosts.split(',').map(|host| Address::parse(host, port)).collect::<Option<Vec<_>>>();
        let (shape, addresses, number) = match scheme.as_str() {
            "" => (Shape::Single, list(6379)?, path),
            "-cluster" => (Shape::Cluster, list(6379)?, path),
            "-sentinel" => {
                let (service, number) = path.split_once('/').unwrap_or((path, ""));
                (Shape::Sentinel { service: decode(service)? }, list(26379)?, number)
            }
            "+unix" => {
                let socket = Address::Unix(PathBuf::from(format!("/{}", decode(path)?)));
                (Shape::Single, vec![socket], query.and_then(|query| query.strip_prefix("db=")).unwrap_or(""))
            }
            _ => return None,
        };
        let database = if number.is_empty() { 0 } else { number.parse().ok()? };
        Some(Self { shape, addresses, tls, database, username, password })
    }
}

fn filled(text: &str) -> Option<Option<String>> {
    if text.is_empty() { Some(None) } else { decode(text).map(Some) }
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_taken_apart() {
        let shown = |url: &str| {
            let target = Target::parse(url).unwrap();
            let addresses: Vec<_> = target.addresses.iter().map(ToString::to_string).collect();
            (target.shape, addresses.join(","), target.tls, target.database)
        };
        let sentinel = Shape::Sentinel { service: "main".to_owned() };
        assert_eq!(shown("redis://cache"), (Shape::Single, "cache:6379".to_owned(), false, 0));
        assert_eq!(shown("valkeys://[::1]:7/3"), (Shape::Single, "[::1]:7".to_owned(), true, 3));
        assert_eq!(
            shown("redis+unix:///run/r.sock?db=2"),
            (Shape::Single, "/run/r.sock".to_owned(), false, 2)
        );
        assert_eq!(shown("redis-cluster://a:1,b"), (Shape::Cluster, "a:1,b:6379".to_owned(), false, 0));
        assert_eq!(shown("rediss-sentinel://a,b:2/main/1"), (sentinel, "a:26379,b:2".to_owned(), true, 1));
        let target = Target::parse("redis://ann:p%40ss@cache").unwrap();
        assert_eq!(target.username.as_deref(), Some("ann"));
        assert_eq!(target.password, Some(Secret("p@ss".to_owned())));
        assert!(!format!("{target:?}").contains("p@ss"));
        assert_eq!(Target::parse("memory:"), None);
        assert_eq!(Target::parse("http://cache"), None);
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (url, local) in [
            ("redis://127.0.0.1", true),
            ("redis://localhost", true),
            ("redis://[::1]", true),
            ("redis+unix:///run/r.sock", true),
            ("redis://10.0.0.1", false),
            ("redis://cache.internal", false),
        ] {
            let target = Target::parse(url).unwrap();
            assert!(target.addresses.iter().all(|address| address.is_local() == local), "{url}");
        }
    }
}
