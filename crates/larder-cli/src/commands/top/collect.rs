//! Reads what the view shows, in the background.
//!
//! Three tasks: the servers' facts and the processes at each interval; the sample of keys, which takes at most a
//! twentieth of the time; and the walk over locks, which is paced by the library. Each goes on after an error, so the
//! view comes back with the server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder::admin::{Admin, Info, KeyGroup, LockInfo, Process, Sample, ServerNode, StoreOf};
use larder::{Error, ErrorKind};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::data::{Cell, Pane, Rates, Server, Sheet, Update};
use crate::output::units;

/// The keys in a sample.
const SAMPLE: usize = 1_000;
/// The shortest time between two samples, and between two walks over locks or limits.
const SAMPLE_PAUSE: Duration = Duration::from_secs(5);
const WALK_PAUSE: Duration = Duration::from_secs(2);
/// A sample that took long is followed by a pause that is so many times as long.
const REST: u32 = 20;
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

/// Sends facts about the servers and the processes until nobody listens.
pub(crate) async fn servers(admin: Admin, interval: Duration, updates: Sender<Update>) {
    let mut before: BTreeMap<StoreOf, (Instant, Counters)> = BTreeMap::new();
    let mut processes_before: BTreeMap<String, Process> = BTreeMap::new();
    loop {
        let update = match read_servers(&admin, &mut before).await {
            Ok((caches, coordination)) => Update::Servers { caches, coordination },
            Err(error) => Update::Away(error.to_string()),
        };
        let reached = matches!(update, Update::Servers { .. });
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

/// Sends samples of the keys until nobody listens.
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

/// Sends the locks, and then the limits, until nobody listens.
pub(crate) async fn walks(admin: Admin, interval: Duration, updates: Sender<Update>) {
    let mut limits = LimitWalk::default();
    loop {
        let update = match read_locks(&admin).await {
            Ok(locks) => Update::Rows(Pane::Locks, lock_rows(&locks)),
            Err(error) => Update::Failed(Pane::Locks, error.to_string()),
        };
        if updates.send(update).await.is_err() {
            return;
        }
        let update = match limits.step(&admin).await {
            Ok(Some(sheet)) => Some(Update::Rows(Pane::Limits, sheet)),
            Ok(None) => None,
            Err(error) => Some(Update::Failed(Pane::Limits, error.to_string())),
        };
        if let Some(update) = update {
            if updates.send(update).await.is_err() {
                return;
            }
        }
        sleep(WALK_PAUSE.max(interval)).await;
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

fn cache_rows(sample: &Sample) -> Sheet {
    let exact = sample.exact;
    let about = |number: f64| {
        format!("{}{}", if exact { "" } else { "~" }, units::count(number.round().max(0.0) as u64))
    };
    let rows = sample.groups.iter().map(|group| {
        let name = match &group.group {
            KeyGroup::Cache(name) => Cell::text(name),
            KeyGroup::Versions => Cell::text("(versions)"),
            KeyGroup::Loads => Cell::text("(loads)"),
            KeyGroup::Locks => Cell::text("(locks)"),
            KeyGroup::Jobs => Cell::text("(jobs)"),
            KeyGroup::Limits => Cell::text("(limits)"),
            KeyGroup::Processes => Cell::text("(processes)"),
            KeyGroup::OtherNamespaces => Cell::text("(other namespaces)"),
            KeyGroup::Foreign => Cell::text("(other programs)"),
            _ => Cell::text("(other)"),
        };
        let bytes = group.bytes.map_or_else(Cell::none, |bytes| {
            Cell::number(units::size(bytes.value.max(0.0) as u64), bytes.value)
        });
        let ttl =
            group.median_ttl.map_or_else(Cell::none, |ttl| Cell::number(units::time(ttl), ttl.as_secs_f64()));
        let format = group.formats.first().map_or_else(String::new, |first| {
            let name = first.format.map_or("unreadable", |format| format.as_str());
            format!("{name}{}", if first.compressed { "+lz4" } else { "" })
        });
        vec![
            name,
            Cell::number(about(group.keys.value), group.keys.value),
            bytes,
            Cell::number(format!("{:.0} %", group.share.value * 100.0), group.share.value),
            ttl,
            Cell::number(about(group.no_expiry.value), group.no_expiry.value),
            Cell::text(&format),
        ]
    });
    let note = if exact {
        format!("all {} keys", units::count(sample.total))
    } else {
        format!("sample of {} of {} keys", units::count(sample.sampled), units::count(sample.total))
    };
    Sheet { rows: rows.collect(), note, ..Sheet::default() }
}

async fn read_locks(admin: &Admin) -> Result<Vec<LockInfo>, Error> {
    let mut scan = admin.locks();
    let mut locks = Vec::new();
    while let Some(page) = scan.next_page().await? {
        locks.extend(page.into_iter().filter(|lock| lock.holding + lock.waiting > 0));
    }
    Ok(locks)
}

fn lock_rows(locks: &[LockInfo]) -> Sheet {
    let rows = locks.iter().map(|lock| {
        let holder = lock.holders.first();
        let named = holder.map(|holder| match &holder.process {
            Some(process) => process.name.clone(),
            None if holder.by.is_empty() => format!("{:08x}", holder.token >> 32),
            None => holder.by.clone(),
        });
        let more = lock.holding.saturating_sub(1);
        let named = match named {
            Some(name) if more > 0 => Cell::text(&format!("{name} +{more}")),
            Some(name) => Cell::text(&name),
            None => Cell::none(),
        };
        let held = match lock.permits {
            Some(permits) => {
                let used: u64 = lock.holders.iter().map(|holder| holder.permits).sum();
                Cell::number(format!("{used}/{permits}"), used as f64)
            }
            None => Cell::number(lock.holding.to_string(), lock.holding as f64),
        };
        vec![
            Cell::text(&lock.name),
            Cell::text(lock.kind.as_str()),
            named,
            holder.map_or_else(Cell::none, |holder| {
                Cell::number(units::time(holder.remaining), holder.remaining.as_secs_f64())
            }),
            Cell::number(lock.waiting.to_string(), lock.waiting as f64).alert_if(lock.waiting > 0),
            held,
            holder
                .and_then(|holder| holder.fence)
                .map_or_else(Cell::none, |fence| Cell::number(fence.get().to_string(), fence.get() as f64)),
        ]
    });
    Sheet { rows: rows.collect(), ..Sheet::default() }
}

fn identity(process: &Process) -> String {
    format!("{}\0{}\0{}", process.name, process.host, process.pid)
}

fn process_rows(processes: &[Process], before: &BTreeMap<String, Process>, interval: Duration) -> Sheet {
    let rows = processes.iter().map(|process| {
        let (new, old) = (process.counters, before.get(&identity(process)));
        // A process writes its record every ten seconds: between two records nothing changes.
        let seconds = old
            .map(|old| process.uptime.saturating_sub(old.uptime))
            .filter(|span| *span >= interval.min(Duration::from_secs(1)))
            .map(|span| span.as_secs_f64());
        let rate = |new: u64, old: Option<u64>| match (seconds, old) {
            (Some(seconds), Some(old)) => {
                let rate = new.saturating_sub(old) as f64 / seconds;
                Cell::number(per_second(rate), rate)
            }
            // The mean since the process began.
            _ => {
                let rate = new as f64 / f64::max(process.uptime.as_secs_f64(), 1.0);
                Cell::number(per_second(rate), rate)
            }
        };
        let reads = new.hits + new.misses;
        let hits = if reads == 0 {
            Cell::none()
        } else {
            let share = new.hits as f64 / reads as f64;
            Cell::number(format!("{:.0} %", share * 100.0), share)
        };
        let late = process.seen_ago > Duration::from_secs(15);
        vec![
            Cell::text(&process.name),
            Cell::text(&process.host),
            Cell::number(process.pid.to_string(), f64::from(process.pid)),
            Cell::text(&process.version),
            Cell::number(units::time(process.uptime), process.uptime.as_secs_f64()),
            hits,
            rate(new.loads, old.map(|old| old.counters.loads)),
            Cell::number(units::count(new.locks_granted), new.locks_granted as f64),
            rate(new.errors, old.map(|old| old.counters.errors))
                .alert_if(new.errors > old.map_or(0, |old| old.counters.errors)),
            Cell::number(units::time(process.seen_ago), process.seen_ago.as_secs_f64()).alert_if(late),
        ]
    });
    Sheet { rows: rows.collect(), ..Sheet::default() }
}

/// Writes a rate: `0`, `0.3`, `12`, `1,234`.
pub(crate) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { units::count(rate.round().max(0.0) as u64) }
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

fn limit_rows(found: &BTreeMap<String, u64>) -> Sheet {
    let total: u64 = found.values().sum();
    let rows = found.iter().map(|(name, &keys)| {
        let share = keys as f64 / total as f64;
        vec![
            Cell::text(name),
            Cell::number(units::count(keys), keys as f64),
            Cell::number(format!("{:.0} %", share * 100.0), share),
        ]
    });
    Sheet { rows: rows.collect(), note: format!("{} records", units::count(total)), ..Sheet::default() }
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
        assert_eq!([per_second(0.0), per_second(0.34), per_second(1234.4)], ["0", "0.3", "1,234"]);
    }
}
