//! Reads what the view shows, in the background.
//!
//! Three tasks: the servers' facts and the processes at each interval; the sample of keys, which takes at most a
//! twentieth of the time; and the walk over locks, which is paced by the library. Each goes on after an error, so the
//! view comes back with the server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder::admin::{Admin, Info, LockInfo, Process, ServerNode, StoreOf};
use larder::{Error, ErrorKind};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::data::{Pane, Rates, Server, Sheet, Update};
use super::rows::{cache_rows, identity, limit_rows, lock_rows, process_rows};

/// The keys in a sample.
const SAMPLE: usize = 1_000;
/// The shortest time between two samples, and between two walks over locks or limits.
const SAMPLE_PAUSE: Duration = Duration::from_secs(5);
const WALK_PAUSE: Duration = Duration::from_secs(2);
/// A sample that took long is followed by a pause that is so many times as long.
const REST: u32 = 20;
/// The same for a walk over locks.
const WALK_REST: u32 = 3;
/// The steps of the walk over limits in one round.
const STEPS: usize = 40;

/// The counters of INFO that rates are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    commands: u64,
    hits: u64,
    misses: u64,
    evicted: u64,
    expired: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Sends facts about the servers and the processes until the view has ended.
pub(crate) async fn servers(admin: Admin, interval: Duration, updates: Sender<Update>) {
    let mut before: BTreeMap<StoreOf, (Instant, Counters)> = BTreeMap::new();
    let mut processes_before: BTreeMap<String, Process> = BTreeMap::new();
    loop {
        let update = match read_servers(&admin, &mut before).await {
            Ok((caches, coordination)) => Update::Servers(Box::new(caches), coordination.map(Box::new)),
            Err(error) => Update::Away(error.to_string()),
        };
        let reached = matches!(update, Update::Servers(..));
        if updates.send(update).await.is_err() {
            return;
        }
        if reached {
            let update = match admin.processes().await {
                Ok(processes) => {
                    let sheet = process_rows(&processes, &processes_before, interval);
                    processes_before =
                        processes.into_iter().map(|process| (identity(&process), process)).collect();
                    Update::Rows(Pane::Processes, sheet)
                }
                Err(error) => Update::Failed(Pane::Processes, error.to_string()),
            };
            if updates.send(update).await.is_err() {
                return;
            }
        }
        sleep(interval).await;
    }
}

/// Sends samples of the keys until the view has ended.
pub(crate) async fn sample(admin: Admin, interval: Duration, updates: Sender<Update>) {
    loop {
        let begin = Instant::now();
        let update = match admin.sample(SAMPLE).await {
            Ok(sample) => Update::Rows(Pane::Caches, cache_rows(&sample)),
            Err(error) => Update::Failed(Pane::Caches, error.to_string()),
        };
        if updates.send(update).await.is_err() {
            return;
        }
        sleep((begin.elapsed() * REST).max(SAMPLE_PAUSE).max(interval)).await;
    }
}

/// Sends the locks, and then the limits, until the view has ended.
pub(crate) async fn walks(admin: Admin, interval: Duration, updates: Sender<Update>) {
    let mut limits = LimitWalk::default();
    loop {
        let begin = Instant::now();
        let update = match read_locks(&admin).await {
            Ok(locks) => Update::Rows(Pane::Locks, lock_rows(&locks)),
            Err(error) => Update::Failed(Pane::Locks, error.to_string()),
        };
        let rest = begin.elapsed() * WALK_REST;
        if updates.send(update).await.is_err() {
            return;
        }
        let update = match limits.step(&admin).await {
            Ok(Some(sheet)) => Some(Update::Rows(Pane::Limits, sheet)),
            Ok(None) => None,
            Err(error) => Some(Update::Failed(Pane::Limits, error.to_string())),
        };
        if let Some(update) = update
            && updates.send(update).await.is_err()
        {
            return;
        }
        sleep(rest.max(WALK_PAUSE).max(interval)).await;
    }
}

async fn read_servers(
    admin: &Admin,
    before: &mut BTreeMap<StoreOf, (Instant, Counters)>,
) -> Result<(Server, Option<Server>), Error> {
    let nodes = admin.nodes().await?;
    let mut groups: BTreeMap<StoreOf, Vec<(&ServerNode, Info)>> = BTreeMap::new();
    for node in &nodes {
        let info = admin.info(node).await?;
        groups.entry(node.store).or_default().push((node, info));
    }
    let mut servers = groups.into_iter().map(|(store, nodes)| (store, add_up(store, &nodes, before)));
    let first = servers.next().map(|(_, server)| server).unwrap_or_default();
    Ok((first, servers.next().map(|(_, server)| server)))
}

/// Adds up the masters of one deployment.
fn add_up(
    store: StoreOf,
    nodes: &[(&ServerNode, Info)],
    before: &mut BTreeMap<StoreOf, (Instant, Counters)>,
) -> Server {
    let mut server = Server::default();
    let mut counters = Counters::default();
    for (_, info) in nodes {
        let number = |name: &str| info.number(name).unwrap_or(0);
        server.used += number("used_memory");
        server.limit += number("maxmemory");
        server.keys += keys(info);
        server.clients =
            info.number("connected_clients").map(|clients| clients + server.clients.unwrap_or(0));
        counters.commands += number("total_commands_processed");
        counters.hits += number("keyspace_hits");
        counters.misses += number("keyspace_misses");
        counters.evicted += number("evicted_keys");
        counters.expired += number("expired_keys");
        counters.bytes_in += number("total_net_input_bytes");
        counters.bytes_out += number("total_net_output_bytes");
    }
    if let Some((node, info)) = nodes.first() {
        server.name = if nodes.len() > 1 { format!("{} masters", nodes.len()) } else { node.address.clone() };
        let version = info.get("valkey_version").map(|version| format!("Valkey {version}"));
        server.product = version
            .or_else(|| info.get("redis_version").map(|version| format!("Redis {version}")))
            .unwrap_or_else(|| "embedded".to_owned());
        server.role = info.get("role").unwrap_or_default().replace("slave", "replica");
        server.uptime = info.number("uptime_in_seconds").map(Duration::from_secs);
        server.policy = info.get("maxmemory_policy").unwrap_or_default().to_owned();
    }
    let now = Instant::now();
    if let Some((then, old)) = before.insert(store, (now, counters)) {
        // A restart begins the counters at zero: the rates of that moment are zero, too.
        let seconds = f64::max((now - then).as_secs_f64(), 1e-3);
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let (hits, misses) = (rate(counters.hits, old.hits), rate(counters.misses, old.misses));
        server.rates = Some(Rates {
            commands: rate(counters.commands, old.commands),
            hits: (hits + misses > 0.0).then(|| hits / (hits + misses)),
            evicted: rate(counters.evicted, old.evicted),
            expired: rate(counters.expired, old.expired),
            bytes_in: rate(counters.bytes_in, old.bytes_in),
            bytes_out: rate(counters.bytes_out, old.bytes_out),
        });
    }
    server
}

/// The keys of all databases.
fn keys(info: &Info) -> u64 {
    let databases = info.fields.iter().filter(|(name, _)| {
        name.strip_prefix("db")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    });
    databases.filter_map(|(name, _)| info.parts(name).get("keys")?.parse::<u64>().ok()).sum()
}

async fn read_locks(admin: &Admin) -> Result<Vec<LockInfo>, Error> {
    let mut scan = admin.locks();
    let mut locks = Vec::new();
    while let Some(page) = scan.next_page().await? {
        locks.extend(page.into_iter().filter(|lock| lock.holding + lock.waiting > 0));
    }
    Ok(locks)
}

/// A walk over the names of limits, a few steps at a time. The library lists no limiters, because the server knows
/// their names only as parts of keys.
#[derive(Debug, Default)]
struct LimitWalk {
    /// The node that is walked over, and its cursor.
    node: usize,
    cursor: String,
    found: BTreeMap<String, u64>,
}

impl LimitWalk {
    /// Goes a few steps further. Returns the rows when all nodes have been walked over.
    async fn step(&mut self, admin: &Admin) -> Result<Option<Sheet>, Error> {
        if admin.is_embedded() {
            return Ok(Some(Sheet { note: "not listed for memory:".to_owned(), ..Sheet::default() }));
        }
        let nodes = admin.nodes().await?;
        // Limits are on the second server, if there is one.
        let last = nodes.iter().map(|node| node.store).max();
        let nodes: Vec<&ServerNode> = nodes.iter().filter(|node| Some(node.store) == last).collect();
        for _ in 0..STEPS {
            let Some(node) = nodes.get(self.node) else {
                let found = std::mem::take(&mut self.found);
                *self = Self::default();
                return Ok(Some(limit_rows(&found)));
            };
            let cursor = if self.cursor.is_empty() { "0" } else { self.cursor.as_str() };
            let pattern = format!("~limit.*{{{}/*", admin.namespace());
            let begin = Instant::now();
            let reply = admin.command(node, &["SCAN", cursor, "MATCH", &pattern, "COUNT", "500"]).await;
            let reply = match reply {
                Err(error) if error.kind() == ErrorKind::Permission => {
                    *self = Self::default();
                    return Err(error);
                }
                reply => reply?,
            };
            let parts = reply.as_array().unwrap_or_default();
            for name in parts.get(1).and_then(|names| names.as_array()).unwrap_or_default() {
                if let Some(limiter) = name.as_str().and_then(limiter_of) {
                    *self.found.entry(limiter).or_default() += 1;
                }
            }
            self.cursor = parts.first().and_then(|cursor| cursor.as_str()).unwrap_or("0").to_owned();
            if self.cursor == "0" {
                self.cursor.clear();
                self.node += 1;
            }
            sleep(begin.elapsed()).await;
        }
        Ok(None)
    }
}

/// The limiter in `~limit.1:{shop/api:10.0.0.1}` or `~limit.1:{shop/+acme}{api:ann}`.
fn limiter_of(name: &str) -> Option<String> {
    let braces = name.split_once('{')?.1;
    let thing = match braces.split_once("}{") {
        Some((_, thing)) => thing,
        None => braces.split_once('/')?.1,
    };
    Some(thing.split(':').next()?.trim_end_matches('}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limiter_is_read_from_both_forms_of_names() {
        assert_eq!(limiter_of("~limit.1:{shop/api:10.0.0.1}").as_deref(), Some("api"));
        assert_eq!(limiter_of("~limit.1:{/api:x}:block").as_deref(), Some("api"));
        assert_eq!(limiter_of("~limit.1:{shop/+acme}{mail:ann}").as_deref(), Some("mail"));
        assert_eq!(limiter_of("~limit"), None);
    }
}
