//! Slots: computes the slot of a name, and reads the map of slots.

use super::wire::Reply;

use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

pub(super) const SLOTS: u16 = 16384;

/// Returns the slot of a name: CRC-16 (XMODEM) of the part in the first non-empty braces, or of the whole name,
/// modulo 16384. See "Hash tags" in the Redis Cluster specification.
pub(super) fn slot(name: &str) -> u16 {
    let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(name);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// Reads the reply to CLUSTER SLOTS as the master of each slot. A line of the reply is a first slot, a last slot, the
/// master (host, port, …), and its replicas.
pub(super) fn parse(answer: &Reply, asked: &Address) -> Result<Vec<Option<Address>>> {
    let odd = || {
        Error::new(ErrorKind::Server, "the server's reply to CLUSTER SLOTS is not one that larder expects")
    };
    let Reply::Array(lines) = answer else { return Err(odd()) };
    let mut masters = vec![None; usize::from(SLOTS)];
    for line in lines {
        let Reply::Array(line) = line else { return Err(odd()) };
        let [Reply::Int(first), Reply::Int(last), Reply::Array(master), ..] = line.as_slice() else {
            return Err(odd());
        };
        let [host, Reply::Int(port), ..] = master.as_slice() else { return Err(odd()) };
        let host = host.as_str().unwrap_or_default();
        let address = Address::named(host, u16::try_from(*port).map_err(|_| odd())?, asked.host());
        let (first, last) =
            (usize::try_from(*first).map_err(|_| odd())?, usize::try_from(*last).map_err(|_| odd())?);
        for master in masters.get_mut(first..=last).ok_or_else(odd)? {
            *master = Some(address.clone());
        }
    }
    if masters.iter().all(Option::is_none) {
        return Err(Error::new(
            ErrorKind::ClusterDown,
            "no slot of the cluster is assigned to a node: create the cluster first",
        ));
    }
    Ok(masters)
}

/// Returns the reply without the replicas, for comparison: they change without a change of masters.
pub(super) fn masters(answer: &Reply) -> Vec<Vec<Reply>> {
    let Reply::Array(lines) = answer else { return Vec::new() };
    lines
        .iter()
        .map(|line| match line {
            Reply::Array(line) => line.iter().take(3).cloned().collect(),
            _ => Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 12739);
        assert_eq!(slot("{user1000}.following"), slot("user1000"));
        assert_eq!(slot("foo{}{bar}"), slot("foo{}{bar}"));
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_eq!(slot("~tag.1:{shop/user:7}"), slot("shop/user:7"));
    }
}
