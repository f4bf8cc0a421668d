//! The address that a request comes from, behind proxies.
//!
//! Each proxy appends the address of its own client to `X-Forwarded-For`. Only the elements that trusted proxies
//! appended are reliable, so the list is read from the right, element by element: the first address that is not a
//! trusted proxy is the client. The client can have written everything to its left. Taking the leftmost address, a
//! common mistake, lets clients choose their address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderName;

use super::forwarded::{self, Hop};
use super::key::{RequestHead, RequestKey};
use crate::error::{Error, Result};
use crate::telemetry::target;

type Peer = Arc<dyn Fn(&RequestHead<'_>) -> Option<IpAddr> + Send + Sync>;

/// Limits by the client's address; an IPv6 address by its /64, which is one customer.
///
/// The peer's address is the `SocketAddr` or `IpAddr` among the request's extensions, with the feature `axum` also
/// axum's `ConnectInfo<SocketAddr>`, or what [`peer`](Self::peer) finds. Requests without an address share one key,
/// and the first of them is logged as a warning. With plain hyper the program must insert the address that it
/// accepted. tonic has a type of its own for it:
/// `Some(request.extensions().get::<TcpConnectInfo>()?.remote_addr()?.ip())`. A closure for axum without the
/// feature:
///
/// ```
/// # use std::net::SocketAddr;
/// # use larder::http::ClientIp;
/// # #[derive(Clone)]
/// # struct ConnectInfo<T>(T); // axum::extract::ConnectInfo
/// # fn clients() -> larder::Result<ClientIp> {
/// let clients = ClientIp::new()
///     .peer(|request| request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip()))
///     .trust(["10.0.0.0/8", "fd00::/8"])?;
/// # Ok(clients)
/// # }
/// # clients().unwrap();
/// ```
#[derive(Clone)]
pub struct ClientIp {
    trusted: Vec<IpNetwork>,
    field: HeaderName,
    peer: Peer,
    ipv6_prefix: u8,
    /// Whether a missing peer address was logged.
    warned: Arc<AtomicBool>,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientIp {
    /// Limits by the peer's own address: no proxy is trusted.
    #[must_use]
    pub fn new() -> Self {
        let peer = |request: &RequestHead<'_>| {
            let socket = request.extensions().get::<SocketAddr>().map(SocketAddr::ip);
            socket.or_else(|| request.extensions().get::<IpAddr>().copied()).or_else(|| connected(request))
        };
        Self {
            trusted: Vec::new(),
            field: HeaderName::from_static("x-forwarded-for"),
            peer: Arc::new(peer),
            ipv6_prefix: 64,
            warned: Arc::default(),
        }
    }

    /// Sets the proxies that are trusted to append their client's address: addresses, or networks like
    /// `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): a text is neither. Correct it.
    pub fn trust(mut self, networks: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        for network in networks {
            self.trusted.push(IpNetwork::parse(network.as_ref())?);
        }
        Ok(self)
    }

    /// Sets how the peer's address is found.
    #[must_use]
    pub fn peer(mut self, peer: impl Fn(&RequestHead<'_>) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.peer = Arc::new(peer);
        self
    }

    /// Sets the field that trusted proxies append to. Default: `x-forwarded-for`. `forwarded` is read as RFC 7239
    /// defines it, every other field as a list of addresses.
    #[must_use]
    pub fn field(mut self, field: HeaderName) -> Self {
        self.field = field;
        self
    }

    /// Sets how many bits of an IPv6 address distinguish clients. Default: 64; at most 128.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits.min(128);
        self
    }

    fn client(&self, request: &RequestHead<'_>) -> Option<IpAddr> {
        let Some(peer) = (self.peer)(request) else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    target: target::HTTP,
                    "a request has no peer address and shares one limit with all such requests: see ClientIp::peer"
                );
            }
            return None;
        };
        let mut client = plain(peer);
        for hop in forwarded::hops(request.headers(), &self.field) {
            // If a trusted proxy wrote something other than an address, the proxy itself is the client: everything
            // to the left may be made up.
            let (true, Hop::Address(address)) = (self.is_trusted(client), hop) else { break };
            client = plain(address);
        }
        Some(client)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

impl RequestKey for ClientIp {
    fn key(&self, request: &RequestHead<'_>) -> Option<String> {
        Some(match self.client(request)? {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let bits = u128::from(address) & mask(self.ipv6_prefix, 128);
                format!("{}/{}", Ipv6Addr::from(bits), self.ipv6_prefix)
            }
        })
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct IpNetwork {
    bits: u128,
    length: u8,
    width: u8,
}

impl IpNetwork {
    fn parse(text: &str) -> Result<Self> {
        let nonsense =
            || Error::invalid(format!("{text:?} is neither an address nor a network like 10.0.0.0/8"));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| nonsense())?)),
            None => (text, None),
        };
        let address = plain(address.trim().parse().map_err(|_| nonsense())?);
        let (bits, width) = bits(address);
        let length = length.unwrap_or(width);
        if length > width {
            return Err(nonsense());
        }
        Ok(Self { bits: bits & mask(length, width), length, width })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let (bits, width) = bits(address);
        width == self.width && bits & mask(self.length, width) == self.bits
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 32),
        IpAddr::V6(address) => (address.into(), 128),
    }
}

fn mask(length: u8, width: u8) -> u128 {
    let ones = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    ones & !ones.checked_shr(length.into()).unwrap_or(0)
}

/// Turns an IPv4 address that is written as an IPv6 address into that IPv4 address.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The peer's address that axum's server provides.
#[cfg(feature = "axum")]
fn connected(request: &RequestHead<'_>) -> Option<IpAddr> {
    use axum::extract::ConnectInfo;
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
}

#[cfg(not(feature = "axum"))]
fn connected(_: &RequestHead<'_>) -> Option<IpAddr> {
    None
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn key(clients: &ClientIp, peer: &str, lines: &[&str]) -> Option<String> {
        key_of(clients, peer, "x-forwarded-for", lines)
    }

    fn key_of(clients: &ClientIp, peer: &str, field: &str, lines: &[&str]) -> Option<String> {
        let mut request = Request::builder();
        for line in lines {
            request = request.header(field, http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let mut request = request.body(()).unwrap();
        if let Ok(peer) = peer.parse::<IpAddr>() {
            request.extensions_mut().insert(SocketAddr::new(peer, 1));
        }
        clients.key(&RequestHead::of(&request))
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let none = ClientIp::new();
        assert_eq!(key(&none, "203.0.113.9", &["1.1.1.1"]).unwrap(), "203.0.113.9");
        let behind = ClientIp::new().trust(["10.0.0.0/8".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        // The client wrote 1.1.1.1; the proxies appended what they saw.
        assert_eq!(key(&behind, "10.0.0.1", &["1.1.1.1, 203.0.113.9"]).unwrap(), "203.0.113.9");
        assert_eq!(
            key(&behind, "10.0.0.1", &["1.1.1.1", "203.0.113.9, 10.2.3.4,192.0.2.1"]).unwrap(),
            "203.0.113.9"
        );
        assert_eq!(key(&behind, "203.0.113.9", &["1.1.1.1"]).unwrap(), "203.0.113.9");
        assert_eq!(key(&behind, "10.0.0.1", &["1.1.1.1, garbage"]).unwrap(), "10.0.0.1");
        assert_eq!(key(&behind, "10.0.0.1", &[]).unwrap(), "10.0.0.1");
        assert_eq!(key(&behind, "no address", &["1.1.1.1"]), None);
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        let behind = ClientIp::new()
            .trust(["::ffff:10.0.0.0/8", "fd00::/8"])
            .unwrap_or_else(|_| ClientIp::new().trust(["10.0.0.0/8", "fd00::/8"]).unwrap());
        assert_eq!(key(&behind, "::ffff:10.0.0.1", &["203.0.113.9:4711"]).unwrap(), "203.0.113.9");
        for written in ["2001:db8:1:2:3::4", "[2001:db8:1:2:3::4]", "[2001:db8:1:2:3::4]:443"] {
            assert_eq!(key(&behind, "fd00::1", &[written]).unwrap(), "2001:db8:1:2::/64");
        }
        let whole = behind.ipv6_prefix(128);
        assert_eq!(key(&whole, "2001:db8::5", &[]).unwrap(), "2001:db8::5/128");
    }

    #[test]
    fn what_a_client_made_up_does_not_hide_what_the_proxy_wrote() {
        let behind = ClientIp::new().trust(["10.0.0.0/8", "fe80::/10"]).unwrap();
        for lines in [
            &["é, 203.0.113.9"][..],
            &["é", "203.0.113.9"],
            &["1.1.1.1", "203.0.113.9,"],
            &["203.0.113.9 , , "],
            &["203.0.113.9", ""],
            &["\"203.0.113.9\""],
            &["203.0.113.9:99, fe80::1%eth0"],
            &["203.0.113.9", "10.1.1.1, 10.2.2.2:80"],
        ] {
            assert_eq!(key(&behind, "10.0.0.1", lines).unwrap(), "203.0.113.9", "{lines:?}");
        }
        assert_eq!(key(&behind, "10.0.0.1", &["2001:db8::7%eth0"]).unwrap(), "2001:db8::/64");
        // The proxy itself wrote something that is not an address: the proxy is the last address that is known.
        for line in ["203.0.113.9, é", "203.0.113.9, unknown", "203.0.113.9, 1.2.3", "", ","] {
            assert_eq!(key(&behind, "10.0.0.1", &[line]).unwrap(), "10.0.0.1", "{line}");
        }
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        let behind = ClientIp::new().trust(["10.0.0.0/8"]).unwrap().field(http::header::FORWARDED);
        for lines in [
            &["for=203.0.113.9"][..],
            &["For=203.0.113.9;proto=https;by=10.0.0.1"],
            &["proto=http ; for=\"203.0.113.9:4711\""],
            &["for=1.1.1.1, for=203.0.113.9, for=10.1.1.1"],
            &["for=1.1.1.1", "for=203.0.113.9,"],
            &["for=\"a,b;c\", for=203.0.113.9;host=\"x,y;for=2.2.2.2\""],
            &["for=\"\\\",for=1.1.1.1\" , for=203.0.113.9"],
            &["for=é, for=203.0.113.9"],
            // A client leaves a quote open, so that the rest of the line would be part of it.
            &["for=6.6.6.6;x=\", for=203.0.113.9"],
            &["for=\", for=\"203.0.113.9\";proto=https"],
            &["for=6.6.6.6;x=\"\\, for=\"203.0.113.9:80\""],
        ] {
            assert_eq!(key_of(&behind, "10.0.0.1", "forwarded", lines).unwrap(), "203.0.113.9", "{lines:?}");
        }
        let six = key_of(&behind, "10.0.0.1", "forwarded", &["for=\"[2001:db8:cafe::17]:4711\""]);
        assert_eq!(six.unwrap(), "2001:db8:cafe::/64");
        for line in ["for=unknown", "for=_hidden", "proto=https", "203.0.113.9", "for=203.0.113.9, for=_x"] {
            assert_eq!(key_of(&behind, "10.0.0.1", "forwarded", &[line]).unwrap(), "10.0.0.1", "{line}");
        }
    }

    #[test]
    fn networks_contain_their_own_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "1.2.3.4"),
        ] {
            let network = IpNetwork::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?}");
        }
        for nonsense in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/8", "10.0.0.0/-1"] {
            assert!(IpNetwork::parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
