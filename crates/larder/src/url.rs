//! Parses the URLs that a `Larder` connects to, and keeps the password out of sight.
//!
//! Mistakes that can be found without the network are errors here, at once. Otherwise the connection would retry
//! forever.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::endpoint::{Address, Endpoints, Secret};
use crate::error::{Error, ErrorKind, Result};

pub(crate) const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Memory,
    Server(ServerTarget),
}

/// Where servers are, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerTarget {
    pub(crate) deployment: Endpoints,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    pub(crate) tls: bool,
}

/// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(crate) fn address(text: &str, default_port: u16) -> Result<Address> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or_else(|| invalid("an IPv6 address needs a ]"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(invalid("after the ] of an IPv6 address only : and the port may follow")),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => default_port,
        Some(digits) => match digits.parse() {
            Ok(port) if port > 0 => port,
            // The message leaves the digits out: if a whole URL was given for an address, they are the password.
            _ => {
                return Err(invalid(
                    "a port is a number from 1 to 65535, and an IPv6 address is written in [ ]",
                ));
            }
        },
    };
    let host = decode(host)?;
    if host.is_empty() {
        return Err(invalid("the host is missing"));
    }
    check_v6(&host, text.starts_with('['))?;
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '/')) {
        return Err(invalid("a host has no spaces, no / and no @: give user and password separately"));
    }
    Ok(Address::Tcp { host, port })
}

/// Refuses text in brackets that is not an IPv6 address, and a link-local address without its zone.
fn check_v6(host: &str, in_brackets: bool) -> Result<()> {
    let (number, zone) = host.split_once('%').map_or((host, None), |(number, zone)| (number, Some(zone)));
    match number.parse::<Ipv6Addr>() {
        Ok(v6) if v6.is_unicast_link_local() && zone.is_none_or(str::is_empty) => {
            Err(invalid("a link-local address needs its zone, as in [fe80::1%25eth0]"))
        }
        Err(_) if in_brackets => Err(invalid("the text in [ ] is not an IPv6 address")),
        _ => Ok(()),
    }
}

/// Checks the path of a Unix socket. Operating systems allow about a hundred bytes: 107 on Linux, 103 on macOS.
pub(crate) fn socket(path: impl Into<PathBuf>) -> Result<Address> {
    let path = path.into();
    #[cfg(unix)]
    if std::os::unix::net::SocketAddr::from_pathname(&path).is_err() {
        return Err(invalid(
            "the path of a Unix socket is longer than this system allows, or holds a zero byte",
        ));
    }
    Ok(Address::Unix(path))
}

enum UrlKind {
    Single,
    Unix,
    Cluster,
    Sentinel,
}

/// Parses any URL that larder knows. Error messages name the wrong part and never repeat the URL, which may hold a
/// password.
pub(crate) fn parse(url: &str) -> Result<Target> {
    if url.eq_ignore_ascii_case("memory:") || url.eq_ignore_ascii_case("memory://") {
        return Ok(Target::Memory);
    }
    // The scheme says what the hosts and the path mean, and whether the connection uses TLS.
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(invalid(
            "expected memory: or scheme://…, as in redis://127.0.0.1:6379; a bare host:port goes into \
             Larder::builder().address(…)",
        ));
    };
    let (shape, tls) = match scheme.to_ascii_lowercase().replacen("valkey", "redis", 1).as_str() {
        "redis" => (UrlKind::Single, false),
        "rediss" => (UrlKind::Single, true),
        "redis+unix" => (UrlKind::Unix, false),
        "redis-cluster" => (UrlKind::Cluster, false),
        "rediss-cluster" => (UrlKind::Cluster, true),
        "redis-sentinel" => (UrlKind::Sentinel, false),
        "rediss-sentinel" => (UrlKind::Sentinel, true),
        _ => {
            return Err(invalid(
                "unknown scheme; known are memory:, redis, rediss (TLS), redis+unix, redis-cluster, rediss-cluster, \
                 redis-sentinel, rediss-sentinel, and each with valkey in place of redis",
            ));
        }
    };
    // Split the rest: [user[:password]@]hosts[/path][?query].
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (rest, None),
    };
    // Split at the last @, so that an unescaped @ in a password stays in the password.
    let (user_info, hosts) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, authority),
    };
    // A # is allowed in a password. Elsewhere, other clients read an option after it, such as one that skips the
    // check of certificates. Ignoring such an option would be a trap, so it is an error.
    if [Some(hosts), path, query].into_iter().flatten().any(|part| part.contains('#')) {
        return Err(invalid(
            "a URL has nothing after a #: certificates are always checked, and a # in a name is written %23",
        ));
    }
    let (username, password) = credentials(user_info)?;
    let path = path.unwrap_or_default();

    // Read the hosts and the path as the scheme defines them.
    let (deployment, database) = match shape {
        UrlKind::Unix => {
            if !hosts.is_empty() || path.is_empty() {
                return Err(invalid("a Unix socket is an absolute path, as in redis+unix:///run/redis.sock"));
            }
            let database = match query.map(|query| query.split_once('=')) {
                None => 0,
                Some(Some(("db", number))) => database(number)?,
                Some(_) => return Err(invalid("the only parameter of a Unix socket's URL is ?db=N")),
            };
            (Endpoints::Single(socket(format!("/{}", decode(path)?))?), database)
        }
        _ if query.is_some() => {
            return Err(invalid("parameters after ? are not supported: use Larder::builder()"));
        }
        UrlKind::Single => {
            if hosts.contains(',') {
                return Err(invalid("several hosts need redis-cluster:// or redis-sentinel://"));
            }
            (Endpoints::Single(address(hosts, DEFAULT_PORT)?), database(path)?)
        }
        UrlKind::Cluster => {
            if !path.is_empty() && path != "0" {
                return Err(invalid("a cluster has only database 0"));
            }
            (Endpoints::Cluster(addresses(hosts, DEFAULT_PORT)?), 0)
        }
        UrlKind::Sentinel => {
            let (service, number) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(invalid("the service is missing, as in redis-sentinel://h1,h2/service"));
            }
            let sentinels = addresses(hosts, DEFAULT_SENTINEL_PORT)?;
            (Endpoints::Sentinel { sentinels, service: decode(service)? }, database(number)?)
        }
    };
    Ok(Target::Server(ServerTarget { deployment, username, password, database, tls }))
}

fn credentials(user_info: Option<&str>) -> Result<(Option<String>, Option<Secret>)> {
    let Some(user_info) = user_info else { return Ok((None, None)) };
    let (username, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let some = |text: &str| if text.is_empty() { Ok(None) } else { decode(text).map(Some) };
    Ok((some(username)?, some(password)?.map(Secret)))
}

fn addresses(hosts: &str, default_port: u16) -> Result<Vec<Address>> {
    hosts.split(',').map(|host| address(host, default_port)).collect()
}

fn database(text: &str) -> Result<u32> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| invalid("the database is a number"))
}

fn decode(text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(invalid("a part is not UTF-8 after percent-decoding")),
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidUrl, format!("larder cannot use this URL: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> ServerTarget {
        match parse(url).unwrap() {
            Target::Server(server) => server,
            Target::Memory => panic!("{url} is no server"),
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn every_form_of_the_readme_is_understood() {
        assert_eq!(parse("memory:").unwrap(), Target::Memory);
        for scheme in ["redis", "valkey"] {
            let plain = server(&format!("{scheme}://localhost"));
            assert_eq!(plain.deployment, Endpoints::Single(tcp("localhost", 6379)));
            assert!(!plain.tls && plain.database == 0 && plain.password.is_none());

            let full = server(&format!("{scheme}://ann:p%40ss@10.0.0.1:7000/3"));
            assert_eq!(full.deployment, Endpoints::Single(tcp("10.0.0.1", 7000)));
            assert_eq!((full.username.as_deref(), full.database), (Some("ann"), 3));
            assert_eq!(full.password, Some(Secret("p@ss".into())));

            assert!(server(&format!("{scheme}s://h")).tls);
            let unix = server(&format!("{scheme}+unix://:pw@/run/my%20redis.sock?db=2"));
            assert_eq!(unix.deployment, Endpoints::Single(Address::Unix("/run/my redis.sock".into())));
            assert_eq!((unix.database, unix.password), (2, Some(Secret("pw".into()))));

            let cluster = server(&format!("{scheme}-cluster://h1,h2:7001,[::1]:7002"));
            let nodes = vec![tcp("h1", 6379), tcp("h2", 7001), tcp("::1", 7002)];
            assert_eq!(cluster.deployment, Endpoints::Cluster(nodes));

            let sentinel = server(&format!("{scheme}-sentinel://:pw@h1,h2:5/main/4"));
            let sentinels = vec![tcp("h1", 26379), tcp("h2", 5)];
            assert_eq!(sentinel.deployment, Endpoints::Sentinel { sentinels, service: "main".into() });
            assert_eq!(sentinel.database, 4);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, part) in [
            ("", "expected"),
            ("localhost:6379", "expected"),
            ("http://:hunter2@h", "scheme"),
            ("redis://:hunter2@", "host"),
            ("redis://:hunter2@h:x", "port"),
            ("redis://:hunter2@h:0", "port"),
            ("redis://:hunter2@h:65536", "port"),
            ("redis://:hunter2@h/x", "database"),
            ("redis://:hunter2@h1,h2", "several"),
            ("redis://:hunter2@h?x=1", "parameters"),
            ("redis+unix://:hunter2@", "path"),
            ("redis-cluster://:hunter2@h/1", "database 0"),
            ("redis-sentinel://:hunter2@h", "service"),
            ("redis://[::1", "]"),
            ("redis://:%ff@h", "UTF-8"),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(part) && !shown.contains("hunter2"), "{url}: {shown}");
        }
    }

    #[test]
    fn a_scheme_is_read_in_any_case() {
        assert_eq!(parse("MEMORY:").unwrap(), Target::Memory);
        for url in ["REDIS://h", "Valkey://h", "REDIS-cluster://h", "Redis+Unix:///run/x"] {
            assert!(!server(url).tls, "{url}");
        }
        assert!(server("REDISS://h").tls && server("ValkeyS-Sentinel://h/s").tls);
    }

    #[test]
    fn what_can_never_connect_is_refused_at_once() {
        let long = format!("redis+unix:///{}", "x".repeat(107));
        for (url, part) in [
            ("rediss://h#insecure", "#"),
            ("rediss://:pw@h/0#insecure", "#"),
            ("redis-sentinel://h/main#x", "#"),
            ("redis+unix:///run/a#b", "#"),
            (long.as_str(), "longer"),
            ("redis+unix:///a%00b", "zero byte"),
            ("redis://[fe80::1]", "zone"),
            ("redis://[fe80::1%25]", "zone"),
            ("redis://[somewhere]", "IPv6"),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            assert!(error.to_string().contains(part), "{url}: {error}");
        }
        assert_eq!(
            server("redis://[fe80::1%25eth0]").deployment,
            Endpoints::Single(tcp("fe80::1%eth0", 6379))
        );
        assert_eq!(server("redis://:a#b@h").password, Some(Secret("a#b".into())));
        assert!(parse(&format!("redis+unix:///{}", "x".repeat(90))).is_ok());
    }

    #[test]
    fn a_password_does_not_show() {
        let shown = format!("{:?}", parse("redis://ann:hunter2@h").unwrap());
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
