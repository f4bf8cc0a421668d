//! What tools ask of Redis: samples, scans and facts, node by node.
//!
//! A request here goes to a node that the caller names, and not to the node of a key: `SCAN`, `RANDOMKEY` and `INFO`
//! concern a node. While a cluster moves a slot, a key of it may be passed over.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::error::Failure;
use super::network::Network;
use super::node::{Node, Replay};
use super::wire::{Reply, Request};
use super::{RedisStore, bytes, number, unexpected};
use crate::envelope::HEADER;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::store::admin::{
    AdminStore, AnyLock, FAR, KeyExpiry, KeyFacts, LockState, NamePattern, SAMPLE_BATCH, SCAN_COUNT,
    SCAN_STEP, SampledKeys, ScanPlace, ScanStep, TlsSeen,
};
use crate::store::raw_reply::RawReply;

/// The store's only node, or a node of its cluster.
enum NodeRef<'a> {
    Only(&'a Node),
    Of(Arc<Node>),
}

impl NodeRef<'_> {
    fn node(&self) -> &Node {
        match self {
            Self::Only(node) => node,
            Self::Of(node) => node,
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        match failure {
            Failure::Moved(_) | Failure::Ask(_) | Failure::TryAgain => Error::new(
                ErrorKind::Server,
                format!("{} does not serve the slot of that key", self.node().name()),
            ),
            failure => failure.into_error(self.node().name()),
        }
    }

    async fn run(&self, command: &Request, replay: Replay, max_wait: Duration) -> Result<Reply> {
        let answer = within(max_wait, async { Ok(self.node().send(0, command, replay).await) }).await?;
        answer.map_err(|failure| self.explain(failure))
    }

    /// Sends commands in one write; each has an answer or an error of its own.
    async fn run_each(&self, commands: &[Request], max_wait: Duration) -> Result<Vec<Result<Reply>>> {
        let answers = within(max_wait, self.node().send_all(0, commands, Replay::Safe)).await?;
        Ok(answers.into_iter().map(|answer| answer.map_err(|failure| self.explain(failure))).collect())
    }

    async fn size(&self, max_wait: Duration) -> Result<u64> {
        number(&self.run(&Request::new("DBSIZE"), Replay::Safe, max_wait).await?)
    }

    /// One step of a scan: the names, and the next cursor, which is 0 at the end.
    async fn scan(
        &self,
        pattern: &NamePattern,
        cursor: u64,
        count: u64,
        max_wait: Duration,
    ) -> Result<(Vec<String>, u64)> {
        let (names, cursor) = self.scan_bytes(pattern, cursor, count, max_wait).await?;
        // Names of larder are text. Others are shown with replacement characters, and are not larder's.
        let names = names.iter().map(|name| shown(name)).filter(|name| pattern.matches(name)).collect();
        Ok((names, cursor))
    }

    async fn scan_bytes(
        &self,
        pattern: &NamePattern,
        cursor: u64,
        count: u64,
        max_wait: Duration,
    ) -> Result<(Vec<Bytes>, u64)> {
        let mut command = Request::new("SCAN").number(cursor);
        if let Some(glob) = pattern.glob() {
            command = command.arg("MATCH").arg(glob);
        }
        let command = command.arg("COUNT").number(count);
        let answer = self.run(&command, Replay::Safe, max_wait).await?;
        let Reply::Array(parts) = &answer else { return Err(unexpected(&answer)) };
        let [cursor, Reply::Array(names)] = parts.as_slice() else { return Err(unexpected(&answer)) };
        let cursor = cursor.as_u64().ok_or_else(|| unexpected(cursor))?;
        Ok((names.iter().filter_map(name_of).collect(), cursor))
    }

    /// Looks at keys of this node, in one write. `size` is the command that measures one.
    async fn facts(
        &self,
        names: &[impl AsRef<[u8]>],
        size: &[&str],
        max_wait: Duration,
    ) -> Result<Vec<KeyFacts>> {
        let last = u64::try_from(HEADER - 1).unwrap_or(u64::MAX);
        let commands: Vec<Request> = names
            .iter()
            .flat_map(|name| {
                let (verb, rest) =
                    size.split_first().map_or(("STRLEN", &[][..]), |(verb, rest)| (*verb, rest));
                let measure = rest.iter().fold(Request::new(verb), |request, word| request.arg(word));
                [
                    Request::new("GETRANGE").arg(name).number(0).number(last),
                    Request::new("PTTL").arg(name),
                    measure.arg(name),
                ]
            })
            .collect();
        let mut answers = self.run_each(&commands, max_wait).await?.into_iter();
        let mut facts = Vec::with_capacity(names.len());
        for name in names {
            let (start, left, measured) = (answers.next(), answers.next(), answers.next());
            let start = start.and_then(Result::ok).and_then(|start| bytes(start).ok().flatten());
            let expiry = match left {
                Some(Ok(Reply::Int(-2))) => KeyExpiry::Gone,
                Some(Ok(Reply::Int(-1))) => KeyExpiry::Never,
                Some(Ok(Reply::Int(left))) => {
                    KeyExpiry::After(Duration::from_millis(u64::try_from(left).unwrap_or_default()))
                }
                _ => KeyExpiry::Unknown,
            };
            let bytes = measured.and_then(Result::ok).and_then(|measured| number(&measured).ok());
            facts.push(KeyFacts { name: shown(name.as_ref()), start, expiry, bytes });
        }
        Ok(facts)
    }

    /// Looks at so many random keys.
    async fn sample(&self, mut keys: usize, max_wait: Duration) -> Result<Vec<KeyFacts>> {
        let mut facts = Vec::with_capacity(keys);
        while keys > 0 {
            let batch = keys.min(SAMPLE_BATCH);
            keys -= batch;
            let commands = vec![Request::new("RANDOMKEY"); batch];
            let answers = self.run_each(&commands, max_wait).await?;
            let answers: Vec<Reply> = answers.into_iter().collect::<Result<_>>()?;
            let names: Vec<Bytes> = answers.iter().filter_map(name_of).collect();
            if names.is_empty() {
                break;
            }
            facts.extend(self.facts(&names, &MEMORY, max_wait).await?);
        }
        Ok(facts)
    }

    /// Looks at all keys, or at `most` if there are more by now.
    async fn all_keys(&self, most: usize, max_wait: Duration) -> Result<Vec<KeyFacts>> {
        // A scan may return a key twice.
        let (mut facts, mut cursor, mut seen) = (Vec::new(), 0, HashSet::new());
        loop {
            let (mut names, next) = self.scan_bytes(&NamePattern::All, cursor, SCAN_COUNT, max_wait).await?;
            names.retain(|name| seen.insert(name.clone()));
            if !names.is_empty() {
                facts.extend(self.facts(&names, &MEMORY, max_wait).await?);
            }
            if next == 0 || facts.len() >= most {
                return Ok(facts);
            }
            cursor = next;
        }
    }
}

const MEMORY: [&str; 2] = ["MEMORY", "USAGE"];

async fn within<T>(max_wait: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(max_wait, asked).await.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))
}

/// Returns the name of a key, which may be any bytes.
fn name_of(reply: &Reply) -> Option<Bytes> {
    match reply {
        Reply::Bulk(name) | Reply::Simple(name) => Some(name.clone()),
        _ => None,
    }
}

/// Returns a name as it is shown.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Bulk(text) | Reply::Simple(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

impl RedisStore {
    async fn nodes(&self, max_wait: Duration) -> Result<Vec<NodeRef<'_>>> {
        match &self.network {
            Network::Single(node) => Ok(vec![NodeRef::Only(node)]),
            Network::Cluster(cluster) => {
                let masters = within(max_wait, Cluster::masters(cluster)).await?;
                Ok(masters.into_iter().map(NodeRef::Of).collect())
            }
        }
    }

    async fn node_at(&self, address: &str, max_wait: Duration) -> Result<NodeRef<'_>> {
        let mut nodes = self.nodes(max_wait).await?.into_iter();
        nodes
            .find(|node| node.node().name() == address)
            .ok_or_else(|| Error::invalid(format!("this Larder has no server {address:?}")))
    }
}

impl AdminStore for RedisStore {
    async fn key_count(&self, max_wait: Duration) -> Result<u64> {
        let mut total = 0;
        for node in self.nodes(max_wait).await? {
            total += node.size(max_wait).await?;
        }
        Ok(total)
    }

    async fn sample_keys(&self, keys: usize, most: usize, max_wait: Duration) -> Result<SampledKeys> {
        let nodes = self.nodes(max_wait).await?;
        let mut sizes = Vec::with_capacity(nodes.len());
        for node in &nodes {
            sizes.push(node.size(max_wait).await?);
        }
        let total: u64 = sizes.iter().sum();
        let wanted = u64::try_from(keys).unwrap_or(u64::MAX);
        let (exact, mut sampled) = (usize::try_from(total).is_ok_and(|total| total <= most), Vec::new());
        for (node, size) in nodes.iter().zip(sizes) {
            if exact {
                sampled.extend(node.all_keys(most, max_wait).await?);
            } else {
                // Each node gets its share, rounded up, so that a small one is not left out.
                let share = (u128::from(wanted) * u128::from(size)).div_ceil(u128::from(total));
                sampled.extend(node.sample(usize::try_from(share).unwrap_or(keys), max_wait).await?);
            }
        }
        Ok(SampledKeys { total, exact, keys: sampled })
    }

    async fn scan_names(
        &self,
        pattern: &NamePattern,
        place: &ScanPlace,
        max_wait: Duration,
    ) -> Result<ScanStep> {
        let mut nodes = match &place.nodes {
            Some(nodes) => nodes.clone(),
            None => self.node_addresses().await?,
        };
        let Some(current) = nodes.last() else { return Ok(ScanStep { names: Vec::new(), next: None }) };
        let node = self.node_at(current, max_wait).await?;
        let (mut names, mut visited) = (Vec::new(), 0);
        let ScanPlace { mut cursor, mut far, .. } = *place;
        while visited < SCAN_COUNT {
            let count = if far { SCAN_COUNT - visited } else { SCAN_STEP };
            let asked = Instant::now();
            let (found, next) = node.scan(pattern, cursor, count, max_wait).await?;
            far = asked.elapsed() > FAR;
            names.extend(found);
            (cursor, visited) = (next, visited + count);
            if cursor == 0 {
                nodes.pop();
                break;
            }
        }
        let next = (!nodes.is_empty()).then_some(ScanPlace { nodes: Some(nodes), cursor, far });
        Ok(ScanStep { names, next })
    }

    async fn key_facts(&self, names: &[Name], max_wait: Duration) -> Result<Vec<KeyFacts>> {
        let nodes = self.nodes(max_wait).await?;
        let mut facts: Vec<KeyFacts> = names
            .iter()
            .map(|name| KeyFacts {
                name: name.as_str().to_owned(),
                start: None,
                expiry: KeyExpiry::Unknown,
                bytes: None,
            })
            .collect();
        for node in &nodes {
            let here = |name: &str| match node {
                NodeRef::Only(_) => true,
                NodeRef::Of(node) => self.network.node(name) == Arc::as_ptr(node).addr(),
            };
            let own: Vec<usize> =
                names.iter().enumerate().filter(|(_, name)| here(name)).map(|(place, _)| place).collect();
            let of_node: Vec<String> = own
                .iter()
                .filter_map(|place| names.get(*place))
                .map(|name| name.as_str().to_owned())
                .collect();
            if of_node.is_empty() {
                continue;
            }
            for (place, found) in own.into_iter().zip(node.facts(&of_node, &["STRLEN"], max_wait).await?) {
                if let Some(slot) = facts.get_mut(place) {
                    *slot = found;
                }
            }
        }
        Ok(facts)
    }

    async fn lock_states(
        &self,
        locks: &[AnyLock],
        most: usize,
        max_wait: Duration,
    ) -> Result<Vec<Option<LockState>>> {
        self.states_of_locks(locks, most, max_wait).await
    }

    async fn node_addresses(&self) -> Result<Vec<String>> {
        let mut addresses: Vec<String> =
            self.nodes(Duration::MAX).await?.iter().map(|node| node.node().name().to_owned()).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    async fn command_at(&self, node: &str, command: &[Vec<u8>], max_wait: Duration) -> Result<RawReply> {
        let node = self.node_at(node, max_wait).await?;
        Ok(raw(node.run(&request(command), Replay::Never, max_wait).await?))
    }

    async fn command_tracked(
        &self,
        node: &str,
        command: &[Vec<u8>],
        max_wait: Duration,
    ) -> Result<Option<RawReply>> {
        let node = self.node_at(node, max_wait).await?;
        let Some((live, _)) = node.node().tracked() else { return Ok(None) };
        let request = request(command);
        let answer = within(max_wait, async { Ok(node.node().send_tracked(&live, &request).await) }).await?;
        answer.map(|reply| Some(raw(reply))).map_err(|failure| node.explain(failure))
    }

    async fn info_of(&self, node: &str, max_wait: Duration) -> Result<String> {
        let node = self.node_at(node, max_wait).await?;
        let answer = node.run(&Request::new("INFO"), Replay::Safe, max_wait).await?;
        text(&answer).ok_or_else(|| unexpected(&answer))
    }

    fn tls_of(&self, node: &str) -> Option<TlsSeen> {
        self.tls.as_ref()?.seen(node)
    }
}

fn request(command: &[Vec<u8>]) -> Request {
    let (verb, arguments) =
        command.split_first().map_or((&[][..], command), |(verb, rest)| (verb.as_slice(), rest));
    arguments
        .iter()
        .fold(Request::new(&String::from_utf8_lossy(verb)), |request, argument| request.arg(argument))
}

fn raw(reply: Reply) -> RawReply {
    match reply {
        Reply::Nil => RawReply::Nil,
        Reply::Int(number) => RawReply::Int(number),
        Reply::Bulk(bytes) => RawReply::Bulk(bytes),
        Reply::Simple(text) => RawReply::Simple(String::from_utf8_lossy(&text).into_owned()),
        Reply::Array(elements) => RawReply::Array(elements.into_iter().map(raw).collect()),
        Reply::Map(pairs) => {
            RawReply::Map(pairs.into_iter().map(|(key, value)| (raw(key), raw(value))).collect())
        }
        Reply::Double(number) => RawReply::Double(number),
        Reply::Boolean(value) => RawReply::Boolean(value),
        Reply::BigNumber(digits) => RawReply::Bulk(digits),
        Reply::Error(error) => RawReply::Error(error.to_string()),
    }
}
