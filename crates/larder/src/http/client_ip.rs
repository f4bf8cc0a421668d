//! Who sent a request, where proxies stand between.
//!
//! Each proxy adds to the right of `X-Forwarded-For` the address that it was called from. Only what a trusted proxy added
//! can be believed, so the list is read from the right: the first address that is no trusted proxy is the client.
//! Everything left of it the client may have made up. Taking the leftmost, as is often done, lets anybody choose an
//! address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderName;

use super::key::{RequestHead, RequestKey};
use crate::error::{Error, Result};

type Peer = Arc<dyn Fn(&RequestHead<'_>) -> Option<IpAddr> + Send + Sync>;

/// Limits by the client's address; IPv6 by its /64, which is one customer.
///
/// The peer's address is the `SocketAddr` or `IpAddr` among the request's extensions, or what [`peer`](Self::peer) finds.
/// Requests where there is none share one key, which is warned of once. On plain hyper the program puts the address that
/// it accepted there. axum and tonic have it in types of their own, so they need `peer`; for tonic it is
/// `Some(request.extensions().get::<TcpConnectInfo>()?.remote_addr()?.ip())`, and for axum:
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
    trusted: Vec<Network>,
    field: HeaderName,
    peer: Peer,
    ipv6_prefix: u8,
    /// Whether it was said that a peer's address is not to be found.
    warned: Arc<AtomicBool>,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientIp {
    /// By the peer's own address: no proxy is trusted.
    #[must_use]
    pub fn new() -> Self {
        let peer = |request: &RequestHead<'_>| {
            let socket = request.extensions().get::<SocketAddr>().map(SocketAddr::ip);
            socket.or_else(|| request.extensions().get::<IpAddr>().copied())
        };
        Self {
            trusted: Vec::new(),
            field: HeaderName::from_static("x-forwarded-for"),
            peer: Arc::new(peer),
            ipv6_prefix: 64,
            warned: Arc::default(),
        }
    }

    /// The proxies that are trusted to say whom they were called from: addresses, or networks as `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for what is neither.
    pub fn trust(mut self, networks: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        for network in networks {
            self.trusted.push(Network::parse(network.as_ref())?);
        }
        Ok(self)
    }

    /// Where the peer's address stands.
    #[must_use]
    pub fn peer(mut self, peer: impl Fn(&RequestHead<'_>) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.peer = Arc::new(peer);
        self
    }

    /// The field that trusted proxies add to. Default: `x-forwarded-for`.
    #[must_use]
    pub fn field(mut self, field: HeaderName) -> Self {
        self.field = field;
        self
    }

    /// How many bits of an IPv6 address tell clients apart. Default: 64; at most 128.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits.min(128);
        self
    }

    fn client(&self, request: &RequestHead<'_>) -> Option<IpAddr> {
        let Some(peer) = (self.peer)(request) else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a request says nothing of its peer's address, and shares one limit with all such: see ClientIp::peer"
                );
            }
            return None;
        };
        let mut client = plain(peer);
        let lines: Vec<_> = request.headers().get_all(&self.field).iter().collect();
        let hops = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        for hop in hops {
            if !self.is_trusted(client) {
                break;
            }
            // What a trusted proxy could not read is not the client's to fill in: the proxy stands for it.
            let Some(address) = parse(hop) else { break };
            client = address;
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
struct Network {
    bits: u128,
    length: u8,
    width: u8,
}

impl Network {
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

/// An IPv4 address that came in IPv6's clothes is itself.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// An address as proxies write them: with or without a port, IPv6 with or without brackets.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address =
        hop.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address.or_else(bracketed).map(plain)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn key(clients: &ClientIp, peer: &str, lines: &[&str]) -> Option<String> {
        let mut request = Request::builder();
        for line in lines {
            request = request.header("x-forwarded-for", *line);
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
        // The client wrote 1.1.1.1; the proxies added what they saw.
        assert_eq!(key(&behind, "10.0.0.1", &["1.1.1.1, 203.0.113.9"]).unwrap(), "203.0.113.9");
        assert_eq!(
            key(&behind, "10.0.0.1", &["1.1.1.1", "203.0.113.9, 10.2.3.4,192.0.2.1"]).unwrap(),
            "203.0.113.9"
        );
        assert_eq!(key(&behind, "203.0.113.9", &["1.1.1.1"]).unwrap(), "203.0.113.9");
        assert_eq!(key(&behind, "10.0.0.1", &["1.1.1.1, garbage"]).unwrap(), "10.0.0.1");
        assert_eq!(key(&behind, "10.0.0.1", &[]).unwrap(), "10.0.0.1");
        assert_eq!(key(&behind, "nobody", &["1.1.1.1"]), None);
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
    fn networks_contain_their_own_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "1.2.3.4"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?}");
        }
        for nonsense in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/8", "10.0.0.0/-1"] {
            assert!(Network::parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
