//! The lists that proxies write: `X-Forwarded-For` and similar fields, and `Forwarded` (RFC 7239).
//!
//! Header fields contain bytes, and clients can write anything into them. Each element is parsed separately, so
//! that an invalid one does not hide the others.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

/// One element of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    Address(IpAddr),
    /// Something else: `unknown`, a name that hides the address, or nonsense.
    Other,
}

/// Returns the elements of a field over all its lines, the last one first. Empty elements are left out.
pub(super) fn hops(headers: &HeaderMap, field: &HeaderName) -> Vec<Hop> {
    let mut hops = Vec::new();
    for line in headers.get_all(field) {
        if field == header::FORWARDED {
            hops.extend(split(line.as_bytes(), b',').into_iter().filter_map(forwarded));
        } else {
            let elements = line.as_bytes().split(|byte| *byte == b',');
            hops.extend(elements.filter_map(|element| address(element.trim_ascii())));
        }
    }
    hops.reverse();
    hops
}

/// Parses an element of `Forwarded`: the value of its `for`.
fn forwarded(element: &[u8]) -> Option<Hop> {
    let element = element.trim_ascii();
    if element.is_empty() {
        return None;
    }
    let value = split(element, b';').into_iter().find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?.trim_ascii(), pair.get(at + 1..)?.trim_ascii());
        name.eq_ignore_ascii_case(b"for").then_some(value)
    });
    Some(value.and_then(address).unwrap_or(Hop::Other))
}

/// Parses an address as proxies write it: with or without a port, a zone and quotes, IPv6 with or without brackets.
/// `None` for an empty element.
fn address(element: &[u8]) -> Option<Hop> {
    let unquoted = element.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(element);
    if unquoted.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(unquoted).ok().map(|text| match text.split_once('%') {
        // A zone names the interface and not the client; a port may follow it.
        Some((address, rest)) => rest
            .find(']')
            .map_or(address.to_owned(), |end| format!("{address}{}", rest.get(end..).unwrap_or_default())),
        None => text.to_owned(),
    });
    let parsed = text.and_then(|text| {
        let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
        text.parse().ok().or_else(with_port).or_else(bracketed)
    });
    Some(parsed.map_or(Hop::Other, Hop::Address))
}

/// Splits at a byte, except within quotes.
fn split(line: &[u8], at: u8) -> Vec<&[u8]> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (place, byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if *byte == at && !quoted => {
                parts.extend(line.get(start..place));
                start = place + 1;
            }
            _ => {}
        }
    }
    parts.extend(line.get(start..));
    parts
}
