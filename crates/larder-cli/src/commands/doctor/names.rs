//! Which names are on the server: what lives here, and a sample of entries.
//!
//! SCAN in steps, never KEYS. After each step the server has a pause as long as the step took, and after the budget
//! the walk ends: on a large server the counts are then a lower bound. The order of SCAN is that of a hash table, so
//! the names of a part of it are as good as random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::connection::{Connection, Failure};
use super::resp::Reply;

/// The longest walk over one server.
const BUDGET: Duration = Duration::from_secs(2);
/// The number of keys that are looked at more closely, for each server.
const SAMPLE: usize = 2_000;
const BATCH: usize = 100;
/// What is read of a value: the fixed part of an envelope.
const HEAD: &str = "39";

/// The newest layout of each kind of name that this program knows.
pub(crate) const LAYOUTS: &[(&str, u32)] = &[
    ("clear", 1),
    ("lease", 2),
    ("once", 1),
    ("tag", 1),
    ("epoch", 1),
    ("lock", 2),
    ("group", 1),
    ("election", 2),
    ("job", 1),
    ("semaphore", 1),
    ("rwlock", 1),
    ("limit", 1),
    ("process", 1),
];
const PROCESS: &str = "process";
const COORDINATION: &[&str] = &["lock", "group", "election", "job", "semaphore", "rwlock", "limit"];

/// What a walk over the names found.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// How many names were seen, and how many there are.
    pub(crate) seen: u64,
    pub(crate) total: u64,
    /// The distinct things of each kind, such as locks.
    things: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// Names whose layout is newer than this program knows: kind, layout and one such name.
    pub(crate) newer: Vec<String>,
    pub(crate) sample: Vec<Sampled>,
}

/// A key that was looked at.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) name: Vec<u8>,
    pub(crate) is_string: bool,
    pub(crate) expires: bool,
    pub(crate) bytes: u64,
    pub(crate) head: Vec<u8>,
}

/// Splits `~lock.2:{shop/a}:fence` into its kind, its layout, and the name of the thing.
pub(crate) fn reserved(name: &[u8]) -> Option<(&str, u32, &[u8])> {
    let rest = name.strip_prefix(b"~")?;
    let dot = rest.iter().position(|&byte| byte == b'.')?;
    let (kind, rest) = rest.split_at_checked(dot)?;
    let colon = rest.iter().position(|&byte| byte == b':')?;
    let layout = std::str::from_utf8(rest.get(1..colon)?).ok()?.parse().ok()?;
    let rest = rest.get(colon + 1..)?;
    let end = rest.iter().position(|&byte| byte == b'}').map_or(rest.len(), |end| end + 1);
    Some((std::str::from_utf8(kind).ok()?, layout, rest.get(..end)?))
}

impl Names {
    /// The number of locks, limits and the like. A lock that was released and whose fence is kept counts, too.
    pub(crate) fn coordination(&self) -> u64 {
        self.things
            .iter()
            .filter(|(kind, _)| COORDINATION.contains(&kind.as_str()))
            .map(|(_, things)| things.len() as u64)
            .sum()
    }

    /// Whether programs of this namespace announce themselves.
    pub(crate) fn has_processes(&self, namespace: Option<&str>) -> bool {
        let start = format!("{{{}/", namespace.unwrap_or_default());
        self.things.get(PROCESS).is_some_and(|of| of.iter().any(|thing| thing.starts_with(start.as_bytes())))
    }

    /// The locks and limits in words: `12 locks, 83 limits`.
    pub(crate) fn described(&self) -> String {
        let parts: Vec<String> = self
            .things
            .iter()
            .filter(|(kind, _)| COORDINATION.contains(&kind.as_str()))
            .map(|(kind, things)| {
                let plural = if things.len() == 1 { "" } else { "s" };
                format!("{} {kind}{plural}", things.len())
            })
            .collect();
        let at_least = if self.seen < self.total { "at least " } else { "" };
        if parts.is_empty() {
            "no locks or limits".to_owned()
        } else {
            at_least.to_owned() + &parts.join(", ")
        }
    }

    /// The sampled keys that are entries of caches in this namespace, or of any cache without one.
    pub(crate) fn entries<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Sampled> {
        let prefix = namespace.map(|namespace| format!("{namespace}/").into_bytes());
        // Without a namespace all programs' keys look alike: only caches with at least one envelope count.
        let caches: BTreeSet<&[u8]> = self
            .sample
            .iter()
            .filter(|key| key.head.first() == Some(&0x9A))
            .map(|key| cache_of(&key.name))
            .collect();
        self.sample.iter().filter(move |key| match &prefix {
            Some(prefix) => key.name.starts_with(prefix),
            None => !key.name.starts_with(b"~") && caches.contains(cache_of(&key.name)),
        })
    }

    fn note(&mut self, name: &[u8]) {
        self.seen += 1;
        let Some((kind, layout, thing)) = reserved(name) else { return };
        let known = LAYOUTS.iter().find(|(known, _)| *known == kind);
        if known.is_some_and(|(_, newest)| layout > *newest) && self.newer.len() < 3 {
            self.newer.push(format!("{kind} {layout} ({})", String::from_utf8_lossy(name)));
        }
        if COORDINATION.contains(&kind) || kind == PROCESS {
            self.things.entry(kind.to_owned()).or_default().insert(thing.to_vec());
        }
    }

    /// Walks over the names of one server and adds them. Returns the refusal if the user may not.
    pub(crate) async fn walk(&mut self, connection: &mut Connection) -> Result<Result<(), String>, Failure> {
        let size = connection.call(&["DBSIZE"]).await?;
        if let Some(error) = size.error() {
            return Ok(Err(error.to_owned()));
        }
        self.total += size.int().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let begin = Instant::now();
        let mut cursor = "0".to_owned();
        let mut chosen: Vec<Vec<u8>> = Vec::new();
        loop {
            let step = Instant::now();
            let reply = connection.call(&["SCAN", &cursor, "COUNT", "500"]).await?;
            if let Some(error) = reply.error() {
                return Ok(Err(error.to_owned()));
            }
            cursor = reply.at(0).and_then(Reply::text).unwrap_or_else(|| "0".to_owned());
            for name in reply.at(1).map(Reply::items).unwrap_or_default() {
                let Some(name) = name.bytes() else { continue };
                self.note(name);
                if chosen.len() < SAMPLE {
                    chosen.push(name.to_vec());
                }
            }
            if cursor == "0" || begin.elapsed() > BUDGET {
                break;
            }
            tokio::time::sleep(step.elapsed()).await;
        }
        for batch in chosen.chunks(BATCH) {
            if let Err(refused) = self.look_at(connection, batch).await? {
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }

    async fn look_at(
        &mut self,
        connection: &mut Connection,
        names: &[Vec<u8>],
    ) -> Result<Result<(), String>, Failure> {
        let commands: Vec<Vec<&[u8]>> = names
            .iter()
            .flat_map(|name| {
                [
                    vec![b"PTTL".as_slice(), name],
                    vec![b"MEMORY".as_slice(), b"USAGE", name, b"SAMPLES", b"1"],
                    // A key of another type refuses it, which says so without TYPE.
                    vec![b"GETRANGE".as_slice(), name, b"0", HEAD.as_bytes()],
                ]
            })
            .collect();
        let replies = connection.pipeline(&commands).await?;
        for (name, replies) in names.iter().zip(replies.chunks_exact(3)) {
            let [ttl, bytes, head] = replies else { continue };
            let refused = [ttl, bytes, head].into_iter().filter_map(Reply::error);
            let refused = refused.filter(|error| error.starts_with("NOPERM")).collect::<Vec<_>>();
            // A user of one namespace may not look at the keys of others. Without the command it sees none at all.
            match refused.iter().find(|error| !error.contains("key")) {
                Some(error) => return Ok(Err((*error).to_owned())),
                None if !refused.is_empty() => continue,
                None => {}
            }
            let Some(ttl) = ttl.int().filter(|&ttl| ttl != -2) else { continue };
            self.sample.push(Sampled {
                name: name.clone(),
                is_string: head.error().is_none(),
                expires: ttl != -1,
                bytes: bytes.int().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
                head: head.bytes().unwrap_or_default().to_vec(),
            });
        }
        Ok(Ok(()))
    }
}

/// The part of an entry's name before the key: `shop/user`.
pub(crate) fn cache_of(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|&byte| byte == b':').unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_taken_apart_and_things_are_counted_once() {
        assert_eq!(reserved(b"~lock.2:{shop/a}:fence"), Some(("lock", 2, b"{shop/a}".as_slice())));
        assert_eq!(reserved(b"~lease.2:{user:1}"), Some(("lease", 2, b"{user:1}".as_slice())));
        assert_eq!(reserved(b"user:1"), None);
        assert_eq!(reserved(b"~lock:{a}"), None);
        let mut names = Names::default();
        for name in ["~lock.2:{/a}", "~lock.2:{/a}:fence", "~limit.1:{/api:x}", "~tag.1:{/t}", "~lock.3:{/a}"]
        {
            names.note(name.as_bytes());
        }
        assert_eq!(names.coordination(), 2);
        names.note(b"~process.1:{shop/web}");
        assert!(
            names.has_processes(Some("shop"))
                && !names.has_processes(Some("sho"))
                && !names.has_processes(None)
        );
        assert_eq!((names.coordination(), names.described().as_str()), (2, "1 limit, 1 lock"));
        assert_eq!(names.newer, ["lock 3 (~lock.3:{/a})"]);
        assert_eq!(cache_of(b"shop/user:1"), b"shop/user");
    }
}
