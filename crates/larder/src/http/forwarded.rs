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
    let lines = headers.get_all(field).iter().rev();
    if field == header::FORWARDED {
        lines.flat_map(|line| elements(line.as_bytes())).filter_map(forwarded).collect()
    } else {
        let elements = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        elements.filter_map(|element| address(element.trim_ascii())).collect()
    }
}

/// Splits a line of `Forwarded` at its commas outside quotes, and returns the last element first. It reads from the
/// right: a client may leave a quote open, and what the proxies appended stays what it is.
fn elements(line: &[u8]) -> Vec<&[u8]> {
    let is_escaped = |place: usize| {
        let before = line.get(..place).unwrap_or_default();
        before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    };
    let (mut elements, mut end, mut quoted) = (Vec::new(), line.len(), false);
    for (place, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(place) => quoted = !quoted,
            b',' if !quoted => {
                elements.extend(line.get(place + 1..end));
                end = place;
            }
            _ => {}
        }
    }
    elements.extend(line.get(..end));
    elements
}

/// Parses an element of `Forwarded`: the value of its `for`.
fn forwarded(element: &[u8]) -> Option<Hop> {
    let element = element.trim_ascii();
    if element.is_empty() {
        return None;
    }
    let value = pairs(element).into_iter().find_map(|pair| {
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

/// Splits an element of `Forwarded` at its semicolons outside quotes.
fn pairs(element: &[u8]) -> Vec<&[u8]> {
    let (mut pairs, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (place, byte) in element.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                pairs.extend(element.get(start..place));
                start = place + 1;
            }
            _ => {}
        }
    }
    pairs.extend(element.get(start..));
    pairs
}
